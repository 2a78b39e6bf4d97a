"""Ways to round a matrix to few bits, all in the MLX affine format: w = code * scale + bias in groups of 64 columns.

Arrays carry a leading axis of experts, [E, out, in], which are rounded side by side. Scales and biases are bfloat16
before the codes are chosen. Research: what helps is reported in docs/measurements/quality.md.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from flashmoe._native import quantise
from flashmoe.ops.weights import GROUP, AffineMatrix

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rounded:
    """codes uint8 [E, out, in]; scales and biases float32 [E, out, in / 64], each exactly a bfloat16."""

    codes: NDArray[np.uint8]
    scales: Floats
    biases: Floats

    def values(self) -> Floats:
        """[E, out, in]."""
        return self.codes * spread(self.scales) + spread(self.biases)

    def matrix(self, expert: int, bits: int) -> AffineMatrix:
        """One expert, its codes in words of `bits` each, which may be more than the codes need."""
        codes = self.codes[expert].astype(np.uint32)
        per_word = 32 // bits
        places = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
        words = np.bitwise_or.reduce(codes.reshape(len(codes), -1, per_word) << places, axis=-1)
        return AffineMatrix(words, _bf16_bits(self.scales[expert]), _bf16_bits(self.biases[expert]))


def bf16(x: Floats) -> Floats:
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def _bf16_bits(x: Floats) -> NDArray[np.uint16]:
    return np.ascontiguousarray(x.astype(ml_dtypes.bfloat16).view(np.uint16))


def spread(per_group: Floats) -> Floats:
    """[..., in / 64] -> [..., in]."""
    return per_group.repeat(GROUP, axis=-1)


def nearest(w: Floats, bits: int) -> Rounded:
    """Round to nearest between each group's extremes, as `flashmoe pack` and MLX do."""
    parts = [quantise(np.ascontiguousarray(one), bits) for one in w]
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    codes = np.array([(c[:, :, None] >> shifts) & np.uint32(2**bits - 1) for c, _, _ in parts], np.uint8)
    floats = [np.array([p[i] for p in parts]).view(ml_dtypes.bfloat16).astype(np.float32) for i in (1, 2)]
    return Rounded(codes.reshape(w.shape), *floats)


def high_plane(fine: Rounded) -> Rounded:
    """The upper two bits of 4-bit codes as a 2-bit matrix: code = 4 * high + low is taken for 4 * high + 1.5."""
    return Rounded(fine.codes >> 2, bf16(4 * fine.scales), bf16(fine.biases + 1.5 * fine.scales))


def searched(w: Floats, bits: int, importance: Floats | None = None) -> Rounded:
    """Scale and bias of each group chosen for the least squared error: the best of a grid of narrower ranges, refined
    by least squares with the codes held. importance: weight of each column's error, [E, in]."""
    groups = w.reshape(*w.shape[:-1], -1, GROUP)
    weight = np.ones_like(groups)
    if importance is not None:
        weight = weight * importance.reshape(len(w), 1, -1, GROUP)
    low, high = groups.min(-1), groups.max(-1)
    best = np.full(low.shape, np.inf, np.float32)
    scales, biases = np.zeros_like(low), np.zeros_like(low)
    for cut_low in np.arange(1.0, 0.35, -0.1):
        for cut_high in np.arange(1.0, 0.35, -0.1):
            s = np.maximum((high * cut_high - low * cut_low) / (2**bits - 1), 1e-8)
            b = low * cut_low
            for _ in range(2):
                s, b = _least_squares(groups, weight, _codes(groups, s, b, bits), s, b)
            s, b = bf16(s), bf16(b)
            error = (weight * (groups - _codes(groups, s, b, bits) * s[..., None] - b[..., None]) ** 2).sum(-1)
            better = error < best
            best, scales, biases = (np.where(better, *pair) for pair in ((error, best), (s, scales), (b, biases)))
    codes = _codes(groups, scales, biases, bits)
    return Rounded(codes.reshape(w.shape).astype(np.uint8), scales, biases)


def _codes(groups: Floats, scales: Floats, biases: Floats, bits: int) -> Floats:
    safe = np.where(scales == 0, np.float32(1), scales)
    return np.clip(np.rint((groups - biases[..., None]) / safe[..., None]), 0, 2**bits - 1).astype(np.float32)


def _least_squares(g: Floats, weight: Floats, codes: Floats, s: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The scale and bias that fit codes to values best; the old ones where the codes are all alike."""
    total = weight.sum(-1)
    mean_c, mean_g = (weight * codes).sum(-1) / total, (weight * g).sum(-1) / total
    spread_c = (weight * (codes - mean_c[..., None]) ** 2).sum(-1)
    joint = (weight * (codes - mean_c[..., None]) * (g - mean_g[..., None])).sum(-1)
    fits = spread_c > 1e-12
    new_s = np.where(fits, joint / np.where(fits, spread_c, 1), s)
    return new_s, np.where(fits, mean_g - new_s * mean_c, b)


def compensated(w: Floats, bits: int, hessians: NDArray[np.float64], *, search: bool) -> Rounded:
    """Column by column, each column's rounding error spread over the columns still to come (Frantar et al., "GPTQ",
    2022). hessians: X^T X of each expert's inputs, [E, in, in], damped. search: choose each group's range with
    `searched`, weighted by the hessian's diagonal, instead of its extremes."""
    experts, rows, columns = w.shape
    inverse = np.linalg.inv(hessians)
    factor = np.linalg.cholesky(inverse).transpose(0, 2, 1).astype(np.float32)  # upper, inverse = factor^T factor
    left = w.astype(np.float32).copy()
    codes = np.zeros(w.shape, np.uint8)
    scales, biases = (np.zeros((experts, rows, columns // GROUP), np.float32) for _ in range(2))
    for column in range(columns):
        group = column // GROUP
        if column % GROUP == 0:
            block = np.ascontiguousarray(left[:, :, column : column + GROUP])
            diagonal = np.diagonal(hessians, axis1=1, axis2=2)[:, column : column + GROUP].astype(np.float32)
            found = searched(block, bits, diagonal) if search else nearest(block, bits)
            scales[:, :, group], biases[:, :, group] = found.scales[..., 0], found.biases[..., 0]
        s, b = scales[:, :, group], biases[:, :, group]
        values = left[:, :, column]
        code = _codes(values[..., None], s, b, bits)[..., 0]
        codes[:, :, column] = code
        error = (values - (code * s + b)) / factor[:, None, column, column]
        left[:, :, column:] -= error[..., None] * factor[:, None, column, column:]
    return Rounded(codes, scales, biases)
