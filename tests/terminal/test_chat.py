"""The loop of a chat, typed into through prompt_toolkit's own pipe; the answers of the model are scripted."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from flashmoe.chat.template import ChatTemplate
from flashmoe.engine.generation import Statistics
from flashmoe.errors import CapacityError
from flashmoe.terminal.answering import Choices
from flashmoe.terminal.app import Chat
from flashmoe.terminal.conversation import Conversation
from flashmoe.terminal.tools import read_tools
from flashmoe.text_engine import Piece

CALL = """<tool_call>
<function=add>
<parameter=a>
2
</parameter>
<parameter=b>
3
</parameter>
</function>
</tool_call>"""
STOPPED, NOT_ALLOWED = '{"error": "The user stopped this call."}', '{"error": "The user did not allow this call."}'
STATS = Statistics(10, 0.1, 5, 5, 0.5, 30, 10, 100, 0.1, 0.0, 0.5)


class Stream:
    def __init__(self, text: str) -> None:
        self.text, self.stats, self.finish_reason = text, STATS, "cancelled"

    def cancel(self) -> None:
        raise AssertionError("Nobody pressed Ctrl-C.")

    def __iter__(self) -> Iterator[Piece]:
        yield from (Piece(character, 0) for character in self.text)
        self.finish_reason = "stop"


class Scripted:
    """A text engine that says what it was told to say and remembers what it was asked."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers, self.asked = list(answers), []
        self.template = ChatTemplate((Path(__file__).parents[1] / "chat" / "qwen3_template.jinja").read_text())
        limits = SimpleNamespace(context=100)
        self.engine = SimpleNamespace(limits=limits, summary="a model", session=lambda cache: cache)

    def prompt_ids(self, messages, *, tools=None, **variables) -> list[str]:
        """A token a word."""
        return self.template.render(messages, tools=tools, **variables).split()

    def stream(self, messages, *, progress, **options) -> Stream:
        self.asked.append([dict(message) for message in messages])
        self.options = options
        progress(10, 10)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = answer(messages)
        return Stream(answer)


@contextmanager
def typing(*lines: str) -> Iterator[None]:
    """What the user types; each is ended by Enter, and all by Ctrl-D."""
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text("".join(f"{line}\r" for line in lines) + "\x04")
        yield


@pytest.fixture
def tools(tmp_path: Path):
    (tmp_path / "tools.py").write_text("def add(a: int, b: int) -> int:\n    return a + b\n")
    return read_tools(tmp_path / "tools.py")


def chat(engine: Scripted, *lines: str, **options) -> tuple[Chat, str]:
    """The chat after these lines, and what it printed."""
    console = Console(file=io.StringIO(), width=100)
    with typing(*lines):
        found = Chat(engine, console, Choices(sampling={"seed": 1}), **options)
        found.run()
    return found, console.file.getvalue()


def test_an_answer_is_shown_and_the_next_question_knows_it():
    engine = Scripted("<think>\nHm.\n</think>\n\n**Four.**", "Six.")
    found, text = chat(engine, "2 + 2?", "3 + 3?", system="Be brief.")
    assert "Four." in text
    assert "**" not in text
    assert [m["content"] for m in engine.asked[1]] == ["Be brief.", "2 + 2?", "**Four.**", "3 + 3?"]
    assert engine.options["seed"] == 1
    assert found.footer() == "10.0 tokens/s · expert hits 75.0% · context 15 of 100 · /help"


def test_alt_enter_makes_a_line_and_nothing_is_not_asked():
    engine = Scripted("Yes.")
    chat(engine, "   ", "one\x1b\rtwo")
    assert engine.asked[0][-1]["content"] == "one\ntwo"


@pytest.mark.parametrize(("typed", "result"), [("y", "5"), ("always", "5"), ("n", "did not allow"), ("", "not allow")])
def test_a_call_is_shown_and_runs_only_if_confirmed(tools, typed: str, result: str):
    engine = Scripted(CALL, "Done.")
    found, text = chat(engine, "2 + 3?", typed, tools=tools)
    assert "add(a=2, b=3)" in text
    assert found.conversation.messages[2]["role"] == "tool"
    assert result in found.conversation.messages[2]["content"]
    assert engine.asked[1] == found.conversation.messages[:3]
    assert [tool["function"]["name"] for tool in engine.options["tools"]] == ["add"]


def test_ctrl_c_at_the_question_is_a_no(tools):
    engine = Scripted(CALL, "Done.")
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text("2 + 3?\r\x03\x04")
        found = Chat(engine, Console(file=io.StringIO()), Choices(), tools=tools)
        found.run()
    assert "not allow" in found.conversation.messages[2]["content"]


def test_always_asks_once(tools):
    engine = Scripted(CALL, CALL, "Done.")
    found, _ = chat(engine, "2 + 3?", "a", tools=tools)
    assert [m["content"] for m in found.conversation.messages if m["role"] == "tool"] == ["5", "5"]


def test_a_tool_that_there_is_not_is_never_asked_about(tools):
    call = '<tool_call>\n{"name": "erase", "arguments": {}}\n</tool_call>'
    engine = Scripted(call, "Sorry.")
    found, text = chat(engine, "Erase it.", tools=tools)
    assert "run it?" not in text
    assert json.loads(found.conversation.messages[2]["content"])["error"] == "There is no tool erase; there are add."
    assert found.conversation.messages[3]["content"] == "Sorry."


def test_ctrl_c_in_a_function_stops_it_and_what_came_before_stays(tmp_path: Path):
    (tmp_path / "tools.py").write_text("def add(a: int, b: int) -> int:\n    raise KeyboardInterrupt\n")
    engine = Scripted(CALL + "\n" + CALL, "Again.")
    found, _ = chat(engine, "2 + 3?", "y", "Go on.", tools=read_tools(tmp_path / "tools.py"), session=tmp_path / "talk")
    said = [m["content"] for m in found.conversation.messages]
    assert said == ["2 + 3?", "", STOPPED, NOT_ALLOWED, "Go on.", "Again."]
    assert Conversation.read(tmp_path / "talk") == found.conversation


def test_what_a_function_does_wrong_goes_to_the_model_and_the_chat_goes_on(tmp_path: Path):
    (tmp_path / "tools.py").write_text("def add(a: int, b: int) -> int:\n    exit('Goodbye.')\n")
    found, _ = chat(Scripted(CALL, "Oh."), "2 + 3?", "y", tools=read_tools(tmp_path / "tools.py"))
    assert [m["content"] for m in found.conversation.messages[2:]] == ['{"error": "SystemExit: Goodbye."}', "Oh."]


def test_a_long_result_is_shown_in_part_and_told_whole(tmp_path: Path):
    (tmp_path / "tools.py").write_text("def add(a: int, b: int) -> str:\n    return 'line\\n' * 1000\n")
    found, text = chat(Scripted(CALL, "Done."), "2 + 3?", "y", tools=read_tools(tmp_path / "tools.py"))
    assert found.conversation.messages[2]["content"] == "line\n" * 1000
    assert "980 more lines" in text
    assert text.count("line") < 30


def test_a_question_that_fails_is_a_sentence_and_was_not_asked():
    engine = Scripted("Yes.", CapacityError("It does not fit."), "Again.")
    found, text = chat(engine, "first", "too long", "third")
    assert "It does not fit." in text
    assert [m["content"] for m in found.conversation.messages] == ["first", "Yes.", "third", "Again."]


def test_retry_asks_the_same_again():
    engine = Scripted("Yes.", "No.")
    found, _ = chat(engine, "Is it?", "/retry")
    assert engine.asked[0] == engine.asked[1]
    assert [m["content"] for m in found.conversation.messages] == ["Is it?", "No."]


def test_a_retry_that_fails_leaves_the_answer_that_there_was(tmp_path: Path):
    engine = Scripted("Yes.", CapacityError("It does not fit."))
    found, _ = chat(engine, "Is it?", "/retry", session=tmp_path / "talk")
    assert [m["content"] for m in found.conversation.messages] == ["Is it?", "Yes."]
    assert Conversation.read(tmp_path / "talk") == found.conversation


def test_clear_forgets_what_was_said_but_not_the_system_message():
    engine = Scripted("Yes.", "No.")
    chat(engine, "/system Be brief.", "Is it?", "/clear", "Is it not?")
    assert [m["content"] for m in engine.asked[1]] == ["Be brief.", "Is it not?"]


def test_a_saved_conversation_goes_on_after_load(tmp_path: Path):
    path = tmp_path / "talk.json"
    chat(Scripted("Yes."), "Is it?", f"/save {path}")
    engine = Scripted("Because.")
    chat(engine, f"/load {path}", "Why?")
    assert [m["content"] for m in engine.asked[0]] == ["Is it?", "Yes.", "Why?"]


def test_a_session_resumes_by_itself(tmp_path: Path):
    path = tmp_path / "talk.json"
    chat(Scripted("Yes."), "Is it?", session=path)
    assert len(Conversation.read(path).messages) == 2
    engine = Scripted("Because.")
    chat(engine, "Why?", session=path)
    assert [m["content"] for m in engine.asked[0]] == ["Is it?", "Yes.", "Why?"]
    assert len(Conversation.read(path).messages) == 4


def test_a_conversation_that_goes_on_shows_its_end_and_what_it_takes_of_the_context(tmp_path: Path):
    chat(Scripted("**Yes.**"), "Is it?", session=tmp_path / "talk")
    found, text = chat(Scripted(), session=tmp_path / "talk")
    assert text.split() == ["2", "messages;", "the", "last:", ">", "Is", "it?", "Yes."]
    assert 4 < found._used < 20
    assert found.footer() == f"context {found._used} of 100 · /help"
    cleared, _ = chat(Scripted(), "/clear", session=tmp_path / "talk")
    assert cleared.footer() == "context 0 of 100 · /help"


def test_each_answer_of_a_tool_loop_is_in_the_file_before_the_next_begins(tools, tmp_path: Path):
    class Killed(BaseException): ...

    def killed(_messages: object) -> str:
        raise Killed(Conversation.read(tmp_path / "talk").messages)

    with pytest.raises(Killed) as kept:
        chat(Scripted(CALL, killed), "2 + 3?", "y", tools=tools, session=tmp_path / "talk")
    assert [m["role"] for m in kept.value.args[0]] == ["user", "assistant", "tool"]


def test_a_conversation_that_the_template_refuses_changes_nothing(tmp_path: Path):
    wrong = {"role": "assistant", "content": "", "tool_calls": [3]}
    (tmp_path / "talk").write_text(json.dumps({"format": 1, "messages": [wrong]}))
    found, text = chat(Scripted("Yes."), "Is it?", f"/load {tmp_path / 'talk'}")
    assert "messages[0].tool_calls must be a list of objects" in text
    assert len(found.conversation.messages) == 2


def test_save_leaves_files_that_are_no_conversations_as_they_are(tmp_path: Path):
    (tmp_path / "notes").write_text("my notes")
    _, text = chat(Scripted("Yes."), "Is it?", f"/save {tmp_path / 'notes'}", f"/save {tmp_path / 'talk'}")
    chat(Scripted("No."), "Is it not?", f"/save {tmp_path / 'talk'}")
    assert "is not valid JSON" in " ".join(text.split())
    assert (tmp_path / "notes").read_text() == "my notes"
    assert Conversation.read(tmp_path / "talk").messages[1]["content"] == "No."


def test_the_footer_takes_as_many_lines_as_a_narrow_terminal_needs():
    found, _ = chat(Scripted("Yes."), "Is it?")
    found.console.width = 40
    assert found.footer() == "10.0 tokens/s · expert hits 75.0%\ncontext 15 of 100 · /help"


def test_text_that_no_file_takes_is_replaced(tmp_path: Path):
    engine = Scripted("Yes.")
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        found = Chat(engine, Console(file=io.StringIO()), Choices(), session=tmp_path / "talk")
        typed = iter(["Is \udcff it?", "/exit"])
        found._lines.prompt = lambda *_, **__: next(typed)
        found.run()
    assert engine.asked[0][-1]["content"] == "Is ? it?"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/help", "answer the last question again"),
        ("/stats", "expert hits 75.0%"),
        ("/thinking", "Hm."),
        ("/system", "no system message"),
        ("/nonsense", "no command /nonsense"),
        ("/save", "needs the name of a file"),
        ("/load nowhere.json", "nowhere.json"),
    ],
)
def test_commands_say_what_they_did(line: str, expected: str):
    _, text = chat(Scripted("<think>\nHm.\n</think>\n\nFour."), "2 + 2?", line)
    assert expected in re.sub(r"\s+", " ", text)


def test_exit_ends_it():
    engine = Scripted()
    chat(engine, "/exit", "not asked")
    assert engine.asked == []


def test_lines_typed_are_there_next_time(tmp_path: Path):
    chat(Scripted("Yes."), "Is it?", history=tmp_path / "history")
    engine = Scripted("Yes.")
    chat(engine, "\x1b[A", history=tmp_path / "history")  # the arrow upwards
    assert engine.asked[0][-1]["content"] == "Is it?"
