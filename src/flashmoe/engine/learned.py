"""How often each expert was used in earlier runs: a small file beside the model, which seeds the cache policy.

Invariant: the file is a hint. One that is absent, damaged, of another model or in a place that cannot be written
changes speed, never an answer, and raises nothing. A file of this name that does not begin as it must is somebody
else's and stays as it is. Knows counts, not what is made of them.

The file `expert-uses.bin`: the bytes `FMUSES1` and a newline; 16 characters, the xxh3-64 of the model's flashmoe.json;
the numbers of layers and of experts in a layer, uint32; float32 [layers, experts]; 16 characters, the xxh3-64 of all
that. Little-endian.
"""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flashmoe.errors import FlashMoeError
from flashmoe.files.atomic import write_atomically
from flashmoe.files.checksum import checksum
from flashmoe.files.opening import opened, read_bytes

NAME = "expert-uses.bin"
_HEAD = struct.Struct("<8s16sII")
_MAGIC = b"FMUSES1\n"
_HALF_LIFE = 1 << 14
"""Uses of each expert on average after which an earlier run counts half: some hundred thousand tokens."""

Uses = NDArray[np.float32]
"""[layers, experts]"""


def encode(uses: Uses, model: str) -> bytes:
    """The file; model: the checksum of flashmoe.json."""
    body = _HEAD.pack(_MAGIC, model.encode(), *uses.shape) + uses.astype("<f4").tobytes()
    return body + checksum(body).encode()


def decode(data: bytes, model: str, layers: int, experts: int) -> Uses | None:
    """The counts; None unless the file is whole, of this model, and its counts are numbers."""
    if len(data) != _HEAD.size + 4 * layers * experts + 16 or data[-16:] != checksum(data[:-16]).encode():
        return None
    if _HEAD.unpack_from(data) != (_MAGIC, model.encode(), layers, experts):
        return None
    uses = np.frombuffer(data, "<f4", layers * experts, _HEAD.size).astype(np.float32).reshape(layers, experts)
    return uses if bool(np.isfinite(uses).all() and (uses >= 0).all()) else None


def _content(path: Path, most: int) -> bytes | None:
    """The file, or the beginning of one that is larger; None if there is none that can be read."""
    try:
        with opened(path) as file:
            return file.read(most + 1)
    except OSError:
        return None


class LearnedUses:
    """The counts of a packed model: `before`, those of earlier runs; None if there are none."""

    def __init__(self, directory: Path, layers: int, experts: int) -> None:
        self._path = directory / NAME
        self._model = checksum(read_bytes(directory / "flashmoe.json"))
        data = _content(self._path, len(encode(np.zeros((layers, experts), np.float32), self._model)))
        self._foreign = data is not None and not data.startswith(_MAGIC)
        self.before = decode(data or b"", self._model, layers, experts)

    @property
    def shares(self) -> NDArray[np.float64] | None:
        """The part that each expert had of its layer's uses, as a policy takes it."""
        if self.before is None:
            return None
        totals = self.before.sum(axis=1, dtype=np.float64, keepdims=True)
        return np.asarray(self.before / np.maximum(totals, 1.0))

    def add(self, uses: NDArray[np.int64]) -> None:
        """Save those of this run, int64 [layers, experts], with the earlier ones; quietly not where it cannot be."""
        if self._foreign or not uses.any():
            return
        total = uses.astype(np.float32)
        if self.before is not None:
            total += self.before * np.float32(0.5 ** (float(uses.mean()) / _HALF_LIFE))
        try:
            write_atomically(self._path, encode(total, self._model))
        except FlashMoeError:  # a read-only directory, a full disk
            return
