"""`flashmoe run`: text on stdout, everything else on stderr, a clean end whatever happens."""

import re
import shutil
import signal
import sys

import pytest

import flashmoe
from flashmoe.cli.main import run
from flashmoe.text_engine import Piece, TextStream
from processes import HANG, flashmoe_command

REFERENCE = ["--backend", "reference", "--context", "512"]
SAMPLED = ["--temperature", "1.5", "--top-k", "0", "--top-p", "1", "--seed", "3", "--max-tokens", "30"]


def test_the_text_is_that_of_the_engine_and_alone_on_stdout(speaking_model, capfdbinary):
    assert run(["run", str(speaking_model), "-p", "Hello", "--raw", *REFERENCE, *SAMPLED]) == 0
    out, err = capfdbinary.readouterr()
    with flashmoe.load(speaking_model, backend="reference", context=512) as engine:
        answer = engine.generate("Hello", raw=True, temperature=1.5, top_k=0, top_p=1.0, seed=3, max_tokens=30)
    assert out.decode() == answer.text + "\n"
    first, last = err.decode().splitlines()
    held = "(direct|buffered) reads into (huge|small) pages, (not )?locked"
    assert re.search(rf"reference .*; memory .* experts .*; {held}; .* 4 experts per token$", first)
    assert re.fullmatch(
        r"prompt \d+ tokens, [\d.]+ tokens/s; generation \d+ tokens, [\d.]+ tokens/s; expert hits [\d.]+%; "
        r"read [\d.]+ [MG]B at [\d.]+ [MG]B/s",
        last,
    )


def test_what_it_thinks_is_left_out_of_a_file_and_dimmed_on_a_terminal(speaking_model, capfdbinary, monkeypatch):
    said = ["I", " look.", "\n</think>", "\n\n", "It", " \x1b[2Jrains."]
    pieces = [Piece(text, 0) for text in said]
    monkeypatch.setattr(TextStream, "__iter__", lambda _: iter(pieces))
    monkeypatch.setattr(TextStream, "finish_reason", "stop")
    command = ["run", str(speaking_model), "-p", "Hello", *REFERENCE]
    assert run(command) == 0
    assert capfdbinary.readouterr().out == b"It \x1b[2Jrains.\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run(command) == 0
    shown = capfdbinary.readouterr().out.decode()
    assert re.sub("(\x1b\\[0m)?\x1b\\[2m", "", shown) == "I look.\x1b[0m\n\nIt \ufffd[2Jrains.\n"
    assert shown.startswith("\x1b[2m")


def test_thinking_that_never_ends_is_said(speaking_model, capfd, monkeypatch):
    monkeypatch.setattr(TextStream, "__iter__", lambda _: iter([Piece("I look.", 0)]))
    monkeypatch.setattr(TextStream, "finish_reason", "length")
    assert run(["run", str(speaking_model), "-p", "Hello", *REFERENCE]) == 0
    out, err = capfd.readouterr()
    assert out == "\n"
    assert "It was still thinking. Give it more --max-tokens" in err


def test_stats_say_where_the_time_went(speaking_model, capfd):
    assert run(["run", str(speaking_model), "-p", "Hello", "--max-tokens", "3", "--stats", *REFERENCE]) == 0
    assert re.search(r"\d+ hits, \d+ misses; reading .* in native code .* Python [\d.]+%", capfd.readouterr().err)


def test_raw_goes_on_from_the_prompt_itself(speaking_model, capfd):
    assert run(["run", str(speaking_model), "-p", "Hello", "--raw", "--max-tokens", "4", *REFERENCE]) == 0
    with flashmoe.load(speaking_model, backend="reference", context=512) as engine:
        ids = len(engine.prompt_ids("Hello", raw=True))
    assert f"prompt {ids} tokens" in capfd.readouterr().err


def test_system_and_thinking_reach_the_template(speaking_model, capfd):
    options = ["--system", "Be brief.", "--no-thinking", "--max-tokens", "1", *REFERENCE]
    assert run(["run", str(speaking_model), "-p", "Hello", *options]) == 0
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    with flashmoe.load(speaking_model, backend="reference", context=512) as engine:
        expected = len(engine.prompt_ids(messages, enable_thinking=False))
    assert f"prompt {expected} tokens" in capfd.readouterr().err


def test_other_experts_per_token_are_said_to_change_the_answers(speaking_model, capfd):
    options = ["--experts-per-token", "2", "--max-tokens", "1", *REFERENCE]
    assert run(["run", str(speaking_model), "-p", "Hello", *options]) == 0
    assert "2 experts per token and not the model's 4, which changes its answers" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory", "plenty"], "'plenty' is not a size"),
        (["--memory", "1k"], "of memory and may use 1.00 kB"),
        (["--temperature", "-1"], "temperature must be a number"),
        (["--max-tokens", "9999"], "do not fit the context of 512"),
        (["--raw", "--system", "x"], "need the chat template"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(speaking_model, options, message, capfd):
    assert run(["run", str(speaking_model), "-p", "Hello", *REFERENCE, *options]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_wrong_sampling_is_known_before_the_model_is_looked_at(tmp_path, capfd):
    assert run(["run", str(tmp_path / "nowhere"), "-p", "Hello", "--temperature", "-1"]) == 1
    assert "temperature must be a number" in capfd.readouterr().err


def test_a_missing_tokenizer_is_known_before_the_weights_are_read(speaking_model, tmp_path, capfd):
    shutil.copytree(speaking_model, tmp_path / "packed", ignore=shutil.ignore_patterns("tokenizer.json", "trunk.*"))
    assert run(["run", str(tmp_path / "packed"), "-p", "Hello"]) == 1
    assert "tokenizer.json" in capfd.readouterr().err


def test_no_model_is_one_sentence(tmp_path, capfd):
    assert run(["run", str(tmp_path / "nowhere"), "-p", "Hello"]) == 1
    assert "is not a packed model" in capfd.readouterr().err


def test_ctrl_c_keeps_the_text_so_far_and_ends_cleanly(speaking_model):
    # Greedy, a random model soon repeats itself and does not end before the context does.
    options = ["--raw", "--temperature", "0", *REFERENCE]
    process = flashmoe_command("run", speaking_model, "-p", "Hello", *options)
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert b"tokens/s" in err
