"""Test sets: JSON lines, one conversation each, with what its next turn must be.

Invariant: a Case that exists can be asked and judged; a line that cannot is a FormatError with its number. The keys:
id, family, enable_thinking, messages, tools (null or a list) and expect, one of
    {"kind": "calls", "calls": [{"name", "arguments"}]}   these tool calls, in any order; [] means none
    {"kind": "json", "json": value}                       the content is JSON and equal to it
    {"kind": "text", "contains": ["...", ...]}            the content has each of these
    {"kind": "exact", "text": "..."}                      the content is this
Knows neither models nor how an answer is judged.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flashmoe.errors import FormatError
from flashmoe.files.jsonfile import Fields, parse_object
from flashmoe.files.opening import read_bytes

Json = Any
KINDS = {"calls": "calls", "json": "json", "text": "contains", "exact": "text"}
"""The kinds of expectation, and the key that holds what is expected."""


@dataclass(frozen=True)
class Case:
    """expected: the value of the kind's key (KINDS)."""

    id: str
    family: str
    enable_thinking: bool
    messages: list[dict[str, Json]]
    tools: list[dict[str, Json]] | None
    kind: str
    expected: Json

    @classmethod
    def from_json(cls, value: dict[str, Json], where: str = "The case") -> "Case":
        """Raises FormatError, beginning with `where`, for a key that is missing or wrong."""
        fields = Fields(value, where)
        thinking = value.get("enable_thinking")
        if not isinstance(thinking, bool):
            raise FormatError(f"{where}: 'enable_thinking' must be true or false, not {thinking!r:.60}.")
        messages = [message.values for message in fields.objects("messages")]
        if not messages or not all(isinstance(message.get("role"), str) for message in messages):
            raise FormatError(f"{where}: 'messages' must be a list of at least one message, each with a role.")
        tools = None if value.get("tools") is None else [tool.values for tool in fields.objects("tools")]
        expect = Fields(fields.mapping("expect"), f"{where}, expect")
        kind = expect.text("kind")
        if kind not in KINDS:
            raise FormatError(f"{where}: there is no kind {kind!r:.40} of expectation; they are {', '.join(KINDS)}.")
        expected = _expected(expect, kind)
        return cls(fields.text("id"), fields.text("family"), thinking, messages, tools, kind, expected)


def _expected(expect: Fields, kind: str) -> Json:
    key = KINDS[kind]
    if kind == "calls":
        return [{"name": call.text("name"), "arguments": call.mapping("arguments")} for call in expect.objects(key)]
    if kind == "exact":
        return expect.text(key)
    if key not in expect.values:
        raise FormatError(f"{expect.where} lacks the key {key!r}.")
    value = expect.values[key]
    if kind == "text" and not (isinstance(value, list) and value and all(isinstance(v, str) for v in value)):
        raise FormatError(f"{expect.where}: {key!r} must be a list of at least one string.")
    return value


def read_cases(path: Path) -> list[Case]:
    """The cases of a file. Raises FormatError naming file and line, or the file that cannot be read."""
    try:
        lines = read_bytes(path).split(b"\n")
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}.") from None
    cases = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number},"
            cases.append(Case.from_json(parse_object(line, where), where.rstrip(",")))
    if not cases:
        raise FormatError(f"{path} holds no cases; give a file of JSON lines (docs/evaluation.md).")
    (identifier, times), *_ = Counter(case.id for case in cases).most_common(1)
    if times > 1:
        raise FormatError(f"{path}: the id {identifier!r:.60} occurs {times} times.")
    return cases


Item = TypeVar("Item")


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` of the items, evenly spread, so that each family of a sorted set keeps its share."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]
