"""A user's Python functions as tools: the schema from signature and docstring, the call with checked arguments.

Only public functions that the file itself defines are tools. Knows Python and JSON schemas, neither models nor screens.
"""

import importlib.util
import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flashmoe.chat.schema import Json, fault
from flashmoe.chat.schema_resolution import resolve
from flashmoe.errors import FlashMoeError

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
_MODULE = "flashmoe_tools"
"""Of the file: a name of its own, under which its dataclasses find it."""
_PARAMETER_LINE = re.compile(r"^\s*(?::param\s+)?(\w+)\s*(?:\([^)]*\))?:\s+(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class UserTool:
    """parameters: JSON schema of the arguments."""

    name: str
    description: str
    parameters: dict[str, Json]
    function: Callable[..., Any]

    def as_tool(self) -> dict[str, Json]:
        """As templates take it."""
        described = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": described}

    def call(self, arguments: Mapping[str, Json]) -> str:
        """What the model is told: the result, as JSON unless it is text, or {"error": ...} for whatever went wrong."""
        if wrong := fault(dict(arguments), resolve(self.parameters).schema, self.name):
            return trouble(wrong)
        try:
            result = self.function(**arguments)
            return whole(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str))
        except (Exception, SystemExit) as error:  # it is the user's function, and the model may do better
            return trouble(f"{type(error).__name__}: {error}")


def trouble(text: str) -> str:
    """The result of a call that gave none."""
    return whole(json.dumps({"error": text}, ensure_ascii=False))


def whole(text: str) -> str:
    """Without lone surrogates, which no file and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


def read_tools(path: Path) -> list[UserTool]:
    """Run the file and take its functions. Raises FlashMoeError if it cannot be run, or a function not be described."""
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise FlashMoeError(f"{path} is not a Python file; --tools takes one that defines functions.")
    module = sys.modules[_MODULE] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a program of the user's
        raise FlashMoeError(f"{path} cannot be run: {type(error).__name__}: {error}.") from error
    found = [
        _tool(function, path)
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
    ]
    if not found:
        raise FlashMoeError(f"{path} defines no public function; each one would become a tool.")
    return found


def _tool(function: Callable[..., Any], path: Path) -> UserTool:
    where = f"{path}, {function.__name__}"
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise FlashMoeError(f"{where}: a tool returns its result; it may be neither async nor a generator.")
    text = inspect.getdoc(function) or ""
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError) as error:
        raise FlashMoeError(f"{where}: its annotations cannot be read: {error}.") from None
    told = dict(_PARAMETER_LINE.findall(text))
    properties: dict[str, Json] = {}
    required = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise FlashMoeError(f"{where}: a tool takes named parameters only, and {name} is not one.")
        if name not in hints:
            raise FlashMoeError(f"{where}: the parameter {name} needs an annotation, like `{name}: str`.")
        properties[name] = _schema(hints[name], f"{where}, {name}")
        if name in told:
            properties[name]["description"] = told[name]
        if parameter.default is parameter.empty:
            required.append(name)
    schema: dict[str, Json] = {"type": "object", "properties": properties, "required": required}
    return UserTool(function.__name__, text.partition("\n\n")[0].replace("\n", " "), schema, function)


def _schema(hint: Any, where: str) -> dict[str, Json]:
    """The JSON schema of an annotation."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    if origin is Literal and {type(value) for value in arguments} in ({str}, {int}):
        return {"type": _TYPES[type(arguments[0])], "enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0], where)}
    if origin is dict and arguments[0] is str:
        return {"type": "object", "additionalProperties": _schema(arguments[1], where)}
    if origin in (Union, types.UnionType):
        kinds = [_schema(argument, where) for argument in arguments if argument is not type(None)]
        nothing = [{"type": "null"}] if type(None) in arguments else []
        return {"anyOf": [*kinds, *nothing]} if len(kinds) + len(nothing) > 1 else kinds[0]
    raise FlashMoeError(
        f"{where}: {hint} has no JSON schema here; use str, int, float, bool, list, dict, Literal or a union of them."
    )
