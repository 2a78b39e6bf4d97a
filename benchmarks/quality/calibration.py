"""What the experts of a model are given to work on: inputs by layer, and from them each expert's second moments.

Knows an engine that observes its routing, not how the figures are used.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flashmoe.engine.engine import Engine
from flashmoe.models.batch import Batch
from flashmoe.ops.interface import Array

Floats = NDArray[np.float32]
DAMPING = 0.01
"""Share of the mean diagonal added to it, as in GPTQ's own code."""
PRIOR_TOKENS = 64
"""An expert that saw few tokens leans on what the layer as a whole sees, as if it were so many tokens."""


class ExpertInputs:
    """Collects, by layer, the normalised inputs [T, D] of the experts and the ids [T, K] that were chosen."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        layers = engine.config.layers
        self._inputs: list[list[Floats]] = [[] for _ in range(layers)]
        self._ids: list[list[NDArray[np.int32]]] = [[] for _ in range(layers)]

    def begin(self, batch: Batch) -> None:
        pass

    def routed(self, layer: int, x: Array, ids: NDArray[np.int32], weights: Array) -> None:  # noqa: ARG002
        norm = self._engine.decoder.layers[layer].moe.norm
        self._inputs[layer].append(np.asarray(self._engine.ops.rms_norm(x, norm, self._engine.config.eps)))
        self._ids[layer].append(ids)

    def layer(self, layer: int) -> tuple[Floats, NDArray[np.int32]]:
        return np.concatenate(self._inputs[layer]), np.concatenate(self._ids[layer])


def collect(engine: Engine, sequences: Sequence[Sequence[int]]) -> ExpertInputs:
    """Run the sequences through the engine."""
    found = ExpertInputs(engine)
    engine.observers.append(found)
    for sequence in sequences:
        for _ in engine.logit_blocks(sequence):
            pass
    engine.observers.remove(found)
    return found


def moments(x: Floats, ids: NDArray[np.int32], experts: int) -> NDArray[np.float64]:
    """Damped mean of x x^T over the tokens of each expert: [E, D, D]."""
    everything = (x.T @ x).astype(np.float64) / len(x)
    found = np.empty((experts, x.shape[1], x.shape[1]))
    for expert in range(experts):
        own = x[(ids == expert).any(axis=1)]
        found[expert] = ((own.T @ own) + PRIOR_TOKENS * everything) / (len(own) + PRIOR_TOKENS)
    return damped(found)


def inner_moments(x: Floats, ids: NDArray[np.int32], gate: Floats, up: Floats) -> NDArray[np.float64]:
    """The same for what the down projections are given: silu(gate x) * (up x); gate, up [E, I, D]."""
    experts, inner, _ = gate.shape
    found, seen = np.zeros((experts, inner, inner)), np.zeros(experts)
    for expert in range(experts):
        own = x[(ids == expert).any(axis=1)]
        g = own @ gate[expert].T
        a = g / (1 + np.exp(-g)) * (own @ up[expert].T)
        found[expert], seen[expert] = a.T @ a, len(a)
    everything = found.sum(axis=0) / max(1, seen.sum())
    return damped((found + PRIOR_TOKENS * everything) / (seen + PRIOR_TOKENS)[:, None, None])


def damped(moment: NDArray[np.float64]) -> NDArray[np.float64]:
    diagonal = np.diagonal(moment, axis1=1, axis2=2).mean(axis=1)
    return moment + DAMPING * diagonal[:, None, None] * np.eye(moment.shape[1])
