"""Sequences and their next tokens as one ragged batch. Knows neither models nor sampling."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flashmoe.engine.state import SequenceState
from flashmoe.models.batch import Batch, Span

Tokens = NDArray[np.int32]


def make_batch(parts: Sequence[tuple[SequenceState, Tokens]]) -> Batch:
    """The next tokens of each sequence, side by side; a sequence may occur once."""
    if len(parts) == 1:
        state, tokens = parts[0]
        positions = np.arange(state.length, state.length + len(tokens), dtype=np.int32)
        return Batch(tokens, positions, (Span(0, len(tokens), state.mixers),))
    ends = np.cumsum([len(tokens) for _, tokens in parts]).tolist()
    return Batch(
        np.concatenate([tokens for _, tokens in parts]),
        np.concatenate([np.arange(len(tokens), dtype=np.int32) + np.int32(state.length) for state, tokens in parts]),
        tuple(Span(end - len(tokens), end, state.mixers) for (state, tokens), end in zip(parts, ends, strict=True)),
    )
