"""Resume of a saved session against its prefill: from memory, from the page cache and from the disk.

    flashmoe synth --like qwen3.5-35b-a3b --layers 8 DIR && python benchmarks/resume.py DIR SESSIONS

A resume ends when the state is ready and one more token has been computed on it, and so does the prefill. Before it
stands what a save costs: in memory, and on disk until the file is durable. Every resume starts from an empty store in
memory but the first kind; `disk` has the files dropped from the page cache before. SESSIONS is emptied first.
"""

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from flashmoe.engine.engine import Engine
from flashmoe.engine.loader import load_engine
from flashmoe.engine.session import SessionCache
from flashmoe.settings import Settings, format_bytes


def seconds(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started


def drop_from_page_cache(directory: Path) -> None:
    for path in directory.glob("*/*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def resumes(engine: Engine, directory: Path, kept: SessionCache, tokens: np.ndarray, expected: np.ndarray) -> None:
    """One line: seconds of a resume of each kind."""

    def resume(cache: SessionCache) -> np.ndarray:
        state = cache.take(tokens)
        assert state.length == len(tokens) - 1
        return engine.prefill(state, tokens[-1:])

    found = {"memory": seconds(lambda: resume(kept))}
    found["page cache"] = seconds(lambda: resume(engine.session_cache(directory)))
    drop_from_page_cache(directory)
    found["disk"] = seconds(lambda: resume(engine.session_cache(directory)))
    assert np.array_equal(resume(engine.session_cache(directory)), expected)
    print("  resume: " + ", ".join(f"{kind} {s * 1e3:.1f} ms" for kind, s in found.items()), flush=True)
    times.append(found)


times: list[dict[str, float]] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("sessions", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=str, default=None)
    options = parser.parse_args()
    shutil.rmtree(options.sessions, ignore_errors=True)
    settings = Settings.from_keywords(context=options.tokens + 64, snapshots="1GB", memory=options.memory)
    with load_engine(options.directory, settings) as engine:
        print(engine.summary)
        tokens = np.random.default_rng(0).integers(0, engine.config.vocab, options.tokens + 1, dtype=np.int32)
        state = engine.new_sequence()
        prefill = seconds(lambda: engine.prefill(state, tokens[:-1]))
        cache = engine.session_cache(options.sessions)
        saved = seconds(lambda: cache.save(tokens[:-1], state))
        written = seconds(cache.flush)
        size = sum(path.stat().st_size for path in options.sessions.glob("*/*"))
        step = seconds(lambda: engine.prefill(state.fork(), tokens[-1:]))
        expected = engine.prefill(state, tokens[-1:])
        rate = options.tokens / prefill
        print(f"prefill of {options.tokens} tokens {prefill:.2f} s ({rate:.0f} tokens/s), one more {step * 1e3:.1f} ms")
        print(f"save {saved * 1e3:.1f} ms in memory, {format_bytes(size)} on disk in {written:.2f} s")
        for _ in range(options.repeats):
            resumes(engine, options.sessions, cache, tokens, expected)
    for kind in times[0]:
        found = [t[kind] for t in times]
        print(
            f"{kind}: {median(found) * 1e3:.1f} ms ({min(found) * 1e3:.1f}-{max(found) * 1e3:.1f}), "
            f"{(prefill + step) / median(found):.0f} times faster than prefill"
        )


if __name__ == "__main__":
    main()
