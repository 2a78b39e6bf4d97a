"""The fewest tokens that an answer must have. Knows tokens, not requests."""

import numpy as np
from numpy.typing import NDArray

from flashmoe.engine.request import Constraint


class AtLeast:
    """A constraint (engine.request) on one answer: no stop token before `least` tokens, except where another
    constraint allows nothing else.

    others: which tokens stop nothing, [vocab].
    """

    def __init__(self, inner: Constraint | None, least: int, others: NDArray[np.bool_]) -> None:
        self._inner, self._left, self._others = inner, least, others

    def allowed(self) -> NDArray[np.bool_] | None:
        inner = self._inner.allowed() if self._inner else None
        if self._left <= 0:
            return inner
        if inner is None:
            return self._others
        both = inner & self._others
        return both if both.any() else inner

    def accept(self, token: int) -> None:
        self._left -= 1
        if self._inner:
            self._inner.accept(token)
