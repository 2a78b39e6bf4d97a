"""What a model wrote around its calls is found again by their ids, also by the next process."""

import json

import pytest

from chat.test_tool_calls import call
from flashmoe.chat import replay
from flashmoe.chat.conversation import results_by_call
from flashmoe.chat.replay import WrittenTurn, WrittenTurns
from flashmoe.chat.template import ChatTemplate
from flashmoe.chat.tool_calls import ToolCall
from flashmoe.errors import FlashMoeError
from random_checkpoint import TEMPLATE

SOURCE = TEMPLATE.read_text()

MADE = ToolCall("weather", {"city": "Zürich", "days": 3, "part": {"of": [1, None, True]}})


def turn(ident: str = "call_1", text: str = call("weather", city="Zürich", days="3")) -> WrittenTurn:
    return WrittenTurn((ident,), (MADE,), "I look.\nTwice.", "One moment.", f"One moment.\n\n\n{text}")


def message(ident: str = "call_1") -> dict:
    function = {"name": MADE.name, "arguments": MADE.arguments}
    return {"role": "assistant", "content": "One moment.", "tool_calls": [{"id": ident, "function": function}]}


def test_a_turn_is_restored_by_the_next_process(tmp_path):
    WrittenTurns(tmp_path / "turns").remember(turn())
    restored = WrittenTurns(tmp_path / "turns").restore([message()])
    assert restored == [{"reasoning_content": turn().thinking, "role": "assistant", "content": turn().text}]
    assert WrittenTurns().restore([message()]) == [message()]


def test_two_processes_may_share_the_file(tmp_path):
    both = [WrittenTurns(tmp_path / "turns") for _ in range(2)]
    for i, turns in enumerate(both):
        turns.remember(turn(f"call_{i}"))
    after = WrittenTurns(tmp_path / "turns")
    assert all("tool_calls" not in after.restore([message(f"call_{i}")])[0] for i in range(2))


@pytest.mark.parametrize("damage", [b"{", b"\xff", b"[]", b'"x"', b'{"ids": 1}', b'{"ids": [], "calls": [1]}', b"\0"])
def test_a_damaged_line_is_left_out(tmp_path, damage):
    path = tmp_path / "turns"
    WrittenTurns(path).remember(turn())
    path.write_bytes(damage + b"\n" + path.read_bytes() + damage)
    assert "tool_calls" not in WrittenTurns(path).restore([message()])[0]


def test_the_file_and_the_memory_stay_small_and_the_last_turns_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "_BYTES", 4000)
    path = tmp_path / "turns"
    turns = WrittenTurns(path)
    for i in range(100):
        turns.remember(turn(f"call_{i}"))
        assert path.stat().st_size <= 8000
    for known in (turns, WrittenTurns(path)):
        assert "tool_calls" not in known.restore([message("call_99")])[0]
        assert known.restore([message("call_0")]) == [message("call_0")]


def test_a_place_that_cannot_be_written_is_one_warning(tmp_path, caplog):
    turns = WrittenTurns(tmp_path / "nowhere" / "turns")
    for i in range(3):
        turns.remember(turn(f"call_{i}"))
    assert len(caplog.records) == 1
    assert "tool_calls" not in turns.restore([message("call_2")])[0]


def test_a_line_is_json(tmp_path):
    WrittenTurns(tmp_path / "turns").remember(turn())
    assert json.loads((tmp_path / "turns").read_text())["ids"] == ["call_1"]


ANSWERS = [
    "I write </think> and call.\n\n" + call("weather", city="Zürich", days="3"),
    call("weather", city="</think>", days="3"),
    call("weather", city="<think>\n</think>\n\n", days="</tool_call>"),
    '<tool_call>\n{"name": "weather", "arguments": {"city": "a </think> b"}}\n</tool_call>',
]


@pytest.mark.parametrize("text", ANSWERS)
@pytest.mark.parametrize("thinking", ["", "Hm."])
def test_the_next_prompt_holds_the_model_s_own_words(tokenizer, text, thinking):
    made = ToolCall("weather", {"city": "x"})
    turns = WrittenTurns()
    turns.remember(WrittenTurn(("call_1",), (made,), thinking, "", text))
    function = {"name": "weather", "arguments": {"city": "x"}}
    messages = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "call_1", "function": function}]},
        {"role": "tool", "content": "wet", "tool_call_id": "call_1"},
    ]
    prompt = ChatTemplate(SOURCE).prompt(turns.restore(messages), control=tokenizer.control)
    assert f"<think>\n{thinking}\n</think>\n\n{text}<|im_end|>\n<|im_start|>user\n<tool_response>\nwet" in prompt.text
    assert tokenizer.encode_prompt(prompt) == tokenizer.encode(prompt.text)


def test_a_call_that_stood_in_the_thinking_is_rendered_from_its_parts():
    for text in ("The weather is known.", call("other")):
        turns = WrittenTurns()
        turns.remember(WrittenTurn(("call_1",), (MADE,), "I look.", "One moment.", text))
        assert turns.restore([message()]) == [message()]
    twice = WrittenTurns()
    twice.remember(WrittenTurn(("call_1", "call_2"), (MADE, MADE), "", "One moment.", call("weather", city="x")))
    both = message() | {"tool_calls": [*message()["tool_calls"], *message("call_2")["tool_calls"]]}
    assert twice.restore([both]) == [both]


def test_results_of_a_restored_turn_are_in_the_order_of_its_calls_and_without_ids():
    turns = WrittenTurns()
    text = call("weather", city="a") + call("weather", city="b")
    turns.remember(WrittenTurn(("call_1", "call_2"), (MADE, MADE), "", "One moment.", text))
    both = message() | {"tool_calls": [*message()["tool_calls"], *message("call_2")["tool_calls"]]}
    results = [{"role": "tool", "content": c, "tool_call_id": c} for c in ("call_2", "call_1")]
    restored = turns.restore([both, *results])
    assert restored[1:] == [{"role": "tool", "content": "call_1"}, {"role": "tool", "content": "call_2"}]
    assert results_by_call(restored) == restored
    with pytest.raises(FlashMoeError, match="no tool result for the call 'call_1'"):
        turns.restore([both, results[0]])
