"""What a model_type must tell the rest of the program: its sizes, its tensors, and where a checkpoint keeps them.

Pack and loader read this; neither knows a model by name. Knows no files and no arithmetic.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DeltaNet:
    """Sizes of the GatedDeltaNet mixer."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int

    @property
    def channels(self) -> int:
        """Columns of in_proj_qkv and channels of the convolution: q, k and v side by side."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim


@dataclass(frozen=True)
class ModelConfig:
    """One decoder of the family, whatever its model_type called things. `layer_types`: `full_attention` or
    `linear_attention`."""

    model_type: str
    vocab: int
    hidden: int
    layer_types: tuple[str, ...]
    heads: int
    kv_heads: int
    head_dim: int
    rotary_dim: int
    rope_theta: float
    attention_gate: bool
    experts: int
    top_k: int
    renormalise: bool
    expert_inter: int
    shared_inter: int
    eps: float
    tied: bool
    max_context: int
    delta: DeltaNet | None
    eos: tuple[int, ...]

    @property
    def layers(self) -> int:
        return len(self.layer_types)


class Kind(Enum):
    """How a trunk tensor is stored and used."""

    MATRIX = "matrix"
    """[out, in], quantised at the trunk's bits."""
    EMBEDDING = "embedding"
    """A matrix whose rows are looked up."""
    SENSITIVE = "sensitive"
    """[out, in], 8-bit with exact activations: routers, the shared expert's gate, the decay and beta projections."""
    VECTOR = "vector"
    """Small, kept in float32."""
    NORM = "norm"
    """A vector stored as the effective weight: 1 is added when packing where the checkpoint is zero-centred."""
    CONV = "conv"
    """Depthwise convolution, float32 [channels, kernel]."""


@dataclass(frozen=True)
class TrunkTensor:
    """One tensor that is not a routed expert.

    name: canonical, the Hugging Face text-only name without `.weight` for matrices (`model.layers.0.self_attn.q_proj`).
    source: the name to look up in a checkpoint (after the reader stripped prefixes), with its suffix (`....weight`).
    rows: gives the rows of the source that make this tensor, in order; None for all. A call, since only a file can say
    whether there are so many.
    zero_centred: the checkpoint form of the norm is w - 1 (an MLX checkpoint has 1 added already).
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    source: str
    rows: Callable[[], NDArray[np.int64]] | None = field(default=None, compare=False)
    zero_centred: bool = False


@dataclass(frozen=True)
class Architecture:
    """A parsed config and everything that follows from it.

    expert_prefixes: per layer, the name under which its experts are found (`model.layers.0.mlp.experts`).
    """

    config: ModelConfig
    trunk: tuple[TrunkTensor, ...]
    expert_prefixes: tuple[str, ...]
