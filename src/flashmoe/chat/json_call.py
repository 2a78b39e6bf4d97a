"""A call as Hermes and Qwen3 write it, `{"name": NAME, "arguments": {...}}`, in pieces.

It is certain to be a call as soon as its name is one of the tools' and its arguments begin; from there on its strings
go out while they are written and other values when they end. What is written otherwise (another order of keys, another
name, arguments as a string) is read when it is whole, and is no call if it is no such object. Forgiven are `parameters`
for `arguments`, line breaks within strings, commas too many or too few, missing or superfluous braces at the end, and
a value within a string where the tool's schema allows no string.
Knows text and schemas, not turns.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flashmoe.chat.arguments import Signatures, argument_types, forgiving_json, forgiving_value
from flashmoe.chat.call_writer import CallEvent, CallWriter
from flashmoe.chat.schema import Json, Schema

_CLOSE = "</tool_call>"
_HEAD = re.compile(r'\{\s*"name"\s*:\s*"([^"\\\n]{1,200})"\s*,\s*"(?:arguments|parameters)"\s*:\s*\{')
_BETWEEN = re.compile(r"[\s,]*")
_KEY = re.compile(r'("(?:[^"\\]|\\.)*")\s*:\s*(?=\S)', re.DOTALL)
_KEY_BEGINS = re.compile(r'"(?:[^"\\]|\\.)*(?:\\?|"\s*|"\s*:\s*)', re.DOTALL)
_CHARACTERS = re.compile(r'[^"\\]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\]*)*')
_ROUGHLY = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_ESCAPE_BEGINS = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
_FIRST_OF_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MARKS = re.compile(r'[{}\[\]"<]')
_SCALAR_END = re.compile(r"[\s,}\]<]")
_NO_JSON = object()
_AFTER = re.compile(r"[\s}]*")


class JsonCall:
    """Fed from its `{` on. opening: what was written before that.

    ended: nothing more belongs to the call; rest: what was fed after its end. refused: it was no call, which only the
    end of the turn shows; all of it is `rest`.
    """

    def __init__(self, opening: str, tools: Signatures) -> None:
        self._tools = tools
        self._opening, self._written = opening, list[str]()
        self._text = ""  # what is not settled yet
        self._writer: CallWriter | None = None
        self._schema: Schema | None = None  # of the arguments
        self._parameter: str | None = None  # whose value is being read
        self._in_string = self._is_whole = False
        self._looked = 0  # up to here no tag ends it
        self._end = _ValueEnd()
        self.ended = self.refused = False
        self.rest = ""

    def feed(self, text: str, *, final: bool, cut: bool) -> list[CallEvent]:
        """What this piece settles. final: it is the last one; cut: and it was not the model that ended the turn."""
        self._text += text
        self._written.append(text)
        events: list[CallEvent] = []
        step: list[CallEvent] | None = []
        while step is not None and not self.ended:
            events += step
            step = self._step(final, cut)
        events += step or []
        if final and not self.ended:
            events += self._break()
        return events

    def _step(self, final: bool, cut: bool) -> list[CallEvent] | None:
        """Settle some of the text; None if that takes more of it."""
        if self._is_whole:
            return self._close(final)
        if self._writer is None:
            return self._begin(final)
        if self._parameter is None:
            return self._next_member(final and not cut)
        return self._string() if self._in_string else self._value()

    def _begin(self, final: bool) -> list[CallEvent] | None:
        head = _HEAD.match(self._text)
        if head and head[1] in self._tools:
            self._writer, self._schema = CallWriter(head[1]), self._tools.arguments(head[1])
            self._text = self._text[head.end() :]
            return self._writer.begin()
        while (end := self._text.find(_CLOSE, self._looked)) >= 0:
            if found := _from_json(self._text[:end]):
                return self._begin_whole(*found, end)
            self._looked = end + 1  # the tag may be part of a string
        self._looked = max(self._looked, len(self._text) - len(_CLOSE))
        found = _from_json(self._text) if final else None
        return self._begin_whole(*found, len(self._text)) if found else None

    def _begin_whole(self, name: str, arguments: Mapping[str, Json], end: int) -> list[CallEvent]:
        self._writer, self._schema = CallWriter(name), self._tools.arguments(name)
        self._text = self._text[end:]
        events = self._writer.begin()
        for parameter, value in arguments.items():
            events += self._writer.value(parameter, _typed(value, self._schemas(parameter)))
        return events + self._whole()

    def _schemas(self, parameter: str) -> Sequence[Schema | None]:
        return self._schema.members(parameter) if self._schema else ()

    def _whole(self) -> list[CallEvent]:
        assert self._writer is not None
        self._is_whole = True
        return self._writer.close()

    def _break(self) -> list[CallEvent]:
        """It was no call, or stopped being one."""
        self.ended = True
        written = "".join(self._written)
        if self._writer is None:
            self.refused, self.rest = True, self._opening + written
            return []
        self.rest = self._text
        return self._writer.broken(self._opening + written[: len(written) - len(self._text)])

    def _next_member(self, final: bool) -> list[CallEvent] | None:
        assert self._writer is not None
        self._text = self._text[_BETWEEN.match(self._text).end() :]  # type: ignore[union-attr]  # matches everywhere
        if self._text.startswith(("}", "<")) or (final and not self._text):
            self._text = self._text.removeprefix("}")
            return self._whole()
        if key := _KEY.match(self._text):
            try:
                self._parameter = _string(key[1][1:-1])
            except ValueError:
                return self._break()
            self._text = self._text[key.end() :]
            may_be_text = "string" in argument_types(self._schemas(self._parameter))
            self._in_string, self._end = self._text.startswith('"') and may_be_text, _ValueEnd()
            if not self._in_string:
                return []
            self._text = self._text[1:]
            return self._writer.text(self._parameter, "")
        return None if _KEY_BEGINS.fullmatch(self._text) or not self._text else self._break()

    def _string(self) -> list[CallEvent] | None:
        assert self._writer is not None
        assert self._parameter is not None
        end = _CHARACTERS.match(self._text).end()  # type: ignore[union-attr]  # matches everywhere
        rest = self._text[end : end + 6]
        if not rest.startswith('"') and (first := _FIRST_OF_PAIR.search(self._text, max(0, end - 6), end)):
            end = first.start()
        written, self._text = self._text[:end], self._text[end:]
        events = self._writer.text(self._parameter, _string(written)) if written else []
        if self._text.startswith('"'):
            self._text, self._parameter = self._text[1:], None
            return events + self._writer.end_text()
        if rest and not _ESCAPE_BEGINS.fullmatch(rest):
            return events + self._break()
        return events or None

    def _value(self) -> list[CallEvent] | None:
        assert self._writer is not None
        assert self._parameter is not None
        end = self._end.find(self._text)
        if end is None:
            return None
        written = self._text[:end]
        try:
            value = _string(written[1:-1]) if written.startswith('"') else forgiving_json(written, default=_NO_JSON)
        except ValueError:
            value = _NO_JSON
        if value is _NO_JSON:
            return self._break()
        parameter, self._parameter, self._text = self._parameter, None, self._text[end:]
        return self._writer.value(parameter, _typed(value, self._schemas(parameter)))

    def _close(self, final: bool) -> list[CallEvent] | None:
        """The arguments are whole: what is left are closing marks, or keys that say nothing here."""
        assert self._writer is not None
        after = self._text[_AFTER.match(self._text).end() :]  # type: ignore[union-attr]  # matches everywhere
        if after.startswith(","):
            place = after.find(_CLOSE)
            if place < 0 and not final:
                return None
            after = after[place:] if place >= 0 else ""
        elif _CLOSE.startswith(after) and after != _CLOSE and not final:
            return None
        self.ended, self.rest = True, after.removeprefix(_CLOSE)
        return self._writer.called()


class _ValueEnd:
    """Finds where a JSON value ends in a text that grows, looking at each character once."""

    def __init__(self) -> None:
        self._place = self._depth = 0
        self._in_string = False

    def find(self, text: str) -> int | None:
        """None if it does not end here. What cannot be JSON ends where that shows."""
        if text[:1] not in ("{", "[", '"'):
            end = _SCALAR_END.search(text, self._place)
            self._place = len(text)
            return end.start() if end else None
        while self._place < len(text):
            if self._in_string:
                self._place = _ROUGHLY.match(text, self._place).end()  # type: ignore[union-attr]  # matches everywhere
                if text[self._place :] in ("", "\\"):
                    return None
                self._in_string, self._place = False, self._place + 1
            else:
                mark = _MARKS.search(text, self._place)
                self._place = mark.end() if mark else len(text)
                if mark is None or mark[0] == "<":
                    return mark.start() if mark else None
                self._in_string = mark[0] == '"'
                self._depth += (mark[0] in "{[") - (mark[0] in "}]")
            if self._depth == 0 and not self._in_string:
                return self._place
        return None


def _string(characters: str) -> str:
    """What the inside of a JSON string says. Half a pair of surrogates is a replacement character."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", json.loads(f'"{characters}"', strict=False))


def _typed(value: Json, schemas: Sequence[Schema | None]) -> Json:
    """A string where none is allowed is read as what it holds."""
    if isinstance(value, str) and "string" not in argument_types(schemas):
        return forgiving_value(value, schemas)
    return value


def _from_json(text: str) -> tuple[str, dict[str, Any]] | None:
    values = forgiving_json(text, default=None)
    if not isinstance(values, dict):
        return None
    name, arguments = values.get("name"), values.get("arguments", values.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = forgiving_json(arguments, default=None)
    return (name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None
