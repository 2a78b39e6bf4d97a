"""The trunk tensors that the model_types share, by their Hugging Face names. Knows shapes, not where bytes lie."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from flashmoe.models.architecture import Architecture, DeltaNet, Kind, ModelConfig, TrunkTensor

Rows = NDArray[np.int64]


def matrix(name: str, rows: int, columns: int, kind: Kind = Kind.MATRIX) -> TrunkTensor:
    """[rows, columns], found as it is named."""
    return TrunkTensor(name, kind, (rows, columns), f"{name}.weight")


def part_of_matrix(
    name: str, source: str, shape: tuple[int, int], rows: Callable[[], Rows], kind: Kind = Kind.MATRIX
) -> TrunkTensor:
    """The given rows of a matrix that the checkpoint holds fused under another name."""
    return TrunkTensor(name, kind, shape, f"{source}.weight", rows)


def norm(name: str, size: int, zero_centred: bool) -> TrunkTensor:
    return TrunkTensor(f"{name}.weight", Kind.NORM, (size,), f"{name}.weight", zero_centred=zero_centred)


def full_attention(prefix: str, c: ModelConfig, zero_centred: bool) -> list[TrunkTensor]:
    """q_proj holds query and output gate side by side, head by head, where the model has the gate."""
    query = c.heads * c.head_dim * (2 if c.attention_gate else 1)
    return [
        matrix(f"{prefix}.q_proj", query, c.hidden),
        matrix(f"{prefix}.k_proj", c.kv_heads * c.head_dim, c.hidden),
        matrix(f"{prefix}.v_proj", c.kv_heads * c.head_dim, c.hidden),
        matrix(f"{prefix}.o_proj", c.hidden, c.heads * c.head_dim),
        norm(f"{prefix}.q_norm", c.head_dim, zero_centred),
        norm(f"{prefix}.k_norm", c.head_dim, zero_centred),
    ]


def delta_projections(prefix: str, c: ModelConfig, d: DeltaNet) -> list[TrunkTensor]:
    """The four input projections, each a tensor of its own."""
    return [
        matrix(f"{prefix}.in_proj_qkv", d.channels, c.hidden),
        matrix(f"{prefix}.in_proj_z", d.value_heads * d.value_dim, c.hidden),
        matrix(f"{prefix}.in_proj_b", d.value_heads, c.hidden, Kind.SENSITIVE),
        matrix(f"{prefix}.in_proj_a", d.value_heads, c.hidden, Kind.SENSITIVE),
    ]


def fused_delta_projections(prefix: str, c: ModelConfig, d: DeltaNet) -> list[TrunkTensor]:
    """The same four as rows of in_proj_qkvz and in_proj_ba, which hold, key head by key head, [q | k | v | z] and
    [b | a] with the value heads that the key head serves."""
    values = d.value_heads // d.key_heads
    width = values * d.value_dim
    stride = 2 * d.key_dim + 2 * width

    def rows(stride: int, begin: int, count: int) -> Rows:
        heads = np.arange(d.key_heads, dtype=np.int64)[:, None]
        return (heads * stride + begin + np.arange(count)).reshape(-1)

    def qkv() -> Rows:
        parts = ((0, d.key_dim), (d.key_dim, d.key_dim), (2 * d.key_dim, width))
        return np.concatenate([rows(stride, begin, count) for begin, count in parts])

    qkvz, ba = f"{prefix}.in_proj_qkvz", f"{prefix}.in_proj_ba"
    z = partial(rows, stride, 2 * d.key_dim + width, width)
    b, a = partial(rows, 2 * values, 0, values), partial(rows, 2 * values, values, values)
    return [
        part_of_matrix(f"{prefix}.in_proj_qkv", qkvz, (d.channels, c.hidden), qkv),
        part_of_matrix(f"{prefix}.in_proj_z", qkvz, (d.value_heads * d.value_dim, c.hidden), z),
        part_of_matrix(f"{prefix}.in_proj_b", ba, (d.value_heads, c.hidden), b, Kind.SENSITIVE),
        part_of_matrix(f"{prefix}.in_proj_a", ba, (d.value_heads, c.hidden), a, Kind.SENSITIVE),
    ]


def linear_attention(prefix: str, c: ModelConfig, d: DeltaNet, fused: bool) -> list[TrunkTensor]:
    projections = fused_delta_projections if fused else delta_projections
    conv = f"{prefix}.conv1d.weight"
    return [
        *projections(prefix, c, d),
        TrunkTensor(conv, Kind.CONV, (d.channels, d.kernel), conv),
        TrunkTensor(f"{prefix}.A_log", Kind.VECTOR, (d.value_heads,), f"{prefix}.A_log"),
        TrunkTensor(f"{prefix}.dt_bias", Kind.VECTOR, (d.value_heads,), f"{prefix}.dt_bias"),
        norm(f"{prefix}.norm", d.value_dim, zero_centred=False),
        matrix(f"{prefix}.out_proj", c.hidden, d.value_heads * d.value_dim),
    ]


def mixture(prefix: str, c: ModelConfig) -> list[TrunkTensor]:
    """The router and, where the model has one, the shared expert."""
    router = matrix(f"{prefix}.gate", c.experts, c.hidden, Kind.SENSITIVE)
    if not c.shared_inter:
        return [router]
    return [
        router,
        matrix(f"{prefix}.shared_expert.gate_proj", c.shared_inter, c.hidden),
        matrix(f"{prefix}.shared_expert.up_proj", c.shared_inter, c.hidden),
        matrix(f"{prefix}.shared_expert.down_proj", c.hidden, c.shared_inter),
        matrix(f"{prefix}.shared_expert_gate", 1, c.hidden, Kind.SENSITIVE),
    ]


def assemble(c: ModelConfig, *, zero_centred: bool, fused_delta: bool = False) -> Architecture:
    """Everything a config of the family implies, layer by layer in the order of computation."""
    tensors = [matrix("model.embed_tokens", c.vocab, c.hidden, Kind.EMBEDDING)]
    for i, kind in enumerate(c.layer_types):
        layer = f"model.layers.{i}"
        tensors.append(norm(f"{layer}.input_layernorm", c.hidden, zero_centred))
        if kind == "full_attention":
            tensors += full_attention(f"{layer}.self_attn", c, zero_centred)
        else:
            assert c.delta is not None
            tensors += linear_attention(f"{layer}.linear_attn", c, c.delta, fused_delta)
        tensors.append(norm(f"{layer}.post_attention_layernorm", c.hidden, zero_centred))
        tensors += mixture(f"{layer}.mlp", c)
    tensors.append(norm("model.norm", c.hidden, zero_centred))
    if not c.tied:
        tensors.append(matrix("lm_head", c.vocab, c.hidden))
    return Architecture(c, tuple(tensors), tuple(f"model.layers.{i}.mlp.experts" for i in range(c.layers)))
