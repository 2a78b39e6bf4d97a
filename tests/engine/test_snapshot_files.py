"""Sessions on disk: they go on bit for bit in another process, and nothing found in their directory does harm."""

import errno
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashmoe.engine import snapshot_part
from flashmoe.engine.engine import Engine
from flashmoe.engine.loader import load_engine
from flashmoe.engine.session import SessionCache
from flashmoe.settings import Settings
from oracle import some_tokens

HYBRID, ATTENTION = "qwen3_next", "qwen3_moe"
SETTINGS = Settings(backend="cpu", threads=1, context=1024, chunk_tokens=128)
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def engine(tiny_packed):
    with load_engine(tiny_packed(HYBRID), SETTINGS) as engine:
        yield engine


def save(cache: SessionCache, engine: Engine, tokens: np.ndarray) -> None:
    state = engine.new_sequence()
    engine.prefill(state, tokens)
    cache.save(tokens, state)
    cache.flush()


def anew(engine: Engine, tokens: np.ndarray) -> np.ndarray:
    return engine.prefill(engine.new_sequence(), tokens)


def files(directory: Path) -> list[Path]:
    """Oldest first."""
    return sorted((p for p in directory.glob("*/*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)


@pytest.mark.parametrize(
    ("name", "backend", "bits", "first", "second"),
    [
        (HYBRID, "cpu", 16, 375, 400),
        (HYBRID, "cpu", 8, 375, 400),
        (HYBRID, "cpu", 16, 257, 257),
        (HYBRID, "reference", 16, 30, 40),
        (HYBRID, "reference", 8, 30, 40),
        (ATTENTION, "cpu", 16, 525, 425),
        (ATTENTION, "reference", 16, 30, 40),
    ],
)
def test_another_process_goes_on_bit_for_bit(name, backend, bits, first, second, tiny_packed, tmp_path):
    results = []
    for i, length in enumerate((first, second)):
        out = tmp_path / f"{i}.npz"
        command = [
            sys.executable,
            TESTS / "engine/resume.py",
            tiny_packed(name),
            tmp_path / "s",
            backend,
            bits,
            length,
            out,
        ]
        path = os.pathsep.join([str(TESTS), *sys.path])
        subprocess.run(list(map(str, command)), check=True, env=os.environ | {"PYTHONPATH": path})
        results.append(np.load(out))
    # Without recurrent layers a shorter prompt finds the parts of a longer one.
    assert [int(r["spared"]) for r in results] == [0, first - 1 if first <= second else 256]
    with load_engine(tiny_packed(name), Settings(backend=backend, threads=1, context=1024, kv_bits=bits)) as engine:
        for length, result in zip((first, second), results, strict=True):
            np.testing.assert_array_equal(result["logits"], anew(engine, some_tokens(length)))


def test_sessions_of_other_bits_are_not_found(engine, tiny_packed, tmp_path):
    tokens = some_tokens(40)
    save(engine.session_cache(tmp_path), engine, tokens)
    with load_engine(tiny_packed(HYBRID), replace(SETTINGS, kv_bits=8)) as other:
        assert other.session_cache(tmp_path).take(tokens).length == 0
    assert engine.session_cache(tmp_path).take(some_tokens(41)).length == 40


def test_longer_sessions_share_the_parts_of_shorter_ones(engine, tmp_path):
    cache, tokens = engine.session_cache(tmp_path), some_tokens(750)
    save(cache, engine, tokens[:525])
    before = {path: path.stat().st_ino for path in files(tmp_path)}
    assert sorted(path.suffix for path in before) == [".keys", ".keys", ".state"]
    save(cache, engine, tokens)
    assert len(files(tmp_path)) == 4
    assert all(path.stat().st_ino == before.get(path, path.stat().st_ino) for path in files(tmp_path))
    other = tokens.copy()
    other[625] += 1
    state = engine.session_cache(tmp_path).take(other)
    assert state.length == 525
    np.testing.assert_array_equal(engine.prefill(state, other[525:]), anew(engine, other))


@settings(max_examples=60)
@given(data=st.data())
def test_bytes_changed_anywhere_are_found_with_one_warning_and_computed_anew(data, engine, tmp_path_factory):
    directory, tokens = tmp_path_factory.mktemp("sessions"), some_tokens(270)
    save(engine.session_cache(directory), engine, tokens[:260])
    path = data.draw(st.sampled_from(sorted(files(directory))))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "grow", "zero"])):
        case "flip":
            content[place] ^= data.draw(st.integers(1, 255))
        case "cut":
            del content[place:]
        case "grow":
            content += b"more"
        case "zero":
            before = bytes(content)
            content[place:] = bytes(len(content) - place)
            content[0] ^= before == content
    path.write_bytes(content)
    with Warnings() as warnings:
        cache = engine.session_cache(directory)
        assert [cache.take(tokens).length for _ in range(2)] == [0, 0]
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    assert warnings[0].endswith("the session is computed anew.")
    assert path.exists() == (content[:8] != b"flashmoe"), "what does not begin as a part is not known to be one"


class Warnings:
    """What the logger `flashmoe` said meanwhile; caplog does not go with hypothesis."""

    def __enter__(self) -> list[str]:
        self.found: list[str] = []
        self.handler = logging.Handler()
        self.handler.emit = lambda record: self.found.append(record.getMessage())
        self.log = logging.getLogger("flashmoe")
        self.log.addHandler(self.handler)
        return self.found

    def __exit__(self, *_: object) -> None:
        self.log.removeHandler(self.handler)


def test_a_whole_file_of_another_model_or_format_is_refused(engine, tmp_path, monkeypatch, caplog):
    tokens = some_tokens(50)
    for wrong in ("model", "format"):
        with monkeypatch.context() as patch:
            if wrong == "format":
                patch.setattr(snapshot_part, "FORMAT", 99)
            else:
                patch.setattr(engine, "identity", "0" * 16)
            save(engine.session_cache(tmp_path / wrong), engine, tokens)
        [path] = files(tmp_path / wrong)
        target = tmp_path / wrong / engine.identity
        target.mkdir(exist_ok=True)
        path.rename(target / path.name)
        assert engine.session_cache(tmp_path / wrong).take(some_tokens(60)).length == 0
        assert "is of another model, format or text; the session is computed anew." in caplog.text
        caplog.clear()


def test_other_files_in_the_directory_are_left_alone(engine, tmp_path):
    engine.session_cache(tmp_path)
    directory = tmp_path / engine.identity
    directory.mkdir()
    for name in ("00000010", "00000010-0.state", "notes.txt", "99999999-x.keys"):
        (directory / name).write_text("mine")
    assert engine.session_cache(tmp_path).take(some_tokens(60)).length == 0
    assert len(files(tmp_path)) == 4


def test_the_least_recently_used_go_first_and_ends_before_what_they_stand_on(engine, tmp_path):
    prompts = [some_tokens(280, seed) for seed in range(3)]
    save(engine.session_cache(tmp_path / "probe"), engine, prompts[0])
    size = sum(path.stat().st_size for path in files(tmp_path / "probe"))
    cache = engine.session_cache(tmp_path / "s", 2 * size)
    for prompt in prompts[:2]:
        save(cache, engine, prompt)
    fresh = engine.session_cache(tmp_path / "s", 2 * size)
    assert fresh.take(np.append(prompts[0], 1)).length == 280
    save(cache, engine, prompts[2])
    assert sum(path.stat().st_size for path in files(tmp_path / "s")) <= 2 * size
    fresh = engine.session_cache(tmp_path / "s")
    assert [fresh.take(np.append(p, 1)).length for p in prompts] == [280, 0, 280]
    order = [path.suffix for path in files(tmp_path / "s")]
    assert order == [".state", ".keys", ".state", ".keys"]
    save(engine.session_cache(tmp_path / "s", size - 1), engine, prompts[1])
    assert len(files(tmp_path / "s")) == 4, "a session larger than the budget is not written"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written_is_one_warning(number, engine, tmp_path, monkeypatch, caplog):
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    cache = engine.session_cache(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        save(cache, engine, some_tokens(50))
        save(cache, engine, some_tokens(60))
    assert len(caplog.records) == 1
    assert "Sessions are not kept in" in caplog.text
    assert files(tmp_path) == []
    save(cache, engine, some_tokens(50))
    assert engine.session_cache(tmp_path).take(some_tokens(51)).length == 50


def test_a_directory_that_cannot_be_made_is_one_warning(engine, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = engine.session_cache(tmp_path / "file")
    save(cache, engine, some_tokens(50))
    assert cache.take(some_tokens(51)).length == 0
    assert len(caplog.records) == 1


def test_processes_that_write_and_evict_at_once_leave_only_whole_files(engine, tiny_packed, tmp_path):
    lengths = [280, 280, 330, 280]
    commands = [
        [
            sys.executable,
            TESTS / "engine/resume.py",
            tiny_packed(HYBRID),
            tmp_path / "s",
            "cpu",
            16,
            n,
            tmp_path / f"{i}.npz",
        ]
        for i, n in enumerate(lengths)
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    running = [subprocess.Popen(list(map(str, command)), env=environment) for command in commands]
    assert [process.wait() for process in running] == [0] * 4
    for i, length in enumerate(lengths):
        np.testing.assert_array_equal(np.load(tmp_path / f"{i}.npz")["logits"], anew(engine, some_tokens(length)))
    fresh = engine.session_cache(tmp_path / "s")
    assert [fresh.take(some_tokens(length)).length for length in (280, 330)] == [279, 329]
    assert {path.suffix for path in files(tmp_path / "s")} == {".state", ".keys"}
