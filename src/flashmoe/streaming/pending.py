"""Reads under way, and what becomes of their slots when they end or are taken back.

Invariant: a read that is pending holds a pin of its slot. Knows reads and slots, not who waits for them.
"""

from collections.abc import Sequence
from time import perf_counter

from flashmoe.errors import FlashMoeError
from flashmoe.streaming.arena import Arena
from flashmoe.streaming.reader import Read, RecordReader
from flashmoe.streaming.slots import Expert, SlotTable


class PendingReads(dict[Expert, Read]):
    """By expert. stall_seconds: spent waiting for some of them."""

    def __init__(self, reader: RecordReader, slots: SlotTable, arena: Arena) -> None:
        super().__init__()
        self._reader, self._slots, self._arena = reader, slots, arena
        self.stall_seconds = 0.0

    def start(self, layer: int, experts: Sequence[int], priority: int) -> list[tuple[Read, Expert | None]]:
        """Read these experts to the slots worth least, in order: the reads, and what those slots held."""
        slots = self._slots.policy.victims(self._slots.pins, len(experts))
        former = self._slots.give(layer, experts, slots)
        places = [slot * self._arena.slot_bytes for slot in slots]
        reads = self._reader.submit_many(layer, experts, slots, self._arena.buffer, places, priority)
        self.update(((layer, read.expert), read) for read in reads)
        return list(zip(reads, former, strict=True))

    def wait(self, reads: Sequence[Read]) -> None:
        """Until one of them has ended, which changes nothing here yet: an interrupt costs nothing."""
        started = perf_counter()
        self._reader.await_any(reads)
        self.stall_seconds += perf_counter() - started

    def collect(self) -> None:
        """Take notice of those that have ended: a failure is no news later, and an abandoned slot is free."""
        failed = True
        while self and failed:  # a failure comes alone, before the others
            failed = False
            for read in self._reader.ended(self.values()):
                if read.error is None:
                    self._slots.fill(read.layer, read.expert, read.slot)
                else:
                    self._slots.vacate(read.slot)
                    failed = True
                del self[read.layer, read.expert]

    def alone(self, read: Read) -> bool:
        """Whether nobody but the read itself holds its slot."""
        return not read.done and self._slots.pins[read.slot] == 1

    def take_back(self, read: Read, former: Expert | None = None) -> bool:
        """If it has not begun: its slot holds again what it held, unless that has been read elsewhere since."""
        if not self._reader.withdraw(read):
            return False
        del self[read.layer, read.expert]
        if former is None or former in self or self._slots.tables[former[0]][former[1]] >= 0:
            self._slots.vacate(read.slot)
        else:
            self._slots.restore(read.slot, former)
        return True

    def break_off(self) -> None:
        """End all of them; those who wait hear of an error."""
        self._reader.drain()
        for read in self.values():
            if not read.done:
                read.error = FlashMoeError("The read of an expert was interrupted; ask for it again.")
                read.done = True
        self.clear()
