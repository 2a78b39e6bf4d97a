"""qwen3_moe (Qwen3-30B-A3B, 235B-A22B, Coder): full attention in every layer, no output gate, no shared expert."""

from collections.abc import Mapping
from typing import Any

from flashmoe.models.architecture import Architecture, ModelConfig
from flashmoe.models.config import ConfigReader, epsilon, expert_counts, heads, layer_count, refuse_unsupported, rope
from flashmoe.models.trunk import assemble


def architecture(config: Mapping[str, Any]) -> Architecture:
    """Raises FormatError with the key's name where the config is incomplete or wants what is not supported."""
    reader = ConfigReader(config)
    refuse_unsupported(reader)
    query, key_value = heads(reader)
    hidden = reader.integer("hidden_size")
    head_dim = reader.integer("head_dim", hidden // query)
    theta, rotary_dim = rope(reader, head_dim, 1.0)
    experts, top_k = expert_counts(reader)
    return assemble(
        ModelConfig(
            model_type="qwen3_moe",
            vocab=reader.integer("vocab_size"),
            hidden=hidden,
            layer_types=("full_attention",) * layer_count(reader),
            heads=query,
            kv_heads=key_value,
            head_dim=head_dim,
            rotary_dim=rotary_dim,
            rope_theta=theta,
            attention_gate=False,
            experts=experts,
            top_k=top_k,
            renormalise=reader.boolean("norm_topk_prob", False),
            expert_inter=reader.integer("moe_intermediate_size"),
            shared_inter=0,
            eps=epsilon(reader),
            tied=reader.boolean("tie_word_embeddings", False),
            max_context=reader.integer("max_position_embeddings"),
            delta=None,
            eos=reader.token_ids("eos_token_id"),
        ),
        zero_centred=False,
    )
