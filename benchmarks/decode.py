"""Decode speed with everything in memory, and the share of it that is Python.

    flashmoe synth --like qwen3.5-35b-a3b --layers 16 DIR && python benchmarks/decode.py DIR

Every expert is read before the clock starts. The tokens are random, so that routing varies as it does in text; choosing
a token is part of the time. Python is what remains of the wall time without native calls and waiting for reads.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from flashmoe.engine.engine import Engine
from flashmoe.engine.loader import load_engine
from flashmoe.engine.sampling import Sampler, Sampling
from flashmoe.errors import FlashMoeError
from flashmoe.settings import Settings


@dataclass(frozen=True)
class Row:
    """Seconds a token, and how many of them were native code."""

    token: float
    native: float

    def __str__(self) -> str:
        python = self.token - self.native
        return (
            f"{1 / self.token:.2f} tokens/s, {self.token * 1e3:.2f} ms a token, of which Python "
            f"{python * 1e3:.2f} ms ({python / self.token:.1%})"
        )


def read_every_expert(engine: Engine) -> None:
    """Fill the arena; it must hold the whole model."""
    if engine.plan.slots < engine.plan.experts:
        raise FlashMoeError("Not everything fits in memory; give the benchmark fewer layers.")
    experts = np.arange(engine.config.experts, dtype=np.int32)
    for layer in range(engine.config.layers):
        with engine.store.fetch(layer, experts) as lease:
            for _ in lease.groups():
                pass


def decode(engine: Engine, tokens: int, sampling: Sampling) -> Row:
    """The median token, so that another process's burst does not count."""
    random = np.random.default_rng(0)
    ids = random.integers(0, engine.config.vocab, tokens, dtype=np.int32)
    sampler = Sampler(sampling, engine.config.vocab, ids)
    state = engine.new_sequence()
    engine.prefill(state, ids[:4])
    rows = []
    for token in ids:
        before, busy = perf_counter(), engine.ops.busy_seconds
        sampler.choose(engine.prefill(state, np.array([token], dtype=np.int32)))
        rows.append(Row(perf_counter() - before, engine.ops.busy_seconds - busy))
    return sorted(rows, key=lambda row: row.token)[len(rows) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    sampled = Sampling(temperature=1.0, top_k=20, top_p=0.95, presence_penalty=1.5, seed=0)
    for threads in options.threads:
        with load_engine(options.directory, Settings(threads=threads, context=1024, chunk_tokens=64)) as engine:
            read_every_expert(engine)
            print(engine.summary)
            for name, sampling in (("greedy", Sampling()), ("sampled", sampled)):
                print(f"  {name}: {decode(engine, options.tokens, sampling)}", flush=True)


if __name__ == "__main__":
    main()
