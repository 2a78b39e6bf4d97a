"""Running an engine step by step, and how far its logits are from the oracle's."""

from dataclasses import dataclass

import numpy as np

from flashmoe.engine.engine import Engine


def step_by_step(engine: Engine, tokens: np.ndarray, prefill: int) -> np.ndarray:
    """Logits [T, vocab]: the first `prefill` tokens at once, the others one by one on the state."""
    state = engine.new_sequence()
    parts = [tokens[:prefill], *(tokens[i : i + 1] for i in range(prefill, len(tokens)))]
    return np.concatenate([np.asarray(engine.decoder.logits(engine.forward([(state, part)]))) for part in parts])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class Distance:
    """relative: the largest ||got - expected|| / ||expected|| of a token. kl: mean KL(expected || got) a token, in
    nats. agreement: share of tokens with the same argmax. broken: tokens whose argmax differs although the oracle's
    first two logits are further apart than the largest error of that token's logits."""

    relative: float
    kl: float
    largest_kl: float
    agreement: float
    broken: int

    @classmethod
    def between(cls, got: np.ndarray, expected: np.ndarray) -> "Distance":
        error = np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
        p, q = log_softmax(expected), log_softmax(got)
        kl = (np.exp(p) * (p - q)).sum(axis=-1)
        same = got.argmax(axis=-1) == expected.argmax(axis=-1)
        first_two = np.sort(expected, axis=-1)[:, -2:]
        clear = first_two[:, 1] - first_two[:, 0] > np.abs(got - expected).max(axis=-1)
        return cls(
            float(error.max()), float(kl.mean()), float(kl.max()), float(same.mean()), int((clear & ~same).sum())
        )
