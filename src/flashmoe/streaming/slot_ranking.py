"""Slots in the order of a rank that mostly rises: finding the lowest costs a few microseconds among ten thousand.

A heap that is corrected late: raising a rank writes one number, and a slot is moved where it belongs only when it comes
to the top. Invariant: each slot has an entry no higher than its rank. Knows slots and ranks, not what makes them rise.
"""

from heapq import heapify, heappop, heappush, heapreplace

import numpy as np
from numpy.typing import NDArray


class SlotRanking:
    """All slots start EMPTY. ranks: by slot; may be raised in place, and lowered by `lower` alone."""

    EMPTY = -1.0
    """Below every rank of a slot that holds something."""

    def __init__(self, slots: int) -> None:
        self.ranks = [self.EMPTY] * slots
        self._rebuild()

    def _rebuild(self) -> None:
        self._queued = list(self.ranks)  # the rank in the entry that counts; a slot's other entries are dead
        self._queue = [(rank, slot) for slot, rank in enumerate(self.ranks)]
        heapify(self._queue)

    def lower(self, slot: int, rank: float) -> None:
        """Give a slot a rank that may be below the one it has."""
        self.ranks[slot] = rank
        if rank < self._queued[slot]:
            self._queued[slot] = rank
            heappush(self._queue, (rank, slot))
            if len(self._queue) > 4 * len(self.ranks):
                self._rebuild()

    def scale(self, factor: float) -> None:
        """Multiply every rank that is not EMPTY by a positive factor, in place."""
        self.ranks[:] = [rank if rank == self.EMPTY else rank * factor for rank in self.ranks]
        self._rebuild()

    def lowest(self, pins: NDArray[np.int32], count: int) -> list[int]:
        """The `count` slots of lowest rank that have no pin, lowest first; of equal ranks, the lower slot first."""
        queue, queued, ranks = self._queue, self._queued, self.ranks
        found: list[int] = []
        passed: list[tuple[float, int]] = []
        while len(found) < count:
            rank, slot = entry = queue[0]
            if rank != queued[slot] or (passed and passed[-1] == entry):
                heappop(queue)
            elif rank != ranks[slot]:
                queued[slot] = ranks[slot]
                heapreplace(queue, (ranks[slot], slot))
            else:
                passed.append(heappop(queue))
                if not pins[slot]:
                    found.append(slot)
        for entry in passed:
            heappush(queue, entry)
        return found
