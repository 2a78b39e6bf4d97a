"""Which slot to give up when room is needed.

Knows slots and the order of their uses; does not know what they hold, and never chooses one in use.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Policy(Protocol):
    """What a cache policy can do. Slots start out forgotten."""

    def touch(self, slots: NDArray[np.intp]) -> None:
        """These slots, distinct, were used, in this order."""

    def forget(self, slot: int) -> None:
        """What the slot held is gone: it goes before every slot that was touched since."""

    def victim(self, pins: NDArray[np.int32]) -> int:
        """The slot to reuse next among those with no pin; pins int32 [slots], and at least one is 0."""


class LeastRecentlyUsed:
    """Gives up the slot whose last use is longest ago; the lowest of several never used."""

    def __init__(self, slots: int) -> None:
        self._last = np.zeros(slots, dtype=np.int64)
        self._steps = np.arange(1, slots + 1, dtype=np.int64)
        self._clock = 0
        self._candidates = np.empty_like(self._last)

    def touch(self, slots: NDArray[np.intp]) -> None:
        count = len(slots)
        self._last[slots] = self._steps[:count] + self._clock
        self._clock += count

    def forget(self, slot: int) -> None:
        self._last[slot] = 0

    def victim(self, pins: NDArray[np.int32]) -> int:
        np.copyto(self._candidates, self._last)
        self._candidates[pins > 0] = np.iinfo(np.int64).max
        return int(self._candidates.argmin())
