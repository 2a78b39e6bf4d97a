"""A packed model read back: the trunk by tensor name, the experts by layer and number.

Invariant: what is read has the shape that config.json implies, or a FormatError names the file. Knows the format of
docs/format.md, not what the tensors are for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashmoe.errors import FormatError
from flashmoe.files.jsonfile import read_object
from flashmoe.files.safetensors import read_header
from flashmoe.hub.matrix import SourceMatrix, widen
from flashmoe.hub.shards import RowRange, Shards
from flashmoe.models import architecture
from flashmoe.models.architecture import Architecture, TrunkTensor
from flashmoe.ops.weights import GROUP, AffineMatrix
from flashmoe.pack.convert import dequantised
from flashmoe.pack.manifest import ARRAYS, NAME, Manifest
from flashmoe.pack.plan import MATRICES, stored_tensors


@dataclass(frozen=True)
class Contents:
    """A packed model, open for reading; `close` it."""

    manifest: Manifest
    config: dict[str, Any]
    architecture: Architecture
    files: Shards

    @classmethod
    def open(cls, directory: Path) -> "Contents":
        """Read the manifest, config.json and the trunk's header, and check them against each other."""
        manifest = Manifest.read(directory)
        config = read_object(directory / "config.json")
        parsed = architecture(config)
        if (found := len(manifest.layers)) != parsed.config.layers:
            raise FormatError(
                f"{directory / NAME} lists {found} layers, but config.json says {parsed.config.layers}. "
                "They are not of the same model: pack it again."
            )
        trunk = manifest.trunk.path
        header = read_header(trunk)
        tensors = {name: (str(trunk.relative_to(directory)), info) for name, info in header.tensors.items()}
        advice = f"Check it with `flashmoe verify {directory}`."
        return cls(manifest, config, parsed, Shards(directory, {}, {}, tensors, advice))

    def close(self) -> None:
        self.files.close()

    def bits(self, tensor: TrunkTensor) -> int:
        """2, 4 or 8, or 16 and 32 for bfloat16 and float32. Raises FormatError unless it is stored as documented."""
        forms = (2, 4, 8, 16, 32) if tensor.kind in MATRICES else (32,)
        for bits in forms:
            if self._holds(tensor, bits):
                return bits
        raise FormatError(f"{self.manifest.trunk.path} does not hold {tensor.name} as config.json implies. Pack again.")

    def _holds(self, tensor: TrunkTensor, bits: int) -> bool:
        if bits <= 8 and tensor.shape[-1] % GROUP:
            return False
        stored = [self.files.tensors.get(t.name) for t in stored_tensors(tensor, bits)]
        return all(
            found is not None and (found[1].dtype, found[1].shape) == (t.dtype, t.shape)
            for found, t in zip(stored, stored_tensors(tensor, bits), strict=True)
        )

    def matrix(self, tensor: TrunkTensor) -> SourceMatrix:
        """A trunk matrix, to be read by rows."""
        bits = self.bits(tensor)
        arrays = tuple(RowRange.of(self.files, t.name) for t in stored_tensors(tensor, bits))
        rows, columns = tensor.shape
        return SourceMatrix(tensor.name, (rows, columns), bits if bits <= 8 else None, arrays)

    def vector(self, tensor: TrunkTensor) -> NDArray[np.float32]:
        """A vector, norm (effective weight) or convolution."""
        self.bits(tensor)
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
