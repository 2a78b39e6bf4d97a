"""Throughput and time to first token of the server for 1, 2, 4 and 8 clients.

    python benchmarks/serve_load.py DIR [--rounds 3] [--requests 6]

Each client asks --requests times, one after the other, for TOKENS tokens after a prompt of its own, over HTTP,
streaming; that is done --rounds times, and the table has the median, with the least and the most. Options that it does
not know are those of `serve`.
"""

import argparse
import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from served import Client, serving

TOKENS, PROMPT_WORDS = 64, 40


def ask(server: Client, client: int, number: int) -> tuple[float, int]:
    """Seconds to the first token, and how many came."""
    prompt = f"{client} {number} " + " ".join(f"ship{(client * 7919 + i * 31) % 1000}" for i in range(PROMPT_WORDS))
    body = {"model": "m", "prompt": prompt, "max_tokens": TOKENS, "stream": True, "seed": client, "logprobs": 0}
    started, first, tokens = perf_counter(), 0.0, 0
    for line in server.ask("POST", "/v1/completions", body):
        if line.startswith(b"data: {") and (logprobs := json.loads(line[6:])["choices"][0]["logprobs"]):
            first = first or perf_counter() - started
            tokens += len(logprobs["tokens"])
    return first, tokens


def load(server: Client, clients: int, requests: int, number: int) -> tuple[float, list[float]]:
    """Tokens a second of all clients together, and each request's seconds to its first token."""
    started = perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        done = list(pool.map(lambda client: [ask(server, client, number + i) for i in range(requests)], range(clients)))
    tokens = sum(count for answers in done for _, count in answers)
    return tokens / (perf_counter() - started), [first for answers in done for first, _ in answers]


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput and time to first token of `flashmoe serve`.")
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=6)
    chosen, options = parser.parse_known_args()
    rounds: dict[int, list[tuple[float, list[float]]]] = {1: [], 2: [], 4: [], 8: []}
    with serving(chosen.directory, "--no-sessions", "--sequences", "8", *options) as (url, _):
        server = Client(url)
        ask(server, 99, 0)
        for i in range(chosen.rounds):
            for clients, measured in rounds.items():
                measured.append(load(server, clients, chosen.requests, 1000 * clients + 100 * i))
    print("| clients | tokens/s, all together | first token, median s | slowest s |")
    print("| --- | --- | --- | --- |")
    for clients, measured in rounds.items():
        rates = sorted(rate for rate, _ in measured)
        firsts = [first for _, times in measured for first in times]
        print(
            f"| {clients} | {statistics.median(rates):.1f} ({rates[0]:.1f} to {rates[-1]:.1f}) | "
            f"{statistics.median(firsts):.3f} | {max(firsts):.3f} |"
        )


if __name__ == "__main__":
    main()
