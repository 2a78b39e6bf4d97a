"""GB/s of weights in the 4-bit products beside the memory bandwidth of the same minutes.

    python benchmarks/matvec.py [--gib 1.0] [--repeats 7] [--threads 1 2]

Weights lie in huge pages and are more than any cache holds; every repeat walks over all of them, and reading alone
(`Cpu.read_all`, the same buffer, the same threads) alternates with the products. Medians, and the span of the repeats.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flashmoe._native import Buffer, Cpu, Layout, Matrix

TRUNK = {
    "35B qkv + gate": (10240, 2048),
    "35B o_proj": (2048, 4096),
    "35B shared down": (2048, 512),
    "397B in_proj_qkv": (12288, 4096),
    "397B out_proj": (4096, 8192),
    "397B shared down": (4096, 1024),
}
EXPERTS = {"35B 8 experts": (2048, 512, 8), "397B 10 experts": (4096, 1024, 10)}  # hidden, inner, top k


def fill(bytes_: NDArray[np.uint8]) -> None:
    """Random codes, repeated, whose pairs of bytes are ordinary numbers as bfloat16.

    Anywhere may lie a scale, and scales of plain random bits make denormal products, which are slow.
    """
    random = np.random.default_rng(0).integers(0, 1 << 16, 1 << 23, np.uint16)
    block = (random & 0x80FF | 0x3C00).view(np.uint8)
    for start in range(0, len(bytes_), len(block)):
        part = bytes_[start : start + len(block)]
        part[:] = block[: len(part)]


def layout(hidden: int, inner: int) -> Layout:
    """A 4-bit record in the order of docs/format.md."""
    parts, offset = [], 0
    for name, (out, columns) in {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}.items():
        for suffix, width, size in (
            ("weight", columns // 8, 4),
            ("scales", columns // 64, 2),
            ("biases", columns // 64, 2),
        ):
            parts.append((f"{name}.{suffix}", out, width, offset))
            offset += out * width * size
    return Layout(parts, -(-offset // 4096) * 4096)


def walk_matrices(cpu: Cpu, memory: NDArray[np.uint8], out: int, columns: int) -> tuple[Callable[[], None], int]:
    """A function that multiplies with every matrix of this shape that the memory holds, and the bytes it reads."""
    size = out * columns // 2 + out * columns // 16
    handles = []
    for start in range(0, len(memory) - size, -(-size // 64) * 64):
        rest = start + out * columns // 2
        codes = memory[start:rest].view(np.uint32).reshape(out, columns // 8)
        groups = memory[rest : start + size].view(np.uint16).reshape(2, out, columns // 64)
        handles.append(Matrix.affine(codes, groups[0], groups[1], False))
    x = np.random.default_rng(1).standard_normal((1, columns), np.float32)
    y = np.empty((1, out), np.float32)

    def walk() -> None:
        for handle in handles:
            cpu.linears(x, [handle], [y])

    return walk, size * len(handles)


def walk_experts(
    cpu: Cpu, memory: NDArray[np.uint8], hidden: int, inner: int, top_k: int
) -> tuple[Callable[[], None], int]:
    """A function that runs one token through every record that the memory holds, top_k at a time."""
    record = layout(hidden, inner)
    slots = len(memory) // record.record_bytes // top_k * top_k
    arena = memory[: slots * record.record_bytes].reshape(slots, record.record_bytes)
    x = np.random.default_rng(2).standard_normal((1, hidden), np.float32)
    ranks, starts = np.arange(top_k, dtype=np.int32), np.arange(top_k + 1, dtype=np.int32)
    rows, y = np.zeros(top_k, np.int32), np.empty((top_k, hidden), np.float32)
    calls = [np.arange(first, first + top_k, dtype=np.int32) for first in range(0, slots, top_k)]

    def walk() -> None:
        for chosen in calls:
            cpu.experts(x, arena, record, chosen, starts, rows, ranks, y)

    return walk, slots * record.record_bytes


def seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def compare(cpu: Cpu, memory: NDArray[np.uint8], name: str, walk: Callable[[], None], size: int, repeats: int) -> None:
    products, reads = [], []
    for _ in range(repeats):
        reads.append(len(memory) / seconds(lambda: cpu.read_all(memory)) / 1e9)
        products.append(size / seconds(walk) / 1e9)
    share = statistics.median(p / r for p, r in zip(products, reads, strict=True))
    columns = [f"{statistics.median(v):6.1f} ({min(v):4.1f}-{max(v):4.1f})" for v in (products, reads)]
    print(f"{cpu.threads:7} {name:20} {columns[0]:18} {columns[1]:18} {share:5.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.0, help="memory to walk over")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--isa", default="", help="instruction set, default the best")
    args = parser.parse_args()
    buffer = Buffer(int(args.gib * 2**30), True)
    memory = buffer.array
    fill(memory)
    print(f"{args.gib} GiB, {args.repeats} repeats, {Cpu(1, args.isa).isa}; GB/s, median (span)")
    print(f"{'threads':7} {'shape':20} {'product':18} {'reading alone':18} share")
    for threads in args.threads:
        cpu = Cpu(threads, args.isa)
        for name, (out, columns) in TRUNK.items():
            compare(cpu, memory, name, *walk_matrices(cpu, memory, out, columns), args.repeats)
        for name, shape in EXPERTS.items():
            compare(cpu, memory, name, *walk_experts(cpu, memory, *shape), args.repeats)


if __name__ == "__main__":
    main()
