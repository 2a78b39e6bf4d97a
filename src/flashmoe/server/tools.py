"""Tools as clients of three APIs describe them, as functions for the model, and calls as they go back.

Invariant: each function that the model sees has an Origin, from which its calls get the client's own names and form.
Knows templates' form of a tool; knows no API's bodies.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flashmoe.chat.call_writer import CallArguments, CallBroken, Called
from flashmoe.server.ask import Origin
from flashmoe.server.body import parse_text
from flashmoe.server.errors import ApiError

Json = dict[str, Any]
_INPUT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
_REQUIRED = ("required", "any")


@dataclass
class Toolbox:
    """The tools of one request."""

    functions: list[Json] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(self, function: Mapping[str, Any], origin: Origin, where: str) -> None:
        """A function by its name, description, parameters and strict, in this order; ApiError for a name that is
        another tool's already."""
        shown = {key: value for key, value in function.items() if value is not None}
        shown["name"] = name = _shown_name(origin)
        if self.origins.setdefault(name, origin) != origin:
            raise ApiError(400, f"{where} is shown to the model as {name}, and so is another tool; rename one.", where)
        if not shown.get("parameters"):
            shown["parameters"] = {"type": "object", "properties": {}}
        self.functions.append(shown)

    def add_custom(self, description: str | None, form: Mapping[str, Any] | None, origin: Origin, where: str) -> None:
        """A tool that takes text. form: what is said of the text, which goes to the model in words."""
        grammar = form.get("grammar", form) if form else {}
        definition = grammar.get("definition") if isinstance(grammar, Mapping) else None
        parts = [description] if description else []
        if isinstance(definition, str):
            parts.append(f"The input must match this {grammar.get('syntax', '')} grammar:\n{definition}")
        described = {"name": origin.name, "description": "\n\n".join(parts) or None, "parameters": _INPUT}
        self.add(described, origin, where)

    def leave_out(self, kind: str | None) -> None:
        self.left_out.append(kind or "other")

    def check(self) -> None:
        """ApiError where all tools are left out."""
        if self.left_out and not self.functions:
            raise ApiError(
                400,
                f"tools has only {self.left_out[0]:.60}, which is part of another server or model: this server runs no "
                "tools. Describe functions that you run.",
                "tools",
                "unsupported_value",
            )

    def shown(self, name: str, namespace: str | None = None) -> str:
        """What the model sees in place of the client's name; ApiError for a tool that there is not."""
        found = (s for s, o in self.origins.items() if (o.name, o.namespace) == (name, namespace) or s == name)
        if (shown := next(found, None)) is None:
            raise ApiError(400, f"tool_choice names {name:.128}, which is none of the tools.", "tool_choice")
        return shown

    def only(self, names: Iterable[str]) -> None:
        """Keep these alone, by the names that the model sees."""
        kept = set(names)
        self.functions = [function for function in self.functions if function["name"] in kept]

    def templates_tools(self) -> list[Json]:
        return [{"type": "function", "function": function} for function in self.functions]


def check_choice(choice: str | None, tools: Sequence[Any], schema: Any, schema_field: str) -> str | None:
    """`auto`, `none`, `required` or a name; ApiError for a call that is required and cannot be."""
    choice = "required" if choice in _REQUIRED else choice
    if choice in (None, "none", "auto"):
        return choice
    if not tools:
        raise ApiError(400, "tool_choice needs tools.", "tool_choice")
    if schema is not None:
        raise ApiError(400, f"{schema_field} and a required tool call exclude each other.", schema_field)
    return choice


def _shown_name(origin: Origin) -> str:
    return f"{origin.namespace}__{origin.name}" if origin.namespace else origin.name


def past_call(call_id: str, origin: Origin, arguments: str | Json, where: str) -> Json:
    """A call in the conversation, as templates take it. arguments: of a custom tool its text, else JSON.

    ApiError for arguments that are no JSON object.
    """
    if origin.form == "custom":
        values: Any = {"input": arguments}
    elif isinstance(arguments, str):
        values = parse_text(arguments, where) if arguments.strip() else {}
    else:
        values = arguments
    if not isinstance(values, dict):
        raise ApiError(400, f"{where} must be a JSON object.", where)
    return {"id": call_id, "type": "function", "function": {"name": _shown_name(origin), "arguments": values}}


def given_by(event: CallArguments | Called | CallBroken, origin: Origin, given: str) -> str:
    """What an event adds to what a call gives: the arguments as JSON, or the text of a custom tool; all arguments of
    one that got no text. given: by the events before."""
    custom = origin.form == "custom"
    if isinstance(event, CallArguments):
        return event.json if not custom else event.text if event.parameter == "input" else ""
    no_text = custom and isinstance(event, Called) and not given and event.call.arguments.get("input") != ""
    return json.dumps(event.call.arguments, ensure_ascii=False) if no_text else ""
