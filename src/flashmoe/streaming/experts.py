"""Experts on demand: which are in memory, where, and how the others get there.

Invariants: a slot is never reused while a lease or a read holds it; an expert is in at most one readable slot and in at
most one read; an expert whose read failed is nowhere, and the next fetch tries again. One thread uses a store.
Knows layers, experts and slots; knows neither what a record means nor why an expert is wanted.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from flashmoe.errors import CapacityError
from flashmoe.streaming.arena import Arena
from flashmoe.streaming.policy import LeastFrequentRecentlyUsed, PolicyFactory
from flashmoe.streaming.reader import ExpertFile, LoggedRead, Read, RecordReader

READ_THREADS = 8
"""Reads in flight: 2 to 8 of 7 MB saturate a drive."""


@dataclass(frozen=True)
class StoreStats:
    """Counts since the store was made. A hit needed no read of its own; stall_seconds were spent waiting for reads."""

    hits: int
    misses: int
    bytes_read: int
    read_seconds: float
    stall_seconds: float


class Lease:
    """Experts of one layer, pinned in the arena until the `with` block ends.

    slots: int32, aligned with the experts asked for. A slot may be read once its index has come out of `groups`.
    """

    __slots__ = ("_held", "_late", "_store", "slots")

    def __init__(self, store: "ExpertStore", slots: NDArray[np.intp], late: list[tuple[int, Read]]) -> None:
        self._store = store
        self._held = slots
        self._late = late
        self.slots = slots.astype(np.int32)

    def groups(self) -> Iterable[NDArray[np.intp]]:
        """Indices into the experts asked for, as they become ready: first all that are in memory, then the others as
        they land. Raises FlashMoeError for an expert that could not be read."""
        return self._landing() if self._late else (self._store.indices(len(self._held)),)

    def _landing(self) -> Iterator[NDArray[np.intp]]:
        self._late = [(index, read) for index, read in self._late if not read.done or read.error is not None]
        ready = np.delete(self._store.indices(len(self._held)), [index for index, _ in self._late])
        if len(ready):
            yield ready
        while self._late:
            landed, self._late = self._store.await_any(self._late)
            yield np.array(landed, dtype=np.intp)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._store.release(self._held, self._late)


class ExpertStore:
    """The experts of a model behind an arena of `slots` records, filled from disk on demand.

    One file a layer, in layer order; records may differ in size between layers. `direct` reads bypass the page cache
    where the file system allows it. Raises FlashMoeError for a file that is missing, unreadable or short, and
    CapacityError if the arena cannot be had.
    """

    def __init__(
        self,
        files: Sequence[ExpertFile],
        slots: int,
        *,
        threads: int = READ_THREADS,
        direct: bool = True,
        policy: PolicyFactory = LeastFrequentRecentlyUsed,
    ) -> None:
        self._reader = RecordReader(files, threads, direct)
        self.arena = Arena(slots, max(file.record_bytes for file in files))
        self._width = max(file.experts for file in files)
        self._policy = policy(slots, len(files), self._width)
        table: NDArray[np.intp] = np.full((len(files), self._width), -1, dtype=np.intp)
        self._tables = list(table)  # by layer: expert -> slot, -1 while it is not readable
        self._owners: list[tuple[int, int] | None] = [None] * slots
        self._pins = np.zeros(slots, dtype=np.int32)  # leases and reads that hold a slot
        self._reads: dict[tuple[int, int], Read] = {}
        self._indices = np.arange(slots, dtype=np.intp)
        self._indices.flags.writeable = False
        self._uses = 0
        self._misses = 0
        self._stall_seconds = 0.0

    @property
    def max_lease(self) -> int:
        """The most experts that leases may hold together."""
        return self.arena.slots

    @property
    def direct(self) -> bool:
        """Whether reads bypass the page cache, as far as tried."""
        return self._reader.direct

    @property
    def stats(self) -> StoreStats:
        return StoreStats(
            self._uses - self._misses,
            self._misses,
            self._reader.bytes_read,
            self._reader.read_seconds,
            self._stall_seconds,
        )

    def fetch(self, layer: int, experts: NDArray[np.int32], uses: NDArray[np.int32] | None = None) -> Lease:
        """Pin these experts, distinct, and start reading those that are not in memory, in file order.

        uses: how many tokens want each of them, else one. Returns at once; use the lease in a `with` block. Raises
        CapacityError if the arena has too few free slots.
        """
        # Indices as intp throughout: NumPy converts others anew at every use, 1 to 2 us each.
        slots: NDArray[np.intp] = self._tables[layer][experts.astype(np.intp)]
        held = slots.tolist()
        late: list[tuple[int, Read]] = []
        if -1 in held:
            late = self._start_reads(layer, experts, slots)
            held = slots.tolist()
        else:
            self._pins[slots] += 1
        self._policy.touch(held, None if uses is None else uses.tolist())
        self._uses += len(held)
        return Lease(self, slots, late)

    def keep_read_log(self, capacity: int) -> None:
        """Keep the last `capacity` reads that end from now on; 0: none."""
        self._reader.keep_log(capacity)

    def read_log(self) -> tuple[list[LoggedRead], int]:
        """The reads kept, in the order of their ends, and how many earlier ones were not."""
        return self._reader.log()

    def close(self) -> None:
        """Wait for running reads and close the files. The arena lives on while someone refers to it."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # For leases ------------------------------------------------------------------------------------------------------
    def indices(self, count: int) -> NDArray[np.intp]:
        """0 .. count - 1, read-only."""
        return self._indices[:count]

    def await_any(self, late: list[tuple[int, Read]]) -> tuple[list[int], list[tuple[int, Read]]]:
        """Wait until one of these reads has ended: the indices of those that have, and the rest."""
        if not any(read.done for _, read in late):
            self._settle([read for _, read in late])
        for _, read in late:
            if read.error is not None:
                raise read.error
        return [index for index, read in late if read.done], [entry for entry in late if not entry[1].done]

    def release(self, slots: NDArray[np.intp], late: list[tuple[int, Read]]) -> None:
        """Unpin, and withdraw what nobody waits for any more."""
        self._pins[slots] -= 1
        for _, read in late:
            if not read.done and self._pins[read.slot] == 1 and self._reader.withdraw(read):
                self._vacate(read)

    # Misses ----------------------------------------------------------------------------------------------------------
    def _start_reads(self, layer: int, experts: NDArray[np.int32], slots: NDArray[np.intp]) -> list[tuple[int, Read]]:
        """Fill the gaps in `slots`, pin all of them, and return the reads to wait for, by index."""
        late: list[tuple[int, Read]] = []
        absent: list[tuple[int, int]] = []
        for index in np.flatnonzero(slots < 0).tolist():
            expert = int(experts[index])
            if (read := self._reads.get((layer, expert))) and self._pins[read.slot] == 1:
                # No lease waits for it. Its end comes first, so that an old failure is not taken for a new one.
                self._settle([read])
            if read := self._reads.get((layer, expert)):
                slots[index] = read.slot
                late.append((index, read))
            elif (slot := self._tables[layer][expert]) >= 0:
                slots[index] = slot
            else:
                absent.append((expert, index))
        held = slots[slots >= 0]
        self._pins[held] += 1
        if not self._make_room(len(absent)):
            self._pins[held] -= 1
            raise CapacityError(
                f"Layer {layer} needs {len(experts)} experts at once, {len(absent)} of them from disk, and the arena "
                f"of {self.arena.slots} has room for {self._free_slots()} more; give it more with --memory."
            )
        victims = self._policy.victims(self._pins, len(absent))
        for (expert, index), slot in zip(sorted(absent), victims, strict=True):
            slots[index] = slot
            late.append((index, self._start_read(layer, expert, slot)))
        self._misses += len(absent)
        return late

    def _start_read(self, layer: int, expert: int, slot: int) -> Read:
        if owner := self._owners[slot]:
            self._tables[owner[0]][owner[1]] = -1
        self._owners[slot] = (layer, expert)
        self._policy.admit(slot, layer * self._width + expert)
        self._pins[slot] = 2  # the lease's and the read's own
        read = self._reader.submit(layer, expert, slot, self.arena.buffer, slot * self.arena.slot_bytes)
        self._reads[layer, expert] = read
        return read

    def _free_slots(self) -> int:
        return len(self._pins) - int(np.count_nonzero(self._pins))

    def _make_room(self, count: int) -> bool:
        """See that so many slots are free, waiting for running reads that no lease holds if it takes that."""
        while self._free_slots() < count:
            abandoned = [read for read in self._reads.values() if self._pins[read.slot] == 1]
            if not abandoned:
                return False
            self._settle(abandoned)
        return True

    def _settle(self, reads: list[Read]) -> None:
        started = perf_counter()
        ended = self._reader.wait_any(reads)
        self._stall_seconds += perf_counter() - started
        for read in ended:
            if read.error is not None:
                self._vacate(read)
                continue
            self._tables[read.layer][read.expert] = read.slot
            self._pins[read.slot] -= 1
            del self._reads[read.layer, read.expert]

    def _vacate(self, read: Read) -> None:
        """The read brought nothing: its slot goes to whoever needs one next, once no lease holds it."""
        self._owners[read.slot] = None
        self._policy.forget(read.slot)
        self._pins[read.slot] -= 1
        del self._reads[read.layer, read.expert]
