"""What packing deletes: its own files by name, in a directory that it marked, and shards that were packed whole."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_weights, sized, wrapped, write_hf
from flashmoe.errors import FlashMoeError
from flashmoe.files.owned import MARK
from flashmoe.pack.newdir import new_directory
from flashmoe.pack.packer import Reports, pack
from flashmoe.pack.recipe import Recipe
from flashmoe.pack.workspace import open_workspace

CONFIG = sized("qwen3_moe", num_hidden_layers=2)


@pytest.fixture
def source(tmp_path):
    return write_hf(tmp_path / "hf", CONFIG, random_weights(CONFIG), shards=3)


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xff\xd8\xff\xe0 a photograph")
    return path


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def interrupt(source: Path, out: Path) -> None:
    """Leave an unfinished pack in `out`."""

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(source, out, Recipe(), reports=Reports(stop))


@pytest.mark.parametrize("name", ["photo.jpg", "experts/photo.jpg", ".packing/photo.jpg", ".photo.jpg.partial"])
def test_a_directory_with_a_file_of_somebody_else_is_refused(tmp_path, source, name):
    mine = photo(tmp_path / "out" / name)
    with pytest.raises(FlashMoeError, match=Path(name).name):
        pack(source, tmp_path / "out", Recipe())
    assert mine.exists()
    assert files(tmp_path / "out") == {name}


def test_what_was_put_into_an_unfinished_pack_stays_there(tmp_path, source):
    out = tmp_path / "out"
    interrupt(source, out)
    names = ["photo.jpg", ".photo.jpg.partial", "experts/.photo.jpg.partial", ".packing/photo.jpg", "x/.trunk.partial"]
    mine = [photo(out / name) for name in names]
    ours = [
        photo(out / name) for name in (".trunk.safetensors.partial", "experts/.layer-001.safetensors.0123abcd.partial")
    ]
    pack(source, out, Recipe())
    assert [path for path in mine if not path.exists()] == []
    assert [path for path in ours if path.exists()] == []
    with pytest.raises(FlashMoeError, match="already holds a packed model"):
        pack(source, out, Recipe())
    assert [path for path in mine if not path.exists()] == []


def test_an_unfinished_pack_of_an_earlier_version_goes_on(tmp_path, source):
    out = tmp_path / "out"
    interrupt(source, out)
    (out / ".packing" / MARK).unlink()
    pack(source, out, Recipe())
    assert not (out / ".packing").exists()


def test_another_mark_is_refused(tmp_path, source):
    out = tmp_path / "out"
    interrupt(source, out)
    before = files(out)
    (out / ".packing" / MARK).write_text(json.dumps({"kind": "unfinished pack", "format": 2}))
    with pytest.raises(FlashMoeError, match="marked as 'unfinished pack' of format 2"):
        pack(source, out, Recipe())
    assert files(out) == before


_PACK = """
import sys
from pathlib import Path
from flashmoe.errors import FlashMoeError
from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe
sys.stdin.readline()
try:
    pack(Path(sys.argv[1]), Path(sys.argv[2]), Recipe())
    print("packed")
except FlashMoeError as error:
    print(error)
"""


def test_of_two_packs_into_one_directory_one_succeeds(tmp_path, source):
    """Let go at the same time, several times over."""
    for round_ in range(5):
        out = tmp_path / str(round_)
        both = [
            subprocess.Popen(
                [sys.executable, "-c", _PACK, source, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        for process in both:
            process.stdin.write("\n")
            process.stdin.flush()
        said = sorted(process.communicate()[0].strip() for process in both)
        assert "packed" in said
        other = next(s for s in [*said, ""] if s != "packed")
        assert "Another process is writing" in other or "already holds a packed model" in other


def test_who_is_refused_removes_nothing(tmp_path, source):
    """While the other has made its directories and not yet written anything."""
    out = tmp_path / "out"
    with open_workspace(out):
        with pytest.raises(FlashMoeError, match="Another process is writing"):
            pack(source, out, Recipe())
        assert {path.name for path in out.iterdir()} == {"experts", ".packing"}
    assert not out.exists()


def test_a_new_directory_that_fails_loses_only_what_was_to_be_written(tmp_path):
    def fill() -> None:
        with new_directory(tmp_path / "out", ["a", "experts/b"], 1):
            (tmp_path / "out" / "experts").mkdir()
            for name in ("a", "experts/b", "photo.jpg", "experts/photo.jpg"):
                photo(tmp_path / "out" / name)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert files(tmp_path / "out") == {"photo.jpg", "experts/photo.jpg"}


# --delete-source ------------------------------------------------------------------------------------------------------


def with_vision(directory: Path) -> Path:
    """Three shards of text, one of them with a tensor of the vision tower, and one of vision alone."""
    tensors = random_weights(CONFIG)
    source = write_hf(directory, CONFIG, wrapped(tensors), shards=3)
    vision = write_hf(
        directory.with_name("vision"), CONFIG, {"model.visual.blocks.0.weight": np.ones((2, 2))}, shards=1
    )
    (vision / "model.safetensors").rename(source / "vision.safetensors")
    index = source / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    value["weight_map"]["model.visual.blocks.0.weight"] = "vision.safetensors"
    index.write_text(json.dumps(value))
    return source


def test_shards_with_tensors_that_were_not_packed_are_kept_and_it_is_said(tmp_path):
    source = with_vision(tmp_path / "hf")
    said: list[str] = []
    pack(source, tmp_path / "out", Recipe(), delete_source=True, reports=Reports(say=said.append))
    assert sorted(path.name for path in source.glob("*.safetensors")) == [
        "model-00003-of-00003.safetensors",
        "vision.safetensors",
    ]
    assert [s for s in said if s.startswith("Keeping")] == [
        "Keeping model-00003-of-00003.safetensors: it holds what is not packed, like model.visual.patch.weight.",
        "Keeping vision.safetensors: it holds what is not packed, like model.visual.blocks.0.weight.",
    ]


def test_a_shard_that_changed_while_it_was_packed_is_kept(tmp_path, source):
    last = sorted(source.glob("*.safetensors"))[-1]

    def replace(done: int, total: int) -> None:
        if done == total and last.exists():
            last.write_bytes(last.read_bytes()[:-1] + b"x")

    with pytest.raises(FlashMoeError, match=rf"{last.name} has changed since the pack began"):
        pack(source, tmp_path / "out", Recipe(), delete_source=True, reports=Reports(replace))
    assert last.exists()


# Links ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def snapshot(tmp_path, source):
    """A Hugging Face cache: blobs, and a snapshot of links to them."""
    repository = tmp_path / "hub" / "models--Org--Name"
    home = repository / "snapshots" / "abc123"
    home.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(source.iterdir())):
        blob = repository / "blobs" / f"{number:040x}"
        shutil.copy(path, blob)
        (home / path.name).symlink_to(Path("../../blobs") / blob.name)
    return home


def test_a_hugging_face_cache_is_read(tmp_path, snapshot):
    (tmp_path / "short").symlink_to(snapshot)
    manifest = pack(snapshot, tmp_path / "out", Recipe())
    assert manifest.source == {"name": "Org/Name", "revision": "abc123", "kind": "hf"}
    pack(tmp_path / "short", tmp_path / "other", Recipe())


def test_of_a_hugging_face_cache_nothing_is_deleted(tmp_path, snapshot):
    before = files(tmp_path / "hub")
    with pytest.raises(FlashMoeError, match="is a link to a file elsewhere"):
        pack(snapshot, tmp_path / "out", Recipe(), delete_source=True)
    assert files(tmp_path / "hub") == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model-00002-of-00003.safetensors"])
@pytest.mark.parametrize("where", ["plain", "cache"])
def test_a_link_out_of_the_checkpoint_is_refused(tmp_path, source, snapshot, name, where):
    home = source if where == "plain" else snapshot
    secret = tmp_path / "id_ed25519"
    secret.write_bytes((home / name).read_bytes())
    (home / name).unlink()
    (home / name).symlink_to(secret)
    with pytest.raises(FlashMoeError, match=rf"{name} is a link to {secret}, outside of"):
        pack(home, tmp_path / "out", Recipe())
    assert not (tmp_path / "out").exists()


def test_a_link_to_another_model_of_the_cache_is_refused(tmp_path, snapshot):
    other = tmp_path / "hub" / "models--Org--Private" / "blobs" / "0"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    (snapshot / "generation_config.json").symlink_to(other)
    with pytest.raises(FlashMoeError, match=r"is a link to .*Private.*, outside of"):
        pack(snapshot, tmp_path / "out", Recipe())


def test_a_link_within_the_checkpoint_is_followed(tmp_path, source):
    (source / "tokenizer.json").rename(source / "real.json")
    (source / "tokenizer.json").symlink_to("real.json")
    assert "tokenizer.json" in pack(source, tmp_path / "out", Recipe()).files
