"""Experts on demand: which are in memory, where, and how the others get there.

Invariants: a slot is never reused while a lease or a read holds it; an expert is in at most one readable slot and in at
most one read; an expert whose read failed is nowhere, and the next fetch tries again. Guesses give way to leases: what
was prefetched changes when an expert is read, never whether a fetch succeeds. An interrupt (KeyboardInterrupt) may
come anywhere and costs neither a slot nor a read. One thread uses a store.
Knows layers, experts and slots; knows neither what a record means nor why an expert is wanted or expected.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.streaming.arena import Arena
from flashmoe.streaming.guesses import Guesses
from flashmoe.streaming.lease import Late, Lease
from flashmoe.streaming.pending import PendingReads
from flashmoe.streaming.policy import LeastFrequentRecentlyUsed, PolicyFactory
from flashmoe.streaming.reader import DEMAND, GUESS, PREFETCH, ExpertFile, LoggedRead, Read, RecordReader
from flashmoe.streaming.readmode import choose_direct
from flashmoe.streaming.slots import SlotTable

READ_THREADS = 4
"""Reads in flight: 2 of 1.8 MB saturate a drive, and of 8 hardly one lands before the last
(docs/measurements/performance.md)."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


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


def _change(method: "Callable[Concatenate[ExpertStore, _P], _R]") -> "Callable[Concatenate[ExpertStore, _P], _R]":
    """A change of who holds what. An interrupt may break it off at any point; the next one then mends first."""

    @wraps(method)
    def change(self: "ExpertStore", /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if self._broken or self._abandoned:
            self._mend()
        self._broken = True
        try:
            result = method(self, *args, **kwargs)
        except FlashMoeError:
            self._broken = False
            raise
        self._broken = False
        return result

    return change


class ExpertStore:
    """The experts of a model behind an arena of `slots` records, filled from disk on demand.

    One file a layer, in layer order; records may differ in size between layers. `direct` reads bypass the page cache
    where the file system allows it; None: where a short measurement favours it. keep: False forgets an expert when its
    lease ends and reads it again for the next, trusting the page cache. overlap: False lets `fetch` wait until
    everything is read. uses: int64 [layers, experts], how many tokens wanted each. Raises FlashMoeError for a file that
    is missing, unreadable or short, and CapacityError if the arena cannot be had.
    """

    def __init__(
        self,
        files: Sequence[ExpertFile],
        slots: int,
        *,
        threads: int = READ_THREADS,
        direct: bool | None = None,
        policy: PolicyFactory = LeastFrequentRecentlyUsed,
        keep: bool = True,
        overlap: bool = True,
    ) -> None:
        self.keep, self._overlap = keep, overlap
        self._reader = RecordReader(files, threads, choose_direct(files) if direct is None else direct)
        self.arena = Arena(slots, max(file.record_bytes for file in files))
        self._slots = SlotTable(slots, len(files), max(file.experts for file in files), policy)
        self._reads = PendingReads(self._reader, self._slots, self.arena)
        self._guesses = Guesses(self._reader, self._slots, self._reads)
        self._leases: dict[int, NDArray[np.intp]] = {}  # by number: the slots they hold
        self._last_lease = 0
        self._abandoned: list[int] = []
        self._broken = False
        self._indices = np.arange(slots, dtype=np.intp)
        self._indices.flags.writeable = False
        self.uses: NDArray[np.int64] = np.zeros((len(files), max(file.experts for file in files)), dtype=np.int64)
        self._uses_of = list(self.uses)
        self._fetched = 0
        self._misses = 0

    @property
    def max_lease(self) -> int:
        """The most experts that leases may hold together."""
        return self.arena.slots - len(self._slots.retired)

    @property
    def direct(self) -> bool:
        """Whether reads bypass the page cache, as far as tried."""
        return self._reader.direct

    @property
    def stats(self) -> StoreStats:
        return StoreStats(
            self._fetched - self._misses,
            self._misses,
            self._reader.bytes_read,
            self._reader.read_seconds,
            self._reads.stall_seconds,
            self._guesses.read,
            self._guesses.used,
            self._guesses.wasted_bytes,
        )

    def in_memory(self, layer: int) -> NDArray[np.bool_]:
        """Whether each expert [experts] of the layer needs no read. Any thread may look."""
        held: NDArray[np.bool_] = self._slots.tables[layer] >= 0
        return held

    def fetch(self, layer: int, experts: NDArray[np.int32], uses: NDArray[np.int32] | None = None) -> Lease:
        """Pin these experts, distinct, and start reading those that are not in memory, in file order.

        uses: how many tokens want each of them, else one. Returns at once; use the lease in a `with` block. Raises
        CapacityError if the arena has too few free slots.
        """
        lease = self._lease(layer, experts, uses)
        if not self._overlap:
            for _ in lease.groups():
                pass
        return lease

    @_change
    def _lease(self, layer: int, experts: NDArray[np.int32], uses: NDArray[np.int32] | None) -> Lease:
        self._reads.collect()
        confirmed = self._guesses.confirm(layer, experts.tolist()) if self._guesses else []
        pins = self._slots.pins
        # Indices as intp throughout: NumPy converts others anew at every use, 1 to 2 us each.
        numbers = experts.astype(np.intp)
        slots: NDArray[np.intp] = self._slots.tables[layer][numbers]
        held = slots.tolist()
        late: list[tuple[int, Read]] = []
        try:
            if -1 in held:
                late = self._demand(layer, experts, slots)
                held = slots.tolist()
            else:
                pins[slots] += 1
        finally:
            if confirmed:
                pins[confirmed] -= 1  # not before the lease holds them
        self._slots.policy.touch(held, None if uses is None else uses.tolist())
        self._uses_of[layer][numbers] += 1 if uses is None else uses
        self._fetched += len(held)
        self._last_lease += 1
        lease = Lease(self, self._last_lease, slots.astype(np.int32), late)
        self._leases[self._last_lease] = slots
        return lease

    @_change
    def prefetch(self, layer: int, experts: NDArray[np.int32], *, sure: bool = True) -> list[int]:
        """Expect these experts, the likeliest first: keep those in memory, and read others once no demand waits, two
        at a time unless they are sure to be wanted. Returns those it set out to read.

        Reads start in the order given. A read takes the slot that the next miss would take, never one that is in use or
        holds an expected expert; where there is none, the rest of the experts is left out. So a right guess evicts
        nothing that its fetch would not have evicted; a wrong one costs the expert the policy values least. Guesses
        stand until a fetch wants them, until `withdraw`, or until a fetch needs their slots.
        """
        self._reads.collect()
        return self._guesses.add(layer, experts.tolist(), PREFETCH if sure else GUESS)

    @_change
    def withdraw(self, layer: int, keep: NDArray[np.int32] | None = None) -> None:
        """The truth of a layer is known: expect none of its experts any more but those to keep.

        A read that has not begun is taken back, and its slot holds again what it held; others end in peace.
        """
        self._reads.collect()
        kept = set() if keep is None else set(keep.tolist())
        for key in [key for key in self._guesses if key[0] == layer and key[1] not in kept]:
            self._guesses.give_up(key)

    @_change
    def shrink(self, count: int) -> None:
        """Give the memory of so many slots that nobody holds back for good, or of all free ones."""
        self._reads.collect()
        for slot in self._slots.retire(min(count, self._slots.free)):
            self.arena.buffer.release(slot * self.arena.slot_bytes, self.arena.slot_bytes)

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

    # For leases (lease.LeaseOwner) -----------------------------------------------------------------------------------
    def indices(self, count: int) -> NDArray[np.intp]:
        return self._indices[:count]

    def await_any(self, late: Late) -> tuple[list[int], Late]:
        if not any(read.done for _, read in late):
            self._reads.wait([read for _, read in late])
            self._collect()
        for _, read in late:
            if read.error is not None:
                raise read.error
        return [index for index, read in late if read.done], [entry for entry in late if not entry[1].done]

    @_change
    def release(self, number: int, late: Late) -> None:
        held = self._end(number)
        for _, read in late:
            if not read.done and self._reads.alone(read):
                self._reads.take_back(read)
        if not self.keep:
            self._slots.empty(slot for slot in held if not self._slots.pins[slot])

    def abandon(self, number: int) -> None:
        self._abandoned.append(number)

    def _end(self, number: int) -> list[int]:
        """Unpin the slots of this lease, and say which, if it has not ended yet."""
        if (slots := self._leases.pop(number, None)) is None:
            return []
        self._slots.pins[slots] -= 1
        held: list[int] = slots.tolist()
        return held

    # Reads -----------------------------------------------------------------------------------------------------------
    def _demand(self, layer: int, experts: NDArray[np.int32], slots: NDArray[np.intp]) -> list[tuple[int, Read]]:
        """Fill the gaps in `slots`, pin all of them, and return the reads to wait for, by index."""
        late: list[tuple[int, Read]] = []
        absent: list[tuple[int, int]] = []
        for index in np.flatnonzero(slots < 0).tolist():
            expert = int(experts[index])
            if read := self._reads.get((layer, expert)):
                slots[index] = read.slot
                late.append((index, read))
            else:
                absent.append((expert, index))
        held = slots[slots >= 0]
        self._slots.pins[held] += 1
        if not self._make_room(len(absent)):
            self._slots.pins[held] -= 1
            raise CapacityError(
                f"Layer {layer} needs {len(experts)} experts at once, {len(absent)} of them from disk, and the arena "
                f"of {self.max_lease} has room for {self._slots.free} more; give it more with --memory."
            )
        for expert, index in absent:  # what guesses were about to displace, if it made room to give them up
            if (slot := int(self._slots.tables[layer][expert])) >= 0:
                slots[index] = slot
                self._slots.pins[slot] += 1
        absent = sorted((expert, index) for expert, index in absent if slots[index] < 0)
        if not absent:
            return late
        reads = self._reads.start(layer, [expert for expert, _ in absent], DEMAND)
        for (_, index), (read, _) in zip(absent, reads, strict=True):
            slots[index] = read.slot
            late.append((index, read))
        self._misses += len(absent)
        return late

    def _make_room(self, count: int) -> bool:
        """See that so many slots are free: give up guesses, the last first, and wait for running reads that no lease
        holds, if it takes that."""
        while self._slots.free < count:
            if self._guesses:
                self._guesses.give_up(next(reversed(self._guesses)))
                continue
            abandoned = [read for read in self._reads.values() if self._reads.alone(read)]
            if not abandoned:
                return False
            self._reads.wait(abandoned)
            self._reads.collect()
        return True

    @_change
    def _collect(self) -> None:
        self._reads.collect()

    def _mend(self) -> None:
        """After an interrupt, which may have left anything but the tables half done: no read is under way, nothing is
        expected, and only open leases hold slots."""
        broken, self._broken = self._broken, True
        while self._abandoned:
            self._end(self._abandoned[-1])
            self._abandoned.pop()
        if broken:
            self._reads.break_off()
            self._guesses.clear()
            self._slots.rebuild(self._leases.values())
        self._broken = False
