"""`flashmoe serve` as a process: it says where it is, serves, and ends cleanly on a signal."""

import re
import signal
from contextlib import contextmanager

import httpx
import pytest

from flashmoe.cli.main import run
from processes import HANG, flashmoe_command


@contextmanager
def serving(model, *options):
    command = ["serve", model, "--port", "0", "--context", "512", *options]
    if "--sessions" not in options:
        command.append("--no-sessions")
    process = flashmoe_command(*command, text=True)
    try:
        lines = [process.stderr.readline() for _ in range(2)]
        yield process, re.search(r"(http://\S+)/v1", lines[1])[1]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_answers_end_and_then_ends_the_server(speaking_model, number):
    body = {"model": "it", "prompt": "x", "max_tokens": 100, "stream": True, "temperature": 0}
    with serving(speaking_model, "--name", "it") as (process, url):
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=HANG) as response:
            lines = response.iter_lines()
            next(line for line in lines if line.startswith("data:"))
            process.send_signal(number)
            assert list(lines)[-2] == "data: [DONE]"
        _, err = process.communicate(timeout=HANG)
    assert "Traceback" not in err
    assert process.returncode in (0, -number, 130)


def test_a_key_in_a_file(speaking_model, tmp_path):
    (tmp_path / "key").write_text("secret\n")
    with serving(speaking_model, "--api-key", f"@{tmp_path / 'key'}") as (_, url):
        assert httpx.get(f"{url}/v1/models").status_code == 401
        models = httpx.get(f"{url}/v1/models", headers={"x-api-key": "secret"}).json()
        assert [model["id"] for model in models["data"]] == [speaking_model.name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "Give --api-key, or --insecure"),
        (["--api-key", "@nowhere"], "cannot be read from nowhere"),
        (["--api-key", ""], "must be printable ASCII"),
        (["--sessions-disk", "much"], "is not a size"),
        (["--memory", "1k", "--port", "0"], "may use 1.00 kB"),
        (["--host", "no.such.host.invalid", "--api-key", "x"], "Nothing can listen on"),
    ],
)
def test_what_cannot_be_is_one_sentence(speaking_model, options, message, capfd):
    assert run(["serve", str(speaking_model), *options]) == 1
    assert message in capfd.readouterr().err
