"""The safetensors files of one checkpoint directory, as one index of tensors that can be read by row.

Invariant: every shard lies directly in the directory and its header has been checked. An index can be stored and taken
up again after some shards are gone; only reading from them fails then. Knows files and bytes, not what tensors mean.
"""

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flashmoe.errors import FormatError
from flashmoe.files.holes import unwritten
from flashmoe.files.jsonfile import Fields, read_object
from flashmoe.files.opening import open_regular
from flashmoe.files.safetensors import TensorInfo, read_header
from flashmoe.hub.links import source_file

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MAX_READ = 1 << 30
"""Linux moves at most 2 GiB a call."""


@dataclass
class Shards:
    """`tensors`: published name -> shard and place. `sizes`: bytes of each shard; `times`: when it was last changed,
    in ns. `advice`: what to do about a file that cannot be read. Reads are safe from any thread."""

    directory: Path
    sizes: dict[str, int]
    times: dict[str, int]
    tensors: dict[str, tuple[str, TensorInfo]]
    advice: str = "Fetch it again."
    _descriptors: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Read all headers. Raises FormatError naming the shard that is missing, damaged or of the wrong content."""
        sizes: dict[str, int] = {}
        times: dict[str, int] = {}
        tensors: dict[str, tuple[str, TensorInfo]] = {}
        promised = _promised(directory)
        for shard, names in promised.items():
            path = source_file(directory, shard)
            if not path.exists():
                raise FormatError(f"{path} is missing. Fetch it again, then start again.")
            header = read_header(path)
            _refuse_holes(path)
            if absent := sorted(names - header.tensors.keys()):
                raise FormatError(f"{directory / shard} lacks the tensor {absent[0]!r} that {INDEX} promises.")
            if twice := sorted(header.tensors.keys() & tensors.keys()):
                raise FormatError(
                    f"{path} and {directory / tensors[twice[0]][0]} both hold the tensor {twice[0]!r}. One of them is "
                    "of another version: fetch the checkpoint again, into an empty directory."
                )
            sizes[shard] = header.file_bytes
            times[shard] = path.stat().st_mtime_ns
            tensors.update({name: (shard, info) for name, info in header.tensors.items()})
        return cls(directory, sizes, times, tensors)

    @classmethod
    def from_json(cls, directory: Path, value: dict[str, Any], where: str) -> Self:
        """The index that `to_json` stored. Shards may be gone; one that is there must have kept its size and time."""
        fields = Fields(value, where)
        stored_sizes, stored_times = Fields(fields.mapping("sizes"), where), Fields(fields.mapping("times"), where)
        names = list(stored_sizes.values)
        sizes = {name: stored_sizes.integer(name) for name in names}
        times = {name: stored_times.integer(name) for name in names}
        tensors: dict[str, tuple[str, TensorInfo]] = {}
        for entry in fields.objects("tensors"):
            place = entry.integers("place")
            if len(place) != 3 or place[0] >= len(names):
                raise FormatError(f"{entry.where}: 'place' is not a shard, a begin and an end.")
            info = TensorInfo(entry.text("dtype"), entry.integers("shape"), place[1], place[2])
            tensors[entry.text("name")] = (names[place[0]], info)
        shards = cls(directory, sizes, times, tensors)
        for name in names:
            if source_file(directory, name).exists():
                shards.refuse_changed(name)
        return shards

    def refuse_changed(self, shard: str) -> None:
        """Raise FormatError unless a shard has the size and time it had when its header was read."""
        path = self.directory / shard
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) != (self.sizes[shard], self.times[shard]):
            raise FormatError(f"{path} has changed since the pack began. Remove the unfinished pack and start anew.")

    def to_json(self) -> dict[str, Any]:
        number = {name: i for i, name in enumerate(self.sizes)}
        return {
            "sizes": self.sizes,
            "times": self.times,
            "tensors": [
                {"name": n, "dtype": i.dtype, "shape": list(i.shape), "place": [number[shard], i.begin, i.end]}
                for n, (shard, i) in self.tensors.items()
            ],
        }

    def read(self, shard: str, begin: int, out: NDArray[Any]) -> None:
        """Fill the contiguous array `out` from byte `begin` on."""
        view = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        try:
            descriptor = self._descriptor(shard)
            while len(view):
                got = os.preadv(descriptor, [view[:_MAX_READ]], begin)
                if got == 0:
                    raise FormatError(f"{self.directory / shard} is truncated: it ends at byte {begin}. {self.advice}")
                view, begin = view[got:], begin + got
        except FileNotFoundError:
            raise FormatError(f"{self.directory / shard} is missing and still needed. {self.advice}") from None
        except OSError as error:
            raise FormatError(
                f"{self.directory / shard} cannot be read at byte {begin}: {error.strerror}. {self.advice}"
            ) from None

    def _descriptor(self, shard: str) -> int:
        with self._lock:
            if shard not in self._descriptors:
                self._descriptors[shard] = open_regular(self.directory / shard)
            return self._descriptors[shard]

    def close(self, shard: str | None = None) -> None:
        """Close one shard's file, or all; a later read opens it again."""
        with self._lock:
            for name in list(self._descriptors) if shard is None else [shard]:
                if name in self._descriptors:
                    os.close(self._descriptors.pop(name))


def _promised(directory: Path) -> dict[str, set[str]]:
    """Shard -> tensors it must hold."""
    if not directory.is_dir():
        raise FormatError(f"{directory} is not a directory with a checkpoint.")
    if (index := source_file(directory, INDEX)).exists():
        weight_map = Fields(read_object(index), str(index)).strings("weight_map")
        shards: dict[str, set[str]] = {}
        for name, shard in weight_map.items():
            if "/" in shard or "\0" in shard or not shard.endswith(".safetensors"):
                raise FormatError(f"{directory / INDEX} names {shard!r:.60}, which is no safetensors file beside it.")
            shards.setdefault(shard, set()).add(name)
        if SINGLE not in shards and (directory / SINGLE).exists():
            raise FormatError(
                f"{directory} holds two checkpoints: {SINGLE}, and the shards that {INDEX} names. Remove the older one."
            )
        return dict(sorted(shards.items()))
    if (directory / SINGLE).exists():
        return {SINGLE: set()}
    raise FormatError(f"{directory} holds no checkpoint: neither {INDEX} nor {SINGLE} is there.")


def _refuse_holes(path: Path) -> None:
    try:
        begin = unwritten(path)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}.") from None
    if begin is not None:
        raise FormatError(
            f"{path} has its full size, but nothing was ever written at byte {begin}: its download or copy was broken "
            "off. Fetch it again. If zeros belong there (a copy made sparse), write them with `cp --sparse=never`."
        )


_STORED: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "U32": np.dtype("<u4"),
}


@dataclass(frozen=True)
class RowRange:
    """Rows of one stored array: `count` rows of `columns` values of `dtype`, the first at byte `begin` of the shard."""

    shards: Shards
    shard: str
    dtype: str
    count: int
    columns: int
    begin: int

    @classmethod
    def of(cls, shards: Shards, name: str) -> Self:
        """A tensor [..., columns] as rows. Raises FormatError for a dtype no reader here knows."""
        shard, info = shards.tensors[name]
        if info.dtype not in _STORED:
            raise FormatError(
                f"{shards.directory / shard}: tensor {name!r} is {info.dtype}, which cannot be packed. "
                "Use the bf16 checkpoint or an MLX affine one."
            )
        columns = info.shape[-1] if info.shape else 1
        count = info.nbytes // max(1, columns * _STORED[info.dtype].itemsize)
        return cls(shards, shard, info.dtype, count, columns, info.begin)

    @property
    def row_bytes(self) -> int:
        return self.columns * _STORED[self.dtype].itemsize

    def cut(self, start: int, count: int) -> "RowRange":
        """Rows start:start + count alone."""
        begin = self.begin + start * self.row_bytes
        return RowRange(self.shards, self.shard, self.dtype, count, self.columns, begin)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The rows, in this order, as stored (bfloat16 as its uint16 bits): [len(rows), columns]."""
        out: NDArray[Any] = np.empty((len(rows), self.columns), _STORED[self.dtype])
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        for first, last in zip([0, *breaks], [*breaks, len(rows)], strict=True):
            if first < last:
                self.shards.read(self.shard, self.begin + int(rows[first]) * self.row_bytes, out[first:last])
        return out
