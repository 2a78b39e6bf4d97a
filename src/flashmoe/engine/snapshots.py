"""Saved states of sequences in memory, found again by the tokens they have seen, under a byte budget.

Invariant: the memory that snapshots alone can hold on to stays within the budget; blocks of keys and values that
several share count once. The least recently used one goes first. Nobody writes to a state in here.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from flashmoe.engine.batch import Tokens
from flashmoe.engine.state import SequenceState


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The state after exactly these tokens, int32 [n]."""

    tokens: Tokens
    state: SequenceState

    def reusable(self, tokens: Tokens) -> int:
        """How many of the first tokens of a sequence this spares, at least one being left to compute; 0: none."""
        n = min(len(self.tokens), len(tokens) - 1)
        differs = self.tokens[:n] != tokens[:n]
        common = int(differs.argmax()) if differs.any() else n
        return common if common == len(self.tokens) or self.state.cuttable else 0

    @property
    def own_bytes(self) -> int:
        """What no other snapshot shares: GatedDeltaNet states and the tokens themselves."""
        return self.tokens.nbytes + sum(mixer.nbytes for mixer in self.state.recurrent)

    @property
    def block_bytes(self) -> int:
        """One block of every attention layer: they grow alike."""
        return sum(cache.block_bytes for cache in self.state.caches)

    @property
    def blocks(self) -> list[int]:
        """The names of the first attention layer's blocks, which stand for those of all."""
        return next((cache.blocks for cache in self.state.caches), [])


class Snapshots:
    """budget: bytes."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._held: list[Snapshot] = []  # the least recently used first
        self._users = Counter[int]()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def longest(self, tokens: Tokens) -> tuple[SequenceState, int] | None:
        """The state that spares most of these tokens, and how many; fork it."""
        best, found = 0, None
        for snapshot in reversed(self._held):
            if (spared := snapshot.reusable(tokens)) > best:
                best, found = spared, snapshot
        if found is None:
            return None
        self._held.remove(found)
        self._held.append(found)
        return found.state, best

    def add(self, snapshot: Snapshot) -> None:
        """Keep it, and let go what is then too much; a snapshot larger than the budget is not kept."""
        if snapshot.own_bytes + len(snapshot.blocks) * snapshot.block_bytes > self.budget:
            return
        for old in [s for s in self._held if _covers(snapshot, s)]:
            self._drop(old)
        self._held.append(snapshot)
        self._count(snapshot, 1)
        while self.bytes > self.budget:
            self._drop(self._held[0])

    def _drop(self, snapshot: Snapshot) -> None:
        self._held.remove(snapshot)
        self._count(snapshot, -1)

    def _count(self, snapshot: Snapshot, change: int) -> None:
        """Blocks live as long as a snapshot that names them, so no name can come to mean another block meanwhile."""
        changed = 0
        for block in snapshot.blocks:
            users = self._users[block] + change
            if users:
                self._users[block] = users
            else:
                del self._users[block]
            changed += users == (1 if change > 0 else 0)
        self.bytes += change * (snapshot.own_bytes + changed * snapshot.block_bytes)


def _covers(new: Snapshot, old: Snapshot) -> bool:
    """Whether `old` spares nothing that `new` does not spare too."""
    n = len(old.tokens)
    reaches = n <= len(new.tokens) if new.state.cuttable else n == len(new.tokens)
    return reaches and np.array_equal(new.tokens[:n], old.tokens)
