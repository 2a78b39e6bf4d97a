"""A matrix of a checkpoint, read row by row in the form it is stored in: floats, or MLX affine codes.

Invariant: what is read is what the file says, bit for bit, except that float16 is widened to float32 and affine scales
and biases that are not bfloat16 are rounded to it. Knows one matrix, not its role in a model.
"""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from flashmoe.hub.shards import RowRange
from flashmoe.ops.weights import AffineMatrix, DenseMatrix, Matrix


@dataclass(frozen=True)
class SourceMatrix:
    """W [out, in]. `bits` is None for floats; `dtype` is the floats' (or the scales') stored dtype."""

    name: str
    shape: tuple[int, int]
    bits: int | None
    arrays: tuple[RowRange, ...]
    """Values alone, or codes, scales and biases."""

    @property
    def dtype(self) -> str:
        return self.arrays[-1].dtype

    @property
    def shards(self) -> frozenset[str]:
        """The shards it lies in."""
        return frozenset(a.shard for a in self.arrays)

    @property
    def row_bytes(self) -> int:
        return sum(a.row_bytes for a in self.arrays)

    def cut(self, start: int, count: int) -> "SourceMatrix":
        """Rows start:start + count as a matrix of its own."""
        return SourceMatrix(
            self.name, (count, self.shape[1]), self.bits, tuple(a.cut(start, count) for a in self.arrays)
        )

    def rows(self, begin: int, end: int) -> Matrix:
        """Rows begin:end. Raises FormatError when the shard cannot be read."""
        return self.take(np.arange(begin, end))

    def take(self, rows: NDArray[np.int64]) -> Matrix:
        """The rows with these numbers, in this order."""
        if self.bits is None:
            values = self.arrays[0].read(rows)
            return DenseMatrix(values.astype(np.float32) if values.dtype == np.float16 else values)
        codes, scales, biases = (array.read(rows) for array in self.arrays)
        return AffineMatrix(codes, bfloat16_bits(scales), bfloat16_bits(biases))


def bfloat16_bits(values: NDArray[Any]) -> NDArray[np.uint16]:
    """bfloat16 bits of floats, rounded to nearest even; bits pass as they are."""
    if values.dtype == np.uint16:
        return values
    return values.astype(ml_dtypes.bfloat16).view(np.uint16)


def widen(values: NDArray[Any]) -> NDArray[np.float32]:
    """float32 of float32, float16 or bfloat16 bits: exact."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)
