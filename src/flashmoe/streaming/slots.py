"""Which slot of the arena holds, or waits for, which expert, and who holds on to it.

Invariants: an expert is in the table of its layer only while its bytes are in the slot, so whatever else breaks off in
the middle, the tables can be believed; a slot with a pin is never given away. Knows neither files nor reads.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from flashmoe.streaming.policy import PolicyFactory

Expert = tuple[int, int]
"""Layer, and number in it."""


class SlotTable:
    """tables: by layer, intp [experts], the slot that an expert can be read in, else -1. pins: int32 [slots], how many
    leases, reads and guesses hold each. policy: which slot is given away next."""

    def __init__(self, slots: int, layers: int, experts: int, policy: PolicyFactory) -> None:
        table: NDArray[np.intp] = np.full((layers, experts), -1, dtype=np.intp)
        self.tables = list(table)
        self.pins = np.zeros(slots, dtype=np.int32)
        self.retired: list[int] = []
        self._experts = experts
        self._make_policy = partial(policy, slots, layers, experts)
        self.policy = self._make_policy()
        self._owners: list[Expert | None] = [None] * slots

    @property
    def free(self) -> int:
        """How many slots nobody holds."""
        return len(self.pins) - int(np.count_nonzero(self.pins))

    def is_for(self, slot: int, expert: Expert) -> bool:
        """Whether it holds this expert, or waits for it."""
        return self._owners[slot] == expert

    def give(self, layer: int, experts: Sequence[int], slots: Sequence[int]) -> list[Expert | None]:
        """Let free slots wait for these experts, with two pins each: the read's own, and that of the lease or guess it
        is for. Returns what they held."""
        former = [self._owners[slot] for slot in slots]
        first_key = layer * self._experts
        for slot, expert, owner in zip(slots, experts, former, strict=True):
            if owner is not None:
                self.tables[owner[0]][owner[1]] = -1
            self._owners[slot] = (layer, expert)
            self.policy.admit(slot, first_key + expert)
        self.pins[slots] = 2
        return former

    def fill(self, layer: int, expert: int, slot: int) -> None:
        """The expert has come."""
        self.tables[layer][expert] = slot
        self.pins[slot] -= 1

    def vacate(self, slot: int) -> None:
        """It has not come: the slot goes to whoever needs one next, once nobody else holds it."""
        self._owners[slot] = None
        self.policy.forget(slot)
        self.pins[slot] -= 1

    def restore(self, slot: int, former: Expert) -> None:
        """It has not come and nothing was written: the slot holds what it held."""
        layer, expert = former
        self.tables[layer][expert] = slot
        self._owners[slot] = former
        self.policy.admit(slot, layer * self._experts + expert)
        self.pins[slot] -= 1

    def empty(self, slots: Iterable[int]) -> None:
        """Forget what these slots, which nobody holds, have."""
        for slot in slots:
            if owner := self._owners[slot]:
                self.tables[owner[0]][owner[1]] = -1
            self._owners[slot] = None
            self.policy.forget(slot)

    def retire(self, count: int) -> list[int]:
        """Never use so many of the free slots again, the last ones: neighbours, since a huge page is given back whole,
        and those that were never filled, since slots are filled from the first on."""
        free: list[int] = np.flatnonzero(self.pins == 0).tolist()
        slots = free[len(free) - count :]
        self.empty(slots)
        self.retired += slots
        self.pins[slots] += 1
        return slots

    def rebuild(self, held: Iterable[NDArray[np.intp]]) -> None:
        """Everything anew from the tables and the slots that leases hold, with a policy that remembers nothing else."""
        self.policy = self._make_policy()
        self._owners = [None] * len(self._owners)
        for layer, table in enumerate(self.tables):
            for expert in np.flatnonzero(table >= 0).tolist():
                slot = int(table[expert])
                self._owners[slot] = (layer, expert)
                self.policy.admit(slot, layer * self._experts + expert)
                self.policy.touch([slot])
        self.pins[:] = 0
        self.pins[self.retired] = 1
        for slots in held:
            self.pins[slots] += 1
