"""The files of a pack belong together, and a load sees it where they do not, without reading the weights."""

import json
import re
import shutil
from pathlib import Path

import pytest

from checkpoints import CONFIGS, random_weights, write_hf
from flashmoe.engine.loader import load_engine
from flashmoe.errors import FormatError
from flashmoe.pack.contents import Contents
from flashmoe.pack.manifest import Manifest
from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe
from flashmoe.pack.verify import verify
from flashmoe.settings import Settings
from packs import read_manifest, reseal, without_identity, write_manifest

CONFIG = CONFIGS["qwen3_5_moe_text"]
GENERATION = {"do_sample": True, "temperature": 0.5, "eos_token_id": 1}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two packed models of equal shapes and other weights."""
    base = tmp_path_factory.mktemp("identity")
    for name, seed in (("mine", 0), ("other", 1)):
        source = write_hf(base / f"hf-{name}", CONFIG, random_weights(CONFIG, seed))
        (source / "generation_config.json").write_text(json.dumps(GENERATION))
        pack(source, base / name, Recipe())
    return base / "mine", base / "other"


@pytest.fixture
def packed(models, tmp_path):
    return Path(shutil.copytree(models[0], tmp_path / "packed"))


@pytest.fixture
def other(models):
    return models[1]


def load(directory):
    load_engine(directory, Settings(backend="reference", threads=1)).close()


def layer(directory, number):
    return directory / f"experts/layer-{number:03d}.safetensors"


def shift_an_offset(packed, _other):
    manifest = read_manifest(packed)
    manifest["layers"][1]["data_offset"] += 4096
    write_manifest(packed, manifest)


def shift_it_in_the_text_alone(packed, _other):
    path = packed / "flashmoe.json"
    path.write_text(path.read_text().replace('"data_offset": 4096', '"data_offset": 8192', 1))


def reorder_layers(packed, _other):
    manifest = read_manifest(packed)
    layers = manifest["layers"]
    layers[0], layers[3] = layers[3], layers[0]
    write_manifest(packed, manifest)


def reorder_files(packed, _other):
    layer(packed, 0).rename(packed / "aside")
    layer(packed, 3).rename(layer(packed, 0))
    (packed / "aside").rename(layer(packed, 3))


def shift_an_array_in_the_records(packed, _other):
    """The last one, into the zeros that fill the record."""
    manifest = read_manifest(packed)
    manifest["layouts"][0]["parts"][-1]["offset"] += 64
    write_manifest(packed, manifest)


def take(name):
    def change(packed, other):
        shutil.copy(other / name, packed / name)

    return change


def lose(name):
    return lambda packed, _other: (packed / name).unlink()


def swap_two_tensors_of_the_trunk(packed, _other):
    path = packed / "trunk.safetensors"
    a, b = b"layers.0.input_layernorm", b"layers.1.input_layernorm"
    data = path.read_bytes()
    path.write_bytes(data.replace(a, b"?", 1).replace(b, a, 1).replace(b"?", b, 1))


CHANGES = {
    "an offset, and the manifest's checksum right again": (shift_an_offset, "layer-001"),
    "an offset": (shift_it_in_the_text_alone, "flashmoe.json"),
    "layers reordered with their checksums": (reorder_layers, "layer-003"),
    "two layers' files swapped": (reorder_files, "layer-000"),
    "an array's place, and the manifest's checksum right again": (shift_an_array_in_the_records, "flashmoe.json"),
    "another model's trunk": (take("trunk.safetensors"), "trunk.safetensors"),
    "another model's layer": (take("experts/layer-002.safetensors"), "layer-002"),
    "another model's manifest": (take("flashmoe.json"), "trunk.safetensors"),
    "tensors of equal shape swapped in the trunk": (swap_two_tensors_of_the_trunk, "trunk.safetensors"),
    "no generation_config.json": (lose("generation_config.json"), "generation_config.json"),
    "no tokenizer": (lose("tokenizer.json"), "tokenizer.json"),
    "no trunk": (lose("trunk.safetensors"), "trunk.safetensors"),
    "no layer": (lose("experts/layer-003.safetensors"), "layer-003"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("opened", [load, Contents.open], ids=["to run", "to export"])
def test_what_does_not_belong_together_does_not_load_and_the_file_is_named(packed, other, name, opened):
    change, file = CHANGES[name]
    change(packed, other)
    with pytest.raises(FormatError) as error:
        opened(packed)
    assert file in str(error.value)
    assert re.search(r"flashmoe verify|[Pp]ack the model again", str(error.value))


@pytest.mark.parametrize("name", CHANGES)
def test_verify_finds_it_too(packed, other, name):
    change, file = CHANGES[name]
    change(packed, other)
    try:
        found = [str(problem) for problem in verify(packed)[1]]
    except FormatError as error:
        found = [str(error)]
    assert any(file in sentence for sentence in found)


def test_a_whole_model_loads_and_its_text_files_may_have_company(packed):
    (packed / "chat_template.jinja").write_text("{{ messages }}")
    load(packed)
    assert verify(packed)[1] == []


def test_a_load_reads_no_weights_to_see_it(packed, monkeypatch):
    """The checks read as many bytes as text files and headers have."""
    read = []
    monkeypatch.setattr("flashmoe.engine.loader.Trunk", lambda path: read.append(path) or 1 / 0)
    for path in (packed / "experts").iterdir():
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"damaged")  # behind the header
    with pytest.raises(ZeroDivisionError):
        load(packed)
    assert read == [packed / "trunk.safetensors"]


def test_packs_of_one_checkpoint_in_other_bits_are_told_apart(models, tmp_path, packed):
    pack(models[0].parent / "hf-mine", tmp_path / "finer", Recipe(trunk_bits=8))
    shutil.copy(layer(tmp_path / "finer", 0), layer(packed, 0))
    load(packed)  # the experts are the same bytes, so the file is the same
    shutil.copy(tmp_path / "finer" / "trunk.safetensors", packed)
    with pytest.raises(FormatError, match="trunk"):
        load(packed)


# Packs of before there was an identity --------------------------------------------------------------------------------


@pytest.fixture
def early(packed):
    without_identity(packed)
    return packed


def test_an_early_pack_loads_and_verifies(early):
    assert not Manifest.read(early).has_identity
    load(early)
    assert verify(early)[1] == []


def test_an_early_manifest_is_written_as_it_was(early):
    assert Manifest.read(early).to_json() == (early / "flashmoe.json").read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "an offset",
        "no generation_config.json",
        "no tokenizer",
        "no trunk",
        "no layer",
        "an offset, and the manifest's checksum right again",
        "an array's place, and the manifest's checksum right again",
    ],
)
def test_of_an_early_pack_places_and_text_files_are_checked(early, other, name):
    change, _ = CHANGES[name]
    change(early, other)
    with pytest.raises(FormatError):
        load(early)


@pytest.mark.parametrize("name", ["trunk.safetensors", "experts/layer-001.safetensors", "flashmoe.json"])
def test_files_of_an_early_pack_and_of_a_later_one_do_not_mix(early, models, name):
    shutil.copy(models[0] / name, early / name)
    with pytest.raises(FormatError, match="identity"):
        load(early)


@pytest.mark.parametrize("key", ["identity", "header_xxh3"])
def test_an_identity_cannot_be_lost_in_part(packed, key):
    path = packed / "flashmoe.json"
    path.write_text(re.sub(rf'\s*"{key}": "[0-9a-f]*",', "", path.read_text(), count=1))
    with pytest.raises(FormatError, match=r"has an identity without a header_xxh3 for each file, or"):
        load(packed)


def test_a_text_file_changed_on_purpose_is_taken_once_its_checksum_says_so(packed):
    path = packed / "generation_config.json"
    path.write_text(json.dumps({**GENERATION, "temperature": 0.9}))
    with pytest.raises(FormatError, match=r"generation_config\.json: it is not as it was packed"):
        load(packed)
    reseal(packed)
    load(packed)
