"""One run of Flash-MoE: load a packed model, decode tokens one by one, print what it took as a line of JSON.

    ours.py DIR THREADS ALL_IN_MEMORY(0|1) < tokens.json

The second half of the tokens counts for what is said of reading, as it does for the speed.
"""

import json
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.decode import read_every_expert
from flashmoe.engine.loader import load_engine
from flashmoe.settings import Settings


def main() -> None:
    directory, threads, everything = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1"
    tokens = json.load(sys.stdin)
    started = perf_counter()
    with load_engine(directory, Settings(threads=threads, context=1024, chunk_tokens=64, learn=False)) as engine:
        if everything:
            read_every_expert(engine)
        loaded = perf_counter() - started
        state, seconds = engine.new_sequence(), []
        half = len(tokens) // 2
        for number, token in enumerate(tokens):
            if number == half:
                before, busy = engine.store.stats, engine.ops.busy_seconds
            started = perf_counter()
            engine.prefill(state, np.array([token], np.int32))
            seconds.append(perf_counter() - started)
        after, counted = engine.store.stats, len(tokens) - half
        found = {
            "load": loaded,
            "seconds": seconds,
            "about": engine.summary,
            "hit_rate": (after.hits - before.hits) / (after.hits - before.hits + after.misses - before.misses),
            "bytes": (after.bytes_read - before.bytes_read) / counted,
            "stall": (after.stall_seconds - before.stall_seconds) / counted,
            "native": (engine.ops.busy_seconds - busy) / counted,
            "slots": engine.plan.slots / engine.plan.experts,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
