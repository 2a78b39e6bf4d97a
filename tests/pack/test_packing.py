"""What is packed is the checkpoint: the same from every form it is published in, bit for bit where it can be."""

import mlx.core as mx
import numpy as np
import pytest
import xxhash
from safetensors import safe_open

from checkpoints import (
    CONFIGS,
    WRAPPED,
    one_tensor_an_expert,
    quantise_mlx,
    random_weights,
    to_mlx,
    wrapped,
    write_hf,
    write_mlx,
)
from flashmoe.pack.manifest import Manifest
from flashmoe.pack.packer import Reports, pack
from flashmoe.pack.recipe import Recipe

NEXT = CONFIGS["qwen3_next"]
TEXT = CONFIGS["qwen3_5_moe_text"]


def weights_of(directory):
    """relative path -> bytes, of the files that hold weights."""
    return {p.relative_to(directory): p.read_bytes() for p in directory.rglob("*.safetensors")}


def trunk_of(manifest):
    with safe_open(manifest.trunk.path, framework="mlx") as file:
        return {name: file.get_tensor(name) for name in list(file.keys())}


def expert_of(manifest, layer, expert):
    """The nine arrays of one expert, by the manifest's layout."""
    layout = manifest.layout(layer)
    begin = manifest.layers[layer].data_offset + expert * layout.record_bytes
    data = manifest.layers[layer].path.read_bytes()[begin : begin + layout.record_bytes]
    kinds = {"U32": np.uint32, "BF16": np.uint16}
    return {
        p.name: np.frombuffer(data, kinds[p.dtype], int(np.prod(p.shape)), p.offset).reshape(p.shape)
        for p in layout.parts
    }


def bits_of(array):
    """An MLX array as NumPy, bfloat16 as its bits."""
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_every_published_form_gives_the_same_pack(tmp_path, model_type):
    config, tensors = CONFIGS[model_type], random_weights(CONFIGS[model_type])
    split = one_tensor_an_expert(tensors)
    packs = [
        pack(source, tmp_path / f"out{i}", Recipe())
        for i, source in enumerate(
            [
                write_hf(tmp_path / "fused", config, tensors),
                write_hf(tmp_path / "sharded", config, tensors, shards=5),
                write_hf(tmp_path / "split", config, split, shards=3),
                write_hf(tmp_path / "f32", config, tensors, dtype="float32"),
                write_hf(tmp_path / "f16", config, split, dtype="float16"),
            ]
        )
    ]
    first = weights_of(packs[0].directory)
    assert len(first) == 5
    assert all(weights_of(other.directory) == first for other in packs[1:])


def test_vision_wrapper_packs_as_the_text_model_and_says_what_it_skips(tmp_path):
    tensors, said = random_weights(TEXT), []
    plain = pack(write_hf(tmp_path / "text", TEXT, tensors), tmp_path / "a", Recipe())
    source = write_hf(tmp_path / "vision", WRAPPED, wrapped(tensors))
    other = pack(source, tmp_path / "b", Recipe(), reports=Reports(say=said.append))
    assert weights_of(plain.directory) == weights_of(other.directory)
    assert any("1 tensors of vision" in s for s in said)
    assert any("1 tensors of multi-token prediction" in s for s in said)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("model_type", CONFIGS)
def test_mlx_checkpoint_packs_bit_for_bit(tmp_path, model_type, bits):
    config = CONFIGS[model_type]
    arrays, quantization = quantise_mlx(to_mlx(config, random_weights(config)), bits)
    manifest = pack(write_mlx(tmp_path / "mlx", config, arrays, quantization), tmp_path / "out", Recipe())
    assert manifest.source["kind"] == "mlx"
    for layer, expert in [(0, 0), (3, 5)]:
        for name, values in expert_of(manifest, layer, expert).items():
            part, array = name.split(".")
            source = arrays[f"language_model.model.layers.{layer}.mlp.switch_mlp.{part}_proj.{array}"]
            np.testing.assert_array_equal(values, bits_of(source[expert]))
    trunk = trunk_of(manifest)
    assert trunk["model.layers.0.mlp.gate.weight"].shape == (6, 128 * 8 // 32)
    for name, array in trunk.items():
        published = arrays.get(f"language_model.{name}")
        if published is not None and published.dtype in (mx.uint32, mx.bfloat16) and array.dtype == published.dtype:
            np.testing.assert_array_equal(bits_of(array), bits_of(published))
    norm = "model.layers.3.input_layernorm.weight"
    np.testing.assert_array_equal(bits_of(trunk[norm]), np.array(arrays[f"language_model.{norm}"].astype(mx.float32)))


def test_bfloat16_source_is_quantised_as_mlx_does(tmp_path):
    tensors = random_weights(TEXT)
    manifest = pack(write_hf(tmp_path / "hf", TEXT, tensors), tmp_path / "out", Recipe(2, 8))
    arrays, _ = quantise_mlx(to_mlx(TEXT, tensors), 2)
    for name, values in expert_of(manifest, 1, 2).items():
        part, array = name.split(".")
        source = arrays[f"language_model.model.layers.1.mlp.switch_mlp.{part}_proj.{array}"]
        np.testing.assert_array_equal(values, bits_of(source[2]))
    codes, scales, biases = mx.quantize(mx.array(tensors["lm_head.weight"]).astype(mx.bfloat16), bits=8)
    trunk = trunk_of(manifest)
    for array, expected in (("weight", codes), ("scales", scales), ("biases", biases)):
        np.testing.assert_array_equal(bits_of(trunk[f"lm_head.{array}"]), bits_of(expected))


def test_zero_centred_norms_are_stored_with_their_one(tmp_path):
    tensors = random_weights(NEXT)
    trunk = trunk_of(pack(write_hf(tmp_path / "hf", NEXT, tensors), tmp_path / "out", Recipe()))
    name = "model.layers.0.input_layernorm.weight"
    np.testing.assert_array_equal(bits_of(trunk[name]), np.float32(1) + tensors[name])
    plain = "model.layers.0.linear_attn.norm.weight"
    np.testing.assert_array_equal(bits_of(trunk[plain]), tensors[plain])


def test_unquantised_mlx_conversion_is_told_by_its_convolution(tmp_path):
    tensors = random_weights(NEXT)
    arrays = to_mlx(NEXT, tensors)
    manifest = pack(write_mlx(tmp_path / "mlx", NEXT, arrays, None), tmp_path / "out", Recipe())
    trunk, name = trunk_of(manifest), "model.norm.weight"
    np.testing.assert_array_equal(bits_of(trunk[name]), np.array(arrays[f"language_model.{name}"].astype(mx.float32)))
    conv = "model.layers.0.linear_attn.conv1d.weight"
    np.testing.assert_array_equal(bits_of(trunk[conv]), tensors[conv][:, 0, :])


def test_fused_projections_are_split_by_rows(tmp_path):
    """in_proj_qkvz holds, key head by key head, q, k, v and z."""
    tensors = random_weights(NEXT)
    manifest = pack(write_hf(tmp_path / "hf", NEXT, tensors), tmp_path / "out", Recipe(trunk_bits=16))
    trunk, prefix = trunk_of(manifest), "model.layers.0.linear_attn"
    fused = tensors[f"{prefix}.in_proj_qkvz.weight"].reshape(2, 192, 128)
    z = np.array(trunk[f"{prefix}.in_proj_z.weight"].astype(mx.float32))
    np.testing.assert_array_equal(z, fused[:, 128:].reshape(-1, 128))
    qkv = np.array(trunk[f"{prefix}.in_proj_qkv.weight"].astype(mx.float32))
    expected = [fused[:, :32], fused[:, 32:64], fused[:, 64:128]]
    np.testing.assert_array_equal(qkv, np.concatenate([part.reshape(-1, 128) for part in expected]))


@pytest.mark.parametrize(
    ("dtype", "stored"), [("bfloat16", mx.bfloat16), ("float16", mx.float32), ("float32", mx.float32)]
)
def test_sixteen_bit_trunk_keeps_every_value(tmp_path, dtype, stored):
    tensors = random_weights(TEXT)
    manifest = pack(write_hf(tmp_path / "hf", TEXT, tensors, dtype), tmp_path / "out", Recipe(trunk_bits=16))
    trunk = trunk_of(manifest)
    for name in (
        "model.embed_tokens.weight",
        "model.layers.3.self_attn.q_proj.weight",
        "model.layers.0.mlp.gate.weight",
    ):
        assert trunk[name].dtype == stored
        np.testing.assert_array_equal(np.array(trunk[name].astype(mx.float32)), tensors[name])


def test_quantised_source_asked_for_other_bits_is_requantised(tmp_path):
    arrays, quantization = quantise_mlx(to_mlx(TEXT, random_weights(TEXT)), 8)
    manifest = pack(write_mlx(tmp_path / "mlx", TEXT, arrays, quantization), tmp_path / "out", Recipe(4, 4))
    base = "language_model.model.layers.0.mlp.switch_mlp.down_proj"
    values = mx.dequantize(
        *(
            arrays[f"{base}.{a}"][3].astype(mx.float32) if a != "weight" else arrays[f"{base}.{a}"][3]
            for a in ("weight", "scales", "biases")
        ),
        bits=8,
    )
    codes, scales, _ = mx.quantize(values, bits=4)
    ours = expert_of(manifest, 0, 3)
    np.testing.assert_array_equal(ours["down.weight"], np.array(codes))
    np.testing.assert_array_equal(ours["down.scales"], bits_of(scales.astype(mx.bfloat16)))


def test_record_checksums_and_manifest_describe_the_files(tmp_path):
    manifest = pack(write_hf(tmp_path / "hf", TEXT, random_weights(TEXT)), tmp_path / "out", Recipe())
    assert Manifest.read(tmp_path / "out") == manifest
    assert manifest.quantisation == {
        "group_size": 64,
        "experts": [4],
        "matrix": [4],
        "embedding": [4],
        "sensitive": [8],
    }
    assert manifest.source == {"name": "hf", "revision": "", "kind": "hf"}
    entry, size = manifest.layers[2], manifest.layout(2).record_bytes
    data = entry.path.read_bytes()
    assert entry.xxh3 == xxhash.xxh3_64_hexdigest(data)
    record = data[entry.data_offset + 4 * size : entry.data_offset + 5 * size]
    assert entry.record_xxh3(4) == xxhash.xxh3_64_hexdigest(record)
    assert manifest.trunk.bytes == manifest.trunk.path.stat().st_size
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json",
        "experts",
        "flashmoe.json",
        "tokenizer.json",
        "trunk.safetensors",
    ]


@pytest.mark.parametrize("dtype", [mx.float16, mx.float32])
def test_mlx_scales_of_other_dtypes_are_rounded_and_codes_kept(tmp_path, dtype):
    """An expert's scales are bfloat16; converters that quantised float16 weights left float16 ones."""
    plain = {name: array.astype(dtype) for name, array in to_mlx(TEXT, random_weights(TEXT)).items()}
    arrays, quantization = quantise_mlx(plain, 4)
    manifest = pack(write_mlx(tmp_path / "mlx", TEXT, arrays, quantization), tmp_path / "out", Recipe())
    for name, values in expert_of(manifest, 2, 1).items():
        part, array = name.split(".")
        source = arrays[f"language_model.model.layers.2.mlp.switch_mlp.{part}_proj.{array}"][1]
        expected = source if array == "weight" else source.astype(mx.bfloat16)
        np.testing.assert_array_equal(values, bits_of(expected))
