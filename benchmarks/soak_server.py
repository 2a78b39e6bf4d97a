"""Whether a server keeps its memory: 500 generations and 10,000 cheap requests.

    python benchmarks/soak_server.py DIR [--memory 512MB]

Prints the resident memory of the server's process after each tenth, and in brackets what of it are saved states. The
server is a process of its own, with its sessions in a directory for the time of the run; options are those of `serve`.
With a small --memory its saved states soon fill their share, and from then on nothing may grow.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import psutil

from served import Client, serving

CHEAP, GENERATIONS, TENTHS = 10_000, 500, 10


def chat(i: int) -> dict[str, object]:
    return {
        "model": "m",
        "messages": [{"role": "user", "content": f"Question {i} " + "ship " * (i % 40)}],
        "max_tokens": 8,
        "stream": i % 2 == 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether `flashmoe serve` keeps its memory.")
    parser.add_argument("directory", metavar="DIR")
    chosen, options = parser.parse_known_args()
    with TemporaryDirectory() as sessions:
        soak(chosen.directory, ["--sessions", sessions, *options])


def saved_states(client: Client) -> float:
    """Bytes of memory."""
    lines = client.ask("GET", "/metrics").read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("flashmoe_session_bytes "))


def soak(model: str, options: list[str]) -> None:
    with serving(model, *options) as (url, pid), ThreadPoolExecutor(4) as pool:
        resident, client = psutil.Process(pid).memory_info, Client(url)

        def status(method: str, path: str, body: Any = None) -> int:
            response = client.ask(method, path, body)
            response.read()
            return response.status

        def cheap(i: int) -> int:
            return status("GET", ("/health", "/v1/models", "/metrics", "/nothing")[i % 4])

        def generation(i: int) -> int:
            return status("POST", "/v1/chat/completions", chat(i))

        for name, work, count in (("generations", generation, GENERATIONS), ("cheap requests", cheap, CHEAP)):
            started = perf_counter()
            print(f"{count} {name}: {resident().rss / 1e6:.0f} MB resident, after each tenth", end="", flush=True)
            for tenth in range(TENTHS):
                statuses = list(pool.map(work, range(tenth * count // TENTHS, (tenth + 1) * count // TENTHS)))
                assert set(statuses) <= {200, 404}, set(statuses)
                print(f" {resident().rss / 1e6:.0f} ({saved_states(client) / 1e6:.0f})", end="", flush=True)
            print(f" MB; {perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
