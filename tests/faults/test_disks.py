"""Disks and file systems that fail, stall or refuse: the right answer, or a sentence that names the record."""

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from faults.conftest import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_IPC_LOCK, Command
from flashmoe.pack.manifest import Manifest

Faulty = Callable[[str], Command]
UNREADABLE = r"Expert \d+ of layer \d+ could not be read from .*/experts/layer-\d+\.safetensors: Input/output error"


def test_an_io_error_is_a_sentence_that_names_the_record(faulty: Faulty, model: Path) -> None:
    code, out, err = faulty("eio").run(model)
    assert code == 1
    assert out in (b"", b"\n")
    assert re.search(UNREADABLE, err)
    assert f"`flashmoe verify {model}`" in err


def test_what_was_written_before_an_io_error_is_right(faulty: Faulty, model: Path, answer: bytes) -> None:
    for read in (10, 40, 80):
        code, out, err = faulty(f"eio@{read}").run(model)
        assert answer.startswith(out.removesuffix(b"\n"))
        assert (code == 0 and out == answer) or (code == 1 and re.search(UNREADABLE, err))


def test_short_reads_change_nothing(faulty: Faulty, model: Path, answer: bytes) -> None:
    assert faulty("short").run(model)[:2] == (0, answer)


def test_a_disk_that_stalls_changes_nothing(faulty: Faulty, model: Path, answer: bytes) -> None:
    assert faulty("stall@30").run(model)[:2] == (0, answer)


def test_ctrl_c_is_heard_while_the_disk_stalls(faulty: Faulty, model: Path) -> None:
    process = faulty("stall").start(model)
    assert process.stderr is not None
    assert b"reads into" in process.stderr.readline()  # loaded: from here on every expert takes a second
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err


def test_without_direct_reads_they_are_buffered(faulty: Faulty, model: Path, answer: bytes) -> None:
    code, out, err = faulty("nodirect").run(model)
    assert (code, out) == (0, answer)
    assert "buffered reads into" in err


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no file system in memory")
def test_a_model_in_memory_runs(command: Command, model: Path, answer: bytes) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        copy = shutil.copytree(model, Path(directory) / "model")
        assert command.run(copy)[:2] == (0, answer)


def test_a_model_that_may_only_be_read_runs(command: Command, model: Path, answer: bytes) -> None:
    places = [model, *model.rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        ordinary = replace(command, without=(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH))
        assert ordinary.run(model)[:2] == (0, answer)
    finally:
        for place in places:
            place.chmod(0o755 if place.is_dir() else 0o644)


def test_without_leave_to_lock_memory_it_runs_and_says_so(command: Command, model: Path, answer: bytes) -> None:
    code, out, err = replace(command, without=(CAP_IPC_LOCK,), locked_bytes=0).run(model)
    assert (code, out) == (0, answer)
    assert "pages, not locked" in err


def test_verified_reads_of_a_sound_model_change_nothing(command: Command, model: Path, answer: bytes) -> None:
    assert command.run(model, "--verify-reads")[:2] == (0, answer)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def test_verified_reads_find_a_flipped_bit(command: Command, model: Path) -> None:
    manifest = Manifest.read(model)
    layer = manifest.layers[1]
    for expert in range(layer.experts):  # whichever of them the prompt needs
        flip(layer.path, layer.data_offset + expert * manifest.layout(1).record_bytes + 77)
    code, out, err = command.run(model, "--verify-reads")
    assert code == 1
    assert out in (b"", b"\n")
    assert re.search(r"Expert \d+ of layer 1 is not as it was packed", err)
    assert str(layer.path) in err


def test_verified_reads_find_a_flipped_bit_in_the_trunk(command: Command, model: Path) -> None:
    trunk = Manifest.read(model).trunk
    flip(trunk.path, trunk.bytes - 1)
    code, out, err = command.run(model, "--verify-reads")
    assert (code, out) == (1, b"")
    assert f"{trunk.path} is not as it was packed" in err
