"""Rotary position embedding: cosines and sines of the positions of a batch. Knows positions, not heads."""

import numpy as np
from numpy.typing import NDArray


class Rope:
    """Angles position * theta^(-2i / r) for i in r / 2 pairs.

    Frequencies and angles are rounded to float32 as transformers does; cosine and sine are taken in float64, so that a
    position has the same float32 values wherever it stands in a batch.
    """

    def __init__(self, theta: float, rotary_dim: int) -> None:
        exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
        self.frequencies = (np.float32(1) / np.float32(theta) ** exponents).astype(np.float32)

    def __call__(self, positions: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """cos and sin, float32 [T, r / 2]."""
        angles = (positions[:, None].astype(np.float32) * self.frequencies).astype(np.float64)
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
