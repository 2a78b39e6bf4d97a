"""Tiny random checkpoints made by transformers: the oracle that nobody here wrote.

The weights are not left as they are initialised: norms, A_log, dt_bias and the convolution are random, routers are
wide so that their choices are not near-tied, and the residual writers (o_proj, out_proj, down_proj) are scaled by 0.25,
since a small random network is otherwise chaotic under any rounding.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

# More threads than one only wait for each other at these sizes.
torch.set_num_threads(1)

VOCAB = 512
HEAD_SCALE = 2.5
"""Standard deviation of the logits. At 1 the distributions are nearly flat, and any error's divergence looks small."""
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 64,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 1024,
    "hidden_act": "silu",
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
HYBRID = {
    "shared_expert_intermediate_size": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_5_moe_text": {
        **COMMON,
        **HYBRID,
        "model_type": "qwen3_5_moe_text",
        "num_hidden_layers": 8,
        "rope_parameters": ROPE,
    },
    # Head dimensions that are not powers of two, three value heads to a key head.
    "qwen3_next": {
        **COMMON,
        **HYBRID,
        "model_type": "qwen3_next",
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "head_dim": 80,
        "linear_num_value_heads": 6,
        "linear_key_head_dim": 24,
        "linear_value_head_dim": 48,
        "rope_parameters": ROPE,
    },
    "qwen3_moe": {
        **COMMON,
        "model_type": "qwen3_moe",
        "num_hidden_layers": 4,
        "norm_topk_prob": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
}
CONFIGS["qwen3_5_moe"] = {
    "model_type": "qwen3_5_moe",
    "text_config": {**CONFIGS["qwen3_5_moe_text"], "num_hidden_layers": 4},
    "vision_config": {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 128,
        "num_position_embeddings": 16,
    },
    "tie_word_embeddings": False,
}
# Larger than memory: experts are nine tenths of it.
CONFIGS["many_experts"] = {**CONFIGS["qwen3_moe"], "num_experts": 128}
TINY = [name for name in CONFIGS if name != "many_experts"]


def _randomise(model: PreTrainedModel, seed: int) -> None:
    """Weights of sane scale everywhere; see the module's docstring."""
    generator = torch.Generator().manual_seed(seed)

    def normal(p: torch.Tensor, std: float, mean: float = 0.0) -> None:
        p.copy_(torch.randn(p.shape, generator=generator) * std + mean)

    for name, p in model.named_parameters():
        if name.endswith("A_log"):
            p.copy_(torch.rand(p.shape, generator=generator) * 2.5 - 1.5)
        elif name.endswith("dt_bias"):
            normal(p, 0.5)
        elif "norm" in name:
            # Zero-centred norms are initialised to 0 and plain ones to 1: stay around either.
            normal(p, 0.1, float(p.mean()))
        elif "conv1d" in name:
            normal(p, 0.4)
        elif name.endswith(("embed_tokens.weight", "mlp.gate.weight")):
            normal(p, 1.0 if "embed" in name else 2.0 * p.shape[-1] ** -0.5)
        elif p.dim() >= 2:
            writes = name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight", "down_proj"))
            scale = 0.25 if writes else HEAD_SCALE if name.startswith("lm_head") else 1.0
            normal(p, scale * p.shape[-1] ** -0.5)


def make_checkpoint(directory: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """Write a random model of that config, in bfloat16, as transformers saves it."""
    config = copy.deepcopy(config)
    auto = AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM
    model = auto.from_config(AutoConfig.for_model(**config))
    with torch.no_grad():
        _randomise(model, seed)
    model.to(torch.bfloat16).save_pretrained(directory)
    return directory


@dataclass(frozen=True)
class Oracle:
    """transformers in float32 with eager attention on the weights of a checkpoint."""

    model: PreTrainedModel

    @classmethod
    def load(cls, directory: Path) -> "Oracle":
        wrapped = "vision_config" in AutoConfig.from_pretrained(directory).to_dict()
        auto = AutoModelForImageTextToText if wrapped else AutoModelForCausalLM
        model = auto.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
        return cls(model.eval())

    def logits(self, tokens: np.ndarray, prefill: int) -> np.ndarray:
        """float32 [T, vocab]: the first `prefill` tokens at once, the others one by one on the cache."""
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        with torch.no_grad():
            out = self.model(ids[:, :prefill], use_cache=True)
            rows = [out.logits[0]]
            for i in range(prefill, len(tokens)):
                out = self.model(ids[:, i : i + 1], past_key_values=out.past_key_values, use_cache=True)
                rows.append(out.logits[0])
        return torch.cat(rows).numpy()


def some_tokens(count: int, seed: int = 1) -> np.ndarray:
    """int32 token ids, the same for the same seed."""
    return np.random.default_rng(seed).integers(0, VOCAB, count, dtype=np.int32)
