"""What watching an engine costs: tokens a second of a server's scheduler with and without a client of /events.

    python benchmarks/watched.py DIR

Alternates between the two in one process; prints medians and quartiles. The client reads in the same process, so what
it costs is part of the figure.
"""

import argparse
import asyncio
import contextlib
import statistics
from time import perf_counter

import flashmoe
from flashmoe.engine.scheduler import Scheduler
from flashmoe.server.ask import Ask
from flashmoe.server.service import Service
from flashmoe.server.sse import data

TOKENS, ROUNDS = 300, 15


async def tokens_a_second(service: Service) -> float:
    ask = Ask(prompt="The", max_tokens=TOKENS, sampling={"temperature": 1.0, "seed": 1}, bias=_no_end(service))
    answer = await service.answer(ask)
    times = [perf_counter() async for _ in answer.events()]
    return (len(times) - 2) / (times[-1] - times[1])


def _no_end(service: Service) -> dict[int, float]:
    return dict.fromkeys(service.stop_ids, -100.0)


@contextlib.asynccontextmanager
async def watched(service: Service):
    async def watch() -> None:
        async for event in service.live.events():
            data(event)

    service.live.join()
    watcher = asyncio.create_task(watch())
    yield
    watcher.cancel()
    service.live.leave()


async def compare(service: Service) -> None:
    speeds: dict[str, list[float]] = {"alone": [], "watched": []}
    await tokens_a_second(service)
    for _ in range(ROUNDS):
        speeds["alone"].append(await tokens_a_second(service))
        async with watched(service):
            speeds["watched"].append(await tokens_a_second(service))
    for name, found in speeds.items():
        low, median, high = statistics.quantiles(found, n=4)
        print(f"{name:8} {median:7.1f} tokens/s ({low:.1f} to {high:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description="What a client of /events costs.")
    parser.add_argument("directory", metavar="DIR")
    with flashmoe.load(parser.parse_args().directory, threads=1, context=1024) as text:
        scheduler = Scheduler(text.engine)
        try:
            asyncio.run(compare(Service(text, scheduler, "it")))
        finally:
            scheduler.close()


if __name__ == "__main__":
    main()
