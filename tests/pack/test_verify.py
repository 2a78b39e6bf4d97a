"""verify finds every wrong byte and names its place."""

import json

import pytest

from checkpoints import CONFIGS, random_weights, write_hf
from flashmoe.errors import FormatError
from flashmoe.pack.manifest import Manifest
from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe
from flashmoe.pack.verify import verify
from packs import reseal, without_identity


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    base = tmp_path_factory.mktemp("verify")
    config = CONFIGS["qwen3_5_moe_text"]
    pack(write_hf(base / "hf", config, random_weights(config)), base / "out", Recipe())
    return base / "out"


@pytest.fixture
def packed(original, tmp_path):
    """A copy to be damaged."""
    for path in original.rglob("*.*"):
        if path.is_file():
            target = tmp_path / "out" / path.relative_to(original)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path / "out"


def found(directory):
    return [str(problem) for problem in verify(directory)[1]]


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def test_a_whole_model_has_no_problems_and_progress_reaches_the_end(packed):
    reports = []
    manifest, problems = verify(packed, lambda done, total: reports.append((done, total)))
    assert problems == []
    assert manifest == Manifest.read(packed)
    assert reports[-1][0] == reports[-1][1]


@pytest.mark.parametrize("expert", [0, 3, 5])
@pytest.mark.parametrize("byte", [0, 12345, -1])
def test_a_flipped_bit_of_a_record_is_named_by_layer_and_expert(packed, expert, byte):
    manifest = Manifest.read(packed)
    entry, size = manifest.layers[2], manifest.layout(2).record_bytes
    flip(entry.path, entry.data_offset + expert * size + byte % size)
    assert found(packed) == [f"{entry.path}: the record of layer 2, expert {expert} is damaged."]


def test_every_damaged_record_is_listed(packed):
    manifest = Manifest.read(packed)
    for layer, expert in ((0, 1), (0, 4), (3, 0)):
        entry = manifest.layers[layer]
        flip(entry.path, entry.data_offset + expert * manifest.layout(layer).record_bytes)
    assert [line.split("of ")[-1] for line in found(packed)] == [
        "layer 0, expert 1 is damaged.",
        "layer 0, expert 4 is damaged.",
        "layer 3, expert 0 is damaged.",
    ]


@pytest.mark.parametrize("name", ["trunk.safetensors", "config.json", "tokenizer.json"])
def test_a_flipped_bit_of_another_file_names_the_file(packed, name):
    path = packed / name
    if name.endswith("json"):
        path.write_text(path.read_text() + " ")
    else:
        flip(path, -1)
    text = "it is not as it was packed: its checksum differs from that in flashmoe.json."
    whole = "the checksum of the file differs from that in flashmoe.json."
    assert found(packed) == [f"{path}: {text if name.endswith('json') else whole}"]


def test_a_changed_header_of_a_layer_is_found(packed):
    path = Manifest.read(packed).layers[1].path
    flip(path, 4095)
    (line,) = found(packed)
    assert line.startswith(str(path))
    assert "header" in line


def test_a_missing_a_short_and_a_swapped_file_are_found(packed):
    paths = [entry.path for entry in Manifest.read(packed).layers]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    paths[2].write_bytes(paths[3].read_bytes())
    lines = found(packed)
    assert "does not exist" in lines[0]
    assert "is truncated" in lines[1]
    assert lines[2:] == [f"{paths[2]}: it says that it is 'layer 3', and flashmoe.json lists it as 'layer 2'."]


def test_a_swapped_file_of_an_early_pack_is_found_by_its_records(packed):
    without_identity(packed)
    paths = [entry.path for entry in Manifest.read(packed).layers]
    paths[2].write_bytes(paths[3].read_bytes())
    assert found(packed) == [f"{paths[2]}: the record of layer 2, expert {e} is damaged." for e in range(6)]


def test_files_of_different_models_are_found_though_every_checksum_is_right(packed):
    config = packed / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_experts": 7}))
    reseal(packed)
    assert any("does not hold model.layers.0.mlp.gate" in line for line in found(packed))


def test_a_directory_without_manifest_is_a_sentence(tmp_path):
    with pytest.raises(FormatError, match="not a packed model"):
        verify(tmp_path)
