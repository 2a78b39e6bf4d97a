"""How fast a file system delivers records, by reads in flight, past the page cache and through it when it is cold.

Invariant: bytes and time are bounded, nothing but a file of its own is written, and that file has no name: however the
process ends, it is gone. Knows records and files, not models.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np

from flashmoe._native import Buffer
from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.settings import format_bytes
from flashmoe.streaming.pagecache import forget
from flashmoe.streaming.reader import ExpertFile, RecordReader

DEPTHS = (1, 2, 4, 8, 16)
PLAIN_RECORD = 1_769_472
"""Bytes of a record where there is no model: an expert of 35B-A3B at 4 bits, the smallest of the published ones."""
_FILE_BYTES = 256 << 20


@dataclass(frozen=True)
class Rate:
    """Bytes a second with `depth` reads in flight."""

    depth: int
    bytes_per_second: float


@dataclass(frozen=True)
class DiskProbe:
    """record_bytes: size of a read. direct: empty where the file system has no direct reads. cold: whether the page
    cache is known to have let go of the files; if not, the buffered rates may be those of memory."""

    record_bytes: int
    direct: tuple[Rate, ...]
    buffered: tuple[Rate, ...]
    cold: bool

    @property
    def best_direct(self) -> Rate | None:
        return max(self.direct, key=lambda rate: rate.bytes_per_second, default=None)

    @property
    def best_buffered(self) -> Rate:
        return max(self.buffered, key=lambda rate: rate.bytes_per_second)

    @property
    def best(self) -> Rate:
        """The faster of both; what came out of the page cache does not count if there is another figure."""
        direct = self.best_direct
        if direct is None:
            return self.best_buffered
        return max(direct, self.best_buffered, key=lambda r: r.bytes_per_second) if self.cold else direct


@contextmanager
def plain_file(directory: Path, nbytes: int = _FILE_BYTES, record_bytes: int = PLAIN_RECORD) -> Iterator[ExpertFile]:
    """A nameless file of random records in `directory`, on disk and not only in memory.

    Raises CapacityError if the disk has less than twice the room, FlashMoeError if the directory cannot be written.
    """
    if not directory.is_dir():
        raise FlashMoeError(f"{directory} is not a directory; name one on the disk to be measured.")
    if (free := shutil.disk_usage(directory).free) < 2 * nbytes:
        raise CapacityError(
            f"{directory} has {format_bytes(free)} free; the probe writes {format_bytes(nbytes)} and leaves as much. "
            "Name a packed model, whose own files will do."
        )
    records = max(1, nbytes // record_bytes)
    block = np.random.default_rng(0).bytes(record_bytes)
    try:
        file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115
    except OSError as error:
        raise FlashMoeError(
            f"{directory} cannot be written to ({error.strerror}); name another directory on this disk, or a packed "
            "model, whose own files will do."
        ) from error
    with file:
        for _ in range(records):
            file.write(block)
        os.fsync(file.fileno())
        # Its name in /proc is one that it can be opened by although it has none.
        yield ExpertFile(Path(f"/proc/self/fd/{file.fileno()}"), 0, records, record_bytes)


def probe_disk(files: Sequence[ExpertFile], depths: Sequence[int] = DEPTHS, seconds: float = 1.0) -> DiskProbe:
    """Read records in random order, about `seconds` long for each row of the answer and at most all records once.

    Empties the page cache of these files. Raises FlashMoeError for a file that cannot be read.
    """
    buffer = _buffer(files, depths)
    direct = _direct(files, depths, buffer, seconds)
    buffered, cold = _buffered(files, depths, buffer, seconds)
    return DiskProbe(max(file.record_bytes for file in files), direct, buffered, cold)


def probe_reads(files: Sequence[ExpertFile], depths: Sequence[int], seconds: float = 0.7) -> tuple[Rate, ...]:
    """The same as an engine reads: past the page cache where the file system allows it, else through it."""
    buffer = _buffer(files, depths)
    return _direct(files, depths, buffer, seconds) or _buffered(files, depths, buffer, seconds)[0]


def _buffer(files: Sequence[ExpertFile], depths: Sequence[int]) -> Buffer:
    buffer = Buffer(max(depths) * max(file.record_bytes for file in files))
    buffer.array[::4096] = 0  # page faults are no part of reading
    return buffer


def _direct(files: Sequence[ExpertFile], depths: Sequence[int], buffer: Buffer, seconds: float) -> tuple[Rate, ...]:
    """Empty where reads did not bypass the page cache."""
    rates: list[Rate] = []
    for depth in depths:
        rate, was_direct = _rate(files, depth, buffer, seconds, direct=True)
        if not was_direct:
            return ()
        rates.append(rate)
    return tuple(rates)


def _buffered(
    files: Sequence[ExpertFile], depths: Sequence[int], buffer: Buffer, seconds: float
) -> tuple[tuple[Rate, ...], bool]:
    """And whether the page cache is known to have let go of the files each time."""
    rates, cold = [], True
    for depth in depths:
        for file in files:
            cold &= forget(file.path, file.data_offset, file.experts * file.record_bytes)
        rates.append(_rate(files, depth, buffer, seconds, direct=False)[0])
    return tuple(rates), cold


def _rate(
    files: Sequence[ExpertFile], depth: int, buffer: Buffer, seconds: float, *, direct: bool
) -> tuple[Rate, bool]:
    """The rate with `depth` reads in flight, and whether they bypassed the page cache."""
    slot_bytes = buffer.nbytes // depth // 4096 * 4096
    order = _shuffled(files, depth)
    reader = RecordReader(files, depth, direct)
    try:
        started = perf_counter()
        running = [
            reader.submit(layer, expert, slot, buffer, slot * slot_bytes)
            for slot, (layer, expert) in enumerate(islice(order, depth))
        ]
        while running:
            ended = reader.wait_any(running)
            for read in ended:
                if read.error is not None:
                    raise read.error
                running.remove(read)
                if perf_counter() - started < seconds and (record := next(order, None)):
                    running.append(reader.submit(*record, read.slot, buffer, read.slot * slot_bytes))
        return Rate(depth, reader.bytes_read / (perf_counter() - started)), reader.direct
    finally:
        reader.close()


def _shuffled(files: Sequence[ExpertFile], seed: int) -> Iterator[tuple[int, int]]:
    """(layer, expert) of every record, each once. Another order for every row, lest a cache of the drive knows it."""
    records = [(layer, expert) for layer, file in enumerate(files) for expert in range(file.experts)]
    return (records[i] for i in np.random.default_rng(seed).permutation(len(records)).tolist())
