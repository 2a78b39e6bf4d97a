"""Where `flashmoe run` takes its prompt from."""

import io
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import flashmoe
from flashmoe.cli import prompt_text
from flashmoe.cli.main import run
from processes import HANG, flashmoe_command

OPTIONS = ["--raw", "--backend", "reference", "--context", "512", "--max-tokens", "2", "--temperature", "0"]


@pytest.fixture
def stdin(monkeypatch):
    def put(data, terminal=False):
        stream = io.TextIOWrapper(io.BytesIO(data))
        stream.isatty = lambda: terminal
        monkeypatch.setattr(sys, "stdin", stream)

    return put


@pytest.fixture
def asked(monkeypatch):
    """What the engine is asked, without an engine."""
    prompts = []

    class Engine:
        engine = SimpleNamespace(summary="", config=SimpleNamespace(experts=1, layers=1, top_k=1))

        def __enter__(self):
            return self

        def __exit__(self, *_): ...

    monkeypatch.setattr("flashmoe.cli.run.load_with", lambda *_: Engine())
    monkeypatch.setattr("flashmoe.cli.run.Answer", lambda _, messages, *__: prompts.append(messages) or Nothing())
    monkeypatch.setattr("flashmoe.cli.run._print_statistics", lambda *_, **__: None)
    return lambda: prompts[-1][-1]["content"]


class Nothing:
    stats, stopped = None, False

    def __iter__(self):
        return iter(())


@pytest.mark.parametrize("option", [[], ["-p", "-"], ["--prompt=-"]])
def test_a_prompt_comes_from_standard_input(stdin, asked, option):
    stdin("Hello,\nGr\u00fc\u00dfe\n".encode())
    assert run(["run", "m", *option]) == 0
    assert asked() == "Hello,\nGr\u00fc\u00dfe"


@pytest.mark.parametrize(
    ("written", "read"),
    [(b"Hi\n", "Hi"), (b"Hi\r\n", "Hi"), (b"Hi\n\n", "Hi\n"), (b"Hi", "Hi"), (b"\n Hi \n", "\n Hi "), (b"@x\n", "@x")],
)
def test_the_end_of_the_last_line_of_a_file_is_left_out_and_nothing_else(tmp_path, asked, written, read):
    (tmp_path / "prompt").write_bytes(written)
    assert run(["run", "m", "-p", f"@{tmp_path / 'prompt'}"]) == 0
    assert asked() == read


def test_a_prompt_longer_than_a_command_line_may_be_reaches_the_model(tmp_path, stdin, asked):
    text = "ship " * 60_000
    (tmp_path / "prompt").write_text(text + "\n")
    assert run(["run", "m", "-p", f"@{tmp_path / 'prompt'}"]) == 0
    assert asked() == text
    stdin(text.encode())
    assert run(["run", "m"]) == 0
    assert asked() == text


def test_a_pipe_may_be_named_as_a_file(asked):
    reader, writer = os.pipe()
    os.write(writer, b"Hello\n")
    os.close(writer)
    assert run(["run", "m", "-p", f"@/dev/fd/{reader}"]) == 0
    os.close(reader)
    assert asked() == "Hello"


def test_a_terminal_is_not_waited_for(stdin, capfd):
    stdin(b"never read", terminal=True)
    assert run(["run", "m"]) == 2
    assert "There is no prompt: give one with -p TEXT or -p @FILE, or pipe it in." in capfd.readouterr().err


@pytest.mark.parametrize(
    ("option", "given", "message"),
    [
        ([], b"", "standard input is empty"),
        (["-p", "-"], b"\n", "standard input is empty"),
        ([], b"\xff\xfe", "Standard input is not UTF-8 text"),
        (
            ["-p", "@nowhere"],
            b"",
            "cannot be read from nowhere: No such file or directory. A prompt that itself begins",
        ),
        (["-p", "@"], b"", "cannot be read from a file without a name"),
        (["-p", "@."], b"", "cannot be read from .: Is a directory"),
        (["-p", "@bytes"], b"", "bytes is not UTF-8 text"),
        (["-p", "@empty"], b"", "empty is empty"),
        (["-p", "a\udcff"], b"", "The prompt is not UTF-8 text"),
        (["-p", "@a\0b"], b"", "cannot be read from a\\x00b"),
        (["-p", "@large"], b"", "large holds more than 0 MiB"),
    ],
)
def test_what_is_no_prompt_is_one_sentence(option, given, message, stdin, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(prompt_text, "LARGEST", 100)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\x80")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "large").write_bytes(b"x" * 101)
    stdin(given)
    assert run(["run", "m", *option]) == 1
    error = capfd.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_what_echo_writes_is_answered(speaking_model):
    process = flashmoe_command("run", speaking_model, *OPTIONS, stdin=subprocess.PIPE)
    out, err = process.communicate(b"Hello\n", timeout=HANG)
    assert process.returncode == 0, err
    with flashmoe.load(speaking_model, backend="reference", context=512) as engine:
        answer = engine.generate("Hello", raw=True, max_tokens=2, temperature=0)
    assert out.decode() == answer.text + "\n"


def test_without_standard_input_there_is_no_prompt(speaking_model):
    process = flashmoe_command("run", speaking_model, *OPTIONS, closed=[0])
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 2
    assert b"There is no prompt: give one with -p TEXT" in err
    assert b"Traceback" not in err
