"""A checkpoint as people publish it, behind one interface: Hugging Face (sharded or not, experts fused or one tensor
each) and MLX (affine or plain, experts stacked).

Tensors are asked for by their text-only Hugging Face name and come row by row. Knows formats, not architectures: which
tensors there should be and what they are for is the asker's matter.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashmoe.errors import FormatError
from flashmoe.files.jsonfile import read_object
from flashmoe.hub.links import source_file
from flashmoe.hub.matrix import SourceMatrix, widen
from flashmoe.hub.names import text_tensors
from flashmoe.hub.quantisation import Quantisation, infer_bits, read_quantisation
from flashmoe.hub.shards import RowRange, Shards

_PARTS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
_UNUSED = (".rotary_emb.inv_freq",)
"""Buffers that older checkpoints store and every program computes."""


@dataclass
class Checkpoint:
    """`names`: canonical -> published name of the text decoder's tensors. `skipped`: tensors of other towers, by tower.
    `norms_shifted`: zero-centred norms have their 1 added already. `kind`: `hf` or `mlx`."""

    shards: Shards
    config: dict[str, Any]
    quantisation: Quantisation
    names: dict[str, str]
    skipped: dict[str, int]
    norms_shifted: bool
    kind: str

    @property
    def directory(self) -> Path:
        return self.shards.directory

    @property
    def source(self) -> dict[str, str]:
        """Name, revision and kind; the first two from a Hub cache path (models--ORG--NAME/snapshots/REVISION)."""
        path = self.directory.absolute()
        if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):
            name = path.parents[1].name.removeprefix("models--").replace("--", "/")
            return {"name": name, "revision": path.name, "kind": self.kind}
        return {"name": path.name, "revision": "", "kind": self.kind}

    def close(self) -> None:
        self.shards.close()

    def matrix(self, name: str) -> SourceMatrix:
        """The matrix NAME.weight. Raises FormatError if it is missing or of a form that cannot be read."""
        return self._stored(name.removesuffix(".weight"), ".weight", 2)

    def vector(self, name: str) -> NDArray[np.float32]:
        """A small tensor, whole, in its stored shape."""
        published = self._published(name)
        rows = RowRange.of(self.shards, published)
        shape = self.shards.tensors[published][1].shape
        return widen(rows.read(np.arange(rows.count))).reshape(shape)

    def vector_size(self, name: str) -> int:
        """How many values a vector has."""
        return prod(self.shards.tensors[self._published(name)][1].shape)

    def vector_shards(self, name: str) -> frozenset[str]:
        """The shard a vector lies in."""
        return frozenset([self.shards.tensors[self._published(name)][0]])

    def experts(self, prefix: str) -> int:
        """How many experts lie under a layer's prefix (`model.layers.0.mlp.experts`)."""
        for base, suffix in ((f"{prefix}.down_proj", ""), (f"{_stack(prefix)}.down_proj", ".weight")):
            if base + suffix in self.names:
                stacked = self._stored(base, suffix, 3)
                return stacked.arrays[0].count // stacked.shape[0]
        count = 0
        while f"{prefix}.{count}.down_proj.weight" in self.names:
            count += 1
        if count == 0:
            raise FormatError(f"{self.directory} has no experts under {prefix!r}. Fetch the checkpoint again.")
        return count

    def expert_matrix(self, prefix: str, expert: int, part: str) -> SourceMatrix:
        """`part` (gate, up or down) of one expert of the layer with this prefix."""
        base, suffix, dimensions = self._place(prefix, expert, part)
        stored = self._stored(base, suffix, dimensions)
        if dimensions == 2:
            return stored
        one = self._slice(stored, expert)
        if part == "down" or not base.endswith("gate_up_proj"):
            return one
        half = one.shape[0] // 2
        return one.cut(0 if part == "gate" else half, half)

    def expert_tensors(self, prefix: str) -> set[str]:
        """Canonical names of what `expert_matrix` reads under a layer's prefix."""
        places = {self._place(prefix, expert, part) for expert in range(self.experts(prefix)) for part in _PARTS}
        return {name for base, suffix, _ in places for name in self.matrix_tensors(base + suffix)}

    def _place(self, prefix: str, expert: int, part: str) -> tuple[str, str, int]:
        """Base and suffix of the tensor that a part of an expert lies in, and its extents: 3 where all experts do."""
        if f"{_stack(prefix)}.{_PARTS[part]}.weight" in self.names:
            return f"{_stack(prefix)}.{_PARTS[part]}", ".weight", 3
        if f"{prefix}.gate_up_proj" in self.names:
            return f"{prefix}.{'down_proj' if part == 'down' else 'gate_up_proj'}", "", 3
        return f"{prefix}.{expert}.{_PARTS[part]}", ".weight", 2

    def matrix_tensors(self, name: str) -> set[str]:
        """Canonical names that a matrix or vector consumes: the values, or codes, scales and biases."""
        base = name.removesuffix(".weight")
        return {n for n in (name, f"{base}.scales", f"{base}.biases") if n in self.names}

    def _published(self, name: str) -> str:
        if name not in self.names:
            raise FormatError(f"{self.directory} lacks the tensor {name!r}. Fetch the checkpoint again.")
        return self.names[name]

    def _stored(self, base: str, suffix: str, dimensions: int) -> SourceMatrix:
        published = self._published(base + suffix)
        shard, info = self.shards.tensors[published]
        where = str(self.directory / shard)
        if len(info.shape) != dimensions or 0 in info.shape:
            raise FormatError(f"{where}: {base} has the shape {list(info.shape)}, not {dimensions} extents.")
        values = RowRange.of(self.shards, published)
        if f"{base}.scales" not in self.names:
            if values.dtype == "U32":
                raise FormatError(f"{where}: {base} holds codes but there is no {base}.scales.")
            return SourceMatrix(base, (info.shape[-2], info.shape[-1]), None, (values,))
        if f"{base}.biases" not in self.names:
            raise FormatError(
                f"{where}: {base} has scales but no biases, so it is not MLX affine; it cannot be packed."
            )
        scales, biases = (RowRange.of(self.shards, self.names[f"{base}.{a}"]) for a in ("scales", "biases"))
        scale_shape, bias_shape = (
            self.shards.tensors[self.names[f"{base}.{a}"]][1].shape for a in ("scales", "biases")
        )
        if values.dtype != "U32" or "U32" in (scales.dtype, biases.dtype) or scale_shape != bias_shape:
            raise FormatError(f"{where}: codes, scales and biases of {base} do not fit together.")
        bits = infer_bits(base, info.shape, scale_shape, self.quantisation.bits(base), where)
        return SourceMatrix(base, (info.shape[-2], info.shape[-1] * 32 // bits), bits, (values, scales, biases))

    def _slice(self, stacked: SourceMatrix, expert: int) -> SourceMatrix:
        out_features = stacked.shape[0]
        if expert >= stacked.arrays[0].count // out_features:
            raise FormatError(f"{self.directory}: {stacked.name} has no expert {expert}.")
        return stacked.cut(expert * out_features, out_features)


def open_checkpoint(directory: Path, stored_shards: Shards | None = None) -> Checkpoint:
    """Open a Hugging Face or MLX directory, or take it up from a stored index (some shards may be gone by then).

    Raises FormatError naming the file that is missing, damaged or of an unknown form.
    """
    if not directory.is_dir():
        raise FormatError(f"{directory} is not a directory with a checkpoint.")
    where = str(directory / "config.json")
    config = read_object(source_file(directory, "config.json"))
    quantisation = read_quantisation(config, where)
    shards = stored_shards or Shards.open(directory)
    names, skipped = text_tensors(shards.tensors)
    names = {name: published for name, published in names.items() if not name.endswith(_UNUSED)}
    if foreign := [n for n in names if n.endswith((".qweight", ".weight_scale_inv", ".weight_scale", ".qzeros"))]:
        raise FormatError(
            f"{directory}: {foreign[0]!r:.80} belongs to a quantisation that cannot be packed (GPTQ, AWQ or FP8). "
            "Use the bf16 checkpoint or an MLX affine one."
        )
    shifted = _norms_shifted(shards, names)
    quantised = any(name.endswith(".scales") for name in names)
    return Checkpoint(shards, config, quantisation, names, skipped, shifted, "mlx" if quantised or shifted else "hf")


def _norms_shifted(shards: Shards, names: dict[str, str]) -> bool:
    """MLX conversions add 1 to the norms and store convolutions as [channels, kernel, 1] instead of [channels, 1,
    kernel]; the second tells the first."""
    shapes = [shards.tensors[p][1].shape for name, p in names.items() if name.endswith(".conv1d.weight")]
    return any(len(shape) == 3 and shape[2] == 1 and shape[1] != 1 for shape in shapes)


def _stack(prefix: str) -> str:
    """MLX's name for the stacked experts of a layer."""
    return prefix.removesuffix(".experts") + ".switch_mlp"
