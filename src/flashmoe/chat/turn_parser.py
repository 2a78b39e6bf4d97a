"""An assistant turn taken apart while it comes: thinking, content and tool calls, for those who serve clients.

It forgives how models drift from the form of tool_calls.py: a call without its opening tag, stray closing tags after
one, a call inside the thinking block, a missing closing tag at the end of the turn, JSON in place of XML, arguments
that are not of their type. Text around calls is kept.
Invariant: how the text is cut into pieces does not matter; neighbouring pieces of text may be joined differently, and
that is all. Knows text and tools' schemas, not engines.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashmoe.chat.schema import Json, permitted_types
from flashmoe.chat.stops import possible_beginning
from flashmoe.chat.tool_calls import MalformedCallError, Tool, ToolCall, function_of, parameters_of, typed_value
from flashmoe.errors import FormatError
from flashmoe.files.jsonfile import parse_object

_OPEN, _FUNCTION, _CLOSE = "<tool_call>", "<function=", "</tool_call>"
_STRAY = ("</parameter>", "</function>", "</tool_call>")
_NAME = re.compile(r"<function=([^>\n]{1,200})>")
_XML_CALL = re.compile(r"(?:<tool_call>\s*)?<function=([^>\n]+)>")
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?")
_TAG = re.compile(r"<parameter=[^>\n]+>|</function>|</tool_call>")
_VALUE_END = re.compile(r"\n?</parameter>(?=\s*(<parameter=|</function>|</tool_call>))")
_CALL_END = re.compile(r"</function>(?:\s*</tool_call>)?|</tool_call>")
_NEXT_CALL = re.compile(r"\n?</function>\s*</tool_call>(?=\s*(<tool_call>\s*<function=))")
_TURN_END = re.compile(r"\n?</function>\s*</tool_call>|\n?(?:</parameter>\s*)?(?:</function>\s*|</tool_call>\s*)?\Z")
_PYTHON = {"True": True, "False": False, "None": None}
_PYTHON_TYPES = {"True": "boolean", "False": "boolean", "None": "null"}


@dataclass(frozen=True, slots=True)
class Thinking:
    """A piece of the thinking block."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of what is neither thinking nor a call."""

    text: str


@dataclass(frozen=True, slots=True)
class Called:
    """A whole call, with the text in which the model wrote it."""

    call: ToolCall
    text: str


TurnEvent = Thinking | Content | Called


class _Stretch:
    """Text of one kind, without the space around all of it."""

    def __init__(self, kind: type[Thinking] | type[Content]) -> None:
        self._kind, self._held, self._begun = kind, "", False

    def add(self, text: str) -> list[TurnEvent]:
        text = self._held + text
        solid = text.rstrip()
        self._held = text[len(solid) :]
        if not self._begun:
            solid = solid.lstrip()
        if not solid:
            return []
        self._begun = True
        return [self._kind(solid)]


class TurnParser:
    """tools, thinking_open: as for tool_calls.parse_turn."""

    def __init__(self, tools: Sequence[Tool] | None = None, *, thinking_open: bool = False) -> None:
        self._tools = tools or ()
        self._names = {function_of(tool).get("name") for tool in self._tools}
        self._thinking, self._content = _Stretch(Thinking), _Stretch(Content)
        self._text = ""  # what is not settled yet
        self._in_thinking = thinking_open
        self._in_call = self._after_call = False
        self._at_start = True
        self._final = False

    @property
    def in_thinking(self) -> bool:
        """Whether the thinking block is open."""
        return self._in_thinking

    def push(self, text: str) -> list[TurnEvent]:
        """What this piece of text settles."""
        self._text += text
        return self._settle()

    def finish(self, *, cut: bool = False) -> list[TurnEvent]:
        """The rest. cut: the turn was not ended by the model, so that an unfinished call is no call but text."""
        self._final = True
        events: list[TurnEvent] = []
        if self._in_call and cut:
            self._in_call = False
            events += self._say(self._take(len(self._text)))
        return events + self._settle()

    def _settle(self) -> list[TurnEvent]:
        events: list[TurnEvent] = []
        step: list[TurnEvent] | None = []
        while step is not None:
            events += step
            step = self._step() if self._text else None
        return events

    def _step(self) -> list[TurnEvent] | None:
        """Settle some of the text; None if that takes more of it."""
        if self._at_start:
            return self._start()
        if self._in_call:
            return self._call()
        if self._after_call:
            return self._stray()
        return self._prose()

    def _take(self, count: int) -> str:
        taken, self._text = self._text[:count], self._text[count:]
        return taken

    def _say(self, text: str) -> list[TurnEvent]:
        return (self._thinking if self._in_thinking else self._content).add(text)

    def _start(self) -> list[TurnEvent] | None:
        body = self._text.lstrip()
        if "<think>".startswith(body) and body != "<think>" and not self._final:
            return None
        self._at_start = False
        if body.startswith("<think>"):
            self._in_thinking = True
            self._text = body.removeprefix("<think>")
        return []

    def _prose(self) -> list[TurnEvent] | None:
        marks = (("</think>",) if self._in_thinking else ()) + ((_OPEN, _FUNCTION) if self._tools else ())
        found = min(((place, mark) for mark in marks if (place := self._text.find(mark)) >= 0), default=None)
        if found is None:
            safe = len(self._text) if self._final else len(self._text) - possible_beginning(self._text, marks)
            return self._say(self._take(safe)) if safe else None
        place, mark = found
        if place:
            return self._say(self._take(place))
        if mark == "</think>":
            self._take(len(mark))
            self._in_thinking = False
            return []
        opens = self._opens_call()
        if opens is None and not self._final:
            return None
        self._in_call = bool(opens)
        return [] if opens else self._say(self._take(len(mark)))

    def _opens_call(self) -> bool | None:
        """Whether the tag at which the text stands begins a call; None if that is not to be seen yet."""
        if not self._text.startswith(_OPEN):
            return self._named(self._text) if not self._in_thinking else False
        body = self._text[len(_OPEN) :].lstrip()
        if body.startswith(_FUNCTION):
            return True if not self._in_thinking else self._named(body)
        if body.startswith("{"):
            return not self._in_thinking
        return None if _FUNCTION.startswith(body) else False

    def _named(self, text: str) -> bool | None:
        """Whether a function tag names one of the tools."""
        if name := _NAME.match(text):
            return name[1] in self._names
        return None if len(text) < 220 and "\n" not in text and ">" not in text else False

    def _call(self) -> list[TurnEvent] | None:
        # Without one of these nothing ends, and finding them is quick however long an argument grows.
        if not (self._final or _CLOSE in self._text or "</function>" in self._text):
            return None
        found = (_xml_call if _XML_CALL.match(self._text) else _json_call)(self._text, self._tools, self._final)
        if found is None and not self._final:
            return None
        self._in_call = False
        if found is None:
            return self._say(self._take(len(self._text)))
        call, end = found
        self._after_call = True
        return [Called(call, self._take(end))]

    def _stray(self) -> list[TurnEvent] | None:
        body = self._text.lstrip()
        for tag in _STRAY:
            if body.startswith(tag):
                self._text = body.removeprefix(tag)
                return []
        if any(tag.startswith(body) for tag in _STRAY) and not self._final:
            return None
        self._after_call = False
        return []


def _xml_call(text: str, tools: Sequence[Tool], final: bool) -> tuple[ToolCall, int] | None:
    """The call at the beginning of `text` and where it ends; None if it has not ended."""
    opening = _XML_CALL.match(text)
    assert opening is not None
    name = opening[1].strip()
    properties = (parameters_of(name, tools) or {}).get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    arguments: dict[str, Json] = {}
    place = opening.end()
    while tag := _TAG.search(text, place):
        if parameter := _PARAMETER.match(text, tag.start()):
            end = _value_end(text, parameter.end(), final)
            if end is None:
                return None
            value = text[parameter.end() : end.start()]
            arguments[parameter[1]] = _forgiving(value, known.get(parameter[1]))
            place = end.end() if end[0].strip() == "</parameter>" else end.start()
            continue
        ending = _CALL_END.match(text, tag.start())
        assert ending is not None
        rest = text[ending.end() :].lstrip()
        if ending[0] == "</function>" and _CLOSE.startswith(rest) and not final:
            return None  # the closing tag of the call may yet come
        return ToolCall(name, arguments), ending.end()
    return (ToolCall(name, arguments), len(text)) if final else None


def _value_end(text: str, begin: int, final: bool) -> re.Match[str] | None:
    """Where a value ends: at its closing tag, if another tag follows; without one, where the next call begins or, at
    last, where the turn ends. What comes first rules, so that nothing depends on how much of the text is here."""
    closed, following = _VALUE_END.search(text, begin), _NEXT_CALL.search(text, begin)
    if closed and not (following and following.end(1) < closed.end(1)):
        return closed
    return following or (_TURN_END.search(text, begin) if final else None)


def _json_call(text: str, tools: Sequence[Tool], final: bool) -> tuple[ToolCall, int] | None:  # noqa: ARG001
    place = text.find(_CLOSE)
    while place >= 0 or final:
        end = place if place >= 0 else len(text)
        if call := _from_json(text[len(_OPEN) : end]):
            return call, min(end + len(_CLOSE), len(text))
        if place < 0:
            return None
        place = text.find(_CLOSE, place + 1)
    return None


def _from_json(text: str) -> ToolCall | None:
    try:
        values = parse_object(text.encode("utf-8", "surrogatepass"), "The call")
        arguments = values.get("arguments", {})
        if isinstance(arguments, str):
            arguments = parse_object(arguments.encode("utf-8", "surrogatepass"), "The arguments")
    except FormatError:
        return None
    name: Any = values.get("name")
    return ToolCall(name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


def _forgiving(text: str, schema: Json) -> Json:
    """As typed_value, but what is not of its type stays a string, for the tool to complain of."""
    try:
        return typed_value(text, schema, "")
    except MalformedCallError:
        word = text.strip()
        return _PYTHON[word] if _PYTHON_TYPES.get(word) in permitted_types(schema) else text
