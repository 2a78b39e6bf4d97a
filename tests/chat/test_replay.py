"""What a model wrote around its calls is found again by their ids, also by the next process."""

import json

import pytest

from chat.test_tool_calls import call
from flashmoe.chat import replay
from flashmoe.chat.replay import WrittenTurn, WrittenTurns
from flashmoe.chat.tool_calls import ToolCall

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
