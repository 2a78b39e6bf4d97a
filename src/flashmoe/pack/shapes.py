"""The config.json of published models as far as shapes of the text part go. Knows numbers of model cards, not files."""

from typing import Any

from flashmoe.errors import FlashMoeError

_COMMON: dict[str, Any] = {
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "max_position_embeddings": 262144,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
    "vocab_size": 248320,
    "model_type": "qwen3_5_moe_text",
}


def _sizes(
    hidden: int, layers: int, heads: int, value_heads: int, experts: int, top_k: int, inter: int
) -> dict[str, Any]:
    return {
        **_COMMON,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "linear_num_value_heads": value_heads,
        "num_experts": experts,
        "num_experts_per_tok": top_k,
        "moe_intermediate_size": inter,
        "shared_expert_intermediate_size": inter,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "qwen3.5-397b-a17b": _sizes(4096, 60, 32, 64, 512, 10, 1024),
    "qwen3.5-122b-a10b": _sizes(3072, 48, 32, 64, 256, 8, 1024),
    "qwen3.5-35b-a3b": _sizes(2048, 40, 16, 32, 256, 8, 512),
    "qwen3-next-80b-a3b": {
        **_sizes(2048, 48, 16, 32, 512, 10, 512),
        "vocab_size": 151936,
        "model_type": "qwen3_next",
    },
}


def shaped_config(like: str, layers: int | None) -> dict[str, Any]:
    """The config of a published model, with the first `layers` layers alone unless None."""
    if like not in SHAPES:
        raise FlashMoeError(f"There are no shapes of {like!r}; known are {', '.join(SHAPES)}.")
    config = dict(SHAPES[like])
    if layers is not None:
        if not 1 <= layers <= config["num_hidden_layers"]:
            raise FlashMoeError(f"{like} has 1 to {config['num_hidden_layers']} layers, not {layers}.")
        config["num_hidden_layers"] = layers
    return config
