"""A packed model read back: the trunk by tensor name, the experts by layer and number.

Invariant: one that is open has files that agree, so what is read has the shape that config.json implies. Knows the
format of docs/format.md, not what the tensors are for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashmoe.files.jsonfile import read_object
from flashmoe.files.safetensors import TensorInfo, read_header
from flashmoe.hub.matrix import SourceMatrix, widen
from flashmoe.hub.shards import RowRange, Shards
from flashmoe.models import architecture
from flashmoe.models.architecture import Architecture, TrunkTensor
from flashmoe.ops.weights import GROUP, AffineMatrix
from flashmoe.pack.agreement import require_agreement, stored_bits, stored_tensors
from flashmoe.pack.convert import dequantised
from flashmoe.pack.manifest import ARRAYS, Manifest


@dataclass(frozen=True)
class Contents:
    """A packed model, open for reading; `close` it. stored: the trunk's tensors as they lie in its file."""

    manifest: Manifest
    config: dict[str, Any]
    architecture: Architecture
    stored: dict[str, TensorInfo]
    files: Shards

    @classmethod
    def open(cls, directory: Path) -> "Contents":
        """Read the manifest, config.json and all headers. Raises FormatError unless they agree."""
        manifest = Manifest.read(directory)
        config = read_object(directory / "config.json")
        described = architecture(config)
        require_agreement(manifest, described)
        trunk = manifest.trunk.path
        stored = read_header(trunk).tensors
        places = {name: (str(trunk.relative_to(directory)), info) for name, info in stored.items()}
        advice = f"Check it with `flashmoe verify {directory}`."
        return cls(manifest, config, described, stored, Shards(directory, {}, {}, places, advice))

    def close(self) -> None:
        self.files.close()

    def bits(self, tensor: TrunkTensor) -> int:
        """2, 4 or 8, or 16 and 32 for bfloat16 and float32."""
        return stored_bits(tensor, self.stored, self.manifest.trunk.path)

    def matrix(self, tensor: TrunkTensor) -> SourceMatrix:
        """A trunk matrix, to be read by rows."""
        bits = self.bits(tensor)
        arrays = tuple(RowRange.of(self.files, t.name) for t in stored_tensors(tensor, bits))
        rows, columns = tensor.shape
        return SourceMatrix(tensor.name, (rows, columns), bits if bits <= 8 else None, arrays)

    def vector(self, tensor: TrunkTensor) -> NDArray[np.float32]:
        """A vector, norm (effective weight) or convolution."""
        rows = RowRange.of(self.files, tensor.name)
        return widen(rows.read(np.arange(rows.count))).reshape(tensor.shape)

    def expert_matrix(self, layer: int, expert: int, part: str) -> SourceMatrix:
        """`part` (gate, up, down) of an expert, where it lies in its record."""
        layout, entry = self.manifest.layout(layer), self.manifest.layers[layer]
        base = entry.data_offset + expert * layout.record_bytes
        places = [layout.part(f"{part}.{array}") for array in ARRAYS]
        file = str(entry.path.relative_to(self.manifest.directory))
        arrays = tuple(RowRange(self.files, file, p.dtype, *p.shape, base + p.offset) for p in places)
        columns = places[1].shape[1] * GROUP
        name = f"layer {layer}, expert {expert}, {part}"
        bits = places[0].shape[1] * 32 // columns
        return SourceMatrix(name, (places[0].shape[0], columns), bits, arrays)


def float_rows(matrix: SourceMatrix, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of a matrix as float32, dequantised where need be."""
    block = matrix.take(rows)
    return dequantised(block) if isinstance(block, AffineMatrix) else widen(block.values)
