"""Decodes the same tokens again and again until a line comes in, with every expert in memory at first.

    python decode_in_rounds.py DIR

Says `ready` when all are; at the end one JSON object: the different rounds that were decoded, and slots then and now.
"""

import json
import select
import sys
from pathlib import Path

import numpy as np

from flashmoe.engine.engine import Engine
from flashmoe.engine.loader import load_engine
from flashmoe.settings import Settings

TOKENS = 24


def decode(engine: Engine) -> tuple[int, ...]:
    """Greedy, from the first token on."""
    state, found = engine.new_sequence(), [1]
    for _ in range(TOKENS):
        logits = engine.prefill(state, np.array(found[-1:], np.int32))
        # Not to fall into a circle, which would want few experts.
        logits[found] = -np.inf
        found.append(int(logits.argmax()))
    return tuple(found)


def main() -> None:
    with load_engine(Path(sys.argv[1]), Settings(threads=1, context=2 * TOKENS, chunk_tokens=1)) as engine:
        assert engine.plan.slots == engine.plan.experts
        for layer in range(engine.config.layers):
            with engine.store.fetch(layer, np.arange(engine.config.experts, dtype=np.int32)) as lease:
                for _ in lease.groups():
                    pass
        rounds = {decode(engine)}
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            rounds.add(decode(engine))
        print(json.dumps({"rounds": sorted(rounds), "before": engine.plan.slots, "after": engine.store.max_lease}))


if __name__ == "__main__":
    main()
