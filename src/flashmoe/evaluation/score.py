"""Judges a generated turn against what a case expects. Knows text, tool calls and JSON, not models."""

from dataclasses import dataclass

from flashmoe.chat.arguments import MalformedCallError, Signatures
from flashmoe.chat.schema import fault, same
from flashmoe.chat.tool_calls import ToolCall, Turn, parse_turn
from flashmoe.errors import FormatError
from flashmoe.evaluation.cases import Case, Json
from flashmoe.files.jsonfile import parse_value


@dataclass(frozen=True)
class Verdict:
    """valid: the form is right: the turn parses and has content, calls are of known functions and their arguments fit
    the schema, JSON parses. named: the right functions are called, each so often as expected. right: all of it."""

    valid: bool
    named: bool
    right: bool


_WRONG = Verdict(False, False, False)


def judge(text: str, case: Case, *, thinking_open: bool | None = None) -> Verdict:
    """`text` is the turn as generated, without its end token. thinking_open: the prompt ended inside a thinking block;
    None: as `enable_thinking` says."""
    opened = case.enable_thinking if thinking_open is None else thinking_open
    try:
        turn = parse_turn(text, case.tools, thinking_open=opened)
    except MalformedCallError:
        return _WRONG
    if case.kind == "calls":
        return _judge_calls(turn, case)
    valid = bool(turn.content) and not turn.calls
    if case.kind == "json":
        try:
            right = valid and same(parse_value(turn.content.encode(), "The answer"), case.expected)
        except FormatError:
            return _WRONG
    elif case.kind == "exact":
        right = turn.content == case.expected
    else:
        right = all(part in turn.content for part in case.expected)
    return Verdict(valid, valid and right, valid and right)


def _judge_calls(turn: Turn, case: Case) -> Verdict:
    signatures = Signatures(case.tools or [])
    valid = bool(turn.calls or turn.content) and not any(
        fault(call.arguments, signatures.arguments(call.name), call.name) for call in turn.calls
    )
    named = valid and sorted(call.name for call in turn.calls) == sorted(call["name"] for call in case.expected)
    return Verdict(valid, named, named and _same_calls(list(turn.calls), case.expected))


def _same_calls(calls: list[ToolCall], expected: list[dict[str, Json]]) -> bool:
    """Equal in any order; there are as many on either side."""
    left = list(calls)
    for wanted in expected:
        found = next((c for c in left if c.name == wanted["name"] and same(c.arguments, wanted["arguments"])), None)
        if found is None:
            return False
        left.remove(found)
    return True
