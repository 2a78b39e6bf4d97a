"""Which slot to give up when room is needed: what a cache policy can do, and the policies there are.

A key is a number for one expert of one layer, 0 .. keys - 1. A policy changes how much is read, never an answer; it
never gives up a slot in use. Knows slots, keys and their uses; not how long a read takes, nor what is in a record.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flashmoe.streaming.s3fifo import S3Fifo
from flashmoe.streaming.slot_ranking import SlotRanking


class Policy(Protocol):
    """Slots start out empty. Whoever holds them calls `victims`, `admit` for each, then `touch`."""

    def victims(self, pins: NDArray[np.int32], count: int) -> list[int]:
        """`count` different slots to reuse, the next first, all with no pin; pins int32 [slots], with so many zeros.

        Slots that hold nothing come first.
        """

    def admit(self, slot: int, key: int) -> None:
        """The slot holds this key from now on, and no longer what it held."""

    def touch(self, slots: Sequence[int], uses: Sequence[int] | None = None) -> None:
        """These slots, distinct and admitted, are used, in this order; each by one token, or by so many."""

    def forget(self, slot: int) -> None:
        """The slot holds nothing."""


PolicyFactory = Callable[[int, int], Policy]
"""Makes a policy for so many slots and so many keys."""


class LeastRecentlyUsed:
    """Gives up the slot whose last use is longest ago."""

    def __init__(self, slots: int, keys: int) -> None:  # noqa: ARG002
        self._ranking = SlotRanking(slots)
        self._clock = 0

    def victims(self, pins: NDArray[np.int32], count: int) -> list[int]:
        return self._ranking.lowest(pins, count)

    def admit(self, slot: int, key: int) -> None:
        """What a slot holds does not matter here, only when it was used."""

    def touch(self, slots: Sequence[int], uses: Sequence[int] | None = None) -> None:  # noqa: ARG002
        clock, ranks = self._clock, self._ranking.ranks
        for slot in slots:
            clock += 1
            ranks[slot] = clock
        self._clock = clock

    def forget(self, slot: int) -> None:
        self._ranking.lower(slot, SlotRanking.EMPTY)


class LeastFrequentlyUsed:
    """Gives up the slot whose key was used least, where a use counts half after `half_life` times `keys` later uses.

    So the score of a key is the sum over its uses of 2 ** -(later uses of any key / (half_life * keys)): LRFU, Lee et
    al., IEEE Transactions on Computers 50 (2001), with memory of the keys that were given up. Instead of ageing every
    score, each use weighs more than those before it.
    """

    HALF_LIFE = 8.0
    _LARGEST_WEIGHT = 1e100

    def __init__(self, slots: int, keys: int, half_life: float = HALF_LIFE) -> None:
        self._ranking = SlotRanking(slots)
        self._scores = [0.0] * keys  # of keys that no slot holds; the others' are the ranks of their slots
        self._keys = [-1] * slots
        self._weight = 1.0
        self._growth = 2.0 ** (1.0 / (half_life * keys))

    def victims(self, pins: NDArray[np.int32], count: int) -> list[int]:
        return self._ranking.lowest(pins, count)

    def admit(self, slot: int, key: int) -> None:
        self._remember(slot)
        self._keys[slot] = key
        score, ranking = self._scores[key], self._ranking
        if score < ranking.ranks[slot]:
            ranking.lower(slot, score)
        else:
            ranking.ranks[slot] = score

    def touch(self, slots: Sequence[int], uses: Sequence[int] | None = None) -> None:
        weight, ranks = self._weight, self._ranking.ranks
        if uses is None:
            for slot in slots:
                ranks[slot] += weight
            weight *= self._growth ** len(slots)
        else:
            for slot, count in zip(slots, uses, strict=True):
                ranks[slot] += weight * count
            weight *= self._growth ** sum(uses)
        self._weight = weight
        if weight > self._LARGEST_WEIGHT:
            self._scale_down()

    def forget(self, slot: int) -> None:
        self._remember(slot)
        self._keys[slot] = -1
        self._ranking.lower(slot, SlotRanking.EMPTY)

    def _remember(self, slot: int) -> None:
        if (key := self._keys[slot]) >= 0:
            self._scores[key] = self._ranking.ranks[slot]

    def _scale_down(self) -> None:
        """Divide all scores and the weight by the weight: nothing that is compared changes."""
        self._scores = [score / self._weight for score in self._scores]
        self._ranking.scale(1.0 / self._weight)
        self._weight = 1.0


POLICIES: dict[str, PolicyFactory] = {
    "lru": LeastRecentlyUsed,
    "lfu": LeastFrequentlyUsed,
    "s3fifo": S3Fifo,
}
"""The policies that can run online, by the name `flashmoe simulate` knows them under."""
