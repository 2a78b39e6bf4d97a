"""Routing traces with the skew and the locality that were seen in large models, from a seeded generator.

A token's experts in a layer are the top k of a sum of normal variables: the expert's lasting popularity, whose spread
differs by layer; its popularity in this conversation, because hot experts differ by topic; and the token's own wish,
correlated with that of the token before. SPREADS, TOPIC and MEMORY were set so that figures published for a model of
512 experts come out (tests/measure/test_synthetic_routing.py): Gini 0.2 to 0.5 by layer, 30 to 54 % of the uses for the
top fifth, and an expert used again by the next token 25 % of the time. It is a model of routing, not routing.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from flashmoe.engine.routing_trace import RoutingTrace

SPREADS = (0.1, 0.42)
"""Of lasting popularity, from the least to the most skewed layer; the token's own wish has a spread of 1."""
TOPIC = 0.25
"""Spread of popularity within a conversation."""
MEMORY = 0.58
"""Correlation of a token's wishes with those of the token before."""


def synthetic_trace(
    seed: int,
    *,
    layers: int = 40,
    experts: int = 256,
    top_k: int = 8,
    sequences: int = 4,
    prompt: int = 128,
    answer: int = 256,
    chunk: int = 128,
) -> RoutingTrace:
    """Conversations one after another: a prompt of so many tokens in chunks, then an answer token by token."""
    random = np.random.default_rng(seed)
    spreads = random.permutation(np.linspace(*SPREADS, layers, dtype=np.float32))
    popularity = spreads[:, None] * random.standard_normal((layers, experts), dtype=np.float32)
    length = prompt + answer
    ids = np.empty((sequences * length, layers, top_k), dtype=np.uint8 if experts <= 256 else np.uint16)
    for row, wishes in enumerate(_wishes(random, popularity, sequences, length)):
        top = np.argpartition(-wishes, top_k, axis=-1)[:, :top_k]
        order = np.argsort(-np.take_along_axis(wishes, top, axis=-1), axis=-1)
        ids[row] = np.take_along_axis(top, order, axis=-1)
    position = np.arange(length, dtype=np.int32)
    begins = (position < prompt) & (position % chunk == 0) | (position >= prompt)
    return RoutingTrace(
        experts,
        sequence=np.repeat(np.arange(sequences, dtype=np.int32), length),
        position=np.tile(position, sequences),
        token=np.zeros(sequences * length, dtype=np.int32),
        step=(np.cumsum(np.tile(begins, sequences)) - 1).astype(np.int32),
        ids=ids,
        mean_weights=np.full((layers, top_k), 1 / top_k, dtype=np.float32),
    )


def _wishes(
    random: np.random.Generator, popularity: NDArray[np.float32], sequences: int, length: int
) -> Iterator[NDArray[np.float32]]:
    """What each token's router says of each expert: float32 [layers, experts]."""
    for _ in range(sequences):
        in_topic = popularity + TOPIC * random.standard_normal(popularity.shape, dtype=np.float32)
        own = random.standard_normal(popularity.shape, dtype=np.float32)
        for _ in range(length):
            yield in_topic + own
            fresh = random.standard_normal(popularity.shape, dtype=np.float32)
            own = MEMORY * own + np.float32(np.sqrt(1 - MEMORY**2)) * fresh
