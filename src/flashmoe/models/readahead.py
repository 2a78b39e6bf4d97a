"""In what parts a layer's experts are fetched, and what is read while they compute.

Invariant: an expert is fetched once a forward and layer, in rising order, which is file order. Reading ahead changes
when one is read, never an answer. Knows counts and ids, not what the experts are for.
"""

from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np

from flashmoe.models.architecture import ModelConfig
from flashmoe.models.source import ExpertSource, Indices

_NEARLY_ALL = 0.95
"""Share of a layer's experts that must be needed before all of the next are read on suspicion: what is read in vain
then stays about a twentieth."""


class ReadAhead:
    """The fetches of one forward of `tokens` tokens, layer after layer, in a `with` block that withdraws what was
    expected and never came."""

    def __init__(self, source: ExpertSource, config: ModelConfig, tokens: int) -> None:
        self._source, self._layers = source, config.layers
        self._all = np.arange(config.experts, dtype=np.int32)
        # As if every expert were as likely as any; from the first layer on it is what was seen.
        self._coverage = 1 - (1 - config.top_k / config.experts) ** tokens
        self._expected: set[int] = set()  # layers
        self._expect_all(0)

    def parts(self, layer: int, experts: Indices) -> Iterator[slice]:
        """Cuts a layer's experts so that there is room for the next part while one is in use."""
        self._coverage = len(experts) / len(self._all)
        if layer in self._expected:
            self._source.withdraw(layer, experts)
        most = max(1, self._source.max_lease // 2)
        for begin in range(0, len(experts), most):
            yield slice(begin, min(begin + most, len(experts)))
        self._expected.discard(layer)

    def go_on(self, layer: int, rest: Indices) -> None:
        """A part has been fetched: begin with what follows, the rest of its layer or, at its end, the next one."""
        if len(rest):
            self._expected.add(layer)
            self._source.prefetch(layer, rest)
        else:
            self._expect_all(layer + 1)

    def _expect_all(self, layer: int) -> None:
        if layer < self._layers and self._coverage >= _NEARLY_ALL:
            self._expected.add(layer)
            self._source.prefetch(layer, self._all)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for layer in self._expected:
            self._source.withdraw(layer)
