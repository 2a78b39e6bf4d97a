"""Run as a process of its own: python resume.py PACKED SESSIONS BACKEND BITS LENGTH OUT.

Goes on from what is saved, saves the state after all tokens but the last, and writes how many tokens were spared and
the logits to OUT.
"""

import sys
from pathlib import Path

import numpy as np

from flashmoe.engine.loader import load_engine
from flashmoe.settings import Settings
from oracle import some_tokens


def main(packed: str, sessions: str, backend: str, bits: str, length: str, out: str) -> None:
    tokens = some_tokens(int(length))
    settings = Settings(backend=backend, threads=1, context=1024, chunk_tokens=128, kv_bits=int(bits))
    with load_engine(Path(packed), settings) as engine:
        cache = engine.session_cache(Path(sessions))
        spared = cache.take(tokens).length
        logits = engine.session(cache).prefill(tokens)
        cache.flush()
    np.savez(out, spared=spared, logits=logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
