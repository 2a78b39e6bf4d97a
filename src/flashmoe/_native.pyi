"""Signatures of the native module: the reader of records and the quantiser."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

class ReadError(OSError):
    """A read that failed: `errno` says why (ENODATA: the file ended first), `got` how many bytes had arrived."""

    ticket: int
    got: int

class Buffer:
    """Zeroed anonymous memory, page-aligned (2 MiB with `huge`), with 4096 readable bytes past its end."""

    def __init__(self, nbytes: int, huge: bool = True) -> None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def array(self) -> NDArray[np.uint8]:
        """A writable view of all bytes, which keeps the memory alive."""

    def lock(self) -> bool:
        """Pin the pages in memory; False where the limits of the process forbid it."""

class Reader:
    """A pool of threads that read parts of files into buffers: demand before prefetch, first come first served.

    Safe to use from several threads; nothing holds the GIL while it waits. A ticket can be waited for once. Misuse
    (an unknown file or ticket, a range outside the buffer, a closed reader) raises ValueError.
    """

    def __init__(self, threads: int) -> None: ...
    def open(self, path: str, direct: bool) -> int:
        """A file id. `direct` reads bypass the page cache where alignment (4096) and file system allow. Raises
        OSError."""

    def submit(self, file: int, offset: int, nbytes: int, buffer: Buffer, position: int, priority: int) -> int:
        """Queue a read of file[offset : offset + nbytes] to buffer[position:]; a ticket. Priority 0: demand, 1:
        prefetch."""

    def wait(self, ticket: int) -> None:
        """Wait for one read. Raises ReadError; the ticket is spent either way."""

    def wait_any(self, tickets: Sequence[int]) -> list[int]:
        """Wait until at least one has ended; all that have, now spent. Raises ReadError for one that failed, and
        spends that one alone."""

    def cancel(self, ticket: int) -> bool:
        """Withdraw a read that has not started and spend its ticket; False if it has started."""

    def close(self) -> None:
        """Withdraw what has not started (waiters get ECANCELED), wait for the rest, close the files."""

    def direct(self, file: int) -> bool:
        """Whether reads of this file bypass the page cache, as far as tried."""

    @property
    def reads(self) -> int:
        """Reads that succeeded."""

    @property
    def bytes_read(self) -> int: ...
    @property
    def read_seconds(self) -> float:
        """Time with at least one read running."""

def quantise(
    values: NDArray[np.float32] | NDArray[np.uint16], bits: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.uint16]]:
    """MLX affine quantisation of float32 or bfloat16 bits [n, k], k a multiple of 64, to 2, 4 or 8 bits.

    Codes uint32 [n, k * bits / 32], scales and biases bfloat16 bits uint16 [n, k / 64], as mx.quantize makes them of
    bfloat16 weights. Raises ValueError for a NaN, an infinity or a range beyond bfloat16. Releases the GIL.
    """

def dequantise(
    codes: NDArray[np.uint32], scales: NDArray[np.uint16], biases: NDArray[np.uint16]
) -> NDArray[np.float32]:
    """code * scale + bias [n, k] in float32, with one rounding (the product is exact). Releases the GIL."""
