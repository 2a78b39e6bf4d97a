"""A resolved schema in llguidance's terms: as the JSON schema of a %json rule, or as terminals for bare strings.

Invariant: what is generated fits the schema, but for the keywords that are reported as not held. Knows neither tools
nor tokens.
"""

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import llguidance

from flashmoe.chat.schema import Json, Schema, type_of

Unheld = Callable[[str], None]

_FEW_SPACES = {"whitespace_pattern": r"[ \n\t]{0,16}"}
"""Between JSON's tokens; without a bound, a model that has nothing to say says spaces for ever."""
_OBJECT = ("minProperties", "maxProperties")
_ARRAY = ("minItems", "maxItems")
_STRING = ("minLength", "maxLength")
_MOST_PATTERNS = 3
_LARGEST_STEP = 1_000
"""Of multipleOf, without its point: its automaton has as many states."""
_NUMBER = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")

# The formats of strings, each a subset of what its RFC allows (no leap days and seconds, no literal addresses).
_LABEL = "[A-Za-z][A-Za-z0-9]{0,20}(?:-[A-Za-z0-9]{1,20})?"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,4}}"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_HEX = "[0-9A-Fa-f]{1,4}"
_DATE = (
    "[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_CLOCK = "T(?:[0-9]{1,6}H(?:[0-9]{1,6}M(?:[0-9]{1,6}S)?)?|[0-9]{1,6}M(?:[0-9]{1,6}S)?|[0-9]{1,6}S)"
_DAYS = "(?:[0-9]{1,6}Y(?:[0-9]{1,6}M(?:[0-9]{1,6}D)?)?|[0-9]{1,6}M(?:[0-9]{1,6}D)?|[0-9]{1,6}D)"
_SEGMENT = "(?:[A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-F]{2})+"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": f"P(?:{_DAYS}(?:{_CLOCK})?|{_CLOCK}|[0-9]{{1,6}}W)",
    "email": rf"[A-Za-z0-9_+-]{{1,20}}(?:\.[A-Za-z0-9_+-]{{1,20}}){{0,2}}@{_LABEL}(?:\.{_LABEL}){{1,3}}",
    "hostname": _HOST,
    "ipv4": rf"{_OCTET}(?:\.{_OCTET}){{3}}",
    "ipv6": f"(?:{_HEX}:){{7}}{_HEX}|::(?:{_HEX}:){{0,5}}{_HEX}|{_HEX}::(?:{_HEX}:){{0,4}}{_HEX}|::",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "uri": rf"[a-z][a-z0-9+.-]{{0,15}}:(?://{_HOST}(?::[0-9]{{1,4}})?(?:/{_SEGMENT})*/?|{_SEGMENT})(?:\?{_SEGMENT})?(?:#{_SEGMENT})?",
}
"""Regular expressions of whole strings; every other format is an annotation."""


def json_rule(schema: Schema, unheld: Unheld, only: frozenset[str] | None = None) -> str:
    """The text after %json for values of a schema; of these types only. unheld: hears of keywords that are left out."""
    return json.dumps({**_Writer(unheld).document(schema, only), "x-guidance": _FEW_SPACES})


class _Writer:
    """Every schema with others inside is a definition, so that nesting and recursion cost nothing."""

    def __init__(self, unheld: Unheld) -> None:
        self._unheld = unheld
        self._names: dict[int, str] = {}
        self._open: list[Schema] = []

    def document(self, schema: Schema, only: frozenset[str] | None) -> dict[str, Any]:
        root: dict[str, Any] = {"anyOf": [self._leaf(leaf, only) for leaf in schema.leaves if _kept(leaf, only)]}
        definitions = {}
        while self._open:
            inner = self._open.pop()
            alternatives = [self._leaf(leaf, None) for leaf in inner.leaves]
            definitions[self._names[id(inner)]] = alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}
        return {**root, "$defs": definitions} if definitions else root

    def _inside(self, schema: Schema | None) -> Json:
        if schema is None:
            return True
        if not schema.leaves:
            return False
        leaf = schema.leaves[0]
        if len(schema.leaves) == 1 and leaf is schema and not leaf.implied & {"array", "object"}:
            return self._leaf(leaf, None)
        if id(schema) not in self._names:
            self._names[id(schema)] = f"s{len(self._names)}"
            self._open.append(schema)
        return {"$ref": f"#/$defs/{self._names[id(schema)]}"}

    def _leaf(self, leaf: Schema, only: frozenset[str] | None) -> dict[str, Any]:
        types = leaf.implied if only is None else leaf.implied & only
        if leaf.values is not None:
            kept: dict[str, Any] = {"enum": [value for value in leaf.values if type_of(value) in types]}
            return kept if not leaf.texts else {"allOf": [kept, *self._patterns(leaf, formats=False)]}
        written: dict[str, Any] = {"type": sorted(types - {"integer"} if "number" in types else types)}
        if "string" in types:
            written |= self._limits(leaf, _STRING)
            if patterns := self._patterns(leaf, formats=True):
                written |= patterns[0] if len(patterns) == 1 else {"allOf": patterns}
        if types & {"number", "integer"}:
            written |= self._limits(leaf, _NUMBER)
            if "multipleOf" in written and _digits(written["multipleOf"]) > _LARGEST_STEP:
                del written["multipleOf"]
                self._unheld("multipleOf")
        if "array" in types:
            written |= self._limits(leaf, _ARRAY) | self._items(leaf)
        if "object" in types:
            written |= self._properties(leaf) | self._counts(leaf)
        return written

    def _limits(self, leaf: Schema, names: Sequence[str]) -> dict[str, Any]:
        return {name: leaf.limits[name] for name in names if name in leaf.limits}

    def _counts(self, leaf: Schema) -> dict[str, Any]:
        """How many properties there are: where it follows from their names, it need not be said."""
        found = self._limits(leaf, _OBJECT)
        if found.get("minProperties", 0) <= len(leaf.required):
            found.pop("minProperties", None)
        open_ = leaf.additional is None or bool(leaf.additional.implied) or bool(leaf.patterns)
        if not open_ and found.get("maxProperties", 0) >= len(leaf.properties):
            found.pop("maxProperties", None)
        shape = {"type": "object", "properties": dict.fromkeys(leaf.properties, True), "required": list(leaf.required)}
        if not found or _can_hold({**shape, "additionalProperties": open_, **found}):
            return found
        for name in found:
            self._unheld(name)
        return {}

    def _patterns(self, leaf: Schema, *, formats: bool) -> list[dict[str, str]]:
        found = [{"pattern": pattern} for pattern in _held_patterns(leaf, self._unheld)]
        return found + [{"pattern": f"^(?:{FORMATS[name]})$"} for name in leaf.formats if formats and name in FORMATS]

    def _items(self, leaf: Schema) -> dict[str, Any]:
        written: dict[str, Any] = {}
        if leaf.prefix:
            written["prefixItems"] = [self._inside(inner) for inner in leaf.prefix]
        if leaf.items is not None:
            written["items"] = self._inside(leaf.items)
        return written

    def _properties(self, leaf: Schema) -> dict[str, Any]:
        written: dict[str, Any] = {}
        if leaf.properties:
            written["properties"] = {name: self._inside(inner) for name, inner in leaf.properties.items()}
        if leaf.required:
            written["required"] = list(leaf.required)
        if leaf.additional is not None:
            written["additionalProperties"] = self._inside(leaf.additional)
        if leaf.patterns:
            patterns = {pattern: True for pattern, _ in leaf.patterns}
            if _can_hold({"type": "object", "patternProperties": patterns}):
                written["patternProperties"] = {pattern: self._inside(inner) for pattern, inner in leaf.patterns}
            else:
                self._unheld("patternProperties")
                written["additionalProperties"] = False
        return written


def _digits(step: float) -> int:
    """25 of 0.25, and 300 of 300."""
    number = Decimal(repr(step))
    exponent = number.as_tuple().exponent
    return int(number.scaleb(-exponent)) if isinstance(exponent, int) and exponent < 0 else int(number)


def _kept(leaf: Schema, only: frozenset[str] | None) -> bool:
    return only is None or bool(leaf.implied & only)


def _held_patterns(leaf: Schema, unheld: Unheld) -> list[str]:
    """As many as can be held together: what automata have in common grows with their product."""
    held: list[str] = []
    for pattern in leaf.texts:
        together = [{"type": "string", "pattern": one} for one in (*held, pattern)]
        if len(held) < _MOST_PATTERNS and _can_hold({"allOf": together}):
            held.append(pattern)
        else:
            unheld("pattern")
    return held


def _can_hold(schema: Json) -> bool:
    return _is_valid(f"start: v\nv: %json {json.dumps(schema)}\n")


@lru_cache(maxsize=256)
def _is_valid(grammar: str) -> bool:
    return not llguidance.LLMatcher.validate_grammar_with_warnings(grammar)[0]


def bare_strings(name: str, leaf: Schema, end: str, unheld: Unheld) -> list[str]:
    """Rules for the strings of a schema, written without quotes and followed by `end`; the first is called `name`."""
    parts = []
    if leaf.values is not None:
        # A string with the end in it cannot be written.
        words = [json.dumps(word) for word in leaf.values if isinstance(word, str) and end not in word + end[:-1]]
        if not words:
            return []
        parts.append(f"({' | '.join(words)})")
    elif "minLength" in leaf.limits or "maxLength" in leaf.limits:
        parts.append(f"/(?s:.{{{leaf.limits.get('minLength', 0)},{leaf.limits.get('maxLength', '')}}})/")
    for pattern in _held_patterns(leaf, unheld):
        found = _found(pattern)
        if found is not None and _is_valid(f"start: /{found}/\n"):
            parts.append(f"/{found}/")
        else:
            unheld("pattern")
    if leaf.values is None:
        parts += [f"/{llguidance.regex_to_lark(FORMATS[f])}/" for f in leaf.formats if f in FORMATS]
    terminal = f"T{name.upper()}"
    return [f"{name}[suffix={json.dumps(end)}]: {terminal}", f"{terminal}: {' & '.join(parts) or '/(?s:.*)/'}"]


def _found(pattern: str) -> str | None:
    """A regular expression of the whole strings in which a pattern is found, as a terminal has it; None if its anchors
    are elsewhere than at the ends of its alternatives."""
    alternatives = []
    for alternative in _alternatives(pattern):
        begins = alternative.startswith("^")
        body = alternative[1:] if begins else alternative
        escapes = re.search(r"\\*$", body.removesuffix("$"))
        ends = body.endswith("$") and escapes is not None and len(escapes[0]) % 2 == 0
        body = body[:-1] if ends else body
        if _has_anchor(body):
            return None
        alternatives.append(f"{'' if begins else '(?s:.*)'}(?:{body}){'' if ends else '(?s:.*)'}")
    return llguidance.regex_to_lark("|".join(alternatives), use_ascii="dw")


_UNIT = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)


def _alternatives(pattern: str) -> list[str]:
    found, depth = [""], 0
    for unit in _UNIT.findall(pattern):
        depth += {"(": 1, ")": -1}.get(unit, 0)
        if unit == "|" and depth == 0:
            found.append("")
        else:
            found[-1] += unit
    return found


def _has_anchor(pattern: str) -> bool:
    return any(unit in ("^", "$", r"\b", r"\B") for unit in _UNIT.findall(pattern))
