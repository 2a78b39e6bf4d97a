"""Throughput and time to first token of the server for 1, 2, 4 and 8 clients: `serve_load.py DIR`.

Each client asks REQUESTS times, one after the other, for TOKENS tokens after a prompt of its own, over HTTP, streaming.
"""

import json
import statistics
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import httpx

import flashmoe
from flashmoe.engine.scheduler import Scheduler
from flashmoe.server.app import make_app
from flashmoe.server.run import bind, http_server
from flashmoe.server.service import Service

REQUESTS, TOKENS, PROMPT_WORDS = 3, 64, 40


def ask(url: str, client: int, number: int) -> tuple[float, int]:
    """Seconds to the first token, and how many came."""
    prompt = f"{client} {number} " + " ".join(f"ship{(client * 7919 + i * 31) % 1000}" for i in range(PROMPT_WORDS))
    body = {"model": "m", "prompt": prompt, "max_tokens": TOKENS, "stream": True, "seed": client, "logprobs": 0}
    started, first, tokens = perf_counter(), 0.0, 0
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=600) as response:
        for line in response.iter_lines():
            if line.startswith("data: {") and (logprobs := json.loads(line[6:])["choices"][0]["logprobs"]):
                first = first or perf_counter() - started
                tokens += len(logprobs["tokens"])
    return first, tokens


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("Usage: serve_load.py DIR")
    with flashmoe.load(sys.argv[1], sequences=8, context=1024) as text:
        scheduler = Scheduler(text.engine, text.engine.session_cache())
        listener = bind("127.0.0.1", 0)
        server = http_server(make_app(Service(text, scheduler, "m")))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        print(f"{text.engine.summary}\n")
        print("| clients | tokens/s, all together | first token, median s | slowest s |")
        print("| --- | --- | --- | --- |")
        ask(url, 99, 0)
        for clients in (1, 2, 4, 8):
            started = perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                done = list(pool.map(lambda client: [ask(url, client, i) for i in range(REQUESTS)], range(clients)))
            seconds = perf_counter() - started
            firsts = [first for answers in done for first, _ in answers]
            tokens = sum(count for answers in done for _, count in answers)
            print(f"| {clients} | {tokens / seconds:.1f} | {statistics.median(firsts):.2f} | {max(firsts):.2f} |")
        server.should_exit = True
        thread.join()
        scheduler.close()


if __name__ == "__main__":
    main()
