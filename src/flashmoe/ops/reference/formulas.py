"""The functions that the operations share, float32, on rows along the last axis.

Invariant: one row at a time where a BLAS would choose its order of summation by the number of rows.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def softplus(x: Floats) -> Floats:
    return np.logaddexp(np.float32(0), x)


def sigmoid(x: Floats) -> Floats:
    """exp(-softplus(-x)): 1 / (1 + exp(-x)) without its overflow."""
    return np.exp(-softplus(-x))


def silu(x: Floats) -> Floats:
    return x * sigmoid(x)


def softmax(x: Floats) -> Floats:
    e: Floats = np.exp(x - x.max(axis=-1, keepdims=True))
    e /= e.sum(axis=-1, keepdims=True)
    return e


def normalise(x: Floats, eps: float) -> Floats:
    """x * rsqrt(mean(x^2) + eps)."""
    y: Floats = x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(eps))
    return y


def l2_normalise(x: Floats) -> Floats:
    y: Floats = x / np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True) + np.float32(1e-6))
    return y


def linear(x: Floats, w: Floats) -> Floats:
    return np.stack([w @ row for row in x])
