"""Prompt speed by length, with the whole model in memory and in a memory control group of a part of it.

    flashmoe synth --like qwen3.5-35b-a3b --layers 8 DIR && python benchmarks/prefill.py DIR [--share 0.3]

Each row is a process of its own that reads two prompts of random tokens. Resident: every expert is read before the
clock starts; the second prompt counts, as llama.cpp's does, and the first stands beside it. With a share, the process
may hold so much of the model's bytes, page cache included (root is needed; without it, or with --budget, only the
engine's own budget is set). `cold` starts with no expert in memory, `warm` is the prompt after it; what memory the
group may use another process has used just before, for both sides. Bytes: read, over the experts that the chunks needed
times their record. The bound of a streaming row is the larger of its bytes at the disk's best rate (--disk) and the
resident row's time. llama.cpp's resident row repacks the weights, its default and its fastest; in the control group it
maps a loop device with Linux's read-ahead of 128 KiB, the only way it fits and the best one found. Memory: the peak of
the process above what it took before loading, and the plan.
"""

import argparse
import json
import multiprocessing
import os
import resource
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

import numpy as np
import psutil
from numpy.typing import NDArray

from decode import read_every_expert
from flashmoe.engine.engine import Engine
from flashmoe.engine.loader import load_engine
from flashmoe.pack.manifest import Manifest
from flashmoe.settings import Settings, format_bytes
from vs_llama_cpp.system import forget, memory_limit, read_ahead, run_in, touch_memory

PEER = Path(__file__).with_name("vs_llama_cpp") / "peer_prompt.py"
GROUP = "flashmoe-prefill"
PEER_READ_AHEAD = 128


@dataclass(frozen=True)
class Row:
    """One prompt. needed: bytes of the experts that its chunks used, each once a chunk. peak: bytes."""

    tokens: int
    chunk: int
    seconds: float
    native: float
    stall: float
    read: int
    needed: int
    read_seconds: float
    peak: int
    plan: int

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def prompt_of(vocab: int, tokens: int, seed: int) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, vocab, tokens, dtype=np.int32)


class Needs:
    """A routing observer that counts the experts each chunk needs."""

    def __init__(self) -> None:
        self.experts = 0

    def begin(self, batch: object) -> None:
        pass

    def routed(self, layer: int, x: object, ids: np.ndarray, weights: object) -> None:  # noqa: ARG002
        self.experts += len(np.unique(ids))


def prefill(engine: Engine, tokens: int, seed: int, before: int) -> Row:
    prompt = prompt_of(engine.config.vocab, tokens, seed)
    needs = Needs()
    engine.observers[:] = [needs]
    stats, native, started = engine.store.stats, engine.ops.busy_seconds, perf_counter()
    engine.prefill(engine.new_sequence(), prompt)
    seconds, after = perf_counter() - started, engine.store.stats
    return Row(
        tokens=tokens,
        chunk=engine.limits.chunk,
        seconds=seconds,
        native=engine.ops.busy_seconds - native,
        stall=after.stall_seconds - stats.stall_seconds,
        read=after.bytes_read - stats.bytes_read,
        needed=needs.experts * engine.plan.slot_bytes,
        read_seconds=after.read_seconds - stats.read_seconds,
        peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
        plan=engine.plan.total,
    )


def child(out: Connection, directory: Path, tokens: int, settings: Settings, group: Path | None) -> None:
    """Load and send the rows of two prompts."""
    if group:
        group.write_text(str(os.getpid()))
    before = psutil.Process().memory_info().rss
    with load_engine(directory, settings) as engine:
        print(f"  {engine.summary}", flush=True)
        if engine.plan.slots == engine.plan.experts:
            read_every_expert(engine)
        out.send([prefill(engine, tokens, seed, before) for seed in (1, 2)])


def rows(directory: Path, tokens: int, settings: Settings, limit: int | None) -> list[Row]:
    forget([layer.path for layer in Manifest.read(directory).layers])
    if limit is None:
        return _run(directory, tokens, settings, None)
    touch_memory(limit)
    with memory_limit(limit, GROUP) as group:
        return _run(directory, tokens, settings, group)


def _run(directory: Path, tokens: int, settings: Settings, group: Path | None) -> list[Row]:
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(send, directory, tokens, settings, group))
    process.start()
    send.close()
    try:
        return receive.recv()
    finally:
        process.join()


def peer(options: argparse.Namespace, tokens: int, limit: int | None) -> str:
    """llama.cpp's row: the last of its prompts, and the first."""
    said = json.dumps([prompt_of(1000, tokens, seed).tolist() for seed in range(1, options.peer_prompts + 1)])
    threads = str(options.threads or len(os.sched_getaffinity(0)))
    command = [str(options.peer), str(PEER)]
    forget([options.gguf])
    if limit is None:
        found = run_in(None, [*command, str(options.gguf), threads, "1"], said)
    else:
        touch_memory(limit)
        with read_ahead(options.gguf, PEER_READ_AHEAD) as device, memory_limit(limit, GROUP) as group:
            found = run_in(group, [*command, str(device), threads, "0"], said)
    if found is None:
        return f"| llama.cpp | {tokens} | ended by a signal"
    rates = [tokens / seconds for seconds in json.loads(found)]
    return f"| llama.cpp | {tokens} | | {rates[-1]:.1f} (first {rates[0]:.1f}) |"


def line(name: str, row: Row, resident: Row | None, disk: float) -> str:
    bound = ""
    if resident and row is not resident:
        compute, reading = resident.seconds, row.read / disk
        bound = f"{max(compute, reading) / row.seconds:.0%} of {'disk' if reading > compute else 'compute'}"
    needed = f"{row.read / row.needed:.3f}" if row.read else "-"
    rate = format_bytes(row.read / row.read_seconds) + "/s" if row.read_seconds else "-"
    return (
        f"| {name} | {row.tokens} | {row.chunk} | {row.rate:.1f} | {row.native / row.seconds:.0%} | "
        f"{row.stall:.2f} | {needed} | {rate} | {bound or '-'} | {format_bytes(row.peak)} of {format_bytes(row.plan)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512, 2048, 8192])
    parser.add_argument("--share", type=float, default=0.3, help="of the model's bytes, for the streaming rows")
    parser.add_argument("--budget", action="store_true", help="set the engine's budget only, no control group")
    parser.add_argument("--only", choices=["resident", "streaming"])
    parser.add_argument("--chunk", type=int, help="instead of the plan's")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--disk", type=float, default=2.4, help="GB/s that this disk gives at best (flashmoe doctor)")
    parser.add_argument("--peer", type=Path, help="a Python with llama-cpp-python, to run llama.cpp on --gguf too")
    parser.add_argument("--peer-prompts", type=int, default=2, help="that llama.cpp reads, of which the last counts")
    parser.add_argument("--gguf", type=Path, help="the same shapes as a GGUF (benchmarks/vs_llama_cpp writes both)")
    options = parser.parse_args()
    if bool(options.peer) != bool(options.gguf):
        parser.error("--peer and --gguf go together")
    size = sum(path.stat().st_size for path in options.directory.rglob("*.safetensors"))
    limit = int(options.share * size)
    print("| | tokens | chunk | tokens/s | native | waiting s | bytes / needed | read at | of the bound | memory |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for tokens in options.tokens:
        settings = Settings(threads=options.threads, context=tokens + 64, chunk_tokens=options.chunk)
        resident = None
        if options.only != "streaming":
            first, resident = rows(options.directory, tokens, settings, None)
            name = f"resident (first: {first.rate:.1f})"
            print(line(name, resident, resident, options.disk * 1e9), flush=True)
            if options.peer:
                print(peer(options, tokens, None), flush=True)
        if options.only != "resident":
            streaming = replace(settings, memory=limit if options.budget else None)
            found = rows(options.directory, tokens, streaming, None if options.budget else limit)
            for name, row in zip(("cold", "warm"), found, strict=True):
                print(line(f"{options.share:.0%} {name}", row, resident, options.disk * 1e9), flush=True)
            if options.peer and not options.budget:
                print(peer(options, tokens, limit), flush=True)


if __name__ == "__main__":
    main()
