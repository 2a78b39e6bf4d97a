"""Rows of a source matrix in the precision the pack wants, on several threads, in order.

Knows blocks of rows and the native quantiser; not files, not models.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from flashmoe import _native
from flashmoe.errors import FormatError
from flashmoe.hub.matrix import SourceMatrix
from flashmoe.ops.weights import AffineMatrix, DenseMatrix, Matrix, RecordLayout

Item = TypeVar("Item")
Result = TypeVar("Result")

IN_FLIGHT_BYTES = 384 << 20
"""Source bytes being worked on at a time; results wait in the same budget."""


def convert(block: Matrix, bits: int, name: str) -> Matrix:
    """The rows at 2, 4 or 8 bits (unchanged if they are so already), or as they are for 16 and 32.

    Raises FormatError for weights that no quantisation can hold (NaN, infinity).
    """
    if isinstance(block, AffineMatrix):
        if block.bits == bits:
            return block
        values: NDArray[np.float32] | NDArray[np.uint16] = dequantised(block)
    else:
        values = block.values
    if bits > 8:
        return DenseMatrix(values)
    try:
        return AffineMatrix(*_native.quantise(values, bits))
    except ValueError as error:
        raise FormatError(f"{name} cannot be quantised: {error}. Fetch the checkpoint again.") from None


def dequantised(matrix: AffineMatrix) -> NDArray[np.float32]:
    """code * scale + bias, float32 [out, in]."""
    return _native.dequantise(matrix.codes, matrix.scales, matrix.biases)


def record(layout: RecordLayout, parts: dict[str, tuple[SourceMatrix, int]]) -> NDArray[np.uint8]:
    """One expert's record: uint8 [record_bytes]. `parts`: gate, up and down with the bits each gets."""
    out = np.zeros(layout.record_bytes, np.uint8)
    for part, (source, bits) in parts.items():
        matrix = convert(source.rows(0, source.shape[0]), bits, source.name)
        assert isinstance(matrix, AffineMatrix)
        for array, values in (("weight", matrix.codes), ("scales", matrix.scales), ("biases", matrix.biases)):
            place = layout.part(f"{part}.{array}")
            data = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
            assert values.shape == place.shape
            out[place.offset : place.offset + data.size] = data
    return out


def window(item_bytes: int, threads: int) -> int:
    """How many items of this size may be under way at once."""
    return max(1, min(2 * threads, IN_FLIGHT_BYTES // max(1, item_bytes)))


def ordered_map(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """function(item) for each item, in order, with at most `ahead` computed or waiting at a time."""
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
