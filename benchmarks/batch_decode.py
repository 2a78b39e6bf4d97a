"""Tokens a second of 1, 2, 4 and 8 unrelated sequences that decode together, in memory and streaming.

    flashmoe synth --like qwen3.5-35b-a3b --layers 8 DIR && python benchmarks/batch_decode.py DIR [--share 0.3]

Sequences of random tokens, each its own: routing is as unrelated as it gets. Resident: every expert is read before the
clock starts. Streaming: the budget is a part of the model's bytes, and reads bypass the page cache; the cache is warm
from as many steps as are measured. Experts: those that a step reads or finds in memory for a layer, each once for all
sequences. Median step of each batch, the batches taking turns.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from decode import read_every_expert
from flashmoe.engine.engine import Engine
from flashmoe.engine.loader import load_engine
from flashmoe.settings import Settings

CONTEXT = 512


@dataclass(frozen=True)
class Steps:
    """Of one batch: seconds of each step; expert uses and bytes read of all."""

    seconds: list[float]
    experts: int
    read: int


def decode(engine: Engine, sequences: int, steps: int, seed: int) -> Steps:
    random = np.random.default_rng(seed)
    states = [engine.new_sequence() for _ in range(sequences)]
    before, seconds = engine.store.stats, []
    for _ in range(steps):
        tokens = random.integers(0, engine.config.vocab, (sequences, 1), dtype=np.int32)
        begin = perf_counter()
        x = engine.forward(list(zip(states, tokens, strict=True)))
        np.asarray(engine.decoder.logits(x)).argmax(axis=-1)
        seconds.append(perf_counter() - begin)
    after = engine.store.stats
    experts = after.hits + after.misses - before.hits - before.misses
    return Steps(seconds, experts, after.bytes_read - before.bytes_read)


def table(engine: Engine, counts: list[int], steps: int, turns: int) -> None:
    for count in counts:
        decode(engine, count, steps, seed=count)
    found: dict[int, list[Steps]] = {count: [] for count in counts}
    for turn in range(turns):
        for count in counts:
            found[count].append(decode(engine, count, steps, seed=100 * turn + count))
    alone = None
    for count, runs in found.items():
        step = float(np.median([s for run in runs for s in run.seconds]))
        medians = [count / float(np.median(run.seconds)) for run in runs]
        forwards = sum(len(run.seconds) for run in runs)
        experts = sum(run.experts for run in runs) / forwards / engine.config.layers
        read = sum(run.read for run in runs) / forwards / count
        alone = alone or count / step
        print(
            f"| {count} | {count / step:.1f} ({min(medians):.1f}-{max(medians):.1f}) | {count / step / alone:.2f} | "
            f"{step * 1e3:.1f} | {experts:.1f} of {count * engine.config.top_k} | {read / 1e6:.1f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--share", type=float, default=0.3, help="of the model's bytes, for the streaming rows")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", choices=["resident", "streaming"])
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    size = sum(path.stat().st_size for path in options.directory.rglob("*.safetensors"))
    for name, memory in (("resident", None), ("streaming", int(options.share * size))):
        if options.only not in (None, name):
            continue
        settings = Settings(
            memory=memory,
            threads=options.threads,
            context=CONTEXT,
            chunk_tokens=max(options.sequences),
            sequences=max(options.sequences),
        )
        with load_engine(options.directory, settings) as engine:
            if memory is None:
                read_every_expert(engine)
            print(f"\n{name}: {engine.summary}\n")
            print("| sequences | tokens/s | times one | ms a step | experts a layer | MB read a token |")
            print("|---|---|---|---|---|---|")
            table(engine, options.sequences, options.steps, options.turns)


if __name__ == "__main__":
    main()
