"""What a layer remembers of a sequence, in plain arrays."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from flashmoe.ops.interface import KV_BLOCK, KV_GROUP


def rounded(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What an int8 cache keeps of keys or values [..., d], as float32: code * scale of each group of dimensions."""
    result = np.empty_like(x)
    for begin in range(0, x.shape[-1], KV_GROUP):
        group = x[..., begin : begin + KV_GROUP]
        scale = np.abs(group).max(axis=-1, keepdims=True) / np.float32(127)
        codes = np.clip(np.rint(group / np.where(scale == 0, np.float32(1), scale)), -127, 127)
        result[..., begin : begin + KV_GROUP] = codes * scale
    return result


class KeyValueCache:
    """keys and values float32 [tokens, KV, d]: arrays that nobody writes to, so forks may share them.

    bits: with 8 they are what is left of them after rounding to int8. Its blocks exist for the arithmetic of budgets
    alone.
    """

    def __init__(self, kv_heads: int, head_dim: int, bits: int = 16) -> None:
        self._bits = bits
        self.keys = self.values = np.zeros((0, kv_heads, head_dim), np.float32)
        self._names = list[object]()

    @property
    def length(self) -> int:
        return len(self.keys)

    @property
    def row_bytes(self) -> int:
        _, kv_heads, head_dim = self.keys.shape
        return 2 * 4 * kv_heads * head_dim

    @property
    def block_bytes(self) -> int:
        return KV_BLOCK * self.row_bytes

    @property
    def blocks(self) -> list[int]:
        return [id(name) for name in self._names]

    def extend(self, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        self._extend(*((rounded(keys), rounded(values)) if self._bits == 8 else (keys, values)))

    def _extend(self, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        self.keys, self.values = np.concatenate([self.keys, keys]), np.concatenate([self.values, values])
        self._names += [object() for _ in range(len(self._names), -(-self.length // KV_BLOCK))]

    def fork(self, length: int) -> Self:
        result = type(self)(*self.keys.shape[1:], self._bits)
        result.keys, result.values = self.keys[:length], self.values[:length]
        result._names = self._names[: -(-length // KV_BLOCK)]
        return result

    def read(self, first: int, last: int, rows: NDArray[np.uint8]) -> None:
        both = np.concatenate([self.keys[first:last], self.values[first:last]], axis=-1)
        rows[:] = both.reshape(last - first, self.row_bytes // 4).view(np.uint8)

    def append(self, rows: NDArray[np.uint8]) -> None:
        _, kv_heads, head_dim = self.keys.shape
        both = rows.view(np.float32).reshape(len(rows), kv_heads, 2 * head_dim)
        self._extend(both[:, :, :head_dim], both[:, :, head_dim:])


@dataclass
class DeltaState:
    """conv: the last kernel - 1 inputs of the convolution [kernel - 1, C]; recurrent: the memory S [V, dk, dv]."""

    conv: NDArray[np.float32]
    recurrent: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return self.conv.nbytes + self.recurrent.nbytes

    def fork(self) -> Self:
        return type(self)(self.conv.copy(), self.recurrent.copy())

    def read(self, values: NDArray[np.float32]) -> None:
        values[:] = np.concatenate([self.conv.ravel(), self.recurrent.ravel()])

    def write(self, values: NDArray[np.float32]) -> None:
        conv, recurrent = np.split(values, [self.conv.size])
        self.conv[:], self.recurrent[:] = conv.reshape(self.conv.shape), recurrent.reshape(self.recurrent.shape)
