"""The ragged batch: tokens of several sequences, prompt chunks and single tokens mixed, that go through one forward.

Invariant: the spans cover the tokens in order, and a sequence's tokens are consecutive positions that go on where its
states stand. Knows neither what a sequence is for nor how its tokens were chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashmoe.ops.interface import Handle


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens begin:end of a batch, of one sequence; `states` holds its mixer state for each layer."""

    begin: int
    end: int
    states: Sequence[Handle]


@dataclass(frozen=True, slots=True)
class Batch:
    """tokens int32 [T]; positions int32 [T], each token's place in its own sequence."""

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    spans: tuple[Span, ...]
