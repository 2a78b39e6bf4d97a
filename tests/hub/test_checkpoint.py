"""What a reader of checkpoints makes of forms it knows, and says of those it does not."""

import json

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from checkpoints import CONFIGS, quantise_mlx, random_weights, to_mlx, wrapped, write_hf, write_mlx
from flashmoe.errors import FlashMoeError, FormatError
from flashmoe.hub import open_checkpoint
from flashmoe.hub.names import canonical, text_tensors
from flashmoe.models import architecture
from flashmoe.pack.plan import make_plan
from flashmoe.pack.recipe import Recipe

CONFIG = CONFIGS["qwen3_5_moe_text"]
TENSORS = random_weights(CONFIG)


def plan(directory):
    """Everything that packing asks of a checkpoint before it reads weights."""
    checkpoint = open_checkpoint(directory)
    try:
        return make_plan(checkpoint, architecture(checkpoint.config), Recipe())
    finally:
        checkpoint.close()


@pytest.mark.parametrize(
    ("published", "name"),
    [
        ("model.language_model.layers.0.mlp.gate.weight", "model.layers.0.mlp.gate.weight"),
        ("language_model.model.layers.0.mlp.gate.scales", "model.layers.0.mlp.gate.scales"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("model.norm.weight", "model.norm.weight"),
    ],
)
def test_prefixes_of_wrappers_are_stripped(published, name):
    assert canonical(published) == name


def test_other_towers_are_counted_and_left_out():
    names, skipped = text_tensors(
        ["model.visual.a", "mtp.b", "vision_tower.c", "language_model.mtp.d", "lm_head.weight"]
    )
    assert names == {"lm_head.weight": "lm_head.weight"}
    assert skipped == {"vision": 2, "multi-token prediction": 2}


def test_rows_come_in_any_order(tmp_path):
    checkpoint = open_checkpoint(write_hf(tmp_path / "hf", CONFIG, TENSORS, "float32"))
    try:
        rows = np.array([7, 8, 9, 3, 2, 2, 319])
        taken = checkpoint.matrix("lm_head.weight").take(rows).values
        np.testing.assert_array_equal(taken, TENSORS["lm_head.weight"][rows])
        assert checkpoint.matrix("lm_head.weight").rows(4, 4).values.shape == (0, 128)
    finally:
        checkpoint.close()


def test_experts_are_found_in_every_form(tmp_path):
    arrays, quantization = quantise_mlx(to_mlx(CONFIG, TENSORS), 4)
    for source in (
        write_hf(tmp_path / "hf", CONFIG, TENSORS),
        write_hf(tmp_path / "wrapped", CONFIG, wrapped(TENSORS)),
        write_mlx(tmp_path / "mlx", CONFIG, arrays, quantization),
    ):
        checkpoint = open_checkpoint(source)
        try:
            assert checkpoint.experts("model.layers.1.mlp.experts") == 6
            assert checkpoint.expert_matrix("model.layers.1.mlp.experts", 5, "gate").shape == (64, 128)
            assert checkpoint.expert_matrix("model.layers.1.mlp.experts", 5, "down").shape == (128, 64)
        finally:
            checkpoint.close()


def mlx(directory, quantization=None, bits=4, change=None, **config):
    arrays, found = quantise_mlx(to_mlx(CONFIG, TENSORS), bits)
    if change:
        change(arrays)
    return write_mlx(directory, {**CONFIG, **config}, arrays, quantization or found)


@pytest.mark.parametrize(
    ("quantization", "sentence"),
    [
        ({"group_size": 32, "bits": 4}, "group size 32 cannot be packed"),
        ({"group_size": 64, "bits": 3}, "3 bits cannot be packed"),
        ({"group_size": 64, "bits": 6}, "6 bits cannot be packed"),
        ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, "the mode 'mxfp4' cannot be packed"),
        ({"group_size": 64, "bits": 8}, "has 4 bits, but config.json promises 8"),
        ({"group_size": 64, "bits": 4, "language_model.lm_head": {"group_size": 64, "bits": 5}}, "lm_head': 5 bits"),
        ("fast", "'quantization' must be an object"),
    ],
)
def test_unknown_quantisation_is_named(tmp_path, quantization, sentence):
    with pytest.raises(FormatError, match=sentence):
        plan(mlx(tmp_path / "mlx", quantization))


@pytest.mark.parametrize("method", ["fp8", "gptq", "awq"])
def test_quantisation_of_hugging_face_is_named(tmp_path, method):
    source = write_hf(tmp_path / "hf", {**CONFIG, "quantization_config": {"quant_method": method}}, TENSORS)
    with pytest.raises(FormatError, match=f"'{method}', which cannot be packed"):
        plan(source)


@pytest.mark.parametrize("suffix", ["weight_scale_inv", "qweight"])
def test_tensors_of_other_quantisations_are_named(tmp_path, suffix):
    tensors = {**TENSORS, f"model.layers.0.self_attn.x.{suffix}": np.ones(3, np.float32)}
    with pytest.raises(FormatError, match="quantisation that cannot be packed"):
        plan(write_hf(tmp_path / "hf", CONFIG, tensors))


HEAD = "language_model.lm_head"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a: a.pop(f"{HEAD}.biases"), "scales but no biases"),
        (lambda a: [a.pop(f"{HEAD}.biases"), a.pop(f"{HEAD}.scales")], "holds codes but there is no lm_head.scales"),
        (lambda a: a.update({f"{HEAD}.scales": a[f"{HEAD}.scales"][:-1]}), "do not fit together"),
        (lambda a: a.update({f"{HEAD}.weight": a[f"{HEAD}.weight"].astype(mx.float32)}), "do not fit together"),
        (lambda a: a.update({f"{HEAD}.weight": a[f"{HEAD}.weight"][:, :12]}), "quantised with 3 bits a weight"),
        (lambda a: a.update({f"{HEAD}.weight": a[f"{HEAD}.weight"][:9]}), "which do not fit"),
        (lambda a: a.pop("language_model.model.norm.weight"), "lacks the tensor 'model.norm.weight'"),
    ],
)
def test_quantised_tensors_that_do_not_fit_are_named(tmp_path, change, sentence):
    with pytest.raises(FormatError, match=sentence):
        plan(mlx(tmp_path / "mlx", change=change))


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("model.norm.weight", None, "lacks the tensor 'model.norm.weight'"),
        ("model.layers.2.mlp.experts.down_proj", None, "no experts under 'model.layers.2.mlp.experts'"),
        ("lm_head.weight", np.ones((3, 128), np.float32), r"'lm_head.weight' does not have the shape \[320, 128\]"),
        ("model.norm.weight", np.ones(127, np.float32), "'model.norm.weight' does not have the shape"),
        ("lm_head.weight", np.float32(1), "not 2 extents"),
        ("model.layers.0.mlp.experts.down_proj", np.float32(1), "not 3 extents"),
        ("model.layers.0.mlp.experts.down_proj", np.ones((5, 128, 64), np.float32), "has 5 experts"),
        ("model.layers.0.mlp.experts.gate_up_proj", np.ones((6, 64, 128), np.float32), "does not have the shape"),
        ("model.layers.0.mlp.experts.gate_up_proj", np.ones((5, 128, 128), np.float32), "has no expert 5"),
        ("model.layers.9.mlp.gate.weight", np.ones((6, 128), np.float32), "1 tensors that a qwen3_5_moe does not have"),
        ("model.layers.0.self_attn.q_proj.bias", np.ones(3, np.float32), "does not have, 'model.layers.0.self_attn"),
    ],
)
def test_weights_that_do_not_fit_config_are_named(tmp_path, name, values, sentence):
    tensors = {n: v for n, v in TENSORS.items() if n != name or values is not None}
    if values is not None:
        tensors[name] = np.asarray(values)
    with pytest.raises(FormatError, match=sentence):
        plan(write_hf(tmp_path / "hf", CONFIG, tensors))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.mlp.experts.down_proj_bias", (6, 128)),
        ("model.layers.0.mlp.experts.3.gate_proj.weight", (64, 128)),
        ("model.layers.0.mlp.experts.6.down_proj.weight", (128, 64)),
        ("model.layers.0.mlp.experts.router_bias", (6,)),
        ("model.norm.scales", (128,)),
    ],
)
def test_a_tensor_that_nobody_reads_is_named(tmp_path, name, shape):
    with pytest.raises(FormatError, match=f"1 tensors that a qwen3_5_moe does not have, '{name}' among them"):
        plan(write_hf(tmp_path / "hf", CONFIG, {**TENSORS, name: np.ones(shape, np.float32)}))


def test_an_mlx_tensor_under_the_experts_that_nobody_reads_is_named(tmp_path):
    name = "language_model.model.layers.0.mlp.switch_mlp.gate_proj.lora_a"
    with pytest.raises(FormatError, match=r"'model\.layers\.0\.mlp\.switch_mlp\.gate_proj\.lora_a' among them"):
        plan(mlx(tmp_path / "mlx", change=lambda a: a.update({name: mx.ones((2, 2))})))


def test_one_tensor_under_two_names_is_named(tmp_path):
    tensors = {**TENSORS, "model.language_model.norm.weight": TENSORS["model.norm.weight"]}
    with pytest.raises(FormatError, match=r"under two names, '.*norm\.weight' and '.*norm\.weight'"):
        plan(write_hf(tmp_path / "hf", CONFIG, tensors))


def test_one_tensor_in_two_shards_is_named_with_both(tmp_path):
    """As a download over an older version leaves it."""
    source = write_hf(tmp_path / "hf", CONFIG, TENSORS, shards=3)
    first, second = sorted(source.glob("*.safetensors"))[:2]
    with safe_open(first, "numpy") as old, safe_open(second, "numpy") as new:
        name = sorted(old.keys())[0]
        tensors = {key: new.get_tensor(key) for key in new.keys()} | {name: old.get_tensor(name) + 1}  # noqa: SIM118
    save_file(tensors, second)
    with pytest.raises(FormatError, match=f"{second.name} and .*{first.name} both hold the tensor '{name}'"):
        plan(source)


def test_two_checkpoints_in_one_directory_are_named(tmp_path):
    source = write_hf(tmp_path / "hf", CONFIG, TENSORS, shards=3)
    old = write_hf(tmp_path / "old", CONFIG, TENSORS)
    (old / "model.safetensors").rename(source / "model.safetensors")
    with pytest.raises(FormatError, match=r"two checkpoints: model\.safetensors, and the shards that"):
        plan(source)


def test_an_index_of_one_shard_is_no_second_checkpoint(tmp_path):
    """As MLX writes it."""
    source = write_hf(tmp_path / "hf", CONFIG, TENSORS)
    index_of(source).write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, "model.safetensors")}))
    plan(source)


def test_an_expert_that_does_not_divide_into_groups_is_refused(tmp_path):
    config = {**CONFIG, "moe_intermediate_size": 96}
    with pytest.raises(FlashMoeError, match="96 input features; experts need a multiple of 64"):
        plan(write_hf(tmp_path / "hf", config, random_weights(config)))


def index_of(source):
    return source / "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: sorted(s.glob("*.safetensors"))[1].unlink(), r"model-00002-of-00003\.safetensors is missing"),
        (lambda s: index_of(s).write_text("{"), "not valid JSON"),
        (lambda s: index_of(s).write_text("{}"), "lacks the key 'weight_map'"),
        (
            lambda s: index_of(s).write_text('{"weight_map": {"a": "../x.safetensors"}}'),
            "no safetensors file beside it",
        ),
        (lambda s: index_of(s).unlink(), "holds no checkpoint"),
        (lambda s: (s / "config.json").unlink(), r"config\.json does not exist"),
        (lambda s: (s / "config.json").write_text("[]"), "must be a JSON object"),
        (lambda s: (s / "config.json").write_text("{}"), "model_type is missing"),
        (lambda s: sorted(s.glob("*.safetensors"))[0].write_bytes(b"<!DOCTYPE html>"), "not a safetensors file"),
    ],
)
def test_a_damaged_directory_is_a_sentence(tmp_path, change, sentence):
    source = write_hf(tmp_path / "hf", CONFIG, TENSORS, shards=3)
    change(source)
    with pytest.raises(FormatError, match=sentence):
        plan(source)


def test_a_tensor_the_index_promises_in_vain_is_named(tmp_path):
    source = write_hf(tmp_path / "hf", CONFIG, TENSORS, shards=2)
    index = json.loads(index_of(source).read_text())
    index["weight_map"]["model.extra"] = "model-00002-of-00002.safetensors"
    index_of(source).write_text(json.dumps(index))
    with pytest.raises(FormatError, match=r"lacks the tensor 'model\.extra'"):
        plan(source)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_mutated_header_plans_or_is_refused_with_a_sentence(tmp_path_factory, data):
    source = tmp_path_factory.getbasetemp() / "mutated"
    if not source.exists():
        mlx(source)
        (source / "whole").write_bytes((source / "model.safetensors").read_bytes())
    content = bytearray((source / "whole").read_bytes())
    length = int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 7 + length))] = data.draw(st.sampled_from(b'0123456789",:[]{}UIBF._abgmxws'))
    (source / "model.safetensors").write_bytes(content)
    try:
        plan(source)
    except FlashMoeError as error:
        refused = str(error)
    else:
        refused = "."
    assert refused.endswith(".")
