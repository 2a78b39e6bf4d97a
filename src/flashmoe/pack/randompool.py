"""Random affine weights at the speed of a copy: everything is a piece of one pool of random bytes.

Invariant: weights have zero mean and the wanted deviation. Codes are uniform over 0 .. 2^bits - 1 and the bias of each
group takes their mean off; codes of positive mean would make every token route to the same experts. Knows bytes and
scales, not tensors.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from flashmoe.hub.matrix import bfloat16_bits

POOL_BYTES = 32 << 20
GROUPS = 1 << 19
SCALE_SPREAD = 0.1
"""Relative deviation of the scales, so that groups differ and the rounding of biases averages out."""


class RandomPool:
    """One pool for a whole model; the same seed gives the same pieces in the same order."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self._bytes = self.rng.integers(0, 256, POOL_BYTES, np.uint8)
        self._spread = (1 + SCALE_SPREAD * self.rng.standard_normal(GROUPS)).clip(0.5, 1.5).astype(np.float32)
        self._scales: dict[tuple[float, int], tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}

    def codes(self, nbytes: int) -> Iterator[NDArray[np.uint8]]:
        """Pieces of uniform codes, `nbytes` in all."""
        for begin, length in self._cuts(nbytes, POOL_BYTES):
            yield self._bytes[begin : begin + length]

    def scales_and_biases(
        self, std: float, bits: int, groups: int
    ) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
        """Pieces of bfloat16 scales and biases that give the codes the deviation `std`."""
        scales, biases = self._pair(std, bits)
        cuts = list(self._cuts(2 * groups, 2 * GROUPS))
        return [scales[b : b + n] for b, n in cuts], [biases[b : b + n] for b, n in cuts]

    def _cuts(self, nbytes: int, size: int) -> Iterator[tuple[int, int]]:
        """Pieces of a pool of `size` bytes, each from a random place: no two rows of a large matrix are alike."""
        while nbytes:
            begin = int(self.rng.integers(0, size // 64)) * 64
            length = min(nbytes, size - begin)
            yield begin, length
            nbytes -= length

    def _pair(self, std: float, bits: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        if (std, bits) not in self._scales:
            levels = 2**bits
            # The deviation of a uniform choice among n levels is sqrt((n^2 - 1) / 12).
            scales = bfloat16_bits(self._spread * np.float32(std / np.sqrt((levels**2 - 1) / 12)))
            rounded = (scales.astype(np.uint32) << 16).view(np.float32)
            biases = bfloat16_bits(rounded * np.float32(-(levels - 1) / 2))
            self._scales[std, bits] = scales.view(np.uint8), biases.view(np.uint8)
        return self._scales[std, bits]
