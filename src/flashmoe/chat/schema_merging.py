"""The keywords of subschemas that hold together, merged into one `Schema`. Knows neither $ref nor alternatives."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from flashmoe.chat.schema import NEVER, TYPES, Json, Schema, exactly, type_of

_OBJECT = ("properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties")
_ARRAY = ("items", "prefixItems", "additionalItems", "minItems", "maxItems")
_STRING = ("pattern", "format", "minLength", "maxLength")
_NUMBER = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_IMPLY: dict[str, frozenset[str]] = {
    **dict.fromkeys((*_OBJECT, "propertyNames"), frozenset({"object"})),
    **dict.fromkeys(_ARRAY, frozenset({"array"})),
    **dict.fromkeys(_STRING, frozenset({"string"})),
    **dict.fromkeys(_NUMBER, frozenset({"integer", "number"})),
}
_PATTERN = 50
"""The work of a regular expression, which takes a millisecond to compile."""
_CHARACTERS = 4
"""Of constants and regular expressions, for the work of one part: each becomes a state."""
KEYWORDS = frozenset({"type", "nullable", "enum", "const", *_IMPLY})
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


class SchemaError(Exception):
    """A keyword that does not have the form it must have; the rest of a sentence about the schema."""


@dataclass(frozen=True)
class Slots:
    """What merging asks of the resolution. charge: count work; wrong, unheld: note what is amiss or ignored; schema: of
    raw subschemas that hold together; names: what a propertyNames allows."""

    charge: Callable[[int], None]
    wrong: Callable[[str], None]
    unheld: Callable[[str], None]
    schema: Callable[[list[Json]], Schema]
    names: Callable[[Json], tuple[list[str] | None, list[str]] | None]


def merged(schema: Schema, raws: Sequence[Mapping[str, Json]], slots: Slots) -> None:
    """Fill a schema with what all of `raws` say. Raises SchemaError."""
    _merge_types(schema, raws, slots)
    for raw in raws:
        _merge_limits(schema.limits, raw)
    schema.texts = tuple(dict.fromkeys(_texts(raws, "pattern")))
    slots.charge(sum(_PATTERN + len(text) // _CHARACTERS for text in schema.texts))
    schema.formats = tuple(dict.fromkeys(_texts(raws, "format")))
    if any(keyword in raw for raw in raws for keyword in (*_OBJECT, "propertyNames")):
        _merge_properties(schema, raws, slots)
    if any(keyword in raw for raw in raws for keyword in _ARRAY):
        _merge_items(schema, raws, slots)


# Types and values -----------------------------------------------------------------------------------------------------
def _merge_types(schema: Schema, raws: Sequence[Mapping[str, Json]], slots: Slots) -> None:
    types = TYPES
    values: dict[str, Json] | None = None
    implied = frozenset[str]()
    for raw in raws:
        nullable = raw.get("nullable") is True
        if "type" in raw:
            types &= _named_types(raw["type"]) | ({"null"} if nullable else frozenset())
        for keyword in raw.keys() & _IMPLY.keys():
            implied |= _IMPLY[keyword]
        for keyword in raw.keys() & {"enum", "const"}:
            listed = [raw["const"]] if keyword == "const" else raw["enum"]
            if not isinstance(listed, list):
                raise SchemaError("has an enum that is not a list.")
            slots.charge(len(listed))
            found = {_canonical(value): value for value in (*listed, *([None] if nullable else []))}
            slots.charge(sum(map(len, found)) // _CHARACTERS)
            values = found if values is None else {key: v for key, v in values.items() if key in found}
    named = any("type" in raw for raw in raws)
    schema.stated = bool(named or implied or values is not None)
    if values is not None:
        schema.values = tuple(value for value in values.values() if type_of(value) in types)
        types = frozenset(type_of(value) for value in schema.values)
    schema.types = types
    schema.implied = types if named or values is not None or not implied else types & implied


def _named_types(named: Json) -> frozenset[str]:
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) and name in TYPES for name in names):
        raise SchemaError(f"has the type {json.dumps(named)[:60]}, which JSON Schema does not have.")
    return frozenset(names) | (frozenset({"integer"}) if "number" in names else frozenset())


def _canonical(value: Json) -> str:
    """The same for values that are equal as JSON: 1 and 1.0 are."""

    def plain(value: Json) -> Json:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, list):
            return [plain(item) for item in value]
        return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value

    return json.dumps(plain(value), sort_keys=True)


def _texts(raws: Sequence[Mapping[str, Json]], keyword: str) -> Iterable[str]:
    for raw in raws:
        if keyword in raw:
            if not isinstance(raw[keyword], str):
                raise SchemaError(f"has a {keyword} that is not a string.")
            yield raw[keyword]


# Limits ---------------------------------------------------------------------------------------------------------------
def _merge_limits(limits: dict[str, int | float], raw: Mapping[str, Json]) -> None:
    for keyword in (*_COUNTS, *_NUMBER):
        bound = raw.get(keyword)
        if isinstance(bound, bool) and keyword.startswith("exclusive"):  # as draft 4 has it
            bound = raw.get("minimum" if keyword == "exclusiveMinimum" else "maximum") if bound else None
        if (bound is None and keyword not in raw) or (isinstance(raw.get(keyword), bool) and bound is None):
            continue
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise SchemaError(f"has a {keyword} that is not a number.")
        if keyword in _COUNTS and (bound < 0 or bound != int(bound)):
            raise SchemaError(f"has a {keyword} that is not a whole number.")
        bound = int(bound) if keyword in _COUNTS else bound
        if keyword == "multipleOf":
            if bound <= 0:
                raise SchemaError("has a multipleOf that is not more than 0.")
            limits[keyword] = _common_multiple(limits.get(keyword), bound)
        elif keyword in limits:
            limits[keyword] = (min if "max" in keyword.lower() else max)(limits[keyword], bound)
        else:
            limits[keyword] = bound


def _common_multiple(a: float | None, b: float) -> int | float:
    if a is None:
        return b
    x, y = exactly(a), exactly(b)
    common = Fraction(math.lcm(x.numerator, y.numerator), math.gcd(x.denominator, y.denominator))
    return common.numerator if common.denominator == 1 else float(common)


# Objects and arrays ---------------------------------------------------------------------------------------------------
def _merge_properties(schema: Schema, raws: Sequence[Mapping[str, Json]], slots: Slots) -> None:
    objects = [_object_keywords(raw, slots) for raw in raws]
    names = dict.fromkeys(name for known, _, _, _ in objects for name in known)
    required = dict.fromkeys(name for _, needed, _, _ in objects for name in needed)
    patterns = dict.fromkeys(pattern for _, _, by_pattern, _ in objects for pattern in by_pattern)
    allowed, asked = _allowed_names(raws, slots)
    if asked and (names or required or patterns or len(asked) > 1):
        slots.unheld("propertyNames")
        asked = []
    if patterns and (names or required):
        slots.unheld("patternProperties")  # which of the names they mean is not looked at
    names |= required | dict.fromkeys(allowed or ())
    count = len(names)
    slots.charge(count * len(raws) + count * count // 200)  # to compile it takes the square
    for name in names:
        parts = [known.get(name, additional) for known, _, _, additional in objects]
        banned = allowed is not None and name not in allowed
        schema.properties[name] = NEVER if banned else slots.schema(parts)
    rest = _together([additional for _, _, _, additional in objects], slots)
    schema.required = tuple(required)
    slots.charge(sum(_PATTERN + len(pattern) // _CHARACTERS for pattern in patterns))
    schema.patterns = tuple(
        (pattern, slots.schema([by.get(pattern, additional) for _, _, by, additional in objects]))
        for pattern in patterns
    )
    if asked:
        schema.patterns = ((asked[0], rest or slots.schema([])),)
    open_ = allowed is None and not asked
    schema.additional = rest if open_ else NEVER
    schema.additional_stated = open_ and any("additionalProperties" in raw for raw in raws)


def _object_keywords(
    raw: Mapping[str, Json], slots: Slots
) -> tuple[Mapping[str, Json], list[str], Mapping[str, Json], Json]:
    """properties, required, patternProperties, additionalProperties."""
    known, by_pattern = raw.get("properties", {}), raw.get("patternProperties", {})
    required = raw.get("required", [])
    if not isinstance(known, Mapping) or not isinstance(by_pattern, Mapping):
        raise SchemaError("has properties that are not an object of schemas.")
    if isinstance(required, bool):  # as draft 3 marks a property itself
        slots.unheld("required")
        required = []
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise SchemaError("has a required that is not a list of names.")
    slots.charge(len(known) + len(by_pattern) + len(required))
    return known, required, by_pattern, raw.get("additionalProperties", True)


def _allowed_names(raws: Sequence[Mapping[str, Json]], slots: Slots) -> tuple[list[str] | None, list[str]]:
    allowed: list[str] | None = None
    asked: list[str] = []
    for raw in raws:
        if "propertyNames" not in raw:
            continue
        found = slots.names(raw["propertyNames"])
        if found is None or (found[0] is not None and found[1]):
            slots.unheld("propertyNames")
            continue
        names, patterns = found
        asked += patterns
        if names is not None:
            allowed = names if allowed is None else [name for name in allowed if name in names]
    return allowed, asked


def _merge_items(schema: Schema, raws: Sequence[Mapping[str, Json]], slots: Slots) -> None:
    arrays = [_array_keywords(raw) for raw in raws]
    length = max(len(prefix) for prefix, _ in arrays)
    slots.charge(length * len(raws))
    schema.prefix = tuple(
        slots.schema([prefix[i] if i < len(prefix) else items for prefix, items in arrays]) for i in range(length)
    )
    schema.items = _together([items for _, items in arrays], slots)


def _together(raws: list[Json], slots: Slots) -> Schema | None:
    """What holds for what has no place of its own; None: anything."""
    return None if all(raw is True for raw in raws) else slots.schema(raws)


def _array_keywords(raw: Mapping[str, Json]) -> tuple[list[Json], Json]:
    """The schemas of the first items, and that of the others; `items` was both in older drafts."""
    prefix, items = raw.get("prefixItems", []), raw.get("items", True)
    if isinstance(items, list):
        prefix, items = items, raw.get("additionalItems", True)
    if not isinstance(prefix, list):
        raise SchemaError("has a prefixItems that is not a list.")
    return prefix, items
