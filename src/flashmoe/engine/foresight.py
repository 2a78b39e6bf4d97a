"""Which experts the next layer will want: its own router on what is known of its input, read while the disk is idle.

Invariant: a guess changes when an expert is read, never an answer. Guesses are for few tokens at a time: a chunk of a
prompt wants most experts anyway. Knows routers and what became of guesses, not slots.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from flashmoe.models.batch import Batch
from flashmoe.models.decoder import Layer
from flashmoe.models.forward_context import PrefetchCallback
from flashmoe.models.source import Indices
from flashmoe.ops.interface import Array
from flashmoe.streaming.experts import ExpertStore

_MOST_TOKENS = 8
"""Of a step that is guessed for, as far as was measured."""
_LEAST_PRECISION = 0.4
"""Ranks of the next router are read as long as this part of those read before proved right: half right still gains,
where a quarter is right it gains nothing (docs/measurements/caching.md)."""
_MEMORY = 1 / 64
"""Weight of one guess in the running precision of its rank."""
_PATIENCE = 1 / 1024
"""A rank that is not read is tried again in time."""


class Foresight:
    """An observer (models.observer) of forwards that tell it what their next layer will be given
    (models.forward_context).

    A guess is made when the experts that were in memory are computed and misses are being read: its reads queue behind
    them, the first choices of all tokens before the second ones. precision: float64 [top_k], of the guesses that had to
    be read, by rank.
    """

    def __init__(self, layers: Sequence[Layer], top_k: int) -> None:
        self._layers = layers
        self._store: ExpertStore
        self._experts = layers[0].moe.config.experts
        self._few = False
        self._guess: NDArray[np.int32] = np.empty((0, top_k), dtype=np.int32)
        self._guessed_layer = -1
        self._reading: list[int] = []
        self.precision = np.ones(top_k)
        self.ranks = np.zeros((2, top_k), dtype=np.int64)  # guesses by rank: right, and all

    def by(self, store: ExpertStore) -> PrefetchCallback:
        """What looks ahead in a forward whose experts come from this store."""
        self._store = store
        return self._look_ahead

    def begin(self, batch: Batch) -> None:
        self._few = len(batch.tokens) <= _MOST_TOKENS
        if self._guessed_layer >= 0:  # by a forward that was broken off
            self._store.withdraw(self._guessed_layer)
        self._guessed_layer = -1

    def routed(self, layer: int, x: Array, ids: NDArray[np.int32], weights: Array) -> None:  # noqa: ARG002
        if self._guessed_layer == layer:
            self._learn(ids)

    def _look_ahead(self, layer: int, known: Callable[[], Array]) -> None:
        following = layer + 1
        if not self._few or following == len(self._layers):
            return
        ranks = np.flatnonzero(self.precision >= _LEAST_PRECISION)
        if not len(ranks):
            self.precision += _PATIENCE * (1 - self.precision)
            return
        _, self._guess, _ = self._layers[following].moe.route(known())
        self._guessed_layer = following
        likely = dict.fromkeys(self._guess[:, ranks].T.reshape(-1).tolist())
        self._reading = self._store.prefetch(following, np.array(list(likely), dtype=np.int32), sure=False)

    def _learn(self, ids: NDArray[np.int32]) -> None:
        """By rank: what part of the tokens' guesses was right, one guess for each of them."""
        right, read = self._guessed(ids), self._guessed(self._reading)
        self.ranks[0] += right.sum(axis=0)
        self.ranks[1] += len(right)
        count = read.sum(axis=0)
        found = (right & read).sum(axis=0) / np.maximum(count, 1)
        self.precision += np.where(
            count,
            (1 - (1 - _MEMORY) ** count) * (found - self.precision),
            _PATIENCE * (self.precision < _LEAST_PRECISION) * (1 - self.precision),
        )
        self._store.withdraw(self._guessed_layer, keep=ids.reshape(-1))
        self._guessed_layer = -1

    def _guessed(self, experts: Indices | list[int]) -> NDArray[np.bool_]:
        """Which of the guesses [T, K] are among these experts."""
        among = np.zeros(self._experts, dtype=np.bool_)
        among[experts] = True
        return among[self._guess]
