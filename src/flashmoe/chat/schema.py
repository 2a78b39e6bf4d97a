"""The part of JSON Schema in which tools describe their arguments: type, enum, const, properties, required,
additionalProperties: false, items, anyOf and oneOf. What else a schema says is not checked.

Knows values and schemas, not tool calls. A schema that is itself malformed permits everything.
"""

from collections.abc import Mapping
from typing import Any

Json = Any
_TYPES = ("string", "boolean", "integer", "number", "array", "object", "null")


def type_of(value: Json) -> str:
    """The JSON type of a value; `integer` for a number without a fraction."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    return {float: "number", str: "string", list: "array"}.get(type(value), "object")


def permitted_types(schema: Json) -> frozenset[str]:
    """The JSON types that a schema allows; `number` includes `integer`. Empty where it does not say."""
    if not isinstance(schema, Mapping):
        return frozenset()
    if named := schema.get("type"):
        names = [named] if isinstance(named, str) else named
        types = {name for name in names if name in _TYPES} if isinstance(names, list) else set()
    elif isinstance(schema.get("enum"), list):
        types = {type_of(value) for value in schema["enum"]}
    elif "const" in schema:
        types = {type_of(schema["const"])}
    else:
        types = {t for choice in _choices(schema) for t in permitted_types(choice)}
    return frozenset(types | {"integer"} if "number" in types else types)


def fault(value: Json, schema: Json, where: str) -> str | None:
    """What is wrong with a value, in words that begin with `where`; None if it fits."""
    if not isinstance(schema, Mapping):
        return None
    types = permitted_types(schema)
    if types and type_of(value) not in types:
        return f"{where} is {_article(type_of(value))}, not {' or '.join(map(_article, sorted(types)))}"
    if isinstance(schema.get("enum"), list) and not any(same(value, allowed) for allowed in schema["enum"]):
        return f"{where} is none of the values allowed"
    if "const" in schema and not same(value, schema["const"]):
        return f"{where} is not the value it must be"
    choices = _choices(schema)
    if choices and all(fault(value, choice, where) for choice in choices):
        return f"{where} fits none of the forms allowed"
    if isinstance(value, Mapping):
        return _fault_in_object(value, schema, where)
    if isinstance(value, list):
        inside = (fault(item, schema.get("items"), f"{where}[{i}]") for i, item in enumerate(value))
        return next((found for found in inside if found), None)
    return None


def same(a: Json, b: Json) -> bool:
    """Equal as JSON: 1 and 1.0 are one number, true and 1 are not, the order of keys does not matter."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    return bool(a == b)


def _choices(schema: Mapping[str, Json]) -> list[Json]:
    found = schema.get("anyOf", schema.get("oneOf"))
    return found if isinstance(found, list) else []


def _fault_in_object(value: Mapping[str, Json], schema: Mapping[str, Json], where: str) -> str | None:
    properties, required = schema.get("properties"), schema.get("required")
    known = properties if isinstance(properties, Mapping) else {}
    for name in required if isinstance(required, list) else []:
        if isinstance(name, str) and name not in value:
            return f"{where} lacks {name!r}"
    for name, item in value.items():
        if name not in known and schema.get("additionalProperties") is False:
            return f"{where} has {name!r}, which is not allowed"
        if found := fault(item, known.get(name), f"{where}.{name}"):
            return found
    return None


def _article(name: str) -> str:
    return name if name == "null" else f"{'an' if name[0] in 'aeio' else 'a'} {name}"
