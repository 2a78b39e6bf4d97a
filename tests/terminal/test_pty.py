"""`flashmoe chat` in a terminal of its own: Ctrl-C stops an answer and not the program, Ctrl-D ends it."""

import re
import sys
import time
from pathlib import Path

import pexpect
import pytest

from flashmoe.cli.main import run

CURSOR = "\x1b\\[6n"
"""A terminal is asked where its cursor is, and answers."""


class Terminal:
    def __init__(self, arguments: list[str], home: Path) -> None:
        code = "from flashmoe.cli.main import main; main()"
        self.child = pexpect.spawn(
            sys.executable,
            ["-c", code, *arguments],
            encoding="utf-8",
            codec_errors="replace",
            dimensions=(30, 100),
            timeout=120,
            env={"XDG_STATE_HOME": str(home), "PYTHONPATH": ":".join(sys.path), "TERM": "xterm", "LANG": "C.UTF-8"},
        )

    def expect(self, pattern: str) -> None:
        while self.child.expect([pattern, CURSOR]) == 1:
            self.child.send("\x1b[3;1R")

    def end(self) -> int:
        self.child.send("\x04")
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(speaking_model: Path, tmp_path: Path):
    # Greedy, a random model soon repeats itself and does not end before the context does.
    options = ["--backend", "reference", "--context", "1000", "--temperature", "0"]
    terminal = Terminal(["chat", str(speaking_model), *options], tmp_path)
    terminal.expect("context 0 of 1000")
    terminal.child.send("Hello\r")
    terminal.expect(r"\x1b\[\?2004l")  # the line is taken
    terminal.expect(r"\x1b\[\?25l")  # and the answer is being drawn
    time.sleep(0.5)
    terminal.child.sendintr()
    terminal.expect(r"\(stopped\)")
    terminal.expect(r"context \d+ of 1000")
    terminal.child.sendintr()  # at the prompt it empties the line
    terminal.child.send("/stats\r")
    terminal.expect("expert hits")
    assert terminal.end() == 0
    assert (tmp_path / "flashmoe" / "chat-history").read_text().count("Hello") == 1


def test_without_a_terminal_it_is_a_sentence(speaking_model: Path, capfd: pytest.CaptureFixture[str]):
    assert run(["chat", str(speaking_model)]) == 1
    assert re.search("needs a terminal.*flashmoe run", capfd.readouterr().err)
