"""Conversations are whole turns, and come back from a file as they were."""

from pathlib import Path

import pytest

from flashmoe.chat.template import ChatTemplate
from flashmoe.chat.tool_calls import ToolCall, Turn
from flashmoe.errors import FormatError
from flashmoe.terminal.conversation import Conversation

TEMPLATE = ChatTemplate((Path(__file__).parents[1] / "chat" / "qwen3_template.jinja").read_text())


def talk() -> Conversation:
    conversation = Conversation("Be brief.")
    conversation.ask("Is it warm in Lyon?")
    conversation.answer(Turn("I ask.", "", (ToolCall("get_weather", {"city": "Lyon", "days": 3}),)))
    conversation.result("get_weather", '{"celsius": 31}')
    conversation.answer(Turn("", "Yes, 31 °C.", ()))
    return conversation


def test_the_template_takes_it():
    text = TEMPLATE.render(talk().prompt())
    places = [text.index(part) for part in ("Be brief.", "warm in Lyon", "get_weather", '"celsius": 31', "Yes, 31 °C.")]
    assert places == sorted(places)


def test_a_file_gives_it_back(tmp_path: Path):
    talk().save(tmp_path / "talk.json")
    assert Conversation.read(tmp_path / "talk.json") == talk()


def test_taking_back_removes_the_question_and_all_that_came_of_it():
    conversation = talk()
    conversation.ask("And in Lima?")
    assert conversation.take_back() == "And in Lima?"
    assert conversation == talk()
    assert conversation.take_back() == "Is it warm in Lyon?"
    assert conversation.messages == []
    assert conversation.take_back() is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "talk.json"),
        ('{"format": 2, "messages": []}', "format 2"),
        ('{"format": 1, "messages": [{"role": "robot", "content": "x"}]}', r"messages\[0\]"),
        ('{"format": 1, "messages": [{"role": "user", "content": 3}]}', r"messages\[0\]"),
        ('{"format": 1, "messages": [], "system": 3}', "system"),
    ],
)
def test_a_file_that_is_no_conversation_is_a_sentence(tmp_path: Path, text: str, sentence: str):
    (tmp_path / "talk.json").write_text(text)
    with pytest.raises(FormatError, match=sentence):
        Conversation.read(tmp_path / "talk.json")
