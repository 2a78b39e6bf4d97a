"""Reads of expert records by a pool of native threads, with errors a user can act on.

Invariant: every read that was submitted ends exactly once, as `done` with or without an `error`, or is withdrawn; where
checksums are known, without an error means that the bytes are those that were packed. Knows files and records; does
not know which records are worth keeping.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flashmoe._native import Buffer, Reader, ReadError
from flashmoe.errors import FlashMoeError
from flashmoe.files.checksum import checksum
from flashmoe.files.opening import opened

DEMAND = 0
PREFETCH = 1
GUESS = 2


@dataclass(frozen=True)
class ExpertFile:
    """The records of one layer: record e lies at data_offset + e * record_bytes of `path`.

    With data_offset and record_bytes multiples of 4096, reads can bypass the page cache. checksums: 16 hex digits of
    xxh3-64 a record, to be checked as each lands; empty: unchecked.
    """

    path: Path
    data_offset: int
    experts: int
    record_bytes: int
    checksums: str = ""


@dataclass(slots=True, eq=False)
class Read:
    """One read on its way into an arena slot."""

    ticket: int
    layer: int
    expert: int
    slot: int
    landing: NDArray[np.uint8] | None = None
    """Where the record will be, if it is to be checked."""
    done: bool = False
    error: FlashMoeError | None = None


@dataclass(frozen=True, slots=True)
class LoggedRead:
    """A read that ended, on which thread and when, in seconds of time.perf_counter; nbytes: that arrived."""

    layer: int
    expert: int
    nbytes: int
    thread: int
    prefetch: bool
    begin: float
    end: float


class RecordReader:
    """Reads whole records of the given layers, past the page cache (`direct`, for all or each file) where the file
    system can. Opens every file at once: a missing one is known at the start."""

    def __init__(self, files: Sequence[ExpertFile], threads: int, direct: bool | Sequence[bool]) -> None:
        self._files = tuple(files)
        self._native = Reader(threads)
        each = [direct] * len(files) if isinstance(direct, bool) else direct
        try:
            self._ids = [self._open(layer, choice) for layer, choice in enumerate(each)]
        except FlashMoeError:
            self._native.close()
            raise

    def submit(self, layer: int, expert: int, slot: int, buffer: Buffer, position: int, priority: int = DEMAND) -> Read:
        """Queue the read of a record to buffer[position:]. Reads of one priority start in the order submitted."""
        file = self._files[layer]
        offset = file.data_offset + expert * file.record_bytes
        ticket = self._native.submit(self._ids[layer], offset, file.record_bytes, buffer, position, priority)
        return Read(ticket, layer, expert, slot, self._landing(file, buffer, position))

    def submit_many(
        self,
        layer: int,
        experts: Sequence[int],
        slots: Sequence[int],
        buffer: Buffer,
        positions: Sequence[int],
        priority: int = DEMAND,
    ) -> list[Read]:
        """`submit` for several records of one layer, in order, for the price of one call."""
        file = self._files[layer]
        offsets = [file.data_offset + expert * file.record_bytes for expert in experts]
        first = self._native.submit_many(self._ids[layer], offsets, file.record_bytes, buffer, positions, priority)
        return [
            Read(first + i, layer, expert, slot, self._landing(file, buffer, position))
            for i, (expert, slot, position) in enumerate(zip(experts, slots, positions, strict=True))
        ]

    def wait_any(self, reads: Iterable[Read]) -> list[Read]:
        """Wait until at least one of them has ended; those that have, marked done, one that failed with its error."""
        return self._take(reads, self._native.wait_any)

    def await_any(self, reads: Iterable[Read]) -> None:
        """Wait until at least one of them has ended, and take no notice: an interrupt here loses nothing."""
        self._native.await_any([read.ticket for read in reads])

    def ended(self, reads: Iterable[Read]) -> list[Read]:
        """`wait_any` without waiting: perhaps none has ended."""
        return self._take(reads, self._native.ended)

    def _take(self, reads: Iterable[Read], take: Callable[[Sequence[int]], list[int]]) -> list[Read]:
        by_ticket = {read.ticket: read for read in reads}
        try:
            ended = [by_ticket[ticket] for ticket in take(list(by_ticket))]
        except ReadError as error:
            failed = by_ticket[error.ticket]
            failed.error = self._explain(failed, error)
            ended = [failed]
        for read in ended:
            read.done = True
            if read.landing is not None and read.error is None:
                read.error = self._check(read, read.landing)
        return ended

    def withdraw(self, read: Read) -> bool:
        """Take back a read that has not started; False if it has, and will still end."""
        return self._native.cancel(read.ticket)

    def promote(self, read: Read) -> None:
        """Make a prefetch a demand, behind those submitted if it has not started."""
        self._native.promote(read.ticket)

    def drain(self) -> None:
        """Withdraw what has not started, wait for the rest, and forget all of it."""
        self._native.drain()

    def keep_log(self, capacity: int) -> None:
        """Keep the last `capacity` reads that end from now on; 0: none."""
        self._native.keep_log(capacity)

    def log(self) -> tuple[list[LoggedRead], int]:
        """The reads kept, in the order of their ends, and how many earlier ones were not."""
        added, events = self._native.log()
        reads = []
        for number, offset, nbytes, thread, prefetch, begin, end in events:
            layer = self._ids.index(number)
            expert = (offset - self._files[layer].data_offset) // self._files[layer].record_bytes
            reads.append(LoggedRead(layer, expert, nbytes, thread, prefetch, begin, end))
        return reads, added - len(reads)

    def close(self) -> None:
        """Withdraw what has not started, wait for the rest and close the files."""
        self._native.close()

    def record_bytes(self, layer: int) -> int:
        return self._files[layer].record_bytes

    @property
    def direct(self) -> bool:
        """Whether reads of every file bypass the page cache, as far as tried."""
        return all(self._native.direct(file) for file in self._ids)

    @property
    def bytes_read(self) -> int:
        return self._native.bytes_read

    @property
    def read_seconds(self) -> float:
        """Time with at least one read running: bytes_read / read_seconds is the bandwidth reached."""
        return self._native.read_seconds

    def _open(self, layer: int, direct: bool) -> int:
        file = self._files[layer]
        try:
            needed = file.data_offset + file.experts * file.record_bytes
            with opened(file.path) as found:
                size = os.fstat(found.fileno()).st_size
            if size < needed:
                raise FlashMoeError(
                    f"{file.path} has {size} bytes and needs {needed} for {file.experts} experts: it was cut short. "
                    f"Check the model with {_verify(file)}."
                )
            return self._native.open(str(file.path), direct)
        except OSError as error:
            raise FlashMoeError(
                f"The experts of layer {layer} cannot be opened: {file.path}: {error.strerror}. "
                f"Check the model with {_verify(file)}."
            ) from error

    def _landing(self, file: ExpertFile, buffer: Buffer, position: int) -> NDArray[np.uint8] | None:
        return buffer.array[position : position + file.record_bytes] if file.checksums else None

    def _check(self, read: Read, record: NDArray[np.uint8]) -> FlashMoeError | None:
        file = self._files[read.layer]
        packed = file.checksums[16 * read.expert : 16 * (read.expert + 1)]
        if (found := checksum(record)) == packed:
            return None
        return FlashMoeError(
            f"Expert {read.expert} of layer {read.layer} is not as it was packed: its bytes in {file.path} have the "
            f"xxh3 {found}, and flashmoe.json says {packed}. Check the model with {_verify(file)}, and pack it again."
        )

    def _explain(self, read: Read, error: ReadError) -> FlashMoeError:
        file = self._files[read.layer]
        return FlashMoeError(
            f"Expert {read.expert} of layer {read.layer} could not be read from {file.path}: {error.strerror}. "
            f"Check the model with {_verify(file)}."
        )


def _verify(file: ExpertFile) -> str:
    return f"`flashmoe verify {file.path.parent.parent}`"
