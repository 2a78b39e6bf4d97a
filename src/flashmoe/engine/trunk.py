"""The trunk of a packed model in memory, as handles of a backend. Knows names and formats, not what they compute."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flashmoe.files.safetensors import read_header
from flashmoe.models.architecture import Architecture, Kind, TrunkTensor
from flashmoe.ops.interface import Handle, Ops
from flashmoe.ops.weights import AffineMatrix, DenseMatrix, Matrix
from flashmoe.pack.agreement import MATRICES, stored_bits
from flashmoe.streaming.whole import read_whole

_DTYPES = {"U32": np.uint32, "BF16": np.uint16, "F32": np.float32}


class Trunk:
    """trunk.safetensors, read whole; arrays are views of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        self.tensors = header.tensors
        self.bytes = read_whole(path, header.file_bytes).array

    def array(self, name: str) -> NDArray[np.generic]:
        info = self.tensors[name]
        return self.bytes[info.begin : info.end].view(_DTYPES[info.dtype]).reshape(info.shape)

    def matrix(self, tensor: TrunkTensor) -> Matrix:
        """A matrix as it is stored, quantised or dense. Raises FormatError if it is not there in its shape."""
        bits = stored_bits(tensor, self.tensors, self.path)
        values = self.array(f"{tensor.name}.weight")
        if bits > 8:
            return DenseMatrix(values)  # type: ignore[arg-type]
        scales, biases = self.array(f"{tensor.name}.scales"), self.array(f"{tensor.name}.biases")
        return AffineMatrix(values.view(np.uint32), scales.view(np.uint16), biases.view(np.uint16))

    def vector(self, tensor: TrunkTensor) -> NDArray[np.float32]:
        """A vector, norm or convolution, likewise."""
        stored_bits(tensor, self.tensors, self.path)
        return self.array(tensor.name).view(np.float32)

    def handles(self, ops: Ops, architecture: Architecture) -> dict[str, Handle]:
        """Every trunk tensor by canonical name, ready for the backend."""
        return {
            t.name: ops.matrix(self.matrix(t), exact=t.kind is Kind.SENSITIVE)
            if t.kind in MATRICES
            else ops.vector(self.vector(t))
            for t in architecture.trunk
        }
