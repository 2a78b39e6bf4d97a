"""Weights as they lie in a packed model: views of bytes that someone else owns.

Knows shapes and formats, not files and not arithmetic. bfloat16 travels as its 16 bits in a uint16 array.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

GROUP = 64
"""Columns that share one scale and one bias (MLX affine, docs/format.md)."""


@dataclass(frozen=True)
class AffineMatrix:
    """W[out, in] = code * scale + bias, group by group of 64 columns.

    codes uint32 [out, in * bits / 32], little-end first; scales and biases bfloat16 bits, uint16 [out, in / 64].
    """

    codes: NDArray[np.uint32]
    scales: NDArray[np.uint16]
    biases: NDArray[np.uint16]

    @property
    def out_features(self) -> int:
        return int(self.codes.shape[0])

    @property
    def in_features(self) -> int:
        return int(self.scales.shape[1]) * GROUP

    @cached_property
    def bits(self) -> int:
        return int(self.codes.shape[1]) * 32 // self.in_features


@dataclass(frozen=True)
class DenseMatrix:
    """W[out, in] as it is: uint16 holds bfloat16 bits, float32 itself."""

    values: NDArray[np.uint16] | NDArray[np.float32]

    @property
    def out_features(self) -> int:
        return int(self.values.shape[0])

    @property
    def in_features(self) -> int:
        return int(self.values.shape[1])


Matrix = AffineMatrix | DenseMatrix


@dataclass(frozen=True)
class RecordPart:
    """One array inside a record: `gate|up|down` + `.weight|.scales|.biases`; dtype U32 or BF16; offset in bytes."""

    name: str
    dtype: str
    shape: tuple[int, int]
    offset: int


@dataclass(frozen=True)
class RecordLayout:
    """Where the nine arrays of one expert lie in its record; `record_bytes` is a multiple of 4096."""

    parts: tuple[RecordPart, ...]
    record_bytes: int

    def part(self, name: str) -> RecordPart:
        return next(p for p in self.parts if p.name == name)


@dataclass(frozen=True)
class ExpertWork:
    """Which expert computes which rows: expert i is in arena slot `slots[i]` and takes entries starts[i]:starts[i+1].

    Entry j multiplies row `rows[j]` of x and lands in row `outputs[j]` of the output: its own row, never a sum.
    slots int32 [n]; starts int32 [n + 1]; rows, outputs int32 [starts[n]].
    """

    slots: NDArray[np.int32]
    starts: NDArray[np.int32]
    rows: NDArray[np.int32]
    outputs: NDArray[np.int32]
