"""The trunk of a packed model in memory, as handles of a backend. Knows names and formats, not what they compute."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flashmoe.errors import FormatError
from flashmoe.files.safetensors import TensorInfo, read_header
from flashmoe.models.architecture import Architecture, Kind, TrunkTensor
from flashmoe.ops.interface import Handle, Ops
from flashmoe.ops.weights import GROUP, AffineMatrix, DenseMatrix, Matrix
from flashmoe.streaming.whole import read_whole

_DTYPES = {"U32": np.uint32, "BF16": np.uint16, "F32": np.float32}
_MATRICES = (Kind.MATRIX, Kind.EMBEDDING, Kind.SENSITIVE)


class Trunk:
    """trunk.safetensors, read whole; arrays are views of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        self.tensors = header.tensors
        self.bytes = read_whole(path, header.file_bytes).array

    def _info(self, name: str) -> TensorInfo:
        info = self.tensors.get(name)
        if info is None or info.dtype not in _DTYPES:
            found = "it is missing" if info is None else f"its dtype is {info.dtype}"
            raise self._mismatch(name, found)
        return info

    def _mismatch(self, name: str, found: str) -> FormatError:
        return FormatError(
            f"{self.path}: tensor {name} does not fit config.json: {found}. The files are not of one model; pack it "
            "again."
        )

    def array(self, name: str) -> NDArray[np.generic]:
        info = self._info(name)
        return self.bytes[info.begin : info.end].view(_DTYPES[info.dtype]).reshape(info.shape)

    def matrix(self, tensor: TrunkTensor) -> Matrix:
        """A matrix as it is stored, quantised or dense, after its shape was checked."""
        rows, columns = tensor.shape
        name = f"{tensor.name}.weight"
        values = self.array(name)
        if values.dtype != np.uint32:
            if values.shape != (rows, columns):
                raise self._mismatch(name, f"it is {list(values.shape)}, not {[rows, columns]}")
            return DenseMatrix(values)  # type: ignore[arg-type]
        groups = (rows, columns // GROUP)
        scales, biases = self.array(f"{tensor.name}.scales"), self.array(f"{tensor.name}.biases")
        bits_fit = values.shape in [(rows, columns * bits // 32) for bits in (2, 4, 8)] and columns % GROUP == 0
        if not bits_fit or any(a.shape != groups or a.dtype != np.uint16 for a in (scales, biases)):
            raise self._mismatch(name, f"its parts are not a quantised matrix of {[rows, columns]}")
        return AffineMatrix(values.view(np.uint32), scales.view(np.uint16), biases.view(np.uint16))

    def vector(self, tensor: TrunkTensor) -> NDArray[np.float32]:
        values = self.array(tensor.name)
        if values.dtype != np.float32 or values.shape != tensor.shape:
            raise self._mismatch(tensor.name, f"it is {values.dtype} {list(values.shape)}, not {list(tensor.shape)}")
        return values.view(np.float32)

    def handles(self, ops: Ops, architecture: Architecture) -> dict[str, Handle]:
        """Every trunk tensor by canonical name, ready for the backend."""
        return {
            t.name: ops.matrix(self.matrix(t), exact=t.kind is Kind.SENSITIVE)
            if t.kind in _MATRICES
            else ops.vector(self.vector(t))
            for t in architecture.trunk
        }
