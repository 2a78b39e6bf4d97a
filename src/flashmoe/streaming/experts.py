"""Experts on demand: which are in memory, where, and how the others get there.

Invariants: a slot is never reused while a lease or a read holds it; an expert is in at most one readable slot and in at
most one read; an expert whose read failed is nowhere, and the next fetch tries again. Guesses give way to leases: what
was prefetched changes when an expert is read, never whether a fetch succeeds. One thread uses a store.
Knows layers, experts and slots; knows neither what a record means nor why an expert is wanted or expected.
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
from flashmoe.streaming.reader import DEMAND, PREFETCH, ExpertFile, LoggedRead, Read, RecordReader

READ_THREADS = 8
"""Reads in flight: 2 to 8 of 7 MB saturate a drive."""


@dataclass(frozen=True)
class StoreStats:
    """Counts since the store was made. A hit needed no read of its own; stall_seconds were spent waiting for reads.

    prefetched: reads of guesses, without those withdrawn before they began; prefetch_used: those of them that a fetch
    came for. prefetch_wasted: bytes of those given up instead.
    """

    hits: int
    misses: int
    bytes_read: int
    read_seconds: float
    stall_seconds: float
    prefetched: int
    prefetch_used: int
    prefetch_wasted: int


@dataclass(slots=True)
class _Guess:
    """An expert that is expected, and the pin that keeps its slot until then. read: None if it was there already.
    former: what the slot held."""

    slot: int
    read: Read | None = None
    former: tuple[int, int] | None = None


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
        self._guesses: dict[tuple[int, int], _Guess] = {}
        self._indices = np.arange(slots, dtype=np.intp)
        self._indices.flags.writeable = False
        self._uses = 0
        self._misses = 0
        self._stall_seconds = 0.0
        self._prefetched = 0
        self._prefetch_used = 0
        self._prefetch_wasted = 0

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
            self._prefetched,
            self._prefetch_used,
            self._prefetch_wasted,
        )

    def fetch(self, layer: int, experts: NDArray[np.int32], uses: NDArray[np.int32] | None = None) -> Lease:
        """Pin these experts, distinct, and start reading those that are not in memory, in file order.

        uses: how many tokens want each of them, else one. Returns at once; use the lease in a `with` block. Raises
        CapacityError if the arena has too few free slots.
        """
        # Indices as intp throughout: NumPy converts others anew at every use, 1 to 2 us each.
        self._collect()
        confirmed = self._confirm(layer, experts) if self._guesses else []
        slots: NDArray[np.intp] = self._tables[layer][experts.astype(np.intp)]
        held = slots.tolist()
        late: list[tuple[int, Read]] = []
        try:
            if -1 in held:
                late = self._start_reads(layer, experts, slots)
                held = slots.tolist()
            else:
                self._pins[slots] += 1
        finally:
            if confirmed:
                self._pins[confirmed] -= 1  # not before the lease holds them
        self._policy.touch(held, None if uses is None else uses.tolist())
        self._uses += len(held)
        return Lease(self, slots, late)

    def prefetch(self, layer: int, experts: NDArray[np.int32]) -> None:
        """Expect these experts, the likeliest first: keep those in memory, and read others once no demand waits.

        Reads start in the order given. A read takes the slot that the next miss would take, never one that is in use or
        holds an expected expert; where there is none, the rest of the experts is left out. So a right guess evicts
        nothing that its fetch would not have evicted; a wrong one costs the expert the policy values least. Guesses
        stand until a fetch wants them, until `withdraw`, or until a fetch needs their slots.
        """
        self._collect()
        absent: list[int] = []
        for expert in experts.tolist():
            key = (layer, expert)
            if key in self._guesses:
                continue
            read = self._reads.get(key)
            slot = read.slot if read else int(self._tables[layer][expert])
            if slot < 0:
                absent.append(expert)
            else:
                self._pins[slot] += 1
                self._guesses[key] = _Guess(slot)
        room = min(len(absent), self._free_slots())
        for expert, slot in zip(absent, self._policy.victims(self._pins, room), strict=False):
            former = self._owners[slot]
            self._guesses[layer, expert] = _Guess(slot, self._start_read(layer, expert, slot, PREFETCH), former)
            self._prefetched += 1

    def withdraw(self, layer: int, keep: NDArray[np.int32] | None = None) -> None:
        """The truth of a layer is known: expect none of its experts any more but those to keep.

        A read that has not begun is taken back, and its slot holds again what it held; others end in peace.
        """
        self._collect()
        kept = set() if keep is None else set(keep.tolist())
        for key in [key for key in self._guesses if key[0] == layer and key[1] not in kept]:
            self._give_up(key)

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
            self._wait([read for _, read in late])
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
            late.append((index, self._start_read(layer, expert, slot, DEMAND)))
        self._misses += len(absent)
        return late

    def _start_read(self, layer: int, expert: int, slot: int, priority: int) -> Read:
        if owner := self._owners[slot]:
            self._tables[owner[0]][owner[1]] = -1
        self._owners[slot] = (layer, expert)
        self._policy.admit(slot, layer * self._width + expert)
        self._pins[slot] = 2  # the read's own, and that of the lease or guess it is for
        read = self._reader.submit(layer, expert, slot, self.arena.buffer, slot * self.arena.slot_bytes, priority)
        self._reads[layer, expert] = read
        return read

    def _free_slots(self) -> int:
        return len(self._pins) - int(np.count_nonzero(self._pins))

    def _make_room(self, count: int) -> bool:
        """See that so many slots are free: give up guesses, the last first, and wait for running reads that no lease
        holds, if it takes that."""
        while self._free_slots() < count:
            if self._guesses:
                self._give_up(next(reversed(self._guesses)))
                continue
            abandoned = [read for read in self._reads.values() if self._pins[read.slot] == 1]
            if not abandoned:
                return False
            self._wait(abandoned)
        return True

    def _wait(self, reads: list[Read]) -> None:
        """Until one of them has ended."""
        started = perf_counter()
        ended = self._reader.wait_any(reads)
        self._stall_seconds += perf_counter() - started
        self._settle(ended)

    def _collect(self) -> None:
        """Take notice of the reads that have ended: a failure is no news later, and an abandoned slot is free."""
        while self._reads and (ended := self._reader.ended(self._reads.values())):
            self._settle(ended)

    def _settle(self, ended: list[Read]) -> None:
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

    # Guesses ---------------------------------------------------------------------------------------------------------
    def _confirm(self, layer: int, experts: NDArray[np.int32]) -> list[int]:
        """These were expected rightly, as far as they were: their slots, which still have the pins of the guesses."""
        slots = []
        for expert in experts.tolist():
            if (guess := self._guesses.pop((layer, expert), None)) is None:
                continue
            if guess.read is not None and guess.read.error is not None:
                self._pins[guess.slot] -= 1
                continue
            slots.append(guess.slot)
            if guess.read is not None:
                self._prefetch_used += 1
                if not guess.read.done:
                    self._reader.promote(guess.read)
        return slots

    def _give_up(self, key: tuple[int, int]) -> None:
        guess = self._guesses.pop(key)
        self._pins[guess.slot] -= 1
        read = guess.read
        if read is None or read.error is not None:
            return
        if not read.done and self._pins[read.slot] == 1 and self._reader.withdraw(read):
            self._prefetched -= 1
            self._take_back(read, guess.former)
        else:
            self._prefetch_wasted += self._reader.record_bytes(read.layer)

    def _take_back(self, read: Read, former: tuple[int, int] | None) -> None:
        """Not a byte was read, so the slot still holds what it held, unless that has since been read elsewhere."""
        if former is None or former in self._reads or self._tables[former[0]][former[1]] >= 0:
            self._vacate(read)
            return
        self._pins[read.slot] -= 1
        del self._reads[read.layer, read.expert]
        self._tables[former[0]][former[1]] = read.slot
        self._owners[read.slot] = former
        self._policy.admit(read.slot, former[0] * self._width + former[1])
