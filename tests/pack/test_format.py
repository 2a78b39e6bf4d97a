"""docs/format.md is enough to read a packed model: the safetensors package, json and NumPy, and nothing of flashmoe."""

import json

import mlx.core as mx
import numpy as np
import pytest
import xxhash
from safetensors import safe_open

from checkpoints import CONFIGS, random_weights, write_hf
from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe

CONFIG = CONFIGS["qwen3_5_moe_text"]
DTYPES = {"U32": np.dtype("<u4"), "BF16": np.dtype("<u2")}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    base = tmp_path_factory.mktemp("format")
    tensors = random_weights(CONFIG)
    pack(write_hf(base / "hf", CONFIG, tensors), base / "out", Recipe())
    return base / "out", json.loads((base / "out" / "flashmoe.json").read_text()), tensors


def decode(codes, scales, biases):
    """The page's formula, in double precision, rounded once."""
    bits = codes.shape[1] * 32 // (scales.shape[1] * 64)
    words = codes[:, :, None] >> np.arange(0, 32, bits, dtype=np.uint32) & np.uint32(2**bits - 1)
    values = words.reshape(codes.shape[0], -1, 64).astype(np.float64)
    wide = [(a.astype(np.uint32) << 16).view(np.float32).astype(np.float64)[..., None] for a in (scales, biases)]
    return (values * wide[0] + wide[1]).reshape(codes.shape[0], -1).astype(np.float32)


def as_mlx_decodes(values, bits):
    """What mx.quantize and mx.dequantize make of bfloat16 weights, decoding in float32."""
    codes, scales, biases = mx.quantize(mx.array(values).astype(mx.bfloat16), group_size=64, bits=bits)
    wide = (scales.astype(mx.float32), biases.astype(mx.float32))
    return np.array(mx.dequantize(codes, *wide, group_size=64, bits=bits))


@pytest.mark.parametrize(("layer", "expert"), [(0, 0), (3, 5), (1, 2)])
def test_an_expert_is_one_row_with_nine_arrays(packed, layer, expert):
    directory, manifest, tensors = packed
    entry = manifest["layers"][layer]
    layout = manifest["layouts"][entry["layout"]]
    with safe_open(directory / entry["file"], framework="numpy") as file:
        assert list(file.keys()) == ["experts"]
        experts = file.get_tensor("experts")
    assert experts.dtype == np.uint8
    assert experts.shape == (entry["experts"], layout["record_bytes"])
    record = experts[expert].tobytes()
    assert xxhash.xxh3_64(record).hexdigest() == entry["records_xxh3"][16 * expert : 16 * expert + 16]
    arrays = {
        part["name"]: np.frombuffer(record, DTYPES[part["dtype"]], int(np.prod(part["shape"])), part["offset"]).reshape(
            part["shape"]
        )
        for part in layout["parts"]
    }
    prefix = f"model.layers.{layer}.mlp.experts"
    gate, up = np.split(tensors[f"{prefix}.gate_up_proj"][expert], 2)
    for name, values in (("gate", gate), ("up", up), ("down", tensors[f"{prefix}.down_proj"][expert])):
        decoded = decode(*(arrays[f"{name}.{a}"] for a in ("weight", "scales", "biases")))
        np.testing.assert_allclose(decoded, as_mlx_decodes(values, 4), rtol=1e-6, atol=1e-7)


def test_a_record_lies_where_the_page_says(packed):
    directory, manifest, _ = packed
    for entry in manifest["layers"]:
        size = manifest["layouts"][entry["layout"]]["record_bytes"]
        data = (directory / entry["file"]).read_bytes()
        assert entry["data_offset"] % 4096 == 0
        assert size % 4096 == 0
        assert 8 + int.from_bytes(data[:8], "little") == entry["data_offset"]
        assert len(data) == entry["data_offset"] + entry["experts"] * size
        assert xxhash.xxh3_64(data).hexdigest() == entry["xxh3"]
        record = data[entry["data_offset"] + 2 * size :][:size]
        assert xxhash.xxh3_64(record).hexdigest() == entry["records_xxh3"][32:48]


def test_headers_say_which_part_a_file_is_and_what_its_data_sum_up_to(packed):
    directory, manifest, _ = packed
    parts = {"trunk": manifest["trunk"], **{f"layer {i}": entry for i, entry in enumerate(manifest["layers"])}}
    for part, entry in parts.items():
        data = (directory / entry["file"]).read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        with safe_open(directory / entry["file"], framework="numpy") as file:
            assert file.metadata() == {"part": part, "data_xxh3": xxhash.xxh3_64(data[end:]).hexdigest()}
        assert xxhash.xxh3_64(data[:end]).hexdigest() == entry["header_xxh3"]


def test_the_manifest_has_a_checksum_of_its_own(packed):
    directory, manifest, _ = packed
    text = (directory / "flashmoe.json").read_text()
    blank = text.replace(manifest["identity"], "0" * 16, 1)
    assert xxhash.xxh3_64(blank.encode()).hexdigest() == manifest["identity"]


def test_the_trunk_holds_every_tensor_as_the_page_says(packed):
    directory, manifest, tensors = packed
    path = directory / manifest["trunk"]["file"]
    data = path.read_bytes()
    assert len(data) == manifest["trunk"]["bytes"]
    assert xxhash.xxh3_64(data).hexdigest() == manifest["trunk"]["xxh3"]
    length = int.from_bytes(data[:8], "little")
    places = json.loads(data[8 : 8 + length])
    del places["__metadata__"]
    assert all((8 + length + place["data_offsets"][0]) % 64 == 0 for n, place in places.items() if "padding." not in n)
    with safe_open(path, framework="mlx") as file:
        found = {name: file.get_tensor(name) for name in list(file.keys()) if not name.startswith("padding.")}
    for name, values in tensors.items():
        if ".experts." in name:
            continue
        if f"{name.removesuffix('.weight')}.scales" in found:
            base = name.removesuffix(".weight")
            codes = np.array(found.pop(name))
            scales, biases = (np.array(found.pop(f"{base}.{a}").view(mx.uint16)) for a in ("scales", "biases"))
            bits = codes.shape[1] * 32 // values.shape[1]
            np.testing.assert_allclose(
                decode(codes, scales, biases), as_mlx_decodes(values, bits), rtol=1e-6, atol=1e-7
            )
        else:
            centred = "norm" in name and "linear_attn" not in name
            expected = np.float32(1) + values if centred else values.reshape(found[name].shape)
            np.testing.assert_array_equal(np.array(found.pop(name)), expected)
    assert found == {}


def test_copied_files_have_their_checksums(packed):
    directory, manifest, _ = packed
    assert sorted(manifest["files"]) == ["config.json", "tokenizer.json"]
    for name, digest in manifest["files"].items():
        assert xxhash.xxh3_64((directory / name).read_bytes()).hexdigest() == digest
