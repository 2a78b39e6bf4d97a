"""Throughput and time to first token of the server for 1, 2, 4 and 8 clients: `serve_load.py DIR`.

Each client asks REQUESTS times, one after the other, for TOKENS tokens after a prompt of its own, over HTTP, streaming;
that is done ROUNDS times, and the table has the median, with the least and the most.
"""

import json
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import httpx

from served import serving

ROUNDS, REQUESTS, TOKENS, PROMPT_WORDS = 3, 6, 64, 40


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


def load(url: str, clients: int, number: int) -> tuple[float, list[float]]:
    """Tokens a second of all clients together, and each request's seconds to its first token."""
    started = perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        done = list(pool.map(lambda client: [ask(url, client, number + i) for i in range(REQUESTS)], range(clients)))
    tokens = sum(count for answers in done for _, count in answers)
    return tokens / (perf_counter() - started), [first for answers in done for first, _ in answers]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("Usage: serve_load.py DIR")
    rounds: dict[int, list[tuple[float, list[float]]]] = {1: [], 2: [], 4: [], 8: []}
    with serving(sys.argv[1], "--no-sessions", "--sequences", "8") as (url, _):
        ask(url, 99, 0)
        for i in range(ROUNDS):
            for clients, measured in rounds.items():
                measured.append(load(url, clients, 1000 * clients + 100 * i))
    print("| clients | tokens/s, all together | first token, median s | slowest s |")
    print("| --- | --- | --- | --- |")
    for clients, measured in rounds.items():
        rates = sorted(rate for rate, _ in measured)
        firsts = [first for _, times in measured for first in times]
        print(
            f"| {clients} | {statistics.median(rates):.0f} ({rates[0]:.0f} to {rates[-1]:.0f}) | "
            f"{statistics.median(firsts):.3f} | {max(firsts):.3f} |"
        )


if __name__ == "__main__":
    main()
