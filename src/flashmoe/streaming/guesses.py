"""Experts that are expected: kept where they are in memory, read where they are not, given up when in the way.

Invariant: a guess holds one pin of its slot, and gives it back exactly once. Knows neither routers nor layers' order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flashmoe.streaming.pending import PendingReads
from flashmoe.streaming.reader import Read, RecordReader
from flashmoe.streaming.slots import Expert, SlotTable


@dataclass(slots=True)
class Guess:
    """read: None if the expert was in memory. former: what the slot held."""

    slot: int
    read: Read | None = None
    former: Expert | None = None


class Guesses(dict[Expert, Guess]):
    """By expert, the oldest first. read: those that had to be, without those withdrawn before they began; used: those
    of them that a fetch came for; wasted_bytes: of those given up instead."""

    def __init__(self, reader: RecordReader, slots: SlotTable, reads: PendingReads) -> None:
        super().__init__()
        self._reader, self._slots, self._reads = reader, slots, reads
        self.read = self.used = self.wasted_bytes = 0

    def add(self, layer: int, experts: Sequence[int], priority: int) -> list[int]:
        """Expect these, the likeliest first; those it set out to read, as many as there are free slots."""
        table = self._slots.tables[layer]
        absent: list[int] = []
        for expert in experts:
            key = (layer, expert)
            if key in self:
                continue
            read = self._reads.get(key)
            slot = read.slot if read else int(table[expert])
            if slot < 0:
                absent.append(expert)
            else:
                self._slots.pins[slot] += 1
                self[key] = Guess(slot)
        absent = absent[: self._slots.free]
        if absent:
            for read, former in self._reads.start(layer, absent, priority):
                self[layer, read.expert] = Guess(read.slot, read, former)
            self.read += len(absent)
        return absent

    def confirm(self, layer: int, experts: Sequence[int]) -> list[int]:
        """These were expected rightly, as far as they were: their slots, which still have the pins of the guesses."""
        slots = []
        for expert in experts:
            if (guess := self.pop((layer, expert), None)) is None:
                continue
            if not self._slots.is_for(guess.slot, (layer, expert)):  # the read failed, perhaps a lease's
                self._slots.pins[guess.slot] -= 1
                continue
            slots.append(guess.slot)
            read = guess.read
            if read is not None:
                self.used += 1
                if not read.done:
                    self._reader.promote(read)
        return slots

    def give_up(self, key: Expert) -> None:
        """It was wrong, or is in the way: a read that has not begun is taken back, another ends in peace."""
        guess = self.pop(key)
        self._slots.pins[guess.slot] -= 1
        read = guess.read
        if read is None or read.error is not None:
            return
        if self._reads.alone(read) and self._reads.take_back(read, guess.former):
            self.read -= 1
        else:
            self.wasted_bytes += self._reader.record_bytes(read.layer)
