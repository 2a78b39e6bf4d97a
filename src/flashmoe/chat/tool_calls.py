"""A finished assistant turn, as the XML form of Qwen3.5 writes it: thinking, content, tool calls with typed arguments.

Strict: the grammar that the model's own chat template renders, and a sentence for anything else, so that a test set
counts drift as what it is. The parser for clients (turn_parser.py) forgives drift, works piece by piece, and finds the
same in what is well formed. Knows text and tools' schemas, not engines.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from flashmoe.chat.arguments import MalformedCallError, Signatures, Tool, typed_value
from flashmoe.chat.schema import Json

_OPENING = re.compile(r"<tool_call>\n<function=([^>\n]+)>\n")
_CLOSING = "</function>\n</tool_call>"
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>(?=\n)")
_VALUE_END = re.compile(r"\n</parameter>\n(?=<parameter=|</function>\n</tool_call>)")
"""A value may hold anything, even the closing tag, as long as no other tag of a call follows it."""
_SPACE = re.compile(r"\s*")
_MARKS = ("<tool_call>", "</tool_call>", "<function=", "</function>", "<parameter=", "</parameter>")


@dataclass(frozen=True)
class ToolCall:
    """arguments: as the tool's schema types them; a parameter that it does not know is a string."""

    name: str
    arguments: dict[str, Json]


@dataclass(frozen=True)
class Turn:
    """content: what is neither thinking nor a call, without surrounding space."""

    thinking: str
    content: str
    calls: tuple[ToolCall, ...]


def parse_turn(text: str, tools: Sequence[Tool] | None = None, *, thinking_open: bool = False) -> Turn:
    """Take apart what a model generated after the generation prompt, without its end-of-turn token.

    tools: as they were given to the template; without any, tags of calls are ordinary text. thinking_open: the prompt
    ended inside a thinking block. A block that never ends leaves no content. Raises MalformedCallError.
    """
    thinking, rest = _split_thinking(text, thinking_open)
    if not tools:
        return Turn(thinking, rest.strip(), ())
    calls, signatures = [], Signatures(tools)
    begin = rest.find("<tool_call>")
    content, place = (rest, len(rest)) if begin < 0 else (rest[:begin], begin)
    while place < len(rest):
        call, place = _parse_call(rest, place, signatures)
        calls.append(call)
        place = _SPACE.match(rest, place).end()  # type: ignore[union-attr]  # matches everywhere
    if mark := next((mark for mark in _MARKS if mark in content), None):
        raise MalformedCallError(f"The turn has {mark} outside a call.")
    return Turn(thinking, content.strip(), tuple(calls))


def thinking_is_open(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thinking block."""
    return prompt.rstrip().endswith("<think>")


def _split_thinking(text: str, thinking_open: bool) -> tuple[str, str]:
    opened = text.lstrip().removeprefix("<think>") if text.lstrip().startswith("<think>") else None
    if not thinking_open and opened is None:
        return "", text
    thinking, _, rest = (text if opened is None else opened).partition("</think>")
    return thinking.strip(), rest


def _parse_call(text: str, place: int, signatures: Signatures) -> tuple[ToolCall, int]:
    """The call that begins at `place`, and where it ends."""
    opening = _OPENING.match(text, place)
    if opening is None:
        raise MalformedCallError(f"A call must begin with its function; the turn has {text[place : place + 40]!r}.")
    name = opening[1]
    schema = signatures.arguments(name)
    if schema is None:
        raise MalformedCallError(f"The turn calls {name}, which is none of the tools.")
    arguments: dict[str, Json] = {}
    place = opening.end()
    while not text.startswith(_CLOSING, place):
        parameter = _PARAMETER.match(text, place)
        end = _VALUE_END.search(text, parameter.end() + 1) if parameter else None
        if parameter is None or end is None:
            raise MalformedCallError(f"The call of {name} is not complete at {text[place : place + 40]!r}.")
        if parameter[1] in arguments:
            raise MalformedCallError(f"The call of {name} gives {parameter[1]} twice.")
        value = text[parameter.end() + 1 : end.start()]
        arguments[parameter[1]] = typed_value(value, schema.members(parameter[1]), f"{parameter[1]} of {name}")
        place = end.end()
    return ToolCall(name, arguments), place + len(_CLOSING)
