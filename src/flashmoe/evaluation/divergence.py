"""How far a pack's next-token distributions are from those of a more precise pack of the same model.

Knows two engines that read the same tokens, not how either was quantised.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashmoe.engine.engine import Engine, Logits
from flashmoe.errors import FlashMoeError
from flashmoe.evaluation.perplexity import Progress, foreseen, log_softmax
from flashmoe.evaluation.share import Share
from flashmoe.files.jsonfile import read_object
from flashmoe.text_engine import TextEngine


@dataclass(frozen=True)
class Divergence:
    """nats: mean KL(precise || other) of a token, whose standard error is `error`; agreed: tokens for which both would
    choose the same."""

    nats: float
    error: float
    agreed: Share

    def as_json(self) -> dict[str, Any]:
        return {
            "kl_nats": round(self.nats, 6),
            "kl_error": round(self.error, 6),
            "top1_agreement": self.agreed.as_json(),
        }


class DivergenceSum:
    """Adds up block by block what two models foresaw."""

    def __init__(self) -> None:
        self._kl: list[NDArray[np.float64]] = []
        self._agreed = 0

    def add(self, precise: Logits, other: Logits) -> None:
        """Logits [n, vocab] of the same n tokens."""
        p, q = log_softmax(precise), log_softmax(other)
        self._kl.append((np.exp(p) * (p - q)).sum(axis=-1))
        self._agreed += int((precise.argmax(axis=-1) == other.argmax(axis=-1)).sum())

    @property
    def tokens(self) -> int:
        return sum(map(len, self._kl))

    def result(self) -> Divergence:
        """Raises FlashMoeError if nothing was added."""
        if not self._kl:
            raise FlashMoeError("The text is too short to measure: it takes two tokens.")
        kl = np.concatenate(self._kl)
        return Divergence(float(kl.mean()), float(kl.std() / np.sqrt(len(kl))), Share(self._agreed, len(kl)))


def divergence(
    precise: Engine, other: Engine, sequences: Sequence[Sequence[int]], progress: Progress = lambda _done: None
) -> Divergence:
    """Of `other` from `precise` over all tokens of the sequences but each one's first."""
    total = DivergenceSum()
    for sequence in sequences:
        blocks = zip(foreseen(precise, sequence), foreseen(other, sequence), strict=True)
        for (_, expected), (_, got) in blocks:
            total.add(expected, got)
            progress(total.tokens)
    return total.result()


def check_comparable(precise: TextEngine, other: TextEngine) -> None:
    """Raise FlashMoeError unless the two are packs of one model, as far as vocabulary and tokenizer tell."""
    a, b = precise.engine.config.vocab, other.engine.config.vocab
    if a != b:
        raise FlashMoeError(
            f"{precise.directory} has a vocabulary of {a} tokens and {other.directory} one of {b}; --against takes a "
            "pack of the same model."
        )
    if read_object(precise.directory / "tokenizer.json") != read_object(other.directory / "tokenizer.json"):
        raise FlashMoeError(
            f"The tokenizers of {precise.directory} and {other.directory} differ; --against takes a pack of the same "
            "model."
        )
