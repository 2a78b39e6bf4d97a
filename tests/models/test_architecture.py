"""What an architecture says of a config, against transformers' own modules."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from flashmoe.errors import FormatError
from flashmoe.models import architecture
from flashmoe.models.architecture import Kind

COMMON = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "eos_token_id": [3, 5],
}
DELTA = {
    "shared_expert_intermediate_size": 128,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}
CONFIGS = {
    "qwen3_moe": {**COMMON, "model_type": "qwen3_moe", "rope_theta": 1e6, "norm_topk_prob": True},
    "qwen3_next": {**COMMON, **DELTA, "model_type": "qwen3_next", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
    "qwen3_5_moe_text": {
        **COMMON,
        **DELTA,
        "model_type": "qwen3_5_moe_text",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
    },
}
CONFIGS["qwen3_5_moe"] = {"model_type": "qwen3_5_moe", "text_config": CONFIGS["qwen3_5_moe_text"], "eos_token_id": 7}


def oracle_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of transformers' own parameters, with the wrapper's prefix taken off."""
    wrapped = config["model_type"] == "qwen3_5_moe"
    auto = AutoModelForImageTextToText if wrapped else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(AutoConfig.for_model(**copy.deepcopy(config)))
    shapes = {name.replace("model.language_model.", "model."): tuple(p.shape) for name, p in model.named_parameters()}
    return {name: shape for name, shape in shapes.items() if not name.startswith("model.visual.")}


@pytest.mark.parametrize("name", CONFIGS)
def test_trunk_covers_exactly_the_parameters_that_transformers_has(name):
    built = architecture(CONFIGS[name])
    expected = {k: s for k, s in oracle_shapes(CONFIGS[name]).items() if ".mlp.experts." not in k}
    assert {t.source for t in built.trunk} == set(expected)
    for tensor in built.trunk:
        source = expected[tensor.source]
        if tensor.kind is Kind.CONV:
            assert tensor.shape == (source[0], source[2])
        elif tensor.rows is None:
            assert tensor.shape == source
        else:
            assert tensor.shape == (len(tensor.rows()), source[1])


def test_row_selections_use_every_row_of_a_fused_projection_once():
    built = architecture(CONFIGS["qwen3_next"])
    shapes = oracle_shapes(CONFIGS["qwen3_next"])
    for source in ("in_proj_qkvz", "in_proj_ba"):
        full = f"model.layers.0.linear_attn.{source}.weight"
        rows = np.concatenate([t.rows() for t in built.trunk if t.source == full])
        assert sorted(rows) == list(range(shapes[full][0]))


def test_the_vision_wrapper_describes_the_same_decoder():
    wrapped, text = architecture(CONFIGS["qwen3_5_moe"]), architecture(CONFIGS["qwen3_5_moe_text"])
    assert wrapped.trunk == text.trunk
    assert wrapped.config.eos == (7,)
    assert text.config.eos == (3, 5)


def test_tied_embeddings_have_no_head_of_their_own():
    names = {t.name for t in architecture({**CONFIGS["qwen3_moe"], "tie_word_embeddings": True}).trunk}
    assert "lm_head" not in names


def test_rope_is_read_alike_from_both_generations_of_configs():
    new = architecture(CONFIGS["qwen3_5_moe_text"]).config
    old = architecture(CONFIGS["qwen3_next"]).config
    assert (new.rope_theta, new.rotary_dim) == (old.rope_theta, old.rotary_dim) == (1e7, 6)
    assert architecture(CONFIGS["qwen3_moe"]).config.rotary_dim == 24


def test_layer_types_follow_the_interval_where_they_are_not_listed():
    config = {**CONFIGS["qwen3_next"], "num_hidden_layers": 6, "full_attention_interval": 3}
    linear, full = "linear_attention", "full_attention"
    assert architecture(config).config.layer_types == (linear, linear, full, linear, linear, full)


REQUIRED = sorted({*COMMON, *DELTA} - {"hidden_act", "eos_token_id"})


@pytest.mark.parametrize("key", REQUIRED)
@pytest.mark.parametrize("damage", ["missing", "wrong type"])
def test_a_missing_or_mistyped_key_is_named_with_its_file(key, damage):
    text = {**CONFIGS["qwen3_5_moe_text"], key: "many"}
    if damage == "missing":
        del text[key]
    with pytest.raises(FormatError, match=rf"config\.json: text_config\.{key} "):
        architecture({"model_type": "qwen3_5_moe", "text_config": text})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_bias": True}, "attention_bias is True"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"mlp_only_layers": [1]}, "a layer without experts"),
        ({"decoder_sparse_step": 2}, "a layer without experts"),
        ({"hidden_act": "gelu"}, "another activation"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, r"rope_scaling\.rope_type is 'yarn'"),
        ({"num_experts_per_tok": 9}, "more than the layer's experts"),
        ({"num_key_value_heads": 3}, "must be a multiple"),
        ({"linear_num_key_heads": 4}, "must be a multiple"),
        ({"partial_rotary_factor": 0.125}, "gives 3 rotated dimensions"),
        ({"layer_types": ["full_attention"]}, "a list of 4 names"),
        ({"layer_types": ["mamba"] * 4}, "'mamba'"),
        ({"norm_topk_prob": 1}, "true or false"),
        ({"model_type": "llama"}, "known are qwen3_5_moe, qwen3_5_moe_text, qwen3_moe, qwen3_next"),
        ({"model_type": None}, "model_type is missing"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_a_sentence(change, message):
    with pytest.raises(FormatError, match=message):
        architecture({**CONFIGS["qwen3_next"], **change})
