"""What a token costs in bytes and operations, part by part: of a packed model, or of a published one's shapes.

Invariant: the parts of the trunk add up to what one token reads of it. Knows tensors by name and size, not machines.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from flashmoe.engine.loader import with_experts_per_token
from flashmoe.engine.sizes import fixed_state_bytes
from flashmoe.files.safetensors import NewTensor, padded
from flashmoe.models import architecture
from flashmoe.models.architecture import Architecture, Kind, ModelConfig, TrunkTensor
from flashmoe.ops.weights import GROUP
from flashmoe.pack.agreement import MATRICES, TRUNK_PART, stored_tensors
from flashmoe.pack.contents import Contents
from flashmoe.pack.manifest import PARTS, LayerFile, Manifest, TrunkFile, make_layout
from flashmoe.pack.recipe import DEFAULT_BITS, SENSITIVE_BITS
from flashmoe.pack.seal import blank_header
from flashmoe.pack.shapes import shaped_config


@dataclass(frozen=True)
class ModelSizes:
    """A model, as its roofline needs it; bytes a token reads, at `config.top_k` experts a layer.

    manifest: of the packed model, or of the one that packing would make. mixers: attention, GatedDeltaNet and norms.
    shared: shared experts. head: the last product and a row of the embedding. experts: all layers together. delta:
    GatedDeltaNet states, of which all is read and written. operations: of one prompt token in what comes before its
    experts are known, and in what can be done while they are read.
    """

    name: str
    manifest: Manifest
    config: ModelConfig
    own_top_k: int
    mixers: int
    routers: int
    shared: int
    head: int
    experts: int
    delta: int
    operations_before: int
    operations_beside: int

    @property
    def trunk(self) -> int:
        return self.mixers + self.routers + self.shared + self.head

    @property
    def record_bytes(self) -> int:
        """Of the largest expert."""
        return max(layout.record_bytes for layout in self.manifest.layouts)


def packed_sizes(directory: Path, experts_per_token: int | None = None) -> ModelSizes:
    """Of the packed model in `directory`. Raises FormatError if it is none, FlashMoeError for too many experts."""
    contents = Contents.open(directory)
    contents.close()
    tensors = contents.stored

    def stored(tensor: TrunkTensor) -> int:
        names = [tensor.name, *(f"{tensor.name}.{part}" for part in ("weight", "scales", "biases"))]
        return sum(tensors[name].nbytes for name in names if name in tensors)

    return _sizes(str(directory), contents.manifest, contents.architecture, stored, experts_per_token)


def published_sizes(like: str, experts_per_token: int | None = None) -> ModelSizes:
    """Of a published model (pack.shapes), packed with the default recipe. Raises FlashMoeError for an unknown name."""
    parsed = architecture(shaped_config(like, None))
    c = parsed.config
    wide, tall = (c.expert_inter, c.hidden), (c.hidden, c.expert_inter)
    shapes = dict(zip(PARTS, (wide, wide, tall), strict=True))
    trunk = [tensor for t in parsed.trunk for tensor in stored_tensors(t, _default_bits(t))]
    manifest = Manifest(
        directory=Path(like),
        model_type=c.model_type,
        source={"name": like},
        quantisation={},
        layouts=(make_layout((part, *shapes[part], DEFAULT_BITS) for part in PARTS),),
        layers=(LayerFile(Path(like), c.experts, 0, 0, "", ""),) * c.layers,
        trunk=TrunkFile(Path(like), _file_bytes(trunk), ""),
    )
    return _sizes(
        like, manifest, parsed, lambda t: _nbytes(stored_tensors(t, _default_bits(t))), experts_per_token
    )  # fmt: skip


def _sizes(
    name: str, manifest: Manifest, parsed: Architecture, stored: Callable[[TrunkTensor], int], chosen: int | None
) -> ModelSizes:
    config = with_experts_per_token(parsed.config, chosen)
    top_k = config.top_k
    parts = dict.fromkeys(("mixers", "routers", "shared", "head"), 0)
    operations = dict.fromkeys(parts, 0)
    for tensor in parsed.trunk:
        parts[_part(tensor)] += stored(tensor) // (tensor.shape[0] if _is_looked_up(tensor, config) else 1)
        if tensor.kind in (Kind.MATRIX, Kind.SENSITIVE):
            operations[_part(tensor)] += 2 * prod(tensor.shape)
    records = sum(manifest.layout(i).record_bytes for i in range(config.layers))
    return ModelSizes(
        name=name,
        manifest=manifest,
        config=config,
        own_top_k=parsed.config.top_k,
        **parts,
        experts=top_k * records,
        delta=fixed_state_bytes(config),
        operations_before=operations["mixers"] + operations["routers"],
        operations_beside=operations["shared"] + top_k * config.layers * 6 * config.hidden * config.expert_inter,
    )


def _part(tensor: TrunkTensor) -> str:
    if ".mlp.shared_expert" in tensor.name:
        return "shared"
    if ".mlp." in tensor.name:
        return "routers"
    return "mixers" if ".layers." in tensor.name else "head"


def _is_looked_up(tensor: TrunkTensor, config: ModelConfig) -> bool:
    """Whether a token takes one row of it; a tied table is the head besides, and is read whole."""
    return tensor.kind is Kind.EMBEDDING and not config.tied


def _default_bits(tensor: TrunkTensor) -> int:
    if tensor.kind not in MATRICES:
        return 32
    if tensor.shape[1] % GROUP:
        return 16
    return SENSITIVE_BITS if tensor.kind is Kind.SENSITIVE else DEFAULT_BITS


def _nbytes(tensors: list[NewTensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _file_bytes(tensors: list[NewTensor]) -> int:
    all_of_it = padded(tensors)
    return len(blank_header(all_of_it, TRUNK_PART)) + _nbytes(all_of_it)
