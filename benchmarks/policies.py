"""Cache policies on routing traces: hit rates of prompts, answers and the first tokens of answers.

    python benchmarks/policies.py [--layers 20 --experts 512 --top-k 10] [--seeds 3] [--cached 10 25 50]
    python benchmarks/policies.py --trace FILE

Without a trace, synthetic_routing.py makes one a seed: eight conversations of 128 + 256 tokens, each of another topic.
`lfu N` has a half-life of N uses an expert, `lfru N B` a bonus of B uses too. `without uses` takes a prompt chunk's use
of an expert for one, however many of its tokens want it.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flashmoe.engine.routing_trace import RoutingTrace
from flashmoe.measure.simulation import Fetch, fetches, replay
from flashmoe.streaming.belady import Belady
from flashmoe.streaming.policy import LeastFrequentlyUsed, LeastFrequentRecentlyUsed, LeastRecentlyUsed, Policy
from flashmoe.streaming.s3fifo import S3Fifo
from synthetic_routing import synthetic_trace

FIRST = 32
HALF_LIVES = (0.5, 2, 8)
LFRU = ((2, 4), (2, 16), (2, 32), (2, 64), (4, 16))
Make = Callable[[int, int, int], Policy]


@dataclass(frozen=True)
class Rates:
    """Parts of the experts fetched that were in memory."""

    prompts: float
    answers: float
    first: float

    def __str__(self) -> str:
        return f"{self.answers:.1%} | {self.first:.1%} | {self.prompts:.1%}"


def without_uses(wanted: Sequence[Fetch]) -> list[Fetch]:
    return [Fetch(fetch.keys, None) for fetch in wanted]


def kinds(trace: RoutingTrace) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """By fetch: whether it is of a prompt chunk, and whether of an answer's first tokens."""
    steps, begins, rows = np.unique(trace.step, return_index=True, return_counts=True)
    is_prompt = rows > 1
    since_prompt = np.arange(len(steps)) - np.maximum.accumulate(np.where(is_prompt, np.arange(len(steps)), -1))
    is_first = ~is_prompt & (since_prompt <= FIRST) & (trace.position[begins] > 0)
    layers = trace.ids.shape[1]
    return np.repeat(is_prompt, layers), np.repeat(is_first, layers)


def rates(trace: RoutingTrace, wanted: Sequence[Fetch], slots: int, policy: Policy) -> Rates:
    misses = replay(wanted, slots, policy)
    uses = np.array([len(fetch.keys) for fetch in wanted])
    is_prompt, is_first = kinds(trace)

    def hit_rate(which: NDArray[np.bool_]) -> float:
        return 1 - float(misses[which].sum() / max(1, uses[which].sum()))

    return Rates(hit_rate(is_prompt), hit_rate(~is_prompt), hit_rate(is_first))


def rows(trace: RoutingTrace, share: float) -> dict[str, Rates]:
    _, layers, _ = trace.ids.shape
    slots = round(share * layers * trace.experts)
    wanted = fetches(trace)
    makers: dict[str, Make] = {"lru": LeastRecentlyUsed, "s3fifo": S3Fifo}
    makers |= {f"lfu {n}": partial(LeastFrequentlyUsed, half_life=n) for n in HALF_LIVES}
    makers |= {f"lfru {n} {b}": partial(LeastFrequentRecentlyUsed, half_life=n, bonus=b) for n, b in LFRU}
    found = {name: rates(trace, wanted, slots, make(slots, layers, trace.experts)) for name, make in makers.items()}
    plain = LeastFrequentRecentlyUsed(slots, layers, trace.experts)
    found["lfru 2 16 without uses"] = rates(trace, without_uses(wanted), slots, plain)
    future = Belady(slots, [key for fetch in wanted for key in fetch.keys])
    found["belady"] = rates(trace, wanted, slots, future)
    return found


def mean(of: Sequence[Rates]) -> Rates:
    return Rates(*(float(np.mean([getattr(r, name) for r in of])) for name in ("prompts", "answers", "first")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--experts", type=int, default=512)
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cached", type=int, nargs="+", default=[10, 25, 50])
    options = parser.parse_args()
    if options.trace:
        traces = [RoutingTrace.read(options.trace)]
    else:
        shape = {"layers": options.layers, "experts": options.experts, "top_k": options.top_k}
        traces = [synthetic_trace(seed, sequences=8, **shape) for seed in range(options.seeds)]
    print(f"| cached | policy | answers | their first {FIRST} tokens | prompts |\n|---|---|---|---|---|")
    for percent in options.cached:
        tables = [rows(trace, percent / 100) for trace in traces]
        for name in tables[0]:
            print(f"| {percent} % | {name} | {mean([table[name] for table in tables])} |", flush=True)


if __name__ == "__main__":
    main()
