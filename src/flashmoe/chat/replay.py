"""The turns in which a model called tools, as it wrote them, found again by the ids of their calls.

A client sends a call back as a name and arguments; rendered anew it may differ from what the model wrote, and then the
state saved after that turn serves nobody. Invariant: a turn is put back only where the client's message says the same.
Knows messages, not tokens.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashmoe.chat.tool_calls import ToolCall

_CHARACTERS = 16_000_000


@dataclass(frozen=True)
class WrittenTurn:
    """ids: of its calls. text: all after the thinking, as written. content: what of it is no call."""

    ids: tuple[str, ...]
    calls: tuple[ToolCall, ...]
    thinking: str
    content: str
    text: str


class WrittenTurns:
    """The last of them, so many as take some megabytes. Any thread may use it."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, WrittenTurn] = OrderedDict()
        self._characters = 0
        self._lock = threading.Lock()

    def remember(self, turn: WrittenTurn) -> None:
        if not turn.ids or not all(f"<function={call.name}>" in turn.text for call in turn.calls):
            return  # a call inside the thinking block has no place in the text
        with self._lock:
            self._turns[turn.ids[0]] = turn
            self._characters += _size(turn)
            while self._characters > _CHARACTERS:
                self._characters -= _size(self._turns.popitem(last=False)[1])

    def restore(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Messages for the template, with the model's own words in place of the calls that are known."""
        return [self._restored(message) for message in messages]

    def _restored(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        calls = message.get("tool_calls")
        if not calls:
            return message
        with self._lock:
            turn = self._turns.get(calls[0]["id"])
        if turn is None or not _says(message, turn):
            return message
        rest = {key: value for key, value in message.items() if key != "tool_calls"}
        return {"reasoning_content": turn.thinking, **rest, "content": turn.text}


def _says(message: Mapping[str, Any], turn: WrittenTurn) -> bool:
    calls = [(c["id"], ToolCall(c["function"]["name"], c["function"]["arguments"])) for c in message["tool_calls"]]
    content = message.get("content") or ""
    return calls == list(zip(turn.ids, turn.calls, strict=True)) and content.strip() == turn.content.strip()


def _size(turn: WrittenTurn) -> int:
    return len(turn.thinking) + len(turn.text)
