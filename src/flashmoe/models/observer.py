"""Who wants to know how tokens are routed: a recorder, an analysis, a prefetcher. Knows what is told, not what for."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flashmoe.models.batch import Batch
from flashmoe.ops.interface import Array


class RoutingObserver(Protocol):
    """Told of every forward and, layer by layer, of its routing, before the experts are fetched."""

    def begin(self, batch: Batch) -> None:
        """A forward of this batch begins."""

    def routed(self, layer: int, x: Array, ids: NDArray[np.int32], weights: Array) -> None:
        """Row t of the batch chose ids[t] with weights[t], both [T, K] by falling weight.

        x: the residual stream [T, D] between the layer's mixer and its experts: all that is known of the layers ahead.
        It goes on changing once this returns.
        """
