"""Where experts come from, as a model sees it: layer and ids in, slots out. Knows neither files nor policies."""

from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int32]


class Lease(Protocol):
    """Experts held in memory, aligned with the ids that were asked for."""

    slots: Indices

    def groups(self) -> Iterable[NDArray[np.intp]]:
        """Indices of experts as they become ready, each once; waits only when none is."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let the experts go."""


class ExpertSource(Protocol):
    """streaming.experts.ExpertStore, or something around it."""

    @property
    def max_lease(self) -> int:
        """The most experts that one fetch may hold."""

    def fetch(self, layer: int, experts: Indices, uses: Indices | None = None) -> Lease:
        """Start reading what is missing of the given distinct experts and hold them until the lease is left.

        uses: how many tokens want each, else one; what is wanted most is worth keeping.
        """

    def prefetch(self, layer: int, experts: Indices) -> list[int]:
        """Expect these experts: keep those in memory, and read as many of the others as there is room for, in this
        order, while nothing that was fetched waits for the disk. Returns those it set out to read."""

    def withdraw(self, layer: int, keep: Indices | None = None) -> None:
        """Expect none of the layer's experts any more but those to keep."""
