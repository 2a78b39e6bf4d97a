"""Whether to read past the page cache or through it: measured on the model's own records, once at the start.

Invariant: each record is read once, cold, so neither way profits from the other; a probe that cannot measure or meets
an error leaves the choice at direct, and errors to those who need the bytes. Knows files and records.
"""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from time import perf_counter

import numpy as np

from flashmoe._native import Buffer, Reader
from flashmoe.streaming.pagecache import forget
from flashmoe.streaming.reader import ExpertFile

_DEPTH = 4
"""Reads in flight: what saturates a drive, and what a token's misses come to."""
_ROUNDS = 3
_TRIES = 4 * 2 * _DEPTH * _ROUNDS
"""Records looked at for as many as the rounds take: some are drawn twice, some stay in the page cache."""
_SECONDS = 0.05
"""No new round after this, however slow the disk."""
_CLEARLY = 0.8
"""Buffered reads cost the copy and the memory of the page cache besides their time, so they must be faster by a fifth,
in every round."""


def choose_direct(files: Sequence[ExpertFile]) -> list[bool]:
    """For each file, whether its reads shall bypass the page cache: one answer for each file system."""
    disks: dict[int, list[ExpertFile]] = {}
    for file in files:
        disks.setdefault(_disk(file), []).append(file)
    answers = {disk: _direct_is_better(members) for disk, members in disks.items()}
    return [answers[_disk(file)] for file in files]


def _disk(file: ExpertFile) -> int:
    try:
        return file.path.stat().st_dev
    except OSError:
        return -1  # whoever opens the file says what is wrong


def _direct_is_better(files: Sequence[ExpertFile]) -> bool:
    record_bytes = max(file.record_bytes for file in files)
    buffer = Buffer(_DEPTH * record_bytes)
    buffer.array[::4096] = 0  # page faults are no part of reading
    records = _cold_records(files)
    reader = Reader(_DEPTH)
    started = perf_counter()
    measured = 0
    try:
        while measured < _ROUNDS and perf_counter() - started < _SECONDS:
            cold = list(islice(records, 2 * _DEPTH))
            if len(cold) < 2 * _DEPTH:
                break
            # Alternating which goes first: the drive may sleep, or have been kept busy by the one before.
            first = measured % 2 == 0
            times = {direct: _time(reader, cold[i::2], buffer, direct) for i, direct in enumerate((first, not first))}
            if times[False] > _CLEARLY * times[True]:
                return True
            measured += 1
        return measured == 0
    except OSError:
        return True
    finally:
        reader.close()


def _cold_records(files: Sequence[ExpertFile]) -> Iterator[tuple[ExpertFile, int]]:
    """Files and offsets of records spread over all of them, dropped from the page cache; those that stay are left out,
    and after as many as a probe takes there are no more."""
    rng = np.random.default_rng()  # another choice each time: the drive's own cache would know the last
    seen = set()
    for i in rng.permutation(max(len(files), _TRIES)).tolist():
        file = files[i % len(files)]
        offset = file.data_offset + int(rng.integers(file.experts)) * file.record_bytes
        if (file, offset) not in seen and forget(file.path, offset, file.record_bytes):
            seen.add((file, offset))
            yield file, offset


def _time(reader: Reader, records: Sequence[tuple[ExpertFile, int]], buffer: Buffer, direct: bool) -> float:
    """Seconds for these records, all in flight."""
    opened = [reader.open(os.fspath(file.path), direct) for file, _ in records]
    slot_bytes = buffer.nbytes // _DEPTH
    begin = perf_counter()
    tickets = [
        reader.submit(number, offset, file.record_bytes, buffer, i * slot_bytes, 0)
        for i, (number, (file, offset)) in enumerate(zip(opened, records, strict=True))
    ]
    for ticket in tickets:
        reader.wait(ticket)
    return perf_counter() - begin
