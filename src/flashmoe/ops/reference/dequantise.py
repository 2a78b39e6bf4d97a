"""Packed weights as float32 values. Knows formats, not operations."""

import numpy as np
from numpy.typing import NDArray

from flashmoe.ops.weights import GROUP, AffineMatrix, DenseMatrix, Matrix, RecordLayout


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def dequantise(matrix: AffineMatrix) -> NDArray[np.float32]:
    """code * scale + bias, float32 [out, in]; codes lie little-end first in their words."""
    shifts = np.arange(0, 32, matrix.bits, dtype=np.uint32)
    codes = (matrix.codes[:, :, None] >> shifts) & np.uint32((1 << matrix.bits) - 1)
    groups = codes.reshape(matrix.out_features, -1, GROUP).astype(np.float32)
    values = groups * from_bfloat16(matrix.scales)[:, :, None] + from_bfloat16(matrix.biases)[:, :, None]
    return values.reshape(matrix.out_features, matrix.in_features)


def values_of(matrix: Matrix) -> NDArray[np.float32]:
    """Any matrix as float32 [out, in]."""
    if isinstance(matrix, AffineMatrix):
        return dequantise(matrix)
    if matrix.values.dtype == np.uint16:
        return from_bfloat16(matrix.values.view(np.uint16))
    return matrix.values.astype(np.float32)


def rows_of(matrix: Matrix, rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """The chosen rows alone, float32 [len(rows), in]."""
    if isinstance(matrix, AffineMatrix):
        return dequantise(AffineMatrix(matrix.codes[rows], matrix.scales[rows], matrix.biases[rows]))
    return values_of(DenseMatrix(matrix.values[rows]))


def matrix_in_record(record: NDArray[np.uint8], layout: RecordLayout, name: str) -> AffineMatrix:
    """`gate`, `up` or `down` of one expert's record."""

    def part(suffix: str) -> NDArray[np.uint8]:
        where = layout.part(f"{name}.{suffix}")
        rows, columns = where.shape
        width = columns * (4 if where.dtype == "U32" else 2)
        return record[where.offset : where.offset + rows * width].reshape(rows, width)

    return AffineMatrix(part("weight").view(np.uint32), part("scales").view(np.uint16), part("biases").view(np.uint16))
