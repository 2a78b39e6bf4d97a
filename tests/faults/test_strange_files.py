"""A pipe, a socket, a directory, a device or half a copy in place of any file that a command reads: a sentence."""

import shutil
from pathlib import Path

import pytest

from flashmoe.engine.loader import load_engine
from flashmoe.errors import FlashMoeError
from flashmoe.files.holes import holes
from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe
from flashmoe.settings import Settings
from oracle import some_tokens
from strange_files import KINDS, run

_EACH = """
import shutil, sys
from pathlib import Path
from flashmoe.cli.main import run
from strange_files import put

kind, original, scratch, command = sys.argv[1:5]
sys.stderr = sys.stdout
for name in sys.argv[5:]:
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(original, scratch)
    put(kind, Path(scratch, name))
    print(name, "...", flush=True)
    code = run([argument.replace("DIR", scratch) for argument in command.split()])
    print(name, "ends with", code, flush=True)
"""
PACKED = [
    "flashmoe.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "trunk.safetensors",
    "experts/layer-001.safetensors",
]


def each(kind: str, original: Path, scratch: Path, command: str, files: list[str]) -> None:
    """The command, on a copy of the original for each of the files, says what is wrong and names the file."""
    said = run(_EACH, kind, original, scratch, command, *files)
    assert "Traceback" not in said, said
    for name in files:
        part = said.partition(f"{name} ends with")[0].rpartition(f"{name} ...")[2]
        assert f"{name} ends with 1" in said, said
        assert name in part, said
        sentences = (f"it is {kind}, not a regular file", "is not a packed model", "is a link to /dev/zero, outside of")
        assert any(sentence in part for sentence in sentences), said


@pytest.mark.parametrize("kind", KINDS)
def test_in_place_of_a_file_of_a_packed_model(kind: str, speaking_model: Path, tmp_path: Path) -> None:
    command = "run DIR -p Hello --max-tokens 1 --threads 1 --context 64"
    each(kind, speaking_model, tmp_path / "model", command, PACKED)


@pytest.mark.parametrize("kind", KINDS)
def test_in_place_of_a_file_of_a_checkpoint(kind: str, speaking_checkpoint: Path, tmp_path: Path) -> None:
    shard = min(path.name for path in speaking_checkpoint.glob("*.safetensors"))
    files = ["config.json", "tokenizer.json", shard]
    each(kind, speaking_checkpoint, tmp_path / "source", f"pack DIR {tmp_path / 'out'}", files)


@pytest.mark.parametrize("kind", KINDS)
def test_in_place_of_other_inputs(kind: str, speaking_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    commands = [
        "simulate DIR/file",
        f"eval {speaking_model} --text DIR/file",
        f"eval {speaking_model} --cases DIR/file",
        f"serve {speaking_model} --api-key @DIR/file",
        f"verify {tmp_path / 'broken'}",
    ]
    shutil.copytree(speaking_model, tmp_path / "broken")
    (tmp_path / "broken" / "experts" / "layer-000.safetensors").unlink()
    (tmp_path / "broken" / "experts" / "layer-000.safetensors").symlink_to(tmp_path / "copy" / "file")
    for command in commands:
        said = run(_EACH, kind, tmp_path / "empty", tmp_path / "copy", command, "file")
        assert "file ends with 1" in said, said
        assert "Traceback" not in said, said
        assert f"it is {kind}, not a regular file" in said, said


def with_a_hole(path: Path, begin: int, end: int) -> None:
    """As a copy by several threads leaves a file when it is broken off: of full size, and a part never written."""
    content = path.read_bytes()
    path.unlink()
    with path.open("wb") as file:
        file.write(content[:begin])
        file.seek(end)
        file.write(content[end:])
        file.truncate(len(content))
    if not holes(path):
        pytest.skip("this file system makes no holes")


def test_experts_that_were_never_written_are_named(model: Path) -> None:
    path = model / "experts" / "layer-001.safetensors"
    size = path.stat().st_size
    with_a_hole(path, size // 2 // 4096 * 4096, size)
    with pytest.raises(FlashMoeError, match=r"layer-001\.safetensors has its full size, but a part of expert \d+"):
        load_engine(model, Settings(context=64))


def test_a_trunk_that_was_never_written_is_named(model: Path) -> None:
    with_a_hole(model / "trunk.safetensors", 1 << 16, 2 << 16)
    with pytest.raises(FlashMoeError, match=r"trunk\.safetensors is not as it was packed"):
        load_engine(model, Settings(context=64))


def test_holes_in_place_of_zeros_that_belong_there_are_no_fault(
    speaking_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As file systems that compress, and `cp --sparse=always`, make them. Checksums tell: nothing is refused."""
    whole = tmp_path / "model"
    shutil.copytree(speaking_model, whole)
    monkeypatch.setattr("flashmoe.engine.sparse.holes", lambda path: [(0, path.stat().st_size)])
    with load_engine(whole, Settings(context=64)) as engine:
        engine.logits(some_tokens(3))


def test_a_shard_that_was_never_written_is_named(speaking_checkpoint: Path, tmp_path: Path) -> None:
    source = shutil.copytree(speaking_checkpoint, tmp_path / "source")
    (shard,) = source.glob("*.safetensors")
    size = shard.stat().st_size
    with_a_hole(shard, size // 2 // 4096 * 4096, size // 4 * 3)
    with pytest.raises(FlashMoeError, match=rf"{shard.name} has its full size, but nothing was ever written at byte"):
        pack(source, tmp_path / "out", Recipe())
    assert not (tmp_path / "out").exists()


def test_where_the_file_system_makes_holes_of_zeros_a_shard_is_believed(
    speaking_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(speaking_checkpoint, tmp_path / "source")
    monkeypatch.setattr("flashmoe.files.holes.holes", lambda _: [(4096, 8192)])
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    device = source.stat().st_dev
    number = f"{device >> 8 & 0xFFF}:{device & 0xFF}"
    assert f" {number} " in mounts
    read_text = Path.read_text
    elsewhere = f"1 1 {number} / / rw - zfs pool rw\n"
    monkeypatch.setattr(
        Path, "read_text", lambda self, **how: elsewhere if self.name == "mountinfo" else read_text(self, **how)
    )
    pack(source, tmp_path / "out", Recipe())
