"""A call as Qwen3.5 and Qwen3-Coder write it, `<function=NAME><parameter=x>value</parameter></function>`, in pieces.

A value may hold anything: it ends at its closing tag only if another tag follows. Forgiven are a missing closing tag of
a parameter, the function or the call, text between tags, and values that are not of their type. A string goes out while
it is written, as soon as no rest of it could make it a value of another type. Knows text and schemas, not turns.
"""

import re
from collections.abc import Sequence

from flashmoe.chat.arguments import argument_types, forgiving_value
from flashmoe.chat.call_writer import CallEvent, CallWriter
from flashmoe.chat.schema import Schema

_CLOSE = "</tool_call>"
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>")
_TAG = re.compile(r"<parameter=[^>\n]+>|</function>|</tool_call>")
_UNFINISHED_TAG = re.compile(r"<[^>\n]*\Z")
_NAMED_LINE = re.compile(r"<parameter=([^>\n]+)>\n")
_CALL_END = re.compile(r"</function>(?:\s*</tool_call>)?|</tool_call>")
_MAY_END = re.compile(r"\n?<|\n\Z")
_SPACE = re.compile(r"\s*")
TAGS_WITHIN = ("<parameter=", "</function>", "</tool_call>")
_LONGEST_NAME, _LONGEST_TAG = 200, 220

_NUMBER = re.compile(r"[-+]?[0-9._eE+-]*\s*")
_WORDS = {"null": ("null", "None"), "boolean": ("true", "false", "True", "False")}


class XmlCall:
    """Fed with what follows `<function=NAME>`. opening: the tags before that, as they were written. parameters: the
    schema of the arguments, None if there is no such tool.

    ended: nothing more belongs to the call; rest: what was fed after its end.
    """

    def __init__(self, opening: str, parameters: Schema | None, name: str) -> None:
        self._parameters = parameters
        self._names = parameters.names() if parameters else set()
        self._writer = CallWriter(name)
        self._opening, self._written = opening, list[str]()
        self._text = ""  # what is not settled yet
        self._value: _Value | None = None
        self.ended, self.rest = False, ""

    def feed(self, text: str, *, final: bool, cut: bool) -> list[CallEvent]:
        """What this piece settles. final: it is the last one; cut: and it was not the model that ended the turn."""
        self._text += text
        events: list[CallEvent] = [] if self._written else self._writer.begin()
        self._written.append(text)
        step: list[CallEvent] | None = []
        while step is not None and not self.ended:
            events += step
            step = self._in_value(final, cut) if self._value else self._between(final, cut)
        events += step or []
        if final and not self.ended:
            self.ended = True
            events += self._writer.broken(self._opening + "".join(self._written)) if cut else self._whole()
        return events

    def _between(self, final: bool, cut: bool) -> list[CallEvent] | None:
        """Up to the next tag; None if that takes more text."""
        tag = _TAG.search(self._text)
        if tag is None:
            unfinished = _UNFINISHED_TAG.search(self._text)
            self._text = unfinished[0] if unfinished else ""
            return None
        self._text = self._text[tag.start() :]
        if parameter := _PARAMETER.match(self._text):
            if parameter.end() == len(self._text) and not final:
                return None  # a newline may follow, which is not part of the value
            self._text = self._text[parameter.end() :].removeprefix("\n")
            given = {*self._writer.arguments, parameter[1]}
            others = {name for name in self._names if name not in given and len(name) <= _LONGEST_NAME}
            schemas = self._parameters.members(parameter[1]) if self._parameters else ()
            self._value = _Value(parameter[1], schemas, others, self._writer)
            return []
        ending = _CALL_END.match(self._text)
        assert ending is not None
        after = self._text[ending.end() :]
        if ending[0] == "</function>" and _CLOSE.startswith(after.lstrip()) and not (final or cut):
            return None  # the closing tag of the call may yet come
        self.ended, self.rest = True, after
        return self._whole()

    def _whole(self) -> list[CallEvent]:
        return self._writer.close() + self._writer.called()

    def _in_value(self, final: bool, cut: bool) -> list[CallEvent] | None:
        assert self._value is not None
        events, end = self._value.read(self._text, final=final and not cut)
        if end is None:
            self._text = self._text[self._value.settled :]
            return events or None
        self._text = self._text[end:]
        self._value = None
        return events


class _Value:
    """One parameter's value. schemas: those that it may have. others: parameters whose tag on a line of its own ends it
    too."""

    def __init__(self, name: str, schemas: Sequence[Schema | None], others: set[str], writer: CallWriter) -> None:
        self._name, self._schemas, self._others, self._writer = name, schemas, others, writer
        self._held = ""  # while it may yet turn out not to be a string
        self._is_text = surely_text("", schemas)
        self._looked = 0  # up to here nothing of the text ends the value
        self._last_resort: int | None = None  # where it ends if it has no closing tag at all
        self.settled = 0

    def read(self, text: str, *, final: bool) -> tuple[list[CallEvent], int | None]:
        """Events of the value up to `settled`, and where what follows the value begins, None if that is not here.

        text: all that is not settled, so that the next call begins at `settled`.
        """
        end, following = self._find_end(text, final)
        if end is None:
            settled = self._looked if self._last_resort is None else self._last_resort
            events = self._add(text[:settled]) if settled else []
            self.settled, self._looked = settled, self._looked - settled
            self._last_resort = None if self._last_resort is None else 0
            return events, None
        events = self._add(text[:end])
        if self._is_text:
            return [*events, *self._writer.text(self._name, ""), *self._writer.end_text()], following
        return [*events, *self._writer.value(self._name, forgiving_value(self._held, self._schemas))], following

    def _add(self, piece: str) -> list[CallEvent]:
        if not self._is_text:
            self._held += piece
            self._is_text = surely_text(self._held, self._schemas)
            piece = self._held
        return self._writer.text(self._name, piece) if self._is_text else []

    def _find_end(self, text: str, final: bool) -> tuple[int | None, int]:
        """Where the value ends, and where to go on after that."""
        while mark := _MAY_END.search(text, self._looked):
            begin, tag = mark.start(), mark.start() + text.startswith("\n", mark.start())
            if text.startswith("</parameter>", tag):
                ends, following = followed_by(text, tag + len("</parameter>"), TAGS_WITHIN), tag + 12
            elif text.startswith("</function>", tag):
                ends, following = self._function_ends(text, begin, tag), begin
            elif begin < tag < len(text) and (named := _NAMED_LINE.match(text, tag)):
                ends, following = named[1] in self._others, tag
            else:
                ends, following = self._may_become_an_end(text, begin, tag, final), begin
            if ends is None and not final:
                self._looked = begin
                return None, 0
            if ends or (ends is None and self._last_resort is None):
                return begin, following
            self._looked = mark.end()
        self._looked = len(text)
        end = len(text) if self._last_resort is None else self._last_resort
        return (end, end) if final else (None, 0)

    def _function_ends(self, text: str, begin: int, tag: int) -> bool | None:
        """A value without its closing tag ends with the function where another call follows, and else only if nothing
        better comes."""
        closed = followed_by(text, tag + len("</function>"), (_CLOSE,))
        if not closed:
            return closed
        after = text.index(_CLOSE, tag) + len(_CLOSE)
        another = followed_by(text, after, ("<tool_call>",))
        if another:
            another = followed_by(text, text.index("<tool_call>", after) + len("<tool_call>"), ("<function=",))
        if another is False and self._last_resort is None:
            self._last_resort = begin
        return another

    def _may_become_an_end(self, text: str, begin: int, tag: int, final: bool) -> bool | None:
        """None if more text may make a tag of this that ends the value, or if the turn's end does; no other tag is
        whole here."""
        rest = text[tag : tag + _LONGEST_TAG]
        if not rest or (rest.startswith(_CLOSE) and not text[tag + len(_CLOSE) :].strip()):
            return None
        if final or tag + len(rest) < len(text):
            return False
        named = begin < tag and any(f"<parameter={name}>\n".startswith(rest) for name in self._others)
        return None if named or any(t.startswith(rest) for t in ("</parameter>", "</function>", _CLOSE)) else False


def followed_by(text: str, place: int, tags: tuple[str, ...]) -> bool | None:
    """Whether one of the tags comes next, after any space; None if that is not to be seen yet."""
    space = _SPACE.match(text, place)
    assert space is not None
    if text.startswith(tags, space.end()):
        return True
    rest = text[space.end() : space.end() + 20]
    return None if any(tag.startswith(rest) for tag in tags) else False


def surely_text(beginning: str, schemas: Sequence[Schema | None]) -> bool:
    """Whether forgiving_value gives back every text that begins like this as it is."""
    types = argument_types(schemas)
    if types <= {"string"}:
        return True
    body = beginning.lstrip()
    if "string" not in types or not body:
        return False
    if (body[0] == "{" and "object" in types) or (body[0] == "[" and "array" in types):
        return False
    if types & {"number", "integer"} and _NUMBER.fullmatch(body):
        return False
    words = [word for kind in types & _WORDS.keys() for word in _WORDS[kind]]
    return not any(word.startswith(body.rstrip()) for word in words)
