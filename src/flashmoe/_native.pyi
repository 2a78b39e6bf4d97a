"""Signatures of the native module: the kernels, the reader of records and the quantiser."""

from collections.abc import Sequence
from pathlib import Path

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

    def release(self, position: int, nbytes: int) -> None:
        """Give back the memory of the pages wholly inside: zeroed, and taken again when touched. ValueError
        for a range outside."""

    def lock(self) -> bool:
        """Pin the pages in memory, each from when it is first touched; False where limits or system do not let."""

class Reader:
    """A pool of threads that read parts of files into buffers, first come first served; a prefetch or a guess starts
    when no demand is queued or running, and of guesses two run at a time.

    Safe to use from several threads; nothing holds the GIL while it waits. A ticket can be waited for once. Misuse
    (an unknown file or ticket, a range outside the buffer, a closed reader) raises ValueError.
    """

    def __init__(self, threads: int) -> None: ...
    def open(self, path: str | Path, direct: bool) -> int:
        """A file id. `direct` reads bypass the page cache where alignment (4096) and file system allow. Raises
        OSError."""

    def submit(self, file: int, offset: int, nbytes: int, buffer: Buffer, position: int, priority: int) -> int:
        """Queue a read of file[offset : offset + nbytes] to buffer[position:]; a ticket. Priority 0: demand, 1:
        prefetch, 2: guess."""

    def submit_many(
        self,
        file: int,
        offsets: Sequence[int],
        nbytes: int,
        buffer: Buffer,
        positions: Sequence[int],
        priority: int,
    ) -> int:
        """Queue reads of `nbytes` each, in order; the first of as many consecutive tickets. Queues all or none."""

    def wait(self, ticket: int) -> None:
        """Wait for one read. Raises ReadError; the ticket is spent either way."""

    def wait_any(self, tickets: Sequence[int]) -> list[int]:
        """Wait until at least one has ended; all that have, now spent. Raises ReadError for one that failed, and
        spends that one alone."""

    def await_any(self, tickets: Sequence[int]) -> None:
        """Wait until at least one has ended, and spend none: an interrupt here loses nothing."""

    def ended(self, tickets: Sequence[int]) -> list[int]:
        """wait_any without waiting: perhaps none has ended."""

    def cancel(self, ticket: int) -> bool:
        """Withdraw a read that has not started and spend its ticket; False if it has started."""

    def promote(self, ticket: int) -> None:
        """Make a prefetch or guess that has not ended a demand, behind those queued if it has not started."""

    def drain(self) -> None:
        """Withdraw what has not started, wait for the rest, and spend every ticket."""

    def close(self) -> None:
        """Withdraw what has not started (waiters get ECANCELED), wait for the rest, close the files."""

    def direct(self, file: int) -> bool:
        """Whether reads of this file bypass the page cache, as far as tried."""

    def keep_log(self, capacity: int) -> None:
        """Keep the last `capacity` reads that end from now on; 0, as at the start: none."""

    def log(self) -> tuple[int, list[tuple[int, int, int, int, bool, float, float]]]:
        """How many reads have ended since keep_log, and those kept, in the order of their ends: file, offset, bytes
        that arrived, thread, whether prefetched, and its begin and end in seconds of time.perf_counter."""

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

class Matrix:
    """A matrix of the trunk, looking into arrays that it keeps alive. Arrays must be C-contiguous."""

    @staticmethod
    def affine(
        codes: NDArray[np.uint32], scales: NDArray[np.uint16], biases: NDArray[np.uint16], exact: bool
    ) -> Matrix:
        """codes [out, in * bits / 32], scales and biases bfloat16 bits [out, in / 64]; bits 2, 4 or 8.

        exact: activations stay float32.
        """

    @staticmethod
    def dense(values: NDArray[np.uint16] | NDArray[np.float32]) -> Matrix:
        """[out, in]: uint16 holds bfloat16 bits. Activations stay float32."""

    @property
    def out_features(self) -> int: ...
    @property
    def in_features(self) -> int: ...
    @property
    def exact(self) -> bool: ...

class Layout:
    """Where the nine arrays of one expert lie in its record: name, rows, columns and offset of each."""

    def __init__(self, parts: Sequence[tuple[str, int, int, int]], record_bytes: int) -> None: ...
    @property
    def record_bytes(self) -> int: ...

class KvCache:
    """Keys and values of one attention layer, in blocks of tokens that forks share.

    bits: 16 for float16 (values beyond its range become its largest), 8 for int8 with a scale for 64 dimensions."""

    def __init__(self, kv_heads: int, head_dim: int, bits: int = 16) -> None: ...
    @property
    def length(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def row_bytes(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def blocks(self) -> list[int]: ...
    def fork(self, length: int) -> KvCache: ...
    def read(self, first: int, last: int, rows: NDArray[np.uint8]) -> None: ...
    def append(self, rows: NDArray[np.uint8]) -> None: ...

class DeltaState:
    """State of one GatedDeltaNet layer. Kernels of up to 16 taps."""

    def __init__(self, channels: int, kernel: int, value_heads: int, key_dim: int, value_dim: int) -> None: ...
    @property
    def value_heads(self) -> int: ...
    @property
    def value_dim(self) -> int: ...
    def fork(self) -> DeltaState: ...
    @property
    def nbytes(self) -> int: ...
    def read(self, values: NDArray[np.float32]) -> None:
        """Into values [nbytes / 4]: the convolution's last inputs [kernel - 1, channels], the oldest first, then the
        memory [value_heads, key_dim, value_dim]."""

    def write(self, values: NDArray[np.float32]) -> None:
        """Take what `read` gave."""

class DeltaNet:
    """The weights of a GatedDeltaNet layer (ops/blocks.py), looking into arrays that it keeps alive."""

    def __init__(
        self,
        norm: NDArray[np.float32],
        qkv: Matrix,
        z: Matrix,
        b: Matrix,
        a: Matrix,
        conv: NDArray[np.float32],
        a_log: NDArray[np.float32],
        dt_bias: NDArray[np.float32],
        gated_norm: NDArray[np.float32],
        output: Matrix,
        key_heads: int,
        eps: float,
    ) -> None: ...

class Attention:
    """The weights of a full attention layer (ops/blocks.py), looking into arrays that it keeps alive."""

    def __init__(
        self,
        norm: NDArray[np.float32],
        q: Matrix,
        k: Matrix,
        v: Matrix,
        q_norm: NDArray[np.float32],
        k_norm: NDArray[np.float32],
        output: Matrix,
        heads: int,
        kv_heads: int,
        gated: bool,
        eps: float,
    ) -> None: ...

class Cpu:
    """The operations of ops/interface.py, into outputs given last. Arguments that do not fit raise ValueError.

    One operation runs at a time; the GIL is released meanwhile.
    """

    def __init__(self, threads: int, isa: str = "") -> None: ...
    @staticmethod
    def available_isas() -> list[str]:
        """Instruction sets that run here, best first."""

    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def busy_seconds(self) -> float:
        """Wall time spent in operations of this object."""

    def embed(self, table: Matrix, token_ids: NDArray[np.int32], out: NDArray[np.float32]) -> None: ...
    def linears(
        self, x: NDArray[np.float32], matrices: Sequence[Matrix], outs: Sequence[NDArray[np.float32]]
    ) -> None: ...
    def rms_norm(
        self, x: NDArray[np.float32], weight: NDArray[np.float32], eps: float, out: NDArray[np.float32]
    ) -> None: ...
    def full_attention(
        self,
        x: NDArray[np.float32],
        weights: Attention,
        ends: Sequence[int],
        caches: Sequence[KvCache],
        cos: NDArray[np.float32],
        sin: NDArray[np.float32],
    ) -> None:
        """Listens for Ctrl-C between pieces of a long attention."""

    def delta_net(
        self, x: NDArray[np.float32], weights: DeltaNet, ends: Sequence[int], states: Sequence[DeltaState]
    ) -> None: ...
    def route(
        self,
        x: NDArray[np.float32],
        norm: NDArray[np.float32],
        eps: float,
        router: Matrix,
        top_k: int,
        renormalise: bool,
        y: NDArray[np.float32],
        ids: NDArray[np.int32],
        weights: NDArray[np.float32],
    ) -> None: ...
    def shared_expert(
        self,
        y: NDArray[np.float32],
        gate: Matrix,
        up: Matrix,
        down: Matrix,
        share: Matrix,
        out: NDArray[np.float32],
        shares: NDArray[np.float32],
    ) -> None: ...
    def experts(
        self,
        x: NDArray[np.float32],
        arena: NDArray[np.uint8],
        layout: Layout,
        slots: NDArray[np.int32],
        starts: NDArray[np.int32],
        rows: NDArray[np.int32],
        outputs: NDArray[np.int32],
        out: NDArray[np.float32],
    ) -> None: ...
    def combine(
        self,
        x: NDArray[np.float32],
        outputs: NDArray[np.float32],
        weights: NDArray[np.float32],
        shared: NDArray[np.float32] | None,
        shares: NDArray[np.float32] | None,
    ) -> None: ...
    def read_all(self, bytes: NDArray[np.uint8]) -> int:
        """Read all bytes with all threads, as the products read weights: a probe of memory bandwidth. Some checksum."""
