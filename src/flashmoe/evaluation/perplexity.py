"""How well a model foresees a text it is given: mean surprise per token and per byte.

Every sequence is computed on its own and every token of it but the first is foreseen from those before it. Knows token
ids and their lengths in bytes, not where the text comes from.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.engine.engine import Engine, Logits
from flashmoe.errors import FlashMoeError

Progress = Callable[[int], None]
"""Told how many tokens are done."""


@dataclass(frozen=True)
class Perplexity:
    """tokens: how many were foreseen. bytes: theirs. nats: their surprise, all together."""

    tokens: int
    bytes: int
    nats: float

    @property
    def perplexity(self) -> float:
        """exp of the mean surprise of a token."""
        return exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return self.nats / log(2) / self.bytes

    def as_json(self) -> dict[str, Any]:
        return {
            "perplexity": round(self.perplexity, 5),
            "bits_per_byte": round(self.bits_per_byte, 5),
            "tokens": self.tokens,
            "bytes": self.bytes,
        }


def documents(text: str) -> list[str]:
    """The documents of a text: what `<|endoftext|>` on a line of its own separates. Each is foreseen on its own."""
    return [part for part in re.split(r"^<\|endoftext\|>\n", text, flags=re.MULTILINE) if part]


def windows(token_ids: Sequence[int], length: int) -> list[list[int]]:
    """A text cut into sequences of `length` tokens, none overlapping; a rest of one token is left out."""
    cut = [list(token_ids[i : i + length]) for i in range(0, len(token_ids), length)]
    return [window for window in cut if len(window) > 1]


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Over the last axis, in float64."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return x


def surprise(logits: Logits, targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """-log p of each target [n] under logits [n, vocab], in nats."""
    chosen: NDArray[np.float64] = -log_softmax(logits)[np.arange(len(targets)), targets]
    return chosen


def perplexity(
    engine: Engine, tokenizer: Tokenizer, sequences: Sequence[Sequence[int]], progress: Progress = lambda _done: None
) -> Perplexity:
    """Over all sequences; those of one token tell nothing. Raises FlashMoeError if there is nothing to foresee."""
    tokens = size = 0
    nats = 0.0
    for sequence in sequences:
        for targets, logits in foreseen(engine, sequence):
            nats += float(surprise(logits, targets).sum())
            tokens += len(targets)
            size += sum(len(tokenizer.token_bytes(int(i))) for i in targets)
            progress(tokens)
    if not tokens or not size:
        raise FlashMoeError("The text is too short to measure: it takes two tokens.")
    return Perplexity(tokens, size, nats)


def foreseen(engine: Engine, sequence: Sequence[int]) -> Iterator[tuple[NDArray[np.int64], Logits]]:
    """Block by block, the tokens after the first and the logits [n, vocab] that foresaw them."""
    targets = np.array(sequence[1:], dtype=np.int64)
    begin = 0
    for logits in engine.logit_blocks(sequence[:-1]) if len(targets) else ():
        yield targets[begin : begin + len(logits)], logits
        begin += len(logits)
