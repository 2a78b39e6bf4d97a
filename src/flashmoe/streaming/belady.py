"""Belady's algorithm: gives up what is used again last, which no policy that does not see the future can beat.

For bounds only, in simulations. Invariant: its misses are the fewest possible when the keys of a fetch must be in
memory together. Knows the whole sequence of uses beforehand.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flashmoe.streaming.slot_ranking import SlotRanking


class Belady:
    """uses: the key of every use, in the order in which `touch` will report them."""

    def __init__(self, slots: int, uses: Sequence[int]) -> None:
        self._ranking = SlotRanking(slots)
        self._now = 0
        self._ranks: list[float] = [0.0] * len(uses)  # after that use; higher the sooner the key is used again
        following: dict[int, int] = {}
        for place in range(len(uses) - 1, -1, -1):
            # Reciprocals keep the order, lie above EMPTY, and give 0 to what is never used again.
            if (later := following.get(uses[place])) is not None:
                self._ranks[place] = 1.0 / (later + 1)
            following[uses[place]] = place

    def victims(self, pins: NDArray[np.int32], count: int) -> list[int]:
        return self._ranking.lowest(pins, count)

    def admit(self, slot: int, key: int) -> None:
        """The use that follows says what counts."""

    def touch(self, slots: Sequence[int], uses: Sequence[int] | None = None) -> None:  # noqa: ARG002
        for place, slot in enumerate(slots, self._now):
            self._ranking.lower(slot, self._ranks[place])
        self._now += len(slots)

    def forget(self, slot: int) -> None:
        self._ranking.lower(slot, SlotRanking.EMPTY)
