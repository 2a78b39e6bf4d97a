"""What is meant by resolved schemas that some value fits: their `implied` types, `values` and `leaves`.

A value is finite: where every value would hold another of its own kind, there is none. What `fault` finds does not
depend on this. Knows resolved schemas, not documents.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

from flashmoe.chat.schema import NEVER, Schema, exactly, fault, type_of

Charge = Callable[[int], None]


def prune(made: Sequence[Schema], charge: Charge, unheld: Callable[[str], None]) -> None:
    """Settle all schemas of a document. unheld: hears of a oneOf whose alternatives a value may fit at once."""
    for schema in made:
        schema.leaves = _leaves(schema, charge)
        if schema.values is not None:
            _keep_fitting_values(schema, charge)
    possible = _possible_types(made)
    for schema in made:
        schema.implied = possible[id(schema)]
        if schema.alternatives:
            schema.types = frozenset().union(*(leaf.types for leaf in schema.leaves))
            schema.stated = any(leaf.stated for leaf in schema.leaves)
    for schema in made:
        schema.leaves = tuple(leaf for leaf in schema.leaves if possible.get(id(leaf)))
    for schema in made:
        charge(len(schema.alternatives) ** 2 if schema.exclusive else 0)
        pairs = itertools.combinations(schema.alternatives, 2) if schema.exclusive else ()
        if not all(_disjoint(a, b, charge) for a, b in pairs):
            unheld("oneOf")


def _leaves(schema: Schema, charge: Charge) -> tuple[Schema, ...]:
    """What the alternatives lead to. One that leads back to the schema itself allows nothing more, so that the leaves
    are then its alternatives."""
    leaves, seen = [], set[int]()
    stack = [schema]
    while stack:
        one = stack.pop()
        charge(1)
        if one.alternatives:
            stack += [inner for inner in reversed(one.alternatives) if id(inner) not in seen]
            seen.update(map(id, one.alternatives))
        else:
            leaves.append(one)
    if id(schema) in seen:
        schema.alternatives, schema.exclusive = tuple(leaves) or (NEVER,), False
    return tuple(leaves)


def _keep_fitting_values(schema: Schema, charge: Charge) -> None:
    values, schema.values = schema.values or (), None
    charge(len(values))
    schema.values = tuple(value for value in values if fault(value, schema, "", charge) is None)


def _possible_types(made: Sequence[Schema]) -> dict[int, frozenset[str]]:
    """The implied types of which each schema has a value: first those that need no other schema, and so on."""
    possible = {id(schema): frozenset[str]() for schema in made}
    users = defaultdict(list)
    for schema in made:
        for inner in _inner(schema):
            users[id(inner)].append(schema)
    waiting = dict.fromkeys(reversed(made))  # what was made later is mostly inside what was made before
    while waiting:
        schema = next(iter(waiting))
        del waiting[schema]
        found = _with_values(schema, possible)
        if found != possible[id(schema)]:
            possible[id(schema)] = found
            waiting |= dict.fromkeys(users[id(schema)])
    return possible


def _inner(schema: Schema) -> Iterator[Schema]:
    yield from schema.alternatives
    yield from schema.properties.values()
    yield from schema.prefix
    yield from (inner for inner in (schema.items, schema.additional) if inner is not None)
    yield from (inner for _, inner in schema.patterns)


def _with_values(schema: Schema, possible: dict[int, frozenset[str]]) -> frozenset[str]:
    def some(inner: Schema | None) -> bool:
        return inner is None or bool(possible.get(id(inner)))

    if schema.alternatives:
        return frozenset().union(*(possible.get(id(one), frozenset()) for one in schema.alternatives))
    if schema.values is not None:
        return frozenset(type_of(value) for value in schema.values)
    limits = schema.limits
    found = set(schema.implied)
    if limits.get("minLength", 0) > limits.get("maxLength", math.inf):
        found.discard("string")
    if not _number_in(limits, None):
        found.discard("number")
    if not _number_in(limits, 1):
        found.discard("integer")
    first_never = next((i for i, inner in enumerate(schema.prefix) if not some(inner)), None)
    if first_never is None and not some(schema.items):
        first_never = len(schema.prefix)
    most = min(limits.get("maxItems", math.inf), math.inf if first_never is None else first_never)
    if limits.get("minItems", 0) > most:
        found.discard("array")
    if "object" in found and not _has_objects(schema, some):
        found.discard("object")
    return frozenset(found)


def _has_objects(schema: Schema, some: Callable[[Schema | None], bool]) -> bool:
    least, most = schema.limits.get("minProperties", 0), schema.limits.get("maxProperties", math.inf)
    if not all(some(schema.properties[name]) for name in schema.required):
        return False
    closed = not some(schema.additional) and not any(some(inner) for _, inner in schema.patterns)
    names = sum(some(inner) for inner in schema.properties.values()) if closed and least else math.inf
    return least <= min(most, names) and len(schema.required) <= most


def _number_in(limits: dict[str, int | float], step: int | None) -> bool:
    """Whether a multiple of `step` (None: any number) and of multipleOf lies in the range."""
    lows = [exactly(limits[name]) for name in ("minimum", "exclusiveMinimum") if name in limits]
    highs = [exactly(limits[name]) for name in ("maximum", "exclusiveMaximum") if name in limits]
    if not lows or not highs:
        return True
    low, high = max(lows), min(highs)
    steps = [exactly(limits["multipleOf"])] if "multipleOf" in limits else []
    steps += [Fraction(step)] if step else []
    if not steps:
        return low < high or (low == high and not _excluded(low, limits))
    x, y = steps[0], steps[-1]
    least = Fraction(math.lcm(x.numerator, y.numerator), math.gcd(x.denominator, y.denominator))
    first = math.ceil(low / least) * least
    first += least if _excluded(first, limits) and first == low else 0
    return first < high or (first == high and not _excluded(first, limits))


def _excluded(number: Fraction, limits: dict[str, int | float]) -> bool:
    return any(name in limits and exactly(limits[name]) == number for name in ("exclusiveMinimum", "exclusiveMaximum"))


def _disjoint(a: Schema, b: Schema, charge: Charge, depth: int = 0) -> bool:
    """Whether no value fits both, as far as types, constants and required properties say."""
    charge(len(a.leaves) * len(b.leaves))
    return all(_leaves_disjoint(x, y, charge, depth) for x in a.leaves for y in b.leaves)


def _leaves_disjoint(a: Schema, b: Schema, charge: Charge, depth: int) -> bool:
    common = a.types & b.types
    if not common:
        return True
    for one, other in ((a, b), (b, a)):
        if one.values is not None and all(fault(value, other, "", charge) for value in one.values):
            return True
    if common != {"object"} or depth > 2:
        return False
    shared = [name for name in a.required if name in b.required]
    charge(len(a.required) * len(b.required) // 10)
    return any(_disjoint(a.properties[name], b.properties[name], charge, depth + 1) for name in shared)
