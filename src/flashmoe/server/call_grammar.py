"""Rules for tool calls with arguments that fit their schemas, in the way the model's chat template writes them.

Knows resolved schemas and llguidance's grammars, neither tokens nor requests.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from flashmoe.chat.call_style import CallStyle
from flashmoe.chat.schema import Json, Schema, type_of
from flashmoe.errors import FlashMoeError
from flashmoe.server.json_grammar import Unheld, bare_strings, json_rule

_VALUE_END = "\n</parameter>\n"
_NOT_STRING = frozenset({"boolean", "integer", "number", "array", "object", "null"})
_MOST_EXTRA = 64
"""Characters in the name of a parameter that the schema does not name."""


def call_rules(
    style: CallStyle,
    functions: Mapping[str, Schema],
    several: bool,
    text: Callable[[str], str],
    unheld: Mapping[str, Unheld],
) -> list[str]:
    """The first rule is `calls`. functions: schemas of the arguments. text: writes a literal with the tokens that tags
    are. unheld: hear of each function's keywords that are not held. Raises FlashMoeError for a parameter that cannot be
    written."""
    between = f" {text(style.between)}" if style.between else ""
    rules = [f"calls: call ({between} call)*" if several else "calls: call"]
    names = [f"f{i}" for i in range(len(functions))]
    end = '"</function>" ' if style.middle is None else ""
    rules.append(f"call: {text(style.open)} ({' | '.join(names)}) {end}{text(style.close)}")
    for rule, (name, schema) in zip(names, functions.items(), strict=True):
        hear = unheld[name]
        if style.middle is None:
            rules += _Function(rule, name, schema, hear).rules()
        else:
            rules.append(f"{rule}: {json.dumps(name + style.middle)} {rule}a")
            rules.append(f"{rule}a: %json {json_rule(schema, hear, frozenset({'object'}))}")
    return rules


class _Function:
    """The function tag of a call: the parameters in the schema's order, each in a tag of its own."""

    def __init__(self, rule: str, name: str, schema: Schema, unheld: Unheld) -> None:
        self._rule, self._name, self._unheld = rule, name, unheld
        self._leaves = [leaf for leaf in schema.leaves if "object" in leaf.implied]
        self._rules: list[str] = []

    def rules(self) -> list[str]:
        forms = []
        for i, leaf in enumerate(self._leaves):
            rule = f"{self._rule}x{i}"
            forms.append(rule)
            if leaf.values is None:
                self._form(rule, leaf)
            else:
                objects = [json.dumps(_written(value)) for value in leaf.values if isinstance(value, Mapping)]
                self._rules.append(f"{rule}: {' | '.join(objects)}")
        opening = json.dumps(f"<function={self._name}>\n")
        return [f"{self._rule}: {opening} ({' | '.join(forms)})", *self._rules]

    def _form(self, rule: str, leaf: Schema) -> None:
        parts = []
        for i, (name, inner) in enumerate(leaf.properties.items()):
            if not inner.implied:
                continue
            if ">" in name or "\n" in name:
                raise FlashMoeError(f"The parameter {name!r} of {self._name} cannot be written in a call; rename it.")
            parts.append(f"{rule}p{i}" if name in leaf.required else f"{rule}p{i}?")
            self._rules.append(f"{rule}p{i}: {json.dumps(f'<parameter={name}>' + chr(10))} {rule}v{i}")
            self._value(f"{rule}v{i}", inner)
        extra = leaf.additional_stated and (leaf.additional is None or bool(leaf.additional.implied))
        if extra:
            parts.append(f"{rule}e*")
            self._extra(f"{rule}e", leaf)
        if leaf.limits.get("minProperties", 0) > len(leaf.required):
            self._unheld("minProperties")
        if leaf.limits.get("maxProperties", math.inf) < (math.inf if extra else len(parts)):
            self._unheld("maxProperties")
        self._rules.append(f"{rule}: {' '.join(parts) if parts else json.dumps('')}")

    def _extra(self, rule: str, leaf: Schema) -> None:
        """A parameter that is none of those named."""
        name = f"/[^>\\n]{{1,{_MOST_EXTRA}}}/"
        if leaf.properties:
            name += f" & ~({' | '.join(json.dumps(known) for known in leaf.properties)})"
        self._rules += [f'{rule}: "<parameter=" T{rule.upper()} ">\\n" {rule}v', f"T{rule.upper()}: {name}"]
        self._value(f"{rule}v", leaf.additional)

    def _value(self, rule: str, schema: Schema | None) -> None:
        """A string stands as it is, anything else as JSON."""
        if schema is None or not schema.stated or any(_any_string(leaf) for leaf in schema.leaves):
            self._rules.append(f"{rule}[suffix={json.dumps(_VALUE_END)}]: /(?s:.*)/")
            return
        ways = []
        for i, leaf in enumerate(schema.leaves):
            if "string" in leaf.implied and (rules := bare_strings(f"{rule}s{i}", leaf, _VALUE_END, self._unheld)):
                ways.append(f"{rule}s{i}")
                self._rules += rules
        if schema.implied & _NOT_STRING:
            ways.append(f"{rule}n")
            self._rules.append(f"{rule}n: {rule}j {json.dumps(_VALUE_END)}")
            self._rules.append(f"{rule}j: %json {json_rule(schema, self._unheld, _NOT_STRING)}")
        if not ways:
            raise FlashMoeError(f"No value of a parameter of {self._name} can be written in a call.")
        self._rules.append(f"{rule}: {' | '.join(ways)}")


def _any_string(leaf: Schema) -> bool:
    bound = leaf.limits.keys() & {"minLength", "maxLength"}
    return "string" in leaf.implied and leaf.values is None and not (bound or leaf.texts or leaf.formats)


def _written(arguments: Mapping[str, Json]) -> str:
    """Parameters as the template writes them."""

    def value(item: Any) -> str:
        return item if type_of(item) == "string" else json.dumps(item, ensure_ascii=False)

    return "".join(f"<parameter={name}>\n{value(item)}{_VALUE_END}" for name, item in arguments.items())
