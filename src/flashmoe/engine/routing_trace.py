"""Routing traces: which experts every token chose in every layer, in the order in which it happened.

Invariant: recording changes no answer, and a RoutingTrace that exists is consistent in itself. The file is an ordinary
compressed .npz (docs/measurements/routing.md). Knows ids and positions, not what tokens mean or where experts lie.
"""

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashmoe.errors import FormatError
from flashmoe.files.atomic import write_atomically
from flashmoe.files.opening import opened
from flashmoe.models.architecture import ModelConfig
from flashmoe.models.batch import Batch
from flashmoe.ops.interface import Array

FORMAT = 1


@dataclass(frozen=True)
class RoutingTrace:
    """One row per token computed, in the order of computation.

    experts: in a layer. sequence, position, token, step: int32 [T]; rows with the same step went through the model
    together. ids: uint8 or uint16 [T, layers, K], by falling weight. mean_weights: float32 [layers, K], of each rank.
    """

    experts: int
    sequence: NDArray[np.int32]
    position: NDArray[np.int32]
    token: NDArray[np.int32]
    step: NDArray[np.int32]
    ids: NDArray[Any]
    mean_weights: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write the file, complete or not at all. Raises FlashMoeError if it cannot be written."""
        file = io.BytesIO()
        arrays = {name: getattr(self, name) for name in _ROWS}
        np.savez_compressed(
            file, format=FORMAT, experts=self.experts, ids=self.ids, mean_weights=self.mean_weights, **arrays
        )
        write_atomically(path, file.getvalue())

    @classmethod
    def read(cls, path: Path) -> "RoutingTrace":
        """Raises FormatError if the file is absent or holds no trace."""
        try:
            with opened(path) as stored, zipfile.ZipFile(stored) as file:
                if (version := int(_array(file, "format"))) != FORMAT:
                    raise FormatError(f"{path} is a routing trace of format {version}, not {FORMAT}.")
                trace = cls(
                    int(_array(file, "experts")), *(_array(file, name) for name in (*_ROWS, "ids", "mean_weights"))
                )
        except (FormatError, MemoryError):
            raise
        except OSError as error:
            raise FormatError(f"{path} cannot be read: {error.strerror or error}.") from None
        except Exception as error:  # zipfile and numpy say what is wrong by errors of a dozen kinds
            raise FormatError(f"{path} is not a routing trace: {error}. Record it with --record-routing.") from None
        if not trace._consistent():
            raise FormatError(f"{path} is a damaged routing trace: its arrays do not fit together.")
        return trace

    def _consistent(self) -> bool:
        ids = self.ids
        if ids.ndim != 3 or ids.dtype not in (np.uint8, np.uint16):
            return False
        rows = [getattr(self, name) for name in _ROWS]
        return (
            0 < self.experts <= 1 << 8 * ids.dtype.itemsize
            and (ids.size == 0 or int(ids.max()) < self.experts)
            and not (np.diff(np.sort(ids, axis=-1).astype(np.int32), axis=-1) == 0).any()
            and all(row.shape == ids.shape[:1] and row.dtype == np.int32 and (row >= 0).all() for row in rows)
            and bool((np.diff(self.step) >= 0).all())
            and self.mean_weights.shape == ids.shape[1:]
        )


_ROWS = ("sequence", "position", "token", "step")
_LARGEST = 4 << 30
"""Bytes of an array: ten million tokens of a large model."""


def _array(file: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """An array of an .npz. Its header is held against the bytes that are there, before memory is taken for it."""
    member = file.getinfo(f"{name}.npy")
    if member.file_size > _LARGEST:
        raise ValueError(f"{name} is larger than {_LARGEST >> 30} GiB")
    data = file.read(member)
    header = io.BytesIO(data)
    if np.lib.format.read_magic(header) != (1, 0):
        raise ValueError(f"{name} is written in another version")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(header)
    if by_columns or dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - header.tell():
        raise ValueError(f"{name} has not the bytes that its header says")
    return np.frombuffer(data, dtype, offset=header.tell()).reshape(shape)


class RoutingRecorder:
    """An observer (models.observer) that keeps what a trace needs: a byte or two a layer and expert of each token.

    A forward that was broken off leaves nothing.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._experts, self._shape = config.experts, (config.layers, config.top_k)
        self._dtype = np.uint8 if config.experts <= 256 else np.uint16
        self._forwards: list[_Forward] = []
        self._current: _Forward
        self._weights = np.zeros(self._shape)
        self._numbers: dict[int, int] = {}
        self._sequences = 0

    def begin(self, batch: Batch) -> None:
        tokens = len(batch.tokens)
        sequence = np.empty(tokens, np.int32)
        for span in batch.spans:
            sequence[span.begin : span.end] = self._number(id(span.states), int(batch.positions[span.begin]))
        step = np.full(tokens, len(self._forwards), np.int32)
        rows = {"sequence": sequence, "position": batch.positions, "token": batch.tokens, "step": step}
        self._current = _Forward(rows, np.empty((tokens, *self._shape), self._dtype), np.zeros(self._shape))

    def routed(self, layer: int, x: Array, ids: NDArray[np.int32], weights: Array) -> None:  # noqa: ARG002
        self._current.ids[:, layer] = ids
        self._current.weights[layer] = np.asarray(weights, dtype=np.float64).sum(axis=0)
        if layer == self._shape[0] - 1:
            self._forwards.append(self._current)
            self._weights += self._current.weights

    def _number(self, key: int, position: int) -> int:
        """The states of a sequence tell it from the others while it lives; position 0 begins another."""
        if position == 0 or key not in self._numbers:
            self._numbers[key] = self._sequences
            self._sequences += 1
        return self._numbers[key]

    def trace(self) -> RoutingTrace:
        """Everything recorded so far."""
        arrays = {
            name: np.concatenate([np.empty(0, np.int32), *(f.rows[name] for f in self._forwards)]) for name in _ROWS
        }
        ids = np.concatenate([np.empty((0, *self._shape), self._dtype), *(f.ids for f in self._forwards)])
        mean = (self._weights / max(1, len(ids))).astype(np.float32)
        return RoutingTrace(self._experts, ids=ids, mean_weights=mean, **arrays)


@dataclass(frozen=True, slots=True)
class _Forward:
    """What one forward adds to a trace; weights: sums over its rows, [layers, K]."""

    rows: dict[str, NDArray[np.int32]]
    ids: NDArray[Any]
    weights: NDArray[np.float64]
