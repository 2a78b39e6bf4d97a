"""How fast the processors read memory and multiply, by threads, as the kernels themselves do both.

Invariant: memory and time are bounded. Knows the native kernels, not models.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from flashmoe._native import Buffer, Cpu, Matrix

_BYTES = 512 << 20
"""Sixteen times the largest cache of a common server, so that none of it is still there on the second pass."""
_ROWS = 32
_PIECE = 32 << 20


@dataclass(frozen=True)
class ThreadRate:
    """Something a second with so many threads."""

    threads: int
    per_second: float


def thread_counts(cores: int) -> list[int]:
    """1, 2, 4, ... and all cores."""
    return sorted({cores, *(2**i for i in range(cores.bit_length()) if 2**i <= cores)})


def probe_memory(threads: Sequence[int], nbytes: int = _BYTES, seconds: float = 0.6) -> tuple[ThreadRate, ...]:
    """Bytes a second of reading, median of the passes over `nbytes` that fit in the seconds (three at least)."""
    buffer = Buffer(nbytes)
    memory = buffer.array
    memory.fill(1)  # an untouched page is the same page of zeros everywhere
    rates = []
    for count in threads:
        read = partial(Cpu(count).read_all, memory)
        rates.append(ThreadRate(count, nbytes / _median_seconds(read, seconds)))
    return tuple(rates)


def probe_first_use(most: int, seconds: float = 1.0) -> float:
    """Bytes a second at which memory comes to who touches it first, at the end of at most so many bytes or seconds.

    What somebody freed a moment ago comes first and is found at once; a virtual machine's that was not used for some
    seconds may have gone back to its host, and is found there page by page.
    """
    memory = Buffer(most).array
    rates: list[float] = []
    ended = perf_counter() + seconds
    for begin in range(0, most, _PIECE):
        piece = memory[begin : begin + _PIECE]
        started = perf_counter()
        piece[::4096] = 0
        now = perf_counter()
        rates.append(len(piece) / (now - started))
        if now > ended:
            break
    return statistics.median(rates[-4:])


def probe_products(threads: int, seconds: float = 0.4) -> float:
    """Operations (a multiplication and an addition are two) a second of a 4-bit product with 32 rows, which is what
    prefilling does; the weights stay in the caches."""
    out, columns = 512 * threads, 2048
    random = np.random.default_rng(0)
    codes = random.integers(0, 2**32, (out, columns // 8), np.uint32)
    scales = np.full((out, columns // 64), 0x3C00, np.uint16)
    matrix = Matrix.affine(codes, scales, scales, False)
    x = random.standard_normal((_ROWS, columns), np.float32)
    y = np.empty((_ROWS, out), np.float32)
    cpu = Cpu(threads)
    return 2 * _ROWS * out * columns / _median_seconds(lambda: cpu.linears(x, [matrix], [y]), seconds)


def _median_seconds(action: Callable[[], object], seconds: float) -> float:
    action()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        started = perf_counter()
        action()
        times.append(perf_counter() - started)
    return statistics.median(times)
