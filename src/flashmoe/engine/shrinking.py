"""Gives memory of the experts back when the machine runs out of it: more cache is slower where it squeezes the rest.

Invariant: the experts keep the least that the plan demands; answers stay the same. Knows that there is pressure, not
how it is measured.
"""

import logging

import numpy as np
from numpy.typing import NDArray

from flashmoe.models.batch import Batch
from flashmoe.ops.interface import Array
from flashmoe.settings import format_bytes
from flashmoe.streaming.experts import ExpertStore
from flashmoe.streaming.pressure import CliffWatch

_STEP = 8
"""An eighth of the slots at a time: three times take a third away."""
_log = logging.getLogger(__name__)


class Shrinking:
    """An observer (models.observer) that looks for the cliff before each forward, while no lease is open."""

    def __init__(self, store: ExpertStore, least: int, watch: CliffWatch | None = None) -> None:
        self._store, self._least, self._watch = store, least, watch or CliffWatch()
        self._said = False

    def begin(self, batch: Batch) -> None:  # noqa: ARG002
        store = self._store
        if not self._watch.over():
            return
        count = min(store.max_lease // _STEP, store.max_lease - self._least)
        if count <= 0:
            return
        store.shrink(count)
        if not self._said:
            self._said = True
            _log.warning(
                "Memory is short: the system takes pages back while the model runs. %s of the experts' memory were "
                "given back, and more will be if it goes on; answers stay the same. A smaller --memory avoids this.",
                format_bytes(count * store.arena.slot_bytes),
            )

    def routed(self, layer: int, x: Array, ids: NDArray[np.int32], weights: Array) -> None:
        """Between forwards is often enough."""
