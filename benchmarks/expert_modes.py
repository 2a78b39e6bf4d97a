"""What overlap, an arena of one's own and foresight gain: decode speed of one packed model in each mode, taking turns.

    python benchmarks/expert_modes.py DIR [--cached 0.3] [--tokens 48] [--repeats 3] [--text FILE] [--no-group]

Every run is a process of its own in a memory control group that holds the trunk, the state, that part of the experts
and 400 MB for the program, page cache included, and starts with none of the model's files in the page cache. Tokens are
those of a text, else drawn at random. Median (lowest-highest) of the repeats.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

import numpy as np

from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.engine.engine import Engine
from flashmoe.engine.loader import load_engine
from flashmoe.settings import Settings
from vs_llama_cpp.system import forget, memory_limit

MODES = {
    "arena, overlap": {"foresight": False},
    "arena, overlap, foresight": {"foresight": True},
    "arena, serial": {"overlap": False, "foresight": False},
    "os, overlap": {"cache": "os"},
    "os, serial": {"cache": "os", "overlap": False},
}
PROGRAM_BYTES = 400_000_000
PROMPT, CONTEXT = 16, 1024


def measure(engine: Engine, tokens: list[int]) -> dict[str, float]:
    """Of each token after the prompt and a third of the rest, which fill the arena."""
    state = engine.new_sequence()
    engine.prefill(state, np.array(tokens[:PROMPT], dtype=np.int32))
    warm = PROMPT + (len(tokens) - PROMPT) // 3
    for token in tokens[PROMPT:warm]:
        engine.prefill(state, np.array([token], dtype=np.int32))
    before, begin = engine.store.stats, perf_counter()
    for token in tokens[warm:]:
        engine.prefill(state, np.array([token], dtype=np.int32))
    seconds, after, count = perf_counter() - begin, engine.store.stats, len(tokens) - warm
    hits, misses = after.hits - before.hits, after.misses - before.misses
    guessed, used = after.prefetched - before.prefetched, after.prefetch_used - before.prefetch_used
    return {
        "tokens/s": count / seconds,
        "hits %": 100 * hits / (hits + misses),
        "MB a token": (after.bytes_read - before.bytes_read) / count / 1e6,
        "waiting ms": 1e3 * (after.stall_seconds - before.stall_seconds) / count,
        "precision %": 100 * used / guessed if guessed else float("nan"),
        "recall %": 100 * used / (used + misses) if guessed else float("nan"),
    }


def child(options: argparse.Namespace) -> None:
    if options.group:
        options.group.write_text(str(os.getpid()))
    settings = Settings(memory=options.memory, context=CONTEXT, learn=False, **MODES[options.mode])
    if options.text:
        ids = Tokenizer.from_dir(options.directory).encode(options.text.read_text())
        begin = options.seed * options.tokens % max(1, len(ids) - PROMPT - options.tokens)
        tokens = ids[begin : begin + PROMPT + options.tokens]
    with load_engine(options.directory, settings) as engine:
        if not options.text:
            rng = np.random.default_rng(options.seed)
            tokens = rng.integers(0, engine.config.vocab, PROMPT + options.tokens).tolist()
        print(json.dumps(measure(engine, tokens)))


def budget(directory: Path, cached: float) -> int:
    """Bytes that let the arena hold that part of the experts."""
    with load_engine(directory, Settings(context=CONTEXT, chunk_tokens=PROMPT, learn=False)) as engine:
        plan = engine.plan
    return plan.total - plan.arena + int(plan.experts * cached) * plan.slot_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--cached", type=float, default=0.3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--no-group", action="store_true")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    for name, kind in {"mode": str, "group": Path, "memory": int, "seed": int}.items():
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode:
        child(options)
        return
    memory = budget(options.directory, options.cached)
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in options.modes}
    with ExitStack() as stack:
        group = [] if options.no_group else ["--group", str(stack.enter_context(memory_limit(memory + PROGRAM_BYTES)))]
        for seed in range(options.repeats):
            for mode, runs in found.items():
                forget(sorted(options.directory.rglob("*.safetensors")))
                own = ["--mode", mode, "--memory", str(memory), "--seed", str(seed), *group]
                command = [sys.executable, *sys.argv, *own]
                runs.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    names = list(found[options.modes[0]][0])
    print(f"| mode | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for mode, runs in found.items():
        cells = [[run[name] for run in runs] for name in names]
        print(
            f"| {mode} | " + " | ".join(f"{statistics.median(c):.4g} ({min(c):.4g}-{max(c):.4g})" for c in cells) + " |"
        )


if __name__ == "__main__":
    main()
