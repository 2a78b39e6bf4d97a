"""A JSON schema with its references resolved, and whether a value fits it.

`schema_resolution.py` makes these of documents; the grammar of an answer, the types of arguments and the checks of
calls all read the same one. `pattern`, `format` and patternProperties are not checked here: a regular expression of a
stranger can take for ever. Knows values and schemas, not tool calls.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

Json = Any
TYPES = frozenset({"string", "boolean", "integer", "number", "array", "object", "null"})
"""`number` stands for the numbers with a fraction: a schema of numbers allows both it and `integer`."""
Step = Callable[[int], None]
_DEPTH, _STEPS = 100, 100_000


@dataclass(eq=False, slots=True)
class Schema:
    """What a value may be. A schema with alternatives says nothing else: each of them holds all of it.

    types: what it allows. implied: what is meant and possible: less where a schema names no type and only one type has
    its keywords; empty where nothing fits. stated: whether it says anything of types. values: of enum and const; None:
    any. additional, items: of what properties and prefix do not name; None: anything. patterns: regular expressions of
    names, and the schemas of these properties. limits: minLength, maximum and the like. texts: regular expressions that
    are found in a string. exclusive: a value fits exactly one alternative. leaves: the schemas without alternatives
    that the alternatives lead to, or the schema itself; only those that something fits.
    """

    types: frozenset[str] = TYPES
    implied: frozenset[str] = TYPES
    stated: bool = False
    values: tuple[Json, ...] | None = None
    properties: dict[str, "Schema"] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    patterns: tuple[tuple[str, "Schema"], ...] = ()
    additional: "Schema | None" = None
    additional_stated: bool = False
    prefix: tuple["Schema", ...] = ()
    items: "Schema | None" = None
    limits: dict[str, int | float] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    alternatives: tuple["Schema", ...] = ()
    exclusive: bool = False
    leaves: tuple["Schema", ...] = ()

    def __post_init__(self) -> None:
        self.leaves = (self,)

    def names(self) -> set[str]:
        """The properties that it names."""
        return {name for leaf in self.leaves for name in leaf.properties}

    def members(self, name: str) -> list["Schema | None"]:
        """The schemas that a property of this name may have; None: anything."""
        leaves = [leaf for leaf in self.leaves if "object" in leaf.implied]
        found: list[Schema | None] = []
        for leaf in leaves:
            if leaf.values is not None:
                found.append(_constant(leaf.values, name))
            elif name in leaf.properties:
                found.append(leaf.properties[name])
            else:
                found += [leaf.additional, *(inner for _, inner in leaf.patterns)]
        return found


NEVER = Schema(types=frozenset(), implied=frozenset(), stated=True)
"""What nothing fits."""
NEVER.leaves = ()


def _constant(values: Sequence[Json], name: str) -> Schema:
    """What a property is in objects that are given as they are."""
    found = tuple(value[name] for value in values if isinstance(value, Mapping) and name in value)
    kinds = frozenset(map(type_of, found))
    return Schema(types=kinds, implied=kinds, stated=True, values=found)


def type_of(value: Json) -> str:
    """The JSON type of a value; `integer` for a number without a fraction."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    return {float: "number", str: "string", list: "array"}.get(type(value), "object")


def same(a: Json, b: Json) -> bool:
    """Equal as JSON: 1 and 1.0 are one number, true and 1 are not, the order of keys does not matter."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    return bool(a == b)


def fault(value: Json, schema: Schema | None, where: str, step: Step | None = None) -> str | None:
    """What is wrong with a value, in words that begin with `where`; None if it fits. step: hears of the work, which may
    grow faster than the value; None: beyond a limit of it, that is the fault."""
    try:
        return _fault(value, schema, where, 0, step or _Steps().take)
    except _TooManyStepsError:
        return f"{where} is too large to be checked"


class _TooManyStepsError(Exception):
    """A value with many ways to fit."""


class _Steps:
    def __init__(self) -> None:
        self._left = _STEPS

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise _TooManyStepsError


def _fault(value: Json, schema: Schema | None, where: str, depth: int, step: Step) -> str | None:
    if schema is None:
        return None
    step(1)
    if depth > _DEPTH:
        return f"{where} is nested too deeply"
    kind = type_of(value)
    if not schema.types:
        return f"{where} is not allowed"
    if kind not in schema.types:
        return f"{where} is {_article(kind)}, not {' or '.join(map(_article, sorted(schema.types)))}"
    if schema.alternatives:
        return _fault_in_alternatives(value, schema, where, depth, step)
    if schema.values is not None:
        step(len(schema.values))
        if not any(same(value, allowed) for allowed in schema.values):
            one = len(schema.values) == 1
            return f"{where} is not the value it must be" if one else f"{where} is none of the values allowed"
    if found := _beyond_limits(value, kind, schema.limits, where):
        return found
    if isinstance(value, Mapping):
        return _fault_in_object(value, schema, where, depth, step)
    if isinstance(value, list):
        for i, item in enumerate(value):
            inner = schema.prefix[i] if i < len(schema.prefix) else schema.items
            if found := _fault(item, inner, f"{where}[{i}]", depth + 1, step):
                return found
    return None


def _fault_in_alternatives(value: Json, schema: Schema, where: str, depth: int, step: Step) -> str | None:
    faults = [_fault(value, one, where, depth + 1, step) for one in schema.alternatives]
    fitting = faults.count(None)
    if fitting == 0:
        return faults[0] if len(faults) == 1 else f"{where} fits none of the forms allowed"
    return f"{where} fits more than one form, and may fit only one" if schema.exclusive and fitting > 1 else None


def _fault_in_object(value: Mapping[str, Json], schema: Schema, where: str, depth: int, step: Step) -> str | None:
    for name in schema.required:
        if name not in value:
            return f"{where} lacks {name!r}"
    for name, item in value.items():
        if name in schema.properties:
            inner: Schema | None = schema.properties[name]
        else:
            inner = None if schema.patterns else schema.additional
        if inner is not None and not inner.types:
            return f"{where} has {name!r}, which is not allowed"
        if found := _fault(item, inner, f"{where}.{name}", depth + 1, step):
            return found
    return None


_SIZES = {
    "string": ("minLength", "maxLength", "characters"),
    "array": ("minItems", "maxItems", "items"),
    "object": ("minProperties", "maxProperties", "properties"),
}


def _beyond_limits(value: Json, kind: str, limits: Mapping[str, int | float], where: str) -> str | None:
    if kind in _SIZES:
        least, most, what = _SIZES[kind]
        if len(value) < limits.get(least, 0):
            return f"{where} has fewer than {limits[least]} {what}"
        if most in limits and len(value) > limits[most]:
            return f"{where} has more than {limits[most]} {what}"
    if kind in ("integer", "number"):
        return _beyond_range(value, limits, where)
    return None


def _beyond_range(value: float, limits: Mapping[str, int | float], where: str) -> str | None:
    if "minimum" in limits and value < limits["minimum"]:
        return f"{where} is less than {limits['minimum']}"
    if "exclusiveMinimum" in limits and value <= limits["exclusiveMinimum"]:
        return f"{where} is not more than {limits['exclusiveMinimum']}"
    if "maximum" in limits and value > limits["maximum"]:
        return f"{where} is more than {limits['maximum']}"
    if "exclusiveMaximum" in limits and value >= limits["exclusiveMaximum"]:
        return f"{where} is not less than {limits['exclusiveMaximum']}"
    if "multipleOf" in limits and not is_multiple(value, limits["multipleOf"]):
        return f"{where} is no multiple of {limits['multipleOf']}"
    return None


def is_multiple(value: float, step: float) -> bool:
    """As decimal numbers, so that 0.3 is a multiple of 0.1."""
    try:
        return (exactly(value) / exactly(step)).denominator == 1
    except (ValueError, OverflowError):  # infinite
        return False


def exactly(number: float) -> Fraction:
    """The decimal number that a float was written as."""
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))


def _article(name: str) -> str:
    return name if name == "null" else f"{'an' if name[0] in 'aeio' else 'a'} {name}"
