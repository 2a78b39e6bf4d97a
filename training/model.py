"""The demo model: transformers' own qwen3_5_moe_text modules, and the training forward over packed rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as modeling
from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeTextConfig

from training.delta_rule import chunk_delta_rule

AUXILIARY = 0.01
"""Weight of the balancing loss."""


def demo_config(**changes: Any) -> Qwen3_5MoeTextConfig:
    """Eight layers, every fourth full attention; 64 experts of 64, four a token, and a shared one."""
    sizes: dict[str, Any] = {
        "vocab_size": 1408,
        "hidden_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        "linear_conv_kernel_dim": 4,
        "num_experts": 64,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64,
        "max_position_embeddings": 8192,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": False,
    }
    return Qwen3_5MoeTextConfig(**{**sizes, **changes})


def build(config: Qwen3_5MoeTextConfig, device: str, seed: int = 0) -> Any:
    """A fresh model with bfloat16 weights, experts as grouped matrix products."""
    torch.manual_seed(seed)
    config._attn_implementation = "sdpa"
    config._experts_implementation = "grouped_mm"
    model = modeling.Qwen3_5MoeForCausalLM(config)
    depth = (2 * config.num_hidden_layers) ** -0.5
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Output projections start small so that the residual stream's size does not grow with depth.
            if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight", "experts.down_proj")):
                weight.mul_(depth)
    return model.to(device=device, dtype=torch.bfloat16)


@contextmanager
def packed_delta_rule(starts: torch.Tensor) -> Iterator[None]:
    """Within, GatedDeltaNet layers clear their state at `starts` [B, T]."""

    def rule(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, g: torch.Tensor, beta: torch.Tensor, **_: Any
    ) -> Any:
        return chunk_delta_rule(query, key, value, g, beta, starts), None

    original = modeling.torch_chunk_gated_delta_rule
    modeling.torch_chunk_gated_delta_rule = rule
    try:
        yield
    finally:
        modeling.torch_chunk_gated_delta_rule = original


@dataclass
class Losses:
    """`language`: weighted mean cross entropy. `balance`: 1 when routing is even. `load`: float32 [layers, experts],
    the shares of picks.
    """

    language: torch.Tensor
    balance: torch.Tensor
    load: torch.Tensor


def losses(model: Any, ids: torch.Tensor, weights: torch.Tensor, documents: torch.Tensor) -> Losses:
    """One forward over packed rows; no document sees another, in attention or in state."""
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    mask = ((documents.unsqueeze(1) == documents.unsqueeze(2)) & causal).unsqueeze(1)
    with packed_delta_rule(starts):
        out = model.model(
            input_ids=ids,
            attention_mask={"full_attention": mask, "linear_attention": None},
            use_cache=False,
            output_router_logits=True,
        )
    logits = model.lm_head(out.last_hidden_state[:, :-1])
    each = functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    target = weights[:, 1:].flatten()
    balance, load = _balance(out.router_logits, model.config.num_experts_per_tok)
    return Losses((each * target).sum() / target.sum(), balance, load)


def _balance(router_logits: tuple[torch.Tensor, ...], top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Switch Transformer's auxiliary loss, layer by layer: experts * sum(share of picks * mean probability)."""
    probabilities = torch.stack(router_logits).float().softmax(-1)
    layers, _, experts = probabilities.shape
    picks = probabilities.detach().topk(top_k, dim=-1).indices.flatten(1)
    load = torch.zeros(layers, experts, device=picks.device)
    load.scatter_add_(1, picks, torch.ones_like(picks, dtype=load.dtype))
    load = load / picks.shape[1]
    return (experts * (load * probabilities.mean(1)).sum(-1)).mean(), load
