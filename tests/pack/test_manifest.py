"""flashmoe.json is read strictly: what is read is consistent, anything else names its key."""

import copy
import json

import pytest

from flashmoe.errors import FormatError
from flashmoe.pack.manifest import LayerFile, Manifest, TrunkFile, make_layout


@pytest.fixture
def manifest(tmp_path):
    layouts = (make_layout([("gate", 64, 128, 4), ("up", 64, 128, 4), ("down", 128, 64, 8)]),)
    experts = LayerFile(tmp_path / "experts" / "layer-000.safetensors", 3, 0, 4096, "0" * 16, "ab" * 24)
    trunk = TrunkFile(tmp_path / "trunk.safetensors", 10, "1" * 16)
    source = {"name": "x", "revision": "", "kind": "hf"}
    bits = {"group_size": 64, "experts": [4, 8], "matrix": [4], "embedding": [], "sensitive": [8, 16]}
    return Manifest(tmp_path, "m", source, bits, layouts, (experts,), trunk, {"config.json": "2" * 16})


def test_layout_of_a_397b_expert_is_the_documented_size():
    shapes = [("gate", 1024, 4096, 4), ("up", 1024, 4096, 4), ("down", 4096, 1024, 4)]
    assert make_layout(shapes).record_bytes == 7_077_888
    assert make_layout([(*shape[:3], 2) for shape in shapes]).record_bytes == 3_932_160


def test_written_manifest_reads_back_equal(manifest, tmp_path):
    (tmp_path / "flashmoe.json").write_bytes(manifest.to_json())
    assert Manifest.read(tmp_path) == manifest
    assert Manifest.read(tmp_path).layout(0).record_bytes % 4096 == 0
    assert manifest.layers[0].record_xxh3(2) == "ab" * 8


def test_directory_without_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(FormatError, match=r"not a packed model.*flashmoe pack"):
        Manifest.read(tmp_path)


def leaves(value, path=()):
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(child, (*path, key))
    if path:
        yield path


def test_every_missing_or_mistyped_key_is_a_sentence(manifest, tmp_path):
    whole = json.loads(manifest.to_json())
    for path in leaves(whole):
        for wrong in (None, -1, 1.5, [[]], "../x"):
            if wrong == "../x" and path[0] in ("model_type", "source"):
                continue
            broken = copy.deepcopy(whole)
            parent = broken
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = wrong
            (tmp_path / "flashmoe.json").write_text(json.dumps(broken))
            with pytest.raises(FormatError, match=r"flashmoe\.json"):
                Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("format",), 2, "format 2"),
        (("layers", 0, "layout"), 1, "no layout 1"),
        (("layers", 0, "file"), "/etc/passwd", "not inside"),
        (("layers", 0, "data_offset"), 4097, "4096"),
        (("layers", 0, "records_xxh3"), "ab" * 23, "hexadecimal"),
        (("layouts", 0, "record_bytes"), 4096, "not those of a record"),
        (("layouts", 0, "parts", 1, "offset"), 0, "not those of a record"),
        (("layouts", 0, "parts", 8, "offset"), 2**40, "not those of a record"),
        (("layouts", 0, "parts", 0, "shape"), [64, 15], "neither 2, 4 nor 8 bits"),
        (("layouts", 0, "parts", 1, "dtype"), "U32", "cannot be"),
    ],
)
def test_inconsistent_values_are_named(manifest, tmp_path, path, value, what):
    broken = json.loads(manifest.to_json())
    parent = broken
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    (tmp_path / "flashmoe.json").write_text(json.dumps(broken))
    with pytest.raises(FormatError, match=what):
        Manifest.read(tmp_path)
