"""Which slot to give up when room is needed: what a cache policy can do, and the policies there are.

A key is an expert of a layer, as layer * experts + expert. A policy changes how much is read, never an answer; it never
gives up a slot in use. Knows slots, keys and their uses; not how long a read takes, nor what is in a record.
"""

import math
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
        """These slots, distinct, of one layer and admitted, are used, in this order; each by one token, or so many."""

    def forget(self, slot: int) -> None:
        """The slot holds nothing."""


PolicyFactory = Callable[[int, int, int], Policy]
"""Makes a policy for so many slots, layers and experts in a layer."""


class LeastRecentlyUsed:
    """Gives up the slot whose last use is longest ago."""

    def __init__(self, slots: int, layers: int, experts: int) -> None:  # noqa: ARG002
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
    """Gives up the slot whose key was used least, where a use counts half after `half_life` times `experts` later uses
    in its layer.

    So the score of a key is the sum over its uses of 2 ** -(later uses in a layer / (half_life * experts)): LRFU (Lee
    et al., IEEE Transactions on Computers 50, 2001), with memory of the keys that were given up. Instead of ageing all
    scores, a use weighs more than those before it. Time passes between the passes of tokens through the layers, so
    that no layer of a prompt looks younger than another. A chunk of a prompt, however long, counts for no more than one
    half-life, half_life uses of an expert on average: else the layers it has not reached would look so old that it
    flushed them before it came there.

    shares: float64 [layers, experts], the part of its layer's uses that each key had in earlier runs: scores begin as
    if it had gone on like that forever.
    """

    HALF_LIFE = 8.0
    _LARGEST_WEIGHT = 1e100

    def __init__(
        self,
        slots: int,
        layers: int,
        experts: int,
        half_life: float = HALF_LIFE,
        shares: NDArray[np.float64] | None = None,
    ) -> None:
        self._ranking = SlotRanking(slots)
        # Of keys that no slot holds; the others' are the ranks of their slots.
        if shares is None:
            self._scores = [0.0] * (layers * experts)
        else:
            self._scores = (shares * (half_life * experts / math.log(2))).reshape(-1).tolist()
        self._keys = [-1] * slots
        self._experts = experts
        self._half_life = half_life
        self._uses_to_double = half_life * experts * layers
        self._weight = 1.0
        self._uses = 0.0  # in this pass, of all layers
        self._layers = layers
        self._layer = 0  # the last one used: a pass begins where it falls

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
        if not slots:
            return
        layer = self._keys[slots[0]] // self._experts
        if layer < self._layer or self._layers == 1:
            self._begin_pass()
        self._layer = layer
        weight, ranks = self._weight, self._ranking.ranks
        if uses is None:
            for slot in slots:
                ranks[slot] += weight
            self._uses += len(slots)
        else:
            total = sum(uses)
            weight *= (counted := min(total, self._half_life * len(slots))) / total
            for slot, count in zip(slots, uses, strict=True):
                ranks[slot] += weight * count
            self._uses += counted

    def forget(self, slot: int) -> None:
        self._remember(slot)
        self._keys[slot] = -1
        self._ranking.lower(slot, SlotRanking.EMPTY)

    def _remember(self, slot: int) -> None:
        if (key := self._keys[slot]) >= 0:
            self._scores[key] = self._ranking.ranks[slot]

    def _begin_pass(self) -> None:
        self._weight *= 2.0 ** (self._uses / self._uses_to_double)
        self._uses = 0.0
        if self._weight > self._LARGEST_WEIGHT:  # what is compared are ratios, which this leaves alone
            self._scale(1.0 / self._weight)

    def _scale(self, factor: float) -> None:
        self._scores = [score * factor for score in self._scores]
        self._ranking.scale(factor)
        self._weight *= factor


class LeastFrequentRecentlyUsed(LeastFrequentlyUsed):
    """LeastFrequentlyUsed with a bonus for the last use, worth `bonus` uses and ageing like them.

    Among keys used alike often the one used last longest ago goes first; the bonus says how much more often a key has
    to be used to outweigh its age. A chunk that uses its experts more than twice on average gives none: it says little
    of what came last, and would make what it used once look better than what was used often. Constants: the best
    compromise over a trained model's trace and generated ones (docs/measurements/caching.md).
    """

    HALF_LIFE = 2.0
    BONUS = 16.0

    def __init__(
        self,
        slots: int,
        layers: int,
        experts: int,
        half_life: float = HALF_LIFE,
        bonus: float = BONUS,
        shares: NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__(slots, layers, experts, half_life, shares)
        self._bonus = bonus
        self._last_weights = [0.0] * (layers * experts)  # by key, when it was last used

    def touch(self, slots: Sequence[int], uses: Sequence[int] | None = None) -> None:
        super().touch(slots, uses)
        if uses is not None and sum(uses) > 2 * len(slots):
            return
        keys, ranks, last_weights = self._keys, self._ranking.ranks, self._last_weights
        weight, bonus = self._weight, self._bonus
        for slot in slots:
            ranks[slot] += bonus * (weight - last_weights[keys[slot]])
            last_weights[keys[slot]] = weight

    def _scale(self, factor: float) -> None:
        super()._scale(factor)
        self._last_weights = [last * factor for last in self._last_weights]


POLICIES: dict[str, PolicyFactory] = {
    "lru": LeastRecentlyUsed,
    "lfu": LeastFrequentlyUsed,
    "lfru": LeastFrequentRecentlyUsed,
    "s3fifo": S3Fifo,
}
"""The policies that can run online, by the name `flashmoe simulate` knows them under."""
