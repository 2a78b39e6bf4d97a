"""Gives memory of the experts back when the machine runs out of it: more cache is slower where it squeezes the rest.

Invariant: the experts keep the least that the plan demands; answers stay the same. Knows that there is pressure, not
how it is measured.
"""

import logging
from math import ceil

import numpy as np
from numpy.typing import NDArray

from flashmoe.models.batch import Batch
from flashmoe.ops.interface import Array
from flashmoe.settings import format_bytes
from flashmoe.streaming.experts import ExpertStore
from flashmoe.streaming.pressure import PressureWatch

_STEP = 8
"""An eighth of the slots at a time: three times take a third away."""
_log = logging.getLogger(__name__)


class Shrinking:
    """An observer (models.observer) that looks at the memory pressure before each forward and layer, while no lease is
    open: a forward of a long prompt takes half a minute."""

    def __init__(self, store: ExpertStore, least: int, watch: PressureWatch | None = None) -> None:
        self._store, self._least, self._watch = store, least, watch or PressureWatch()
        self._said = False

    def begin(self, batch: Batch) -> None:  # noqa: ARG002
        self._look()

    def routed(self, layer: int, x: Array, ids: NDArray[np.int32], weights: Array) -> None:  # noqa: ARG002
        self._look()

    def _look(self) -> None:
        store = self._store
        count = store.max_lease // _STEP if self._watch.over() else 0
        if shortfall := self._watch.shortfall():
            count = max(count, self._empty() + ceil(shortfall / store.arena.slot_bytes))
        count = min(count, store.max_lease - self._least)
        if count <= 0:
            return
        store.shrink(count)
        if not self._said:
            self._said = True
            _log.warning(
                "Memory is short. %s of the experts' memory were given back, and more will be if it goes on; answers "
                "stay the same. A smaller --memory avoids this.",
                format_bytes(count * store.arena.slot_bytes),
            )

    def _empty(self) -> int:
        """Slots that hold nothing yet, so giving them back frees nothing."""
        store = self._store
        return store.max_lease - sum(int(np.count_nonzero(store.in_memory(i))) for i in range(len(store.uses)))
