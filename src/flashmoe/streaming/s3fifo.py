"""S3-FIFO: three queues that let what is used once leave quickly (Yang et al., SOSP 2023).

New keys enter a small queue, a tenth of the slots; those used again there move to the main queue, the others leave, and
their keys are remembered for a while: if one comes back, it enters the main queue at once. Knows slots and keys.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray


class S3Fifo:
    """A slot in use that comes to the head of its queue goes to its end, as if it had just entered."""

    _MOST_USES = 3
    """Uses are counted no further."""
    _PROMOTION = 2
    """Uses after the first that a key needs to leave the small queue for the main one."""

    def __init__(self, slots: int, layers: int, experts: int) -> None:  # noqa: ARG002
        # Ordered dictionaries, because a slot in the middle of a queue may have to leave it.
        self._empty = OrderedDict.fromkeys(range(slots))
        self._small: OrderedDict[int, None] = OrderedDict()
        self._main: OrderedDict[int, None] = OrderedDict()
        self._gone: OrderedDict[int, None] = OrderedDict()  # keys, as many as there are slots
        self._keys = [-1] * slots
        self._uses = [0] * slots
        self._small_size = max(1, slots // 10)

    def admit(self, slot: int, key: int) -> None:
        self._leave(slot)
        if key in self._gone:
            del self._gone[key]
            self._main[slot] = None
        else:
            self._small[slot] = None
        self._keys[slot] = key
        self._uses[slot] = -1  # the use it is admitted for is not one after the first

    def touch(self, slots: Sequence[int], uses: Sequence[int] | None = None) -> None:
        counts, most = self._uses, self._MOST_USES
        if uses is None:
            for slot in slots:
                if counts[slot] < most:
                    counts[slot] += 1
        else:
            for slot, count in zip(slots, uses, strict=True):
                counts[slot] = min(most, counts[slot] + count)

    def forget(self, slot: int) -> None:
        self._leave(slot)
        self._empty[slot] = None

    def victims(self, pins: NDArray[np.int32], count: int) -> list[int]:
        found = list(islice((slot for slot in self._empty if not pins[slot]), count))
        while len(found) < count:
            slot = self._evict(pins)
            self._remember(self._keys[slot])
            self._empty[slot] = None  # until it is admitted again, whoever asked may change his mind
            found.append(slot)
        return found

    def _leave(self, slot: int) -> None:
        for queue in (self._empty, self._small, self._main):
            if slot in queue:
                del queue[slot]

    def _remember(self, key: int) -> None:
        self._gone[key] = None
        if len(self._gone) > len(self._keys):
            self._gone.popitem(last=False)

    def _evict(self, pins: NDArray[np.int32]) -> int:
        """Take the next slot out of its queue."""
        while True:
            slot = self._from_small(pins) if len(self._small) >= self._small_size else None
            if slot is None:
                slot = self._from_main(pins)
            if slot is None:
                slot = self._from_small(pins)
            if slot is not None:
                return slot

    def _from_small(self, pins: NDArray[np.int32]) -> int | None:
        """None if all that is left is in use or was promoted."""
        for _ in range(len(self._small)):
            slot, _ = self._small.popitem(last=False)
            if pins[slot]:
                self._small[slot] = None
            elif self._uses[slot] >= self._PROMOTION:
                self._main[slot] = None
                self._uses[slot] = 0
            else:
                return slot
        return None

    def _from_main(self, pins: NDArray[np.int32]) -> int | None:
        """None if all of it is in use."""
        for _ in range(len(self._main) * (self._MOST_USES + 1)):
            slot, _ = self._main.popitem(last=False)
            if pins[slot]:
                self._main[slot] = None
            elif self._uses[slot] > 0:
                self._uses[slot] -= 1
                self._main[slot] = None
            else:
                return slot
        return None
