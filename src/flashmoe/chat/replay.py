"""The turns in which a model called tools, as it wrote them, found again by the ids of their calls.

A client sends a call back as a name and arguments; rendered anew it may differ from what the model wrote, and then the
state saved after that turn serves nobody. Invariant: a turn is put back only where the client's message says the same.
Knows messages, not tokens.
"""

import json
import logging
import os
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashmoe.chat.conversation import results_by_call
from flashmoe.chat.tool_calls import ToolCall
from flashmoe.errors import FlashMoeError, FormatError
from flashmoe.files.atomic import write_atomically
from flashmoe.files.jsonfile import parse_value
from flashmoe.files.opening import open_regular, read_bytes

_BYTES = 16_000_000
_log = logging.getLogger("flashmoe")


@dataclass(frozen=True)
class WrittenTurn:
    """ids: of its calls. text: all after the thinking, as written. content: what of it is no call."""

    ids: tuple[str, ...]
    calls: tuple[ToolCall, ...]
    thinking: str
    content: str
    text: str


class WrittenTurns:
    """The last of them, so many as take some megabytes. Any thread may use it.

    path: where they outlive the process, each a line of JSON; several processes may add to it. What fails there is one
    warning, and a damaged line is left out: that turn is then rendered anew.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._turns: OrderedDict[str, WrittenTurn] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._path = path
        for turn in _read(path) if path else ():
            self._hold(turn)

    def remember(self, turn: WrittenTurn) -> None:
        if not turn.ids or not _holds_calls(turn):
            return
        with self._lock:
            self._hold(turn)
            if self._path:
                self._append(self._path, turn)

    def _hold(self, turn: WrittenTurn) -> None:
        self._turns[turn.ids[0]] = turn
        self._bytes += len(_line(turn))
        while self._bytes > _BYTES:
            self._bytes -= len(_line(self._turns.popitem(last=False)[1]))

    def _append(self, path: Path, turn: WrittenTurn) -> None:
        try:
            # For the user alone, since it holds what was said; also where an earlier version made it.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            with os.fdopen(open_regular(path, flags, 0o600, links=False), "ab") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(_line(turn))
                large = file.tell() > 2 * _BYTES
            if large:
                write_atomically(path, b"".join(_line(held) for held in self._turns.values()), 0o600)
        except (OSError, FlashMoeError) as error:
            _log.warning("Tool calls are not kept in %s for later: %s", path, error)
            self._path = None

    def restore(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Messages for the template, with the model's own words in place of the calls that are known. The results of
        these calls are in their order and have no ids any more, since the template sees no calls.

        Raises FlashMoeError as conversation.results_by_call does.
        """
        restored: list[Mapping[str, Any]] = []
        known = False
        for message in results_by_call(messages):
            if message.get("role") == "tool":
                without_id = {key: value for key, value in message.items() if key != "tool_call_id"}
                restored.append(without_id if known else message)
                continue
            turn = self._turn_of(message)
            known = turn is not None
            restored.append(message if turn is None else _as_written(message, turn))
        return restored

    def _turn_of(self, message: Mapping[str, Any]) -> WrittenTurn | None:
        calls = message.get("tool_calls")
        if not calls:
            return None
        with self._lock:
            turn = self._turns.get(calls[0].get("id"))
        return turn if turn is not None and _says(message, turn) else None


def _holds_calls(turn: WrittenTurn) -> bool:
    """Whether the text has a place for each call; one that stood inside the thinking has none."""
    for name, times in Counter(call.name for call in turn.calls).items():
        written = re.findall(rf'<function={re.escape(name)}>|"name"\s*:\s*{re.escape(json.dumps(name))}', turn.text)
        if len(written) < times:
            return False
    return True


def _as_written(message: Mapping[str, Any], turn: WrittenTurn) -> Mapping[str, Any]:
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {"reasoning_content": turn.thinking, **rest, "content": turn.text}


def _says(message: Mapping[str, Any], turn: WrittenTurn) -> bool:
    calls = [(c["id"], ToolCall(c["function"]["name"], c["function"]["arguments"])) for c in message["tool_calls"]]
    content = message.get("content") or ""
    return calls == list(zip(turn.ids, turn.calls, strict=True)) and content.strip() == turn.content.strip()


def _line(turn: WrittenTurn) -> bytes:
    return json.dumps(asdict(turn)).encode() + b"\n"


def _read(path: Path) -> Iterator[WrittenTurn]:
    try:
        lines = read_bytes(path).splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("Tool calls kept in %s cannot be read: %s", path, error.strerror)
        return
    for line in lines:
        with suppress(FormatError, KeyError, TypeError):
            fields = parse_value(line, str(path))
            calls = tuple(ToolCall(call["name"], call["arguments"]) for call in fields["calls"])
            ids = tuple(str(i) for i in fields["ids"])
            yield WrittenTurn(ids, calls, str(fields["thinking"]), str(fields["content"]), str(fields["text"]))
