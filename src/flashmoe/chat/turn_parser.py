"""An assistant turn taken apart while it comes: thinking, content and tool calls, for those who serve clients.

It forgives how models drift from the form of tool_calls.py: a call without its opening tag, stray closing tags after
one, a call inside the thinking block, JSON in place of XML, and what xml_call.py and json_call.py forgive. Text around
calls is kept. A call begins only where it is certain to be one; then its arguments come while they are written.
Invariant: how the text is cut into pieces does not matter; neighbouring pieces of text or of a call's arguments may be
joined differently, and that is all. Knows text and tools' schemas, not engines.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from flashmoe.chat.arguments import Signatures, Tool
from flashmoe.chat.call_writer import CallBroken, CallEvent
from flashmoe.chat.json_call import JsonCall
from flashmoe.chat.stops import possible_beginning
from flashmoe.chat.xml_call import TAGS_WITHIN, XmlCall, followed_by

_OPEN, _FUNCTION = "<tool_call>", "<function="
_STRAY = ("</parameter>", "</function>", "</tool_call>")
_NAME = re.compile(r"<function=([^>\n]{1,200})>")
_NAME_BEGINS = re.compile(r"<function=[^>\n]{0,200}")


@dataclass(frozen=True, slots=True)
class Thinking:
    """A piece of the thinking block."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of what is neither thinking nor a call."""

    text: str


TurnEvent = Thinking | Content | CallEvent
"""Of a call: CallBegun, CallArguments as they come, then Called or CallBroken. Nothing else comes in between."""


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

    def __init__(self, tools: Signatures | Sequence[Tool] | None = None, *, thinking_open: bool = False) -> None:
        self._tools = tools if isinstance(tools, Signatures) else Signatures(tools or ())
        self._thinking, self._content = _Stretch(Thinking), _Stretch(Content)
        self._text = ""  # what is not settled yet
        self._answer = list[str]()
        self._in_thinking = thinking_open
        self._call: XmlCall | JsonCall | None = None
        self._after_call = False
        self._at_start = True
        self._final = self._cut = False

    @property
    def in_thinking(self) -> bool:
        """Whether the thinking block is open."""
        return self._in_thinking

    @property
    def answer(self) -> str:
        """All that came after the thinking, as it was written; nothing while the thinking block is open."""
        return "".join(self._answer)

    def push(self, text: str) -> list[TurnEvent]:
        """What this piece of text settles."""
        self._text += text
        if not self._in_thinking:
            self._answer.append(text)
        return self._settle()

    def finish(self, *, cut: bool = False) -> list[TurnEvent]:
        """The rest. cut: the turn was not ended by the model, so that what is unfinished is not taken for whole."""
        self._final, self._cut = True, cut
        return self._settle()

    def _settle(self) -> list[TurnEvent]:
        events: list[TurnEvent] = []
        step: list[TurnEvent] | None = []
        while step is not None:
            events += step
            step = self._step() if self._text or (self._final and self._call) else None
        return events

    def _step(self) -> list[TurnEvent] | None:
        """Settle some of the text; None if that takes more of it."""
        if self._at_start:
            return self._start()
        if self._call:
            return self._go_on_with_call()
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
            self._answer.clear()
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
            self._answer.append(self._text)
            return []
        opens = self._open_call()
        if opens is None and not self._final:
            return None
        return [] if opens else self._say(self._take(len(mark)))

    def _open_call(self) -> bool | None:
        """Begin the call whose tag the text begins with, if it is one; None if that is not to be seen yet."""
        wrapped = self._text.startswith(_OPEN)
        body = self._text[len(_OPEN) :].lstrip() if wrapped else self._text
        if body.startswith("{") and not self._in_thinking:
            opening = self._take(len(self._text) - len(body))
            self._call = JsonCall(opening, self._tools)
            return True
        found = _NAME.match(body)
        if found is None:
            return None if _FUNCTION.startswith(body) or _NAME_BEGINS.fullmatch(body) else False
        name, after = found[1].strip(), body[found.end() :]
        if self._in_thinking or not wrapped:
            begins = name in self._tools and (wrapped or (not self._in_thinking and self._goes_on_as_call(after)))
            if not begins:
                return begins
        self._call = XmlCall(self._take(len(self._text) - len(after)), self._tools.arguments(name), name)
        return True

    def _goes_on_as_call(self, after: str) -> bool | None:
        """Whether a function's tag that stands alone is more than mentioned: what comes after it says so."""
        if not after and self._final:
            return not self._cut
        return after.startswith("\n") or followed_by(after, 0, TAGS_WITHIN)

    def _go_on_with_call(self) -> list[TurnEvent] | None:
        call = self._call
        assert call is not None
        events: list[TurnEvent] = [*call.feed(self._take(len(self._text)), final=self._final, cut=self._cut)]
        if call.ended:
            self._call, self._text, self._after_call = None, call.rest, True
            if isinstance(call, JsonCall) and (call.refused or isinstance(events[-1], CallBroken)):
                # Where an argument ended can no longer be told, and what it holds must not be taken for calls.
                self._tools, self._after_call = Signatures(()), False
            return events
        return events or None

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
