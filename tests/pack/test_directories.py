"""Where a pack may write and what it may delete, and what happens when it cannot go on."""

import errno
import fcntl
import os
import resource
import shutil
from collections import namedtuple

import pytest

from checkpoints import CONFIGS, random_weights, sized, write_hf
from flashmoe.errors import CapacityError, FlashMoeError, FormatError
from flashmoe.pack.contents import Contents
from flashmoe.pack.packer import Reports, pack
from flashmoe.pack.recipe import Recipe
from flashmoe.pack.verify import verify

CONFIG = sized("qwen3_moe", num_hidden_layers=2)


@pytest.fixture
def source(tmp_path):
    return write_hf(tmp_path / "hf", CONFIG, random_weights(CONFIG), shards=3)


def names(directory):
    return sorted(p.name for p in directory.iterdir())


def test_a_foreign_directory_is_left_alone(tmp_path, source):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(FlashMoeError, match="not empty: it holds 'mine'"):
        pack(source, tmp_path / "out", Recipe())
    assert names(tmp_path / "out") == ["mine"]


def test_a_finished_pack_is_left_alone(tmp_path, source):
    pack(source, tmp_path / "out", Recipe())
    with pytest.raises(FlashMoeError, match="already holds a packed model"):
        pack(source, tmp_path / "out", Recipe())


def test_a_file_in_place_of_a_directory_is_a_sentence(tmp_path, source):
    (tmp_path / "out").write_text("")
    with pytest.raises(FlashMoeError, match="cannot be written"):
        pack(source, tmp_path / "out", Recipe())


def test_two_packs_into_one_directory_are_refused(tmp_path, source):
    (tmp_path / "out").mkdir()
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(FlashMoeError, match="Another process is writing"):
            pack(source, tmp_path / "out", Recipe())
    finally:
        os.close(descriptor)
    pack(source, tmp_path / "out", Recipe())


def test_an_unpackable_source_leaves_no_directory(tmp_path, source):
    (source / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(FlashMoeError, match="'gpt2' is not supported"):
        pack(source, tmp_path / "out", Recipe())
    assert not (tmp_path / "out").exists()


def test_delete_source_removes_the_shards_alone(tmp_path, source):
    (source / "notes.txt").write_text("mine")
    (source / "other.safetensors").write_text("mine, too")
    kept = {"config.json", "tokenizer.json", "model.safetensors.index.json", "notes.txt", "other.safetensors"}
    pack(source, tmp_path / "out", Recipe(), delete_source=True)
    assert set(names(source)) == kept


def test_delete_source_frees_a_shard_as_soon_as_it_is_packed(tmp_path, source):
    fewest: list[int] = []
    reports = Reports(progress=lambda _done, _total: fewest.append(len(list(source.glob("*.safetensors")))))
    pack(source, tmp_path / "out", Recipe(), delete_source=True, reports=reports)
    assert fewest[0] == 3
    assert fewest[-1] < 3


def test_the_last_shards_go_when_the_packed_model_was_opened(tmp_path, source, monkeypatch):
    def cannot(_directory):
        raise FormatError("It does not open.")

    with monkeypatch.context() as patch:
        patch.setattr(Contents, "open", cannot)
        with pytest.raises(FormatError, match="does not open"):
            pack(source, tmp_path / "out", Recipe(), delete_source=True)
    assert list(source.glob("*.safetensors"))
    pack(source, tmp_path / "out", Recipe(), delete_source=True)
    assert not list(source.glob("*.safetensors"))
    assert verify(tmp_path / "out")[1] == []


def test_a_shard_stays_when_the_file_made_from_it_is_not_as_it_was_written(tmp_path, source):
    trunk = tmp_path / "out" / "trunk.safetensors"

    def spoil(_done, _total):
        if trunk.exists():
            trunk.write_bytes(trunk.read_bytes().replace(b'"part":"trunk"', b'"part":"junk!"'))

    with pytest.raises(FormatError, match=r"trunk\.safetensors is not as it was written"):
        pack(source, tmp_path / "out", Recipe(), delete_source=True, reports=Reports(progress=spoil))
    assert list(source.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("generation_config.json", b'{"eos_token_id": '),
        ("tokenizer_config.json", b"[]"),
        ("chat_template.jinja", b"\xff"),
        ("chat_template.json", b"\x00"),
    ],
)
def test_a_broken_text_file_is_refused_before_the_first_byte(tmp_path, source, name, data):
    (source / name).write_bytes(data)
    with pytest.raises(FormatError, match=name):
        pack(source, tmp_path / "out", Recipe(), delete_source=True)
    assert not (tmp_path / "out").exists()
    assert len(list(source.glob("*.safetensors"))) == 3


def test_too_small_a_disk_is_refused_before_anything_is_written(tmp_path, source, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    with pytest.raises(CapacityError, match=r"needs \S+ MB more, and 1\.00 MB are free.*--delete-source"):
        pack(source, tmp_path / "out", Recipe())
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_grow_leaves_no_half_and_the_pack_goes_on_later(tmp_path, source):
    pack(source, tmp_path / "whole", Recipe())
    trunk = (tmp_path / "whole" / "trunk.safetensors").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (trunk - 1, before[1]))
        with pytest.raises(CapacityError, match=r"trunk\.safetensors is larger than"):
            pack(source, tmp_path / "out", Recipe())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "out").rglob("*.safetensors")) + list((tmp_path / "out").rglob("*.partial"))
    pack(source, tmp_path / "out", Recipe())
    for name in ("trunk.safetensors", "flashmoe.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_full_disk_is_a_sentence_and_the_pack_goes_on_later(tmp_path, source, monkeypatch):
    """Full once the trunk is written."""
    pack(source, tmp_path / "whole", Recipe())
    out, write = tmp_path / "out", os.write

    def write_or_fail(descriptor, data):
        if list((out / "experts").glob(".layer-000.*")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_or_fail)
        sentence = r"disk is full: .*layer-000\.safetensors could not be written.*is kept"
        with pytest.raises(CapacityError, match=sentence):
            pack(source, out, Recipe())
    assert names(out / "experts") == []
    assert (out / "trunk.safetensors").exists()
    pack(source, out, Recipe())
    assert (out / "flashmoe.json").read_bytes() == (tmp_path / "whole" / "flashmoe.json").read_bytes()


@pytest.mark.parametrize("shard", [0, 2])
def test_a_truncated_shard_is_named(tmp_path, source, shard):
    path = sorted(source.glob("*.safetensors"))[shard]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FlashMoeError, match=f"{path.name} is truncated"):
        pack(source, tmp_path / "out", Recipe())
    assert not (tmp_path / "out").exists()


def test_a_shard_that_shrinks_while_packing_is_named(tmp_path, source):
    last = sorted(source.glob("*.safetensors"))[-1]

    def shrink(done, _total):
        if done:
            os.truncate(last, 3000)

    with pytest.raises(FlashMoeError, match=f"{last.name} is truncated"):
        pack(source, tmp_path / "out", Recipe(), reports=Reports(progress=shrink))
    assert not (tmp_path / "out" / "flashmoe.json").exists()


def test_weights_that_are_not_numbers_are_named(tmp_path):
    tensors = random_weights(CONFIG)
    tensors["model.layers.1.mlp.experts.down_proj"][4, 2, 1] = float("nan")
    with pytest.raises(FlashMoeError, match=r"model\.layers\.1\.mlp\.experts\.down_proj cannot be quantised"):
        pack(write_hf(tmp_path / "nan", CONFIG, tensors), tmp_path / "out", Recipe())


def test_missing_tokenizer_is_said(tmp_path):
    config = CONFIGS["qwen3_moe"]
    source = write_hf(tmp_path / "bare", config, random_weights(config))
    (source / "tokenizer.json").unlink()
    said: list[str] = []
    pack(source, tmp_path / "out", Recipe(), reports=Reports(say=said.append))
    assert "no tokenizer.json" in said[0]
