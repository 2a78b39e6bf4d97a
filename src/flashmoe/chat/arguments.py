"""The arguments of a call, from text to values of the types that the tool's schema gives them.

A chat template writes a string as it is and everything else as JSON. Models drift from that: they write what Python
would print, or a key twice. `typed_value` is strict, `forgiving_value` reads the drift too. Whatever the text is, the
outcome is a JSON value or a sentence. Knows tools' schemas, not the tags around arguments.
"""

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from flashmoe.chat.schema import Json, Schema, fault, type_of
from flashmoe.chat.schema_resolution import WORK, Resolved, resolve
from flashmoe.errors import FlashMoeError, FormatError
from flashmoe.files.jsonfile import parse_value

Tool = Mapping[str, Any]

_LITERAL_BYTES, _LITERAL_DEPTH = 65_536, 40
"""Of what is read as Python; its parser is neither linear nor free of recursion."""
_ESCAPE_PYTHON_LACKS = re.compile(r"(?<!\\)(?:\\\\)*\\[^\\'\"abfnrtvxuUN0-7\n]")


class MalformedCallError(FlashMoeError):
    """A turn that starts a call and does not write it as the template does, or calls what there is not."""


def function_of(tool: Tool) -> Mapping[str, Any]:
    """The description of the function in either form a tool comes in."""
    function = tool.get("function", tool)
    return function if isinstance(function, Mapping) else {}


class Signatures:
    """The functions among tools, with their arguments' schemas resolved when first asked for; the first of a name is
    meant. Without a usable schema a function takes anything."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._functions: dict[str, Mapping[str, Any]] = {}
        self._resolved: dict[str, Resolved] = {}
        self._work = WORK
        for function in map(function_of, tools):
            if isinstance(name := function.get("name"), str):
                self._functions.setdefault(name, function)

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def __len__(self) -> int:
        return len(self._functions)

    def functions(self) -> list[Mapping[str, Any]]:
        return list(self._functions.values())

    def only(self, name: str) -> "Signatures":
        """One function of them."""
        return Signatures([self._functions[name]])

    def resolved(self, name: str) -> Resolved:
        """The schema of the arguments and what is amiss with it. All schemas together have the limit of one."""
        if name not in self._resolved:
            parameters = self._functions[name].get("parameters")
            found = resolve({} if parameters is None else parameters, self._work)
            self._work -= found.work
            self._resolved[name] = found
        return self._resolved[name]

    def resolve_all(self) -> None:
        for name in self._functions:
            self.resolved(name)

    def arguments(self, name: str) -> Schema | None:
        """None if there is no such function."""
        return self.resolved(name).schema if name in self else None


def typed_value(text: str, schemas: Sequence[Schema | None], where: str) -> Json:
    """A string is written as it is, everything else as JSON. Where both are allowed, JSON that fits is taken for that,
    then text that fits, then JSON of a type that is allowed. schemas: those the argument may have, `Schema.members`.
    Raises MalformedCallError for what had to be JSON and is not."""
    types = argument_types(schemas)
    if types <= {"string"}:
        return text
    try:
        value = parse_value(text.encode("utf-8", "surrogatepass"), where)
    except FormatError as error:
        if "string" in types:
            return text
        raise MalformedCallError(str(error)) from None
    if "string" not in types:
        return value
    if type_of(value) == "string" or type_of(value) not in types:
        return text
    return value if _fits(value, schemas) or not _fits(text, schemas) else text


def forgiving_value(text: str, schemas: Sequence[Schema | None]) -> Json:
    """As typed_value, and what Python would print is taken for what it means. What is neither stays a string, for the
    tool to complain of."""
    try:
        return typed_value(text, schemas, "")
    except MalformedCallError:
        value = forgiving_json(text, default=text)
        return value if type_of(value) in argument_types(schemas) else text


def forgiving_json(text: str, default: Json) -> Json:
    """The value in JSON, also where a key occurs twice (the last counts) or Python has printed it; else `default`."""
    with suppress(FormatError):
        return parse_value(text.encode("utf-8", "surrogatepass"), "The text")
    with suppress(ValueError, RecursionError, FormatError):
        return parse_value(json.dumps(json.loads(text)).encode(), "The text")
    return python_value(text, default)


def python_value(text: str, default: Json) -> Json:
    """The JSON value that a Python literal stands for; `default` for what is none, too long or nested too deeply."""
    if len(text) > _LITERAL_BYTES or _depth(text) > _LITERAL_DEPTH or _ESCAPE_PYTHON_LACKS.search(text):
        return default
    try:
        return _as_json(ast.literal_eval(text.strip()))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return default


def argument_types(schemas: Sequence[Schema | None]) -> frozenset[str]:
    """The types that are meant; a string where nothing is said."""
    stated = [schema.implied for schema in schemas if schema is not None and schema.stated]
    return frozenset().union(*stated) if stated else frozenset({"string"})


def _fits(value: Json, schemas: Sequence[Schema | None]) -> bool:
    return any(schema is not None and schema.stated and fault(value, schema, "") is None for schema in schemas)


def _depth(text: str) -> int:
    """At least how deeply brackets and signs are nested; those in strings count too."""
    depth = deepest = 0
    for mark in re.findall(r"[][(){}]", text):
        depth += 1 if mark in "[({" else -1
        deepest = max(deepest, depth)
    return deepest


def _as_json(value: Any) -> Json:
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("keys are strings")
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError("not JSON")
