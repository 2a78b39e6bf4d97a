"""The bar of a prompt on a real terminal, and its absence elsewhere."""

import os

import pytest
from rich.console import Console

from flashmoe.cli import progress
from flashmoe.cli.progress import prompt_bar


@pytest.fixture
def terminal(monkeypatch):
    """Bars go to a terminal; gives what reads all that was shown."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    with os.fdopen(ours, "rb", buffering=0) as reader, os.fdopen(theirs, "w") as writer:
        monkeypatch.setattr(progress, "console", lambda **_: Console(file=writer))
        monkeypatch.setenv("TERM", "xterm")
        yield lambda: b"".join(iter(lambda: reader.read(4096), None)).decode()


def test_a_long_prompt_shows_how_far_it_is_and_how_fast(terminal, monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", 0)
    with prompt_bar() as report:
        for done in (100, 200, 300):
            report(done, 1000)
        report(1000, 1000)
        shown = terminal()
    assert "Reading the prompt" in shown
    assert "1000/1000" in shown
    assert "tokens/s" in shown


def test_a_prompt_that_is_soon_read_shows_nothing(terminal):
    with prompt_bar() as report:
        report(100, 200)
        report(200, 200)
    assert terminal() == ""


def test_nothing_is_shown_where_stderr_is_no_terminal(capfd, monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", 0)
    with prompt_bar() as report:
        report(100, 200)
        report(200, 200)
    assert capfd.readouterr() == ("", "")
