"""qwen3_next (Qwen3-Next-80B-A3B, Coder-Next): GatedDeltaNet and gated full attention, with the delta projections
fused key head by key head in the checkpoint."""

from collections.abc import Mapping
from typing import Any

from flashmoe.models.architecture import Architecture, ModelConfig
from flashmoe.models.config import (
    ConfigReader,
    delta_net,
    epsilon,
    expert_counts,
    heads,
    layer_types,
    refuse_unsupported,
    rope,
)
from flashmoe.models.trunk import assemble


def hybrid_config(reader: ConfigReader, model_type: str, *, renormalise: bool, tied: bool) -> ModelConfig:
    """The sizes of a model with both layer kinds, as qwen3_next and qwen3_5_moe spell them."""
    refuse_unsupported(reader)
    query, key_value = heads(reader)
    head_dim = reader.integer("head_dim")
    theta, rotary_dim = rope(reader, head_dim, 0.25)
    experts, top_k = expert_counts(reader)
    return ModelConfig(
        model_type=model_type,
        vocab=reader.integer("vocab_size"),
        hidden=reader.integer("hidden_size"),
        layer_types=layer_types(reader),
        heads=query,
        kv_heads=key_value,
        head_dim=head_dim,
        rotary_dim=rotary_dim,
        rope_theta=theta,
        attention_gate=True,
        experts=experts,
        top_k=top_k,
        renormalise=renormalise,
        expert_inter=reader.integer("moe_intermediate_size"),
        shared_inter=reader.integer("shared_expert_intermediate_size"),
        eps=epsilon(reader),
        tied=tied,
        max_context=reader.integer("max_position_embeddings"),
        delta=delta_net(reader),
        eos=reader.token_ids("eos_token_id"),
    )


def architecture(config: Mapping[str, Any]) -> Architecture:
    """Raises FormatError with the key's name where the config is incomplete or wants what is not supported."""
    reader = ConfigReader(config)
    sizes = hybrid_config(
        reader,
        "qwen3_next",
        renormalise=reader.boolean("norm_topk_prob", True),
        tied=reader.boolean("tie_word_embeddings", False),
    )
    return assemble(sizes, zero_centred=True, fused_delta=True)
