"""What the commands print reaches nobody's terminal as control characters, and ends well where nobody listens."""

import json
import os
import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashmoe.cli.main import run
from flashmoe.cli.printing import printable, say
from flashmoe.demo import TRACE
from packs import read_manifest, write_manifest
from processes import ENVIRONMENT, HANG, PROGRAM, flashmoe_command, start

NASTY = "a\x1b[31m\r\x07\u202e\u2028b"
OPTIONS = ["-p", "Hello", "--raw", "--backend", "reference", "--context", "512", "--max-tokens", "3"]
PRINTING = [
    ["run", "MODEL", *OPTIONS],
    ["info", "MODEL"],
    ["info", "MODEL", "--json"],
    ["simulate", "demo", "--cached", "50", "--policy", "lru"],
]


@given(st.text(st.characters()))
def test_what_is_printed_steers_no_terminal_and_can_always_be_encoded(text):
    shown = printable(text)
    shown.encode()
    assert all(c.isprintable() or c in "\n\t" for c in shown)
    assert printable(shown) == shown


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"])))
def test_ordinary_text_is_printed_as_it_is(text):
    assert printable(f"{text} \n\t") == f"{text} \n\t"


def test_escapes_name_the_byte_or_the_character():
    assert printable("\x1b[2J\x9b\udcff\ud800\u202e\0") == "\\x1b[2J\\x9b\\xff\\ud800\\u202e\\x00"


def test_an_error_is_one_line_whatever_it_names(capfd):
    assert run(["verify", f"{NASTY}\n\udcfe"]) == 1
    error = capfd.readouterr().err
    assert error.startswith("flashmoe: a\\x1b[31m\\r\\x07\\u202e\\u2028b\\n\\xfe is not a packed model")
    assert len(error.splitlines()) == 1
    assert run(["verify", "x", f"--{NASTY}"]) == 2
    assert "\x1b" not in capfd.readouterr().err


@pytest.fixture
def nasty(speaking_model, tmp_path):
    """The model in a directory with such a name, its source named alike."""
    directory = shutil.copytree(speaking_model, tmp_path / f"{NASTY}\udcff")
    manifest = read_manifest(directory)
    manifest["source"]["name"] = f"[red]{NASTY}"
    write_manifest(directory, manifest)
    return directory


def test_names_are_printed_with_escapes(nasty, tmp_path, capfd):
    shutil.copy(TRACE, tmp_path / f"[red]{NASTY}\udcff.npz")
    for arguments in (
        ["info", nasty],
        ["run", nasty, *OPTIONS],
        ["eval", nasty, "--text", __file__, "--limit", "1", "--backend", "reference", "--context", "512"],
        ["simulate", tmp_path / f"[red]{NASTY}\udcff.npz", "--cached", "50", "--policy", "lru"],
        ["doctor", nasty / "nowhere"],
        ["export", nasty, tmp_path / f"out{NASTY}"],
        ["pack", nasty, tmp_path / "out"],
    ):
        run([os.fspath(argument) for argument in arguments])
        out, err = capfd.readouterr()
        shown = re.sub("\r\n", "\n", out + err)
        assert not re.search("[\x1b\x07\u202e\u2028\udcff]|\r", shown), arguments
        if arguments[0] in ("info", "simulate", "doctor", "export"):
            assert "a\\x1b[31m" in shown, arguments
    assert run(["info", str(nasty), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["source"]["name"] == f"[red]{NASTY}"


@pytest.mark.parametrize("choice", [{}, {"NO_COLOR": "1"}])
def test_no_colour_is_heeded(speaking_model, choice):
    """On a terminal, where the thinking would be dimmed."""
    ours, theirs = os.openpty()
    code = (
        "import flashmoe.cli.main as m, flashmoe.text_engine as t\n"
        "t.TextStream.__iter__ = lambda _: iter([t.Piece('I look.\\n</think>\\n\\nDry.', 0)])\n"
        "t.TextStream.finish_reason = 'stop'\n"
        "m.main()"
    )
    options = [option for option in OPTIONS if option != "--raw"]
    kept = {name: value for name, value in ENVIRONMENT.items() if name != "NO_COLOR"}
    process = start(
        [PROGRAM[0], "-c", code, "run", speaking_model, *options],
        env={**kept, "TERM": "xterm", **choice},
        stdout=theirs,
    )
    os.close(theirs)
    shown = b""
    while piece := _read(ours):
        shown += piece
    process.communicate(timeout=HANG)
    os.close(ours)
    assert b"I look." in shown
    assert (b"\x1b" in shown) == (choice == {})


def _read(terminal):
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other end was closed
        return b""


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_closed_output_is_a_sentence(speaking_model, arguments):
    arguments = [str(speaking_model) if word == "MODEL" else word for word in arguments]
    process = flashmoe_command(*arguments, closed=[1])
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 1
    assert err.decode().splitlines()[-1] == "flashmoe: Standard output is closed."
    assert b"Traceback" not in err


def test_a_closed_output_does_not_matter_to_what_prints_nothing(speaking_model, tmp_path):
    command = flashmoe_command("export", speaking_model, tmp_path / "out", closed=[1])
    _, err = command.communicate(timeout=HANG)
    assert command.returncode == 0, err
    assert (tmp_path / "out" / "config.json").exists()


def test_a_closed_stderr_does_not_matter(speaking_model):
    process = flashmoe_command("run", speaking_model, *OPTIONS, closed=[2])
    out, _ = process.communicate(timeout=HANG)
    assert process.returncode == 0
    assert out


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_reader_that_goes_away_is_met_with_silence(speaking_model, arguments):
    """As `head -1` does when it has its line."""
    arguments = [str(speaking_model) if word == "MODEL" else word for word in arguments]
    reader, writer = os.pipe()
    os.close(reader)
    process = flashmoe_command(*arguments, stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 141
    assert b"flashmoe: " not in err
    assert b"Traceback" not in err


def test_both_outputs_in_a_pipe_whose_reader_goes_away(speaking_model):
    reader, writer = os.pipe()
    os.close(reader)
    process = flashmoe_command("run", speaking_model, *OPTIONS, stdout=writer, stderr=subprocess.STDOUT)
    os.close(writer)
    process.communicate(timeout=HANG)
    assert process.returncode == 141


def test_a_checkpoint_is_told_the_command_that_packs_it(speaking_checkpoint, tmp_path, capfd):
    source = shutil.copytree(speaking_checkpoint, tmp_path / "my model")
    assert run(["run", str(source), "-p", "Hi"]) == 1
    said = capfd.readouterr().err
    assert (
        f"is a checkpoint, not a packed model. Pack it once with `flashmoe pack '{source}' 'my model-packed'`" in said
    )


def test_say_prints_lines_as_lines(capfd):
    say("one\ntwo\x1b")
    assert capfd.readouterr().out == "one\ntwo\\x1b\n"
