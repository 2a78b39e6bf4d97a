"""What is exported is an ordinary checkpoint with exactly the weights that were packed."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from checkpoints import CONFIGS, WRAPPED, one_tensor_an_expert, random_weights, wrapped, write_hf
from flashmoe import _native
from flashmoe.errors import FlashMoeError
from flashmoe.files.safetensors import read_header
from flashmoe.hub.matrix import bfloat16_bits
from flashmoe.pack.export import export
from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe


def read(directory):
    """name -> float32 of all shards of a checkpoint."""
    result = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, framework="torch") as file:
            result |= {name: file.get_tensor(name).float().numpy() for name in list(file.keys())}
    return result


def affine(values, bits):
    """Affine values of float32 weights, from scratch: encode with the native quantiser, decode in float64."""
    codes, scales, biases = _native.quantise(values.astype(np.float32).reshape(-1, values.shape[-1]), bits)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    unpacked = ((codes[..., None] >> shifts) & (2**bits - 1)).reshape(codes.shape[0], -1, 64).astype(np.float64)
    s, b = (a.view(ml_dtypes.bfloat16).astype(np.float64)[..., None] for a in (scales, biases))
    return (unpacked * s + b).astype(np.float32).reshape(values.shape)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_float32_export_holds_the_packed_values_under_the_published_names(tmp_path, model_type):
    config, tensors = CONFIGS[model_type], random_weights(CONFIGS[model_type])
    pack(write_hf(tmp_path / "hf", config, tensors), tmp_path / "packed", Recipe())
    export(tmp_path / "packed", tmp_path / "out", "float32")
    exported = read(tmp_path / "out")
    assert exported.keys() == tensors.keys()
    for name, values in tensors.items():
        assert exported[name].shape == values.shape
        if values.ndim < 2 or "conv1d" in name:
            np.testing.assert_array_equal(exported[name], values)
        else:
            sensitive = ("mlp.gate.", "shared_expert_gate.", "in_proj_ba.", "in_proj_a.", "in_proj_b.")
            bits = 8 if any(part in name for part in sensitive) else 4
            np.testing.assert_array_equal(exported[name], affine(values, bits))


@pytest.mark.parametrize("model_type", CONFIGS)
def test_transformers_loads_the_export_with_every_weight_in_its_place(tmp_path, model_type):
    config, tensors = CONFIGS[model_type], random_weights(CONFIGS[model_type])
    pack(write_hf(tmp_path / "hf", config, one_tensor_an_expert(tensors)), tmp_path / "packed", Recipe(8, 8))
    export(tmp_path / "packed", tmp_path / "out", "float32")
    exported = read(tmp_path / "out")
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    state = {name: p.detach().numpy() for name, p in model.named_parameters()}
    assert state.keys() == exported.keys()
    for name, values in state.items():
        np.testing.assert_array_equal(values, exported[name])


def test_vectors_survive_packing_what_was_exported(tmp_path):
    """Norms gain and lose their 1, convolutions their middle axis, without a bit lost."""
    config = CONFIGS["qwen3_next"]
    first = pack(write_hf(tmp_path / "hf", config, random_weights(config)), tmp_path / "a", Recipe(8, 16))
    export(tmp_path / "a", tmp_path / "out", "float32")
    second = pack(tmp_path / "out", tmp_path / "b", Recipe(8, 16))
    vectors = [n for n, i in read_header(first.trunk.path).tensors.items() if len(i.shape) == 1 or "conv1d" in n]
    assert len(vectors) > 20
    for name in vectors:
        one, two = (safe_open(m.trunk.path, framework="numpy").get_tensor(name) for m in (first, second))
        np.testing.assert_array_equal(one, two)


def test_bfloat16_export_is_the_float32_one_rounded(tmp_path):
    config = CONFIGS["qwen3_5_moe_text"]
    pack(write_hf(tmp_path / "hf", config, random_weights(config)), tmp_path / "packed", Recipe())
    for dtype in ("float32", "bfloat16"):
        export(tmp_path / "packed", tmp_path / dtype, dtype)
    exact, rounded = read(tmp_path / "float32"), read(tmp_path / "bfloat16")
    for name, values in exact.items():
        expected = values if values.ndim == 1 or "conv1d" in name else bfloat16_bits(values)
        actual = rounded[name] if expected is values else bfloat16_bits(rounded[name])
        np.testing.assert_array_equal(actual, expected)
    header = read_header(tmp_path / "bfloat16" / "model-00001-of-00001.safetensors")
    assert header.tensors["lm_head.weight"].dtype == "BF16"


def test_wrapped_source_exports_the_text_model_with_its_other_files(tmp_path):
    source = write_hf(tmp_path / "hf", WRAPPED, wrapped(random_weights(CONFIGS["qwen3_5_moe_text"])))
    pack(source, tmp_path / "packed", Recipe())
    export(tmp_path / "packed", tmp_path / "out", "float32")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "qwen3_5_moe_text"
    assert config["hidden_size"] == 128
    assert "text_config" not in config
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)


def test_existing_directory_and_damaged_trunk_are_sentences_and_leave_nothing(tmp_path):
    config = CONFIGS["qwen3_moe"]
    pack(write_hf(tmp_path / "hf", config, random_weights(config)), tmp_path / "packed", Recipe())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    with pytest.raises(FlashMoeError, match="not an empty directory"):
        export(tmp_path / "packed", tmp_path / "full", "float32")
    assert (tmp_path / "full" / "mine").read_text() == "mine"
    layer = tmp_path / "packed" / "experts" / "layer-003.safetensors"
    layer.write_bytes(layer.read_bytes()[:-5000])
    with pytest.raises(FlashMoeError, match=r"layer-003\.safetensors is truncated.*flashmoe verify"):
        export(tmp_path / "packed", tmp_path / "out", "float32")
    assert not (tmp_path / "out").exists()
