"""One tool call while the model writes it: its name, its arguments as JSON piece by piece, and the call when it ends.

Invariant: the pieces of a finished call, joined, are the JSON of its arguments; those of a broken call are a beginning
of such JSON. Of a parameter that is given twice the first value counts, since it may have been sent already. Knows
values, not the form in which a model writes calls.
"""

import json
from dataclasses import dataclass

from flashmoe.chat.schema import Json
from flashmoe.chat.tool_calls import ToolCall


@dataclass(frozen=True, slots=True)
class CallBegun:
    """It is certain that a call of this function is being written."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of the arguments' JSON. text: what it adds to the value of `parameter`, if that is a string."""

    json: str
    parameter: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Called:
    """The call is whole."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class CallBroken:
    """The call will never be whole. call: with the arguments that are; text: all of it, as the model wrote it."""

    call: ToolCall
    text: str


CallEvent = CallBegun | CallArguments | Called | CallBroken


class CallWriter:
    """The events of one call; at most one string is open at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.arguments: dict[str, Json] = {}
        self._open: str | None = None  # the parameter whose string is not at its end
        self._pieces: list[str] = []

    def begin(self) -> list[CallEvent]:
        return [CallBegun(self._name)]

    def value(self, parameter: str, value: Json) -> list[CallEvent]:
        """A whole value."""
        if parameter in self.arguments:
            return []
        key = self._key(parameter)
        self.arguments[parameter] = value
        text = value if isinstance(value, str) else ""
        return [CallArguments(key + _json(value), parameter, text)]

    def text(self, parameter: str, piece: str) -> list[CallEvent]:
        """A piece of a string, which `end_text` ends."""
        if parameter in self.arguments:
            return []
        if self._open is None:
            self._open, start = parameter, self._key(parameter) + '"'
        else:
            start = ""
        self._pieces.append(piece)
        written = start + _json(piece)[1:-1]
        return [CallArguments(written, parameter, piece)] if written else []

    def end_text(self) -> list[CallEvent]:
        if self._open is None:
            return []
        self.arguments[self._open] = "".join(self._pieces)
        self._open, self._pieces = None, []
        return [CallArguments('"')]

    def close(self) -> list[CallEvent]:
        """No parameter follows."""
        return [CallArguments("}" if self.arguments else "{}")]

    def called(self) -> list[CallEvent]:
        """The call, after `close`."""
        return [Called(self._call)]

    def broken(self, text: str) -> list[CallEvent]:
        """Nothing more will come of it. text: the call as it was written."""
        return [CallBroken(self._call, text)]

    @property
    def _call(self) -> ToolCall:
        return ToolCall(self._name, dict(self.arguments))

    def _key(self, parameter: str) -> str:
        return f"{', ' if self.arguments else '{'}{_json(parameter)}: "


def _json(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)
