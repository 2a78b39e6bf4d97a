"""Experts of one layer that are held in memory, and come out of it as their reads land.

Invariant: a lease that was left, or that nobody refers to any more, holds nothing. Knows indices and slots.
"""

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from flashmoe.streaming.reader import Read

Late = Sequence[tuple[int, Read]]
"""Index into the experts asked for, and the read it waits for."""


class LeaseOwner(Protocol):
    """What a lease needs of the store that gave it."""

    def indices(self, count: int) -> NDArray[np.intp]:
        """0 .. count - 1, read-only."""

    def await_any(self, late: Late) -> tuple[list[int], Late]:
        """Wait until one of these reads has ended: the indices of those that have, and the rest."""

    def release(self, number: int, late: Late) -> None:
        """Unpin what the lease holds, and withdraw what nobody waits for any more; once, however often it is asked."""

    def abandon(self, number: int) -> None:
        """`release` at the next occasion: now may be any time."""


class Lease:
    """Experts of one layer, pinned in the arena until the `with` block ends.

    slots: int32, aligned with the experts asked for. A slot may be read once its index has come out of `groups`.
    """

    __slots__ = ("_late", "_number", "_owner", "slots")

    def __init__(self, owner: LeaseOwner, number: int, slots: NDArray[np.int32], late: Late) -> None:
        self._owner, self._number, self._late = owner, number, late
        self.slots = slots

    def groups(self) -> Iterable[NDArray[np.intp]]:
        """Indices into the experts asked for, as they become ready: first all that are in memory, then the others as
        they land. Raises FlashMoeError for an expert that could not be read."""
        return self._landing() if self._late else (self._owner.indices(len(self.slots)),)

    def _landing(self) -> Iterator[NDArray[np.intp]]:
        waiting: Late = [entry for entry in self._late if not entry[1].done or entry[1].error is not None]
        ready = np.ones(len(self.slots), dtype=bool)
        ready[[index for index, _ in waiting]] = False
        if len(waiting) < len(self.slots):
            yield np.flatnonzero(ready)
        while waiting:
            landed, waiting = self._owner.await_any(waiting)
            yield np.array(landed, dtype=np.intp)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._owner.release(self._number, self._late)
        self._number = 0

    def __del__(self) -> None:
        # An interrupt may come between `fetch` and `with`.
        if getattr(self, "_number", 0):
            self._owner.abandon(self._number)
