"""What a pack will write, decided before the first byte: tensors' precision, files' sizes, and which shards each needs.

Invariant: the same checkpoint and recipe always give the same plan, and a plan that exists has found every tensor of
the model, in its shape. Knows models only through their Architecture.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashmoe.errors import FormatError
from flashmoe.files.safetensors import NewTensor, padded
from flashmoe.hub import Checkpoint
from flashmoe.hub.matrix import SourceMatrix
from flashmoe.models.architecture import Architecture, TrunkTensor
from flashmoe.ops.weights import GROUP, RecordLayout
from flashmoe.pack.agreement import MATRICES, TRUNK_PART, layer_part, stored_tensors
from flashmoe.pack.manifest import PARTS, make_layout
from flashmoe.pack.recipe import Recipe
from flashmoe.pack.seal import blank_header

TRUNK = "trunk.safetensors"


def layer_file(layer: int) -> str:
    """The file of a layer's experts."""
    return f"experts/layer-{layer:03d}.safetensors"


@dataclass(frozen=True)
class TrunkItem:
    """One trunk tensor: where it comes from (None: a vector) and the bits it gets (16, 32: not quantised)."""

    tensor: TrunkTensor
    source: SourceMatrix | None
    bits: int

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the source that make the tensor, in order."""
        return np.arange(self.tensor.shape[0]) if self.tensor.rows is None else self.tensor.rows()

    def outputs(self) -> list[NewTensor]:
        """What is written for it, in order."""
        return stored_tensors(self.tensor, self.bits)


def layer_header(layer: int, experts: int, layout: RecordLayout) -> bytes:
    """The header of a layer's file, with the digest of its records still to come."""
    return blank_header([NewTensor("experts", "U8", (experts, layout.record_bytes))], layer_part(layer))


@dataclass(frozen=True)
class LayerPlan:
    """The experts of one layer: `bits` of gate, up and down."""

    number: int
    prefix: str
    experts: int
    bits: dict[str, int]
    layout: RecordLayout

    @property
    def header(self) -> bytes:
        return layer_header(self.number, self.experts, self.layout)


@dataclass(frozen=True)
class Plan:
    """`needs`: output file -> shards it is made from, in the order of writing."""

    trunk: tuple[TrunkItem, ...]
    layers: tuple[LayerPlan, ...]
    needs: dict[str, frozenset[str]]

    @cached_property
    def trunk_header(self) -> bytes:
        return blank_header(self._trunk_tensors, TRUNK_PART)

    @cached_property
    def _trunk_tensors(self) -> list[NewTensor]:
        return padded(output for item in self.trunk for output in item.outputs())

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each output file."""
        sizes = {TRUNK: len(self.trunk_header) + sum(t.nbytes for t in self._trunk_tensors)}
        for i, layer in enumerate(self.layers):
            sizes[layer_file(i)] = len(layer.header) + layer.experts * layer.layout.record_bytes
        return sizes

    @property
    def layouts(self) -> list[RecordLayout]:
        """The different layouts, in order of first use."""
        return list(dict.fromkeys(layer.layout for layer in self.layers))

    def quantisation(self) -> dict[str, Any]:
        """The bits that occur, by class of tensor."""
        by_kind = {kind.value: sorted({i.bits for i in self.trunk if i.tensor.kind is kind}) for kind in MATRICES}
        experts = sorted({bits for layer in self.layers for bits in layer.bits.values()})
        return {"group_size": GROUP, "experts": experts, **by_kind}


def make_plan(checkpoint: Checkpoint, architecture: Architecture, recipe: Recipe) -> Plan:
    """Find every tensor and decide its form. Raises FormatError for one that is missing, of another shape, or left
    over."""
    quantised = any(name.endswith(".scales") for name in checkpoint.names)
    items = tuple(_trunk_item(checkpoint, tensor, recipe, quantised) for tensor in architecture.trunk)
    needs = {TRUNK: frozenset(s for t in architecture.trunk for s in _shards(checkpoint, t))}
    layers = []
    for i, prefix in enumerate(architecture.expert_prefixes):
        layers.append(_layer(checkpoint, architecture, i, prefix, recipe))
        needs[layer_file(i)] = frozenset(
            shard
            for expert in range(layers[-1].experts)
            for part in PARTS
            for shard in checkpoint.expert_matrix(prefix, expert, part).shards
        )
    _refuse_leftovers(checkpoint, architecture)
    return Plan(items, tuple(layers), needs)


def _shards(checkpoint: Checkpoint, tensor: TrunkTensor) -> frozenset[str]:
    if tensor.kind in MATRICES:
        return checkpoint.matrix(tensor.source).shards
    return checkpoint.vector_shards(tensor.source)


def _trunk_item(checkpoint: Checkpoint, tensor: TrunkTensor, recipe: Recipe, quantised: bool) -> TrunkItem:
    if tensor.kind not in MATRICES:
        if checkpoint.vector_size(tensor.source) != prod(tensor.shape):
            raise _wrong_shape(checkpoint, tensor.source, tensor.shape)
        return TrunkItem(tensor, None, 32)
    source = checkpoint.matrix(tensor.source)
    (rows, columns), (source_rows, source_columns) = tensor.shape, source.shape
    fits = rows == source_rows if tensor.rows is None else rows <= source_rows and tensor.rows().max() < source_rows
    if not fits or columns != source_columns:
        raise _wrong_shape(checkpoint, tensor.source, tensor.shape)
    return TrunkItem(tensor, source, recipe.for_trunk(tensor.kind, source, quantised))


def _layer(checkpoint: Checkpoint, architecture: Architecture, number: int, prefix: str, recipe: Recipe) -> LayerPlan:
    config = architecture.config
    if (found := checkpoint.experts(prefix)) != config.experts:
        raise FormatError(
            f"{checkpoint.directory} has {found} experts under {prefix!r}, but its config.json says {config.experts}."
        )
    wide, tall = (config.expert_inter, config.hidden), (config.hidden, config.expert_inter)
    shapes = {"gate": wide, "up": wide, "down": tall}
    bits: dict[str, int] = {}
    for expert in range(config.experts):
        for part, shape in shapes.items():
            source = checkpoint.expert_matrix(prefix, expert, part)
            if source.shape != shape:
                raise _wrong_shape(checkpoint, source.name, shape)
            bits.setdefault(part, recipe.for_expert(source))
    return LayerPlan(number, prefix, config.experts, bits, make_layout((p, *shapes[p], bits[p]) for p in PARTS))


def _wrong_shape(checkpoint: Checkpoint, name: str, expected: tuple[int, ...]) -> FormatError:
    return FormatError(
        f"{checkpoint.directory}: {name!r} does not have the shape {list(expected)} that config.json implies. "
        "Weights and config.json are not of the same model."
    )


def _refuse_leftovers(checkpoint: Checkpoint, architecture: Architecture) -> None:
    """A tensor nobody asked for means that the model is not what its model_type says: packing it would be garbage."""
    used = {t.source for t in architecture.trunk}
    used |= {n for t in architecture.trunk if t.kind in MATRICES for n in checkpoint.matrix_tensors(t.source)}
    used |= {name for prefix in architecture.expert_prefixes for name in checkpoint.expert_tensors(prefix)}
    if architecture.config.tied:
        used |= checkpoint.matrix_tensors("lm_head.weight")
    if left := sorted(checkpoint.names.keys() - used):
        raise FormatError(
            f"{checkpoint.directory} holds {len(left)} tensors that a {architecture.config.model_type} does not have, "
            f"{left[0]!r} among them. Check model_type and num_hidden_layers in its config.json."
        )
