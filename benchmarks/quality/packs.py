"""The packs of the ladder: recipes of the packer, and packs whose expert records were rounded some other way.

Knows how a pack is made and rewritten, not how it is judged.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from flashmoe.files.checksum import checksum
from flashmoe.hub import open_checkpoint
from flashmoe.hub.matrix import SourceMatrix
from flashmoe.models import architecture
from flashmoe.models.architecture import Kind
from flashmoe.ops.weights import AffineMatrix, DenseMatrix
from flashmoe.pack.manifest import NAME, PARTS, Manifest
from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe
from flashmoe.pack.seal import reseal

Floats = NDArray[np.float32]
RoundLayer = Callable[[int, dict[str, Floats]], Callable[[str, int], AffineMatrix]]
"""From a layer and its weights (gate, up, down: [E, out, in]) to the matrix of a part and an expert."""


@dataclass(frozen=True)
class PartRecipe(Recipe):
    """A recipe that gives some trunk matrices other bits: those whose name holds one of `parts`."""

    parts: tuple[str, ...] = ()
    part_bits: int = 8

    def for_trunk(self, kind: Kind, source: SourceMatrix, source_quantised: bool) -> int:
        usual = super().for_trunk(kind, source, source_quantised)
        return self.part_bits if any(part in f"{source.name}." for part in self.parts) and usual <= 8 else usual


def packed(checkpoint: Path, directory: Path, recipe: Recipe) -> Path:
    """Packed with a recipe, unless it is there already."""
    if not (directory / NAME).exists():
        pack(checkpoint, directory, recipe)
    return directory


def layer_weights(checkpoint_directory: Path, layer: int) -> dict[str, Floats]:
    """The experts of a layer as they were published: gate, up and down, float32 [E, out, in]."""
    checkpoint = open_checkpoint(checkpoint_directory)
    try:
        described = architecture(checkpoint.config)
        prefix, experts = described.expert_prefixes[layer], described.config.experts
        return {
            part: np.array([_floats(checkpoint.expert_matrix(prefix, e, part)) for e in range(experts)])
            for part in PARTS
        }
    finally:
        checkpoint.close()


def _floats(matrix: SourceMatrix) -> Floats:
    block = matrix.rows(0, matrix.shape[0])
    assert isinstance(block, DenseMatrix)
    if block.values.dtype == np.uint16:
        return block.values.view(ml_dtypes.bfloat16).astype(np.float32)
    return block.values.view(np.float32)


def rewritten(checkpoint: Path, like: Path, directory: Path, rounding: RoundLayer) -> Path:
    """A pack like another, its expert records rounded anew; the bits of the record's layout stay."""
    if (directory / NAME).exists():
        return directory
    shutil.copytree(like, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns(NAME))
    old = Manifest.read(like)
    layers = []
    for number, entry in enumerate(old.layers):
        layout = old.layout(number)
        matrix_of = rounding(number, layer_weights(checkpoint, number))
        path = directory / entry.path.relative_to(like)
        data = bytearray(path.read_bytes())
        digests = []
        for expert in range(entry.experts):
            record = np.zeros(layout.record_bytes, np.uint8)
            for part in PARTS:
                matrix = matrix_of(part, expert)
                for name, values in (("weight", matrix.codes), ("scales", matrix.scales), ("biases", matrix.biases)):
                    place = layout.part(f"{part}.{name}")
                    assert values.shape == place.shape, (part, name, values.shape, place.shape)
                    flat = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
                    record[place.offset : place.offset + flat.size] = flat
            begin = entry.data_offset + expert * layout.record_bytes
            data[begin : begin + layout.record_bytes] = record.tobytes()
            digests.append(checksum(record))
        path.write_bytes(bytes(data))
        layers.append(replace(entry, path=path, records_xxh3="".join(digests), **vars(reseal(path))))
    trunk = replace(old.trunk, path=directory / old.trunk.path.relative_to(like))
    manifest = replace(old, directory=directory, layers=tuple(layers), trunk=trunk)
    (directory / NAME).write_bytes(manifest.to_json())
    return directory
