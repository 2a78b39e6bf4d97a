"""Tiny random checkpoints in the forms people publish: Hugging Face and MLX. Made without torch, so in milliseconds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from flashmoe.models import architecture
from flashmoe.models.architecture import Architecture, Kind

if TYPE_CHECKING:
    import mlx.core as mx

COMMON = {
    "vocab_size": 320,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
}
HYBRID = {
    "shared_expert_intermediate_size": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_5_moe_text": {**COMMON, **HYBRID, "model_type": "qwen3_5_moe_text"},
    "qwen3_next": {**COMMON, **HYBRID, "model_type": "qwen3_next"},
    "qwen3_moe": {**COMMON, "model_type": "qwen3_moe", "norm_topk_prob": True},
}
WRAPPED = {"model_type": "qwen3_5_moe", "text_config": CONFIGS["qwen3_5_moe_text"], "vision_config": {"depth": 1}}
NUMPY = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}

Tensors = dict[str, np.ndarray]


def sized(model_type: str, **sizes: int) -> dict[str, Any]:
    """A config with some sizes changed."""
    return {**CONFIGS[model_type], **sizes}


def random_weights(config: dict[str, Any], seed: int = 0) -> Tensors:
    """float32 values that bfloat16 and float16 hold exactly, by text-only Hugging Face names, experts fused."""
    rng = np.random.default_rng(seed)
    arch = architecture(config)

    def values(shape: tuple[int, ...], std: float, mean: float = 0.0) -> np.ndarray:
        draw = (rng.standard_normal(shape) * std + mean).astype(np.float32)
        # 5 bits of mantissa and no subnormals: both 16-bit formats hold them.
        return np.where(np.abs(draw) < 2**-12, np.float32(2**-12), draw).astype(ml_dtypes.bfloat16).astype(np.float32)

    tensors: Tensors = {}
    for source, tensor in {t.source: t for t in arch.trunk}.items():
        shape = tensor.shape if tensor.rows is None else (_source_rows(arch, source), tensor.shape[1])
        if tensor.kind is Kind.CONV:
            shape = (shape[0], 1, shape[1])
        std = shape[-1] ** -0.5 if len(shape) == 2 else 0.2
        tensors[source] = values(shape, std, 1.0 if tensor.kind is Kind.NORM and not tensor.zero_centred else 0.0)
    c = arch.config
    for prefix in arch.expert_prefixes:
        tensors[f"{prefix}.gate_up_proj"] = values((c.experts, 2 * c.expert_inter, c.hidden), c.hidden**-0.5)
        tensors[f"{prefix}.down_proj"] = values((c.experts, c.hidden, c.expert_inter), c.expert_inter**-0.5)
    return tensors


def _source_rows(arch: Architecture, source: str) -> int:
    return 1 + max(int(t.rows().max()) for t in arch.trunk if t.source == source and t.rows is not None)


def one_tensor_an_expert(tensors: Tensors) -> Tensors:
    """The experts as transformers saves them."""
    result: Tensors = {}
    for name, values in tensors.items():
        if name.endswith(".gate_up_proj"):
            for e, both in enumerate(values):
                prefix = f"{name.removesuffix('.gate_up_proj')}.{e}"
                result[f"{prefix}.gate_proj.weight"], result[f"{prefix}.up_proj.weight"] = np.split(both, 2)
        elif name.endswith(".experts.down_proj"):
            for e, one in enumerate(values):
                result[f"{name.removesuffix('.down_proj')}.{e}.down_proj.weight"] = one
        else:
            result[name] = values
    return result


def wrapped(tensors: Tensors) -> Tensors:
    """The names under a vision wrapper, with tensors of the towers that are skipped."""
    renamed = {
        name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name: values
        for name, values in tensors.items()
    }
    return {**renamed, "model.visual.patch.weight": np.ones((2, 2), np.float32), "mtp.fc.weight": np.ones((2, 2))}


def write_hf(
    directory: Path, config: dict[str, Any], tensors: Tensors, dtype: str = "bfloat16", shards: int = 1
) -> Path:
    """A Hugging Face directory; A_log stays float32 as published checkpoints keep it."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text("{}")
    stored = {n: np.ascontiguousarray(v.astype(NUMPY[dtype])) for n, v in tensors.items()}
    if shards == 1:
        save_file(stored, directory / "model.safetensors", {"format": "pt"})
        return directory
    names = list(stored)
    weight_map = {}
    for i in range(shards):
        part = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: stored[name] for name in part}, directory / file, {"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def to_mlx(config: dict[str, Any], tensors: Tensors) -> dict[str, "mx.array"]:
    """bfloat16 arrays as mlx-lm has them: prefix, stacked experts, norms + 1, convolution [channels, kernel, 1]."""
    import mlx.core as mx

    zero_centred = {t.source for t in architecture(config).trunk if t.zero_centred}
    result: dict[str, mx.array] = {}
    for name, values in tensors.items():
        array = mx.array(values).astype(mx.bfloat16)
        base = name.replace(".experts.", ".switch_mlp.")
        if name.endswith(".gate_up_proj"):
            gate, up = mx.split(array, 2, axis=1)
            result[base.replace("gate_up_proj", "gate_proj.weight")] = gate
            result[base.replace("gate_up_proj", "up_proj.weight")] = up
        elif name.endswith(".experts.down_proj"):
            result[f"{base}.weight"] = array
        elif name.endswith("conv1d.weight"):
            result[name] = mx.transpose(array, (0, 2, 1))
        else:
            result[name] = array + 1 if name in zero_centred else array
    return {f"language_model.{name}": array for name, array in result.items()}


def quantise_mlx(
    arrays: dict[str, "mx.array"], bits: int, router_bits: int = 8
) -> tuple[dict[str, "mx.array"], dict[str, Any]]:
    """All matrices affine, group 64: tensors, and the `quantization` of config.json."""
    import mlx.core as mx

    result: dict[str, mx.array] = {}
    quantization: dict[str, Any] = {"group_size": 64, "bits": bits, "mode": "affine"}
    for name, array in arrays.items():
        base = name.removesuffix(".weight")
        if array.ndim < 2 or "conv1d" in name or not name.endswith(".weight"):
            result[name] = array
            continue
        own = router_bits if base.endswith(("mlp.gate", "shared_expert_gate")) else bits
        if own != bits:
            quantization[base] = {"group_size": 64, "bits": own}
        codes, scales, biases = mx.quantize(array, group_size=64, bits=own)
        result |= {name: codes, f"{base}.scales": scales, f"{base}.biases": biases}
    return result, quantization


def write_mlx(directory: Path, config: dict[str, Any], arrays: dict[str, "mx.array"], quantization: object) -> Path:
    """An MLX directory."""
    import mlx.core as mx

    directory.mkdir(parents=True)
    full = {**config, "quantization": quantization, "quantization_config": quantization} if quantization else config
    (directory / "config.json").write_text(json.dumps(full))
    (directory / "tokenizer.json").write_text("{}")
    mx.save_safetensors(str(directory / "model.safetensors"), arrays, {"format": "mlx"})
    return directory
