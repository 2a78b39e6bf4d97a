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
class Block:
    """Tokens `own` of a batch, and their spans, counted from the block's first token."""

    own: slice
    spans: tuple[Span, ...]

    @property
    def ends(self) -> list[int]:
        """Where each sequence's tokens end."""
        return [s.end for s in self.spans]

    def states(self, layer: int) -> list[Handle]:
        """Each sequence's state of the layer."""
        return [s.states[layer] for s in self.spans]


@dataclass(frozen=True, slots=True)
class Batch:
    """tokens int32 [T]; positions int32 [T], each token's place in its own sequence."""

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    spans: tuple[Span, ...]

    def blocks(self, limit: int) -> list[Block]:
        """The batch in order, at most `limit` tokens at a time; a sequence that is cut goes on in the next block."""
        tokens = len(self.tokens)
        if tokens <= limit:
            return [Block(slice(0, tokens), self.spans)]
        return [self._block(begin, min(begin + limit, tokens)) for begin in range(0, tokens, limit)]

    def _block(self, begin: int, end: int) -> Block:
        return Block(
            slice(begin, end),
            tuple(
                Span(max(s.begin, begin) - begin, min(s.end, end) - begin, s.states)
                for s in self.spans
                if s.begin < end and s.end > begin
            ),
        )
