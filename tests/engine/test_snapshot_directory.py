"""A directory of saved states: what is not the program's is neither deleted nor read; what is, nobody else can read."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from flashmoe.chat.replay import WrittenTurn, WrittenTurns
from flashmoe.chat.tool_calls import ToolCall
from flashmoe.engine.engine import Engine
from flashmoe.engine.loader import load_engine
from flashmoe.engine.session import SessionCache
from flashmoe.errors import FlashMoeError
from flashmoe.settings import Settings
from oracle import some_tokens
from strange_files import KINDS, put, run

OLD = 1_000_000_000
"""A time long ago: whatever goes by age would take such a file first."""
TURN = WrittenTurn(("id",), (ToolCall("f", {}),), "", "", "<function=f>")


@pytest.fixture(scope="module")
def packed(tiny_packed):
    return tiny_packed("qwen3_next")


@pytest.fixture(scope="module")
def engine(packed):
    with load_engine(packed, Settings(backend="cpu", threads=1, context=512, chunk_tokens=128)) as engine:
        yield engine


def save(cache: SessionCache, engine: Engine, tokens: np.ndarray) -> None:
    state = engine.new_sequence()
    engine.prefill(state, tokens)
    cache.save(tokens, state)
    cache.flush()


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xff\xd8\xff\xe0 a photograph")
    os.utime(path, (OLD, OLD))
    return path


def parts(root: Path) -> list[str]:
    return sorted(path.suffix for path in root.glob("*/*") if path.suffix in (".keys", ".state"))


def test_the_budget_and_the_start_delete_no_file_of_anybody_else(engine, tmp_path):
    """Two sessions where one has room: the older has to go, and older still are the photos."""
    save(engine.session_cache(tmp_path / "probe"), engine, some_tokens(40))
    (one,) = (tmp_path / "probe" / engine.identity).iterdir()
    root = tmp_path / "sessions"
    cache = engine.session_cache(root, one.stat().st_size + 100)
    save(cache, engine, some_tokens(40, seed=1))
    mine = [
        photo(root / "photo.jpg"),
        photo(root / "holiday" / "photo.jpg"),
        photo(root / "holiday" / "download.partial"),
        photo(root / engine.identity / "photo.jpg"),
        photo(root / engine.identity / ".photo.jpg.partial"),
        photo(root / ("0" * 16) / "model.safetensors"),
        photo(root / engine.identity / "00000040-0123456789abcdef.state"),
        photo(root / engine.identity / ".00000040-0123456789abcdef.state.4711.partial"),
    ]
    cache = engine.session_cache(root, one.stat().st_size + 100)
    save(cache, engine, some_tokens(40, seed=2))
    assert [path for path in mine if not path.exists()] == []
    fresh = engine.session_cache(root)
    assert [fresh.take(some_tokens(41, seed=s)).length for s in (1, 2)] == [0, 40]


def test_a_linked_folder_leads_neither_to_deletions_nor_to_reads_outside(engine, tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "sessions"
    save(engine.session_cache(outside), engine, some_tokens(40))
    engine.session_cache(root)
    elsewhere = outside / engine.identity
    for path in elsewhere.iterdir():
        os.utime(path, (OLD, OLD))
    before = {path.name: path.stat().st_mtime_ns for path in elsewhere.iterdir()}
    (root / engine.identity).symlink_to(elsewhere)
    (root / ("0" * 16)).symlink_to(elsewhere)
    cache = engine.session_cache(root, 10**6)
    assert cache.disk_bytes == 0
    assert cache.take(some_tokens(41)).length == 0
    save(cache, engine, some_tokens(50))
    assert {path.name: path.stat().st_mtime_ns for path in elsewhere.iterdir()} == before
    assert engine.session_cache(outside).take(some_tokens(41)).length == 40


def test_a_link_in_place_of_a_part_is_neither_followed_nor_replaced(engine, tmp_path):
    root = tmp_path / "sessions"
    save(engine.session_cache(root), engine, some_tokens(40))
    (part,) = (root / engine.identity).iterdir()
    moved = part.rename(tmp_path / "elsewhere")
    part.symlink_to(moved)
    os.utime(moved, (OLD, OLD))
    assert engine.session_cache(root).take(some_tokens(41)).length == 0
    save(engine.session_cache(root), engine, some_tokens(40))
    assert part.is_symlink()
    assert moved.stat().st_mtime == OLD


def test_a_directory_with_files_of_somebody_else_is_refused(engine, tmp_path):
    for name in ("photo.jpg", "0123456789abcdef/photo.jpg", "turns.jsonl", "demo/x"):
        mine = photo(tmp_path / name.replace("/", "-") / name)
        root = tmp_path / name.replace("/", "-")
        with pytest.raises(FlashMoeError, match="which Flash-MoE did not write"):
            engine.session_cache(root)
        assert [path for path in root.rglob("*") if path.is_file()] == [mine]


def test_the_command_refuses_it_before_it_listens(packed, tmp_path):
    photo(tmp_path / "photo.jpg")
    code = "import sys; from flashmoe.cli.main import run; sys.exit(print(run(sys.argv[1:])))"
    assert run(code, "serve", packed, "--port", 0, "--sessions", tmp_path).strip() == "1"


def as_before_the_marks(root: Path) -> None:
    (root / ".flashmoe").unlink()
    for path in [*root.rglob("*"), root]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_directory_of_an_earlier_version_is_used_on(engine, tmp_path):
    root = tmp_path / "sessions"
    save(engine.session_cache(root), engine, some_tokens(300))
    WrittenTurns(root / "turns.jsonl").remember(TURN)
    (root / engine.identity / ".00000040-0123456789abcdef.state.4711.partial").write_bytes(b"")
    as_before_the_marks(root)
    cache = engine.session_cache(root)
    assert cache.take(some_tokens(301)).length == 300
    assert json.loads((root / ".flashmoe").read_text()) == {"kind": "saved states", "format": 1}
    save(cache, engine, some_tokens(40))
    assert (root / engine.identity).stat().st_mode & 0o777 == 0o700


def test_what_a_killed_process_left_is_removed_after_an_hour(engine, tmp_path):
    save(engine.session_cache(tmp_path), engine, some_tokens(40))
    directory = tmp_path / engine.identity
    (part,) = directory.iterdir()
    left = [directory / f".00000040-0123456789abcdef.{end}.partial" for end in ("state", "keys.4711", "keys.0123abcd")]
    for path, content in zip(left, (part.read_bytes()[:1000], b"", b"flash"), strict=True):
        path.write_bytes(content)
    engine.session_cache(tmp_path)
    assert all(path.exists() for path in left)
    for path in left:
        os.utime(path, (OLD, OLD))
    engine.session_cache(tmp_path)
    assert list(directory.iterdir()) == [part]


def test_nobody_else_can_read_what_was_said(engine, tmp_path):
    """Whatever the directory was like before, and with the widest umask."""
    root = tmp_path / "sessions"
    root.mkdir(mode=0o755)
    (root / "turns.jsonl").write_bytes(b'{"ids": ["x"]}\n')
    (root / engine.identity).mkdir(mode=0o755)
    before = os.umask(0)
    try:
        save(engine.session_cache(root), engine, some_tokens(300))
        WrittenTurns(root / "turns.jsonl").remember(TURN)
    finally:
        os.umask(before)
    assert parts(root) == [".keys", ".state"]
    assert (root / engine.identity).stat().st_mode & 0o777 == 0o700
    for path in [root / "turns.jsonl", *(root / engine.identity).iterdir()]:
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_directory_that_cannot_be_closed_to_others_is_one_warning(engine, tmp_path, monkeypatch, caplog):
    """As on file systems without permissions."""
    (tmp_path / engine.identity).mkdir(mode=0o755)
    cache = engine.session_cache(tmp_path)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    save(cache, engine, some_tokens(40))
    assert parts(tmp_path) == []
    assert "others may read what is in it" in caplog.text


@pytest.mark.parametrize("name", ["⁴⁰⁰⁰⁰⁰⁰⁰-0123456789abcdef.state", "٠٠٠٠٠٠٤٠-0123456789abcdef.state", "00000040"])
def test_names_that_only_look_like_ours_are_ignored(engine, tmp_path, name):
    save(engine.session_cache(tmp_path), engine, some_tokens(40))
    photo(tmp_path / engine.identity / name)
    assert engine.session_cache(tmp_path).take(some_tokens(41)).length == 40


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_in_place_of_a_part_is_computed_anew(kind, engine, packed, tmp_path):
    save(engine.session_cache(tmp_path / "s"), engine, some_tokens(300))
    WrittenTurns(tmp_path / "s" / "turns.jsonl").remember(TURN)
    for path in [*(tmp_path / "s" / engine.identity).iterdir(), tmp_path / "s" / "turns.jsonl"]:
        put(kind, path)
    code = """
import sys
from pathlib import Path
from flashmoe.chat.replay import WrittenTurns
from flashmoe.chat.tool_calls import ToolCall
from flashmoe.engine.loader import load_engine
from flashmoe.settings import Settings
from oracle import some_tokens
from test_snapshot_directory import TURN, save
with load_engine(Path(sys.argv[1]), Settings(backend="cpu", threads=1, context=512, chunk_tokens=128)) as engine:
    cache = engine.session_cache(Path(sys.argv[2]))
    print(cache.take(some_tokens(301)).length)
    save(cache, engine, some_tokens(300))
WrittenTurns(Path(sys.argv[2], "turns.jsonl")).remember(TURN)
"""
    assert run(f"import sys; sys.path.append({str(Path(__file__).parent)!r})\n{code}", packed, tmp_path / "s") == "0\n"
    shutil.rmtree(tmp_path / "s" / engine.identity)
