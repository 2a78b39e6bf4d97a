"""What a routing trace says about caching and prefetching: skew, reuse from token to token, foresight of a layer.

Knows traces and, for foresight, a decoder's routers; not what a cache does with the figures.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flashmoe.engine.routing_trace import RoutingTrace
from flashmoe.models.batch import Batch
from flashmoe.models.decoder import Decoder
from flashmoe.ops.interface import Array

Floats = NDArray[np.float64]


def counts(trace: RoutingTrace) -> NDArray[np.int64]:
    """How often each expert was chosen: [layers, experts]."""
    layers = trace.ids.shape[1]
    return np.array([np.bincount(trace.ids[:, i].reshape(-1), minlength=trace.experts) for i in range(layers)])


def gini(picks: NDArray[np.int64]) -> Floats:
    """Gini coefficient along the last axis: 0 if all are chosen equally often, towards 1 if one is chosen always."""
    rising = np.sort(picks, axis=-1)
    n = rising.shape[-1]
    ranks = np.arange(1, n + 1)
    coefficient: Floats = (2 * (ranks * rising).sum(axis=-1) / rising.sum(axis=-1) - (n + 1)) / n
    return coefficient


def share_of_top(picks: NDArray[np.int64], share: float) -> Floats:
    """What part of the picks goes to the most chosen `share` of the experts, along the last axis."""
    falling = -np.sort(-picks, axis=-1)
    top: Floats = falling[..., : round(share * picks.shape[-1])].sum(axis=-1) / picks.sum(axis=-1)
    return top


def generated(trace: RoutingTrace) -> RoutingTrace:
    """The rows that went through the model one token of a sequence at a time: answers without prompts."""
    step_of = np.stack([trace.sequence, trace.step], axis=1)
    _, which, rows = np.unique(step_of, axis=0, return_inverse=True, return_counts=True)
    single = rows[which.reshape(-1)] == 1
    arrays = {name: getattr(trace, name)[single] for name in ("sequence", "position", "token", "step", "ids")}
    return replace(trace, **arrays)


def reuse(trace: RoutingTrace, distance: int = 1) -> Floats:
    """By layer [layers], the probability that an expert which a token chose is chosen by the token `distance` later of
    the same sequence too."""
    order = np.lexsort((trace.position, trace.sequence))
    sequence, position, ids = trace.sequence[order], trace.position[order], trace.ids[order]
    pairs = (sequence[distance:] == sequence[:-distance]) & (position[distance:] == position[:-distance] + distance)
    before, after = ids[:-distance][pairs], ids[distance:][pairs]
    shared: Floats = (before[..., :, None] == after[..., None, :]).any(axis=-1).mean(axis=(0, 2))
    return shared


class Foresight:
    """An observer (models.observer) that applies the router of the next layer to what is known before a layer's experts
    have run, and compares with what that layer then chooses.

    reach: experts foreseen, K and more. Prompt chunks are left out: they need nearly every expert anyway.
    """

    def __init__(self, decoder: Decoder, reach: int) -> None:
        self._decoder, self._reach = decoder, reach
        layers, top_k = decoder.config.layers, decoder.config.top_k
        self._found = np.zeros((layers - 1, reach, top_k))
        self._tokens = 0
        self._foreseen: NDArray[np.int32] | None = None
        self._counts = True

    def begin(self, batch: Batch) -> None:
        self._foreseen = None
        self._counts = len(batch.tokens) == len(batch.spans)
        self._tokens += len(batch.tokens) if self._counts else 0

    def routed(self, layer: int, x: Array, ids: NDArray[np.int32], weights: Array) -> None:  # noqa: ARG002
        if not self._counts:
            return
        if self._foreseen is not None:
            self._found[layer - 1] += (self._foreseen[:, :, None] == ids[:, None, :]).sum(axis=0)
        if layer + 1 < len(self._decoder.layers):
            _, self._foreseen, _ = self._decoder.layers[layer + 1].moe.route(x, self._reach)

    def recall(self, chosen: int, foreseen: int) -> Floats:
        """By layer [layers - 1]: the part of a token's `chosen` highest experts that is among the `foreseen` highest of
        the forecast."""
        part: Floats = self._found[:, :foreseen, :chosen].sum(axis=(1, 2)) / (max(1, self._tokens) * chosen)
        return part
