"""`flashmoe chat` in a terminal of its own, read as a person would: from the screen."""

import os
import re
import signal
import sys
from pathlib import Path

import pexpect
import pyte
import pytest

from flashmoe.cli.main import run
from flashmoe.demo.directory import model_directory
from processes import HANG, usual_signals

TOOLS = '''
from pathlib import Path

def search_vehicle(employee: str, number: str = "") -> dict:
    """Search vehicle

    employee: Who the vehicle is for
    """
    Path(__file__).with_name("ran").touch()
    return {"city": "London"}
'''
QUESTION = "Please where is our vehicle, employee: Sofia number 0f78945"
"""The model that ships answers this with a call."""
IDLE = r"\n>\n[\s\S]*tokens/s · expert hits .*\n?.*context \d+ of \d+ · /help"
"""After an answer: an empty line to type in, and the footer."""
COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3|4|9|10)[0-8](?:;\d+)*m")


@pytest.fixture(scope="module")
def demo() -> str:
    return str(model_directory("demo"))


class Screen(pyte.Screen):
    """A terminal that answers when it is asked where its cursor is."""

    def write_process_input(self, data: str) -> None:
        self.child.send(data)


class Terminal:
    """home: where the program keeps what it keeps for its user."""

    def __init__(self, arguments: list[str], home: Path, columns: int = 100, **environment: str) -> None:
        code = "from flashmoe.cli.main import main; main()"
        kept = {name: str(home) for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME")}
        self.child = pexpect.spawn(
            sys.executable,
            ["-c", code, "chat", *arguments],
            dimensions=(30, columns),
            timeout=HANG,
            preexec_fn=usual_signals,
            env={**kept, "PYTHONPATH": ":".join(sys.path), "TERM": "xterm", "LANG": "C.UTF-8", **environment},
        )
        self.screen = Screen(columns, 30)
        self.screen.child = self.child
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def see(self, pattern: str) -> str:
        """Wait until the screen shows this; all that it shows."""
        while not re.search(pattern, self.text):
            data = self.child.read_nonblocking(1 << 16, timeout=HANG)
            self.raw += data
            self.stream.feed(data)
        return self.text

    def type(self, text: str) -> None:
        self.child.send(text)

    def end(self) -> int:
        self.type("\x04")
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(speaking_model: Path, tmp_path: Path):
    # Greedy, a random model soon repeats itself and does not end before the context does.
    options = ["--backend", "reference", "--context", "1000", "--temperature", "0"]
    terminal = Terminal([str(speaking_model), *options], tmp_path)
    terminal.see("context 0 of 1000")
    terminal.type("Hello\r")
    terminal.see(r"tokens/s · .* context \d+ of 1000")  # below the answer while it comes
    terminal.child.sendintr()
    terminal.see(r"\(stopped\)\n>\n[\s\S]*context \d+ of 1000")
    terminal.child.sendintr()  # at the prompt it empties the line
    terminal.type("/stats\r")
    terminal.see("waiting for it")
    assert terminal.end() == 0
    assert (tmp_path / "flashmoe" / "chat-history").read_text().count("Hello") == 1


def test_a_call_of_the_model_runs_after_a_yes_and_a_killed_chat_goes_on(demo: str, tmp_path: Path):
    (tmp_path / "tools.py").write_text(TOOLS)
    options = [demo, "--temperature", "0", "--tools", str(tmp_path / "tools.py"), "--session", str(tmp_path / "talk")]
    terminal = Terminal(options, tmp_path)
    terminal.see("context 0")
    terminal.type(f"{QUESTION}\r")
    shown = terminal.see("run it.*:")
    assert "search_vehicle(employee='Sofia', number='0f78945')" in shown
    assert re.search(r"▸ thought \d+ words", shown)
    assert not (tmp_path / "ran").exists()
    terminal.type("y\r")
    shown = terminal.see(r"London[\s\S]*" + IDLE)
    assert (tmp_path / "ran").exists()
    answer = shown[shown.index('{"city"') :]
    assert answer.count("London") == 2  # the result, and the answer made of it
    os.kill(terminal.child.pid, signal.SIGKILL)

    terminal = Terminal(options, tmp_path)
    shown = terminal.see(r"context \d{2,} of")
    assert QUESTION in shown
    assert "London" in shown
    terminal.type("\x1b[A")  # the line typed before the program was killed
    terminal.see(f"> {QUESTION}\n[^\n]*\n?[\\s\\S]*> {QUESTION}")
    assert list((tmp_path / "flashmoe" / "sessions").glob("*/*.state"))
    terminal.type("\x15")
    assert terminal.end() == 0


def test_a_declined_call_does_not_run_and_the_model_is_told(demo: str, tmp_path: Path):
    (tmp_path / "tools.py").write_text(TOOLS)
    terminal = Terminal([demo, "--temperature", "0", "--tools", str(tmp_path / "tools.py")], tmp_path)
    terminal.see("context 0")
    terminal.type(f"{QUESTION}\r")
    terminal.see("run it.*:")
    terminal.type("n\r")
    terminal.see(r"not run[\s\S]*" + IDLE)
    assert not (tmp_path / "ran").exists()
    assert terminal.end() == 0


def test_a_line_is_edited_and_fits_a_narrow_terminal(demo: str, tmp_path: Path):
    terminal = Terminal([demo, "--max-tokens", "60", "--temperature", "0"], tmp_path, columns=40)
    terminal.see("context 0")
    terminal.type("/hlp\x1b[D\x1b[De\r")  # two to the left
    terminal.see("answer the last")
    terminal.type("What is your favourite colour?\r")
    shown = terminal.see(IDLE)
    assert max(map(len, shown.splitlines())) <= 40
    assert terminal.end() == 0


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["no colour", "dumb"])
def test_colours_are_left_out_where_they_are_not_wanted(demo: str, tmp_path: Path, environment: dict[str, str]):
    terminal = Terminal([demo, "--max-tokens", "60", "--temperature", "0"], tmp_path, **environment)
    terminal.see("context 0")
    terminal.type("What is your favourite colour?\r")
    terminal.see(IDLE if "NO_COLOR" in environment else r"tokens/s · expert hits .* · /help\n>$")
    assert COLOUR.findall(terminal.raw) == []
    if environment.get("TERM") == "dumb":
        assert b"\x1b" not in terminal.raw
    assert terminal.end() == 0


def test_without_a_terminal_it_is_a_sentence(speaking_model: Path, capfd: pytest.CaptureFixture[str]):
    assert run(["chat", str(speaking_model)]) == 1
    assert re.search("needs a terminal.*flashmoe run", capfd.readouterr().err)
