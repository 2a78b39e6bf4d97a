"""From a JSON schema as clients send it to one `Schema`: $ref followed, allOf merged, anyOf and oneOf distributed.

A `Schema` stands for a set of subschemas of the document that hold together, and there is one for each set. So schemas
may refer to themselves, and what is referred to twice is resolved once. Whatever the document is, the outcome is a
schema, with what is wrong in it and what it says beyond this. The work is bounded. Knows no tools and no grammars.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote

from flashmoe.chat.schema import NEVER, Json, Schema
from flashmoe.chat.schema_merging import KEYWORDS, SchemaError, Slots, merged
from flashmoe.chat.schema_pruning import prune

WORK = 50_000
"""The parts of a schema that may be looked at, which takes half a second."""
_TOO_LARGE = "is too large once its references and alternatives are resolved: make it smaller."
_UNCHECKED = (
    "not", "if", "contains", "minContains", "maxContains", "uniqueItems", "dependentRequired", "dependentSchemas",
    "dependencies", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef",
)  # fmt: skip
_HARMLESS = {"not": False, "uniqueItems": False, "unevaluatedProperties": True, "unevaluatedItems": True}
_GROUPS = ("anyOf", "oneOf")
_SAYING = KEYWORDS | set(_GROUPS)


@dataclass(frozen=True)
class Resolved:
    """faults: sentences about what no answer can be held to; without any, some value fits `schema`. unheld: keywords
    that the schema ignores. work: parts that were looked at."""

    schema: Schema
    faults: tuple[str, ...]
    unheld: tuple[str, ...]
    work: int


def resolve(document: Json, work: int = WORK) -> Resolved:
    """The schema in `document`, and everything that is amiss with it. work: the most parts that may be looked at."""
    resolver = _Resolver(document, work)
    try:
        schema = resolver.resolve()
    except _TooLargeError:
        return Resolved(Schema(), (_TOO_LARGE,), (), work)
    return Resolved(schema, tuple(resolver.faults), tuple(resolver.unheld), resolver.work)


class _TooLargeError(Exception):
    """More work than one schema may cost."""


class _Part(NamedTuple):
    """A subschema of the document. decided: those of its anyOf and oneOf of which an alternative is chosen."""

    raw: Mapping[str, Json]
    decided: frozenset[str] = frozenset()

    @property
    def key(self) -> tuple[int, frozenset[str]]:
        return id(self.raw), self.decided


class _Resolver:
    def __init__(self, document: Json, most: int) -> None:
        self._document, self._most, self.work = document, most, 0
        self._known: dict[frozenset[tuple[int, frozenset[str]]], Schema] = {}
        self._open: list[tuple[Schema, list[_Part]]] = []
        self._made: list[Schema] = []
        self.faults: dict[str, None] = {}
        self.unheld: dict[str, None] = {}

    def resolve(self) -> Schema:
        root = self._schema([], [self._document])
        while self._open:
            self._fill(*self._open.pop())
        prune(self._made, self._charge, self._not_held)
        if not root.implied:
            self._wrong("allows no value at all.")
        return root

    def _charge(self, count: int) -> None:
        self.work += count
        if self.work > self._most:
            raise _TooLargeError

    def _wrong(self, sentence: str) -> None:
        self.faults[sentence] = None

    def _not_held(self, keyword: str) -> None:
        self.unheld[keyword] = None

    def _schema(self, parts: Iterable[_Part], raws: Iterable[Json]) -> Schema:
        """The schema of what holds for parts and for raws together; it is filled later."""
        together = {part.key: part for part in parts}
        for part in self._expand(raws):
            if part is None:
                return NEVER
            together.setdefault(part.key, part)
        key = frozenset(together)
        if (known := self._known.get(key)) is not None:
            return known
        self._charge(3)
        schema = self._known[key] = Schema()
        self._made.append(schema)
        self._open.append((schema, list(together.values())))
        return schema

    def _expand(self, raws: Iterable[Json]) -> Iterator[_Part | None]:
        """The subschemas that hold where these do, through $ref and allOf; None if nothing can hold."""
        path, done = set[int](), set[int]()
        stack: list[tuple[Json, bool]] = [(raw, False) for raw in reversed(list(raws))]
        while stack:
            raw, left = stack.pop()
            if left:
                path.discard(id(raw))
                done.add(id(raw))
                continue
            self._charge(1)
            if raw is True or id(raw) in done:
                continue
            if raw is False or id(raw) in path:
                if raw is not False:
                    self._wrong("refers to itself without an end.")
                yield None
            elif not isinstance(raw, Mapping):
                self._wrong(f"has {json.dumps(raw)[:60]} where a schema belongs.")
            else:
                path.add(id(raw))
                stack.append((raw, True))
                stack += [(inner, False) for inner in reversed(self._conjuncts(raw))]
                if not _SAYING.isdisjoint(raw):
                    yield _Part(raw)

    def _conjuncts(self, raw: Mapping[str, Json]) -> list[Json]:
        found = []
        for keyword in _UNCHECKED:
            if keyword in raw and raw[keyword] is not _HARMLESS.get(keyword):
                self._not_held(keyword)
        if "$ref" in raw:
            found.append(self._target(raw["$ref"]))
        if "allOf" in raw:
            if isinstance(raw["allOf"], list):
                found += raw["allOf"]
            else:
                self._wrong("has an allOf that is not a list.")
        return found

    def _target(self, reference: Json) -> Json:
        if not isinstance(reference, str):
            self._wrong("has a $ref that is not a string.")
            return True
        root = self._document if isinstance(self._document, Mapping) else {}
        own = root.get("$id")
        local = reference.removeprefix(own) if isinstance(own, str) else reference
        if local and not local.startswith("#"):
            self._not_held("$ref")  # of another document
            return True
        place: Json = root
        fragment = unquote(local[1:])
        if fragment and not fragment.startswith("/"):
            defined = [d for name in ("$defs", "definitions") for d in _values(root.get(name))]
            place = next((d for d in defined if isinstance(d, Mapping) and d.get("$anchor") == fragment), None)
        for step in fragment.split("/")[1:] if fragment.startswith("/") else ():
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(place, Mapping):
                place = place.get(step)
            elif isinstance(place, list) and step.isdecimal() and len(step) < 9 and int(step) < len(place):
                place = place[int(step)]
            else:
                place = None
        if place is None:
            self._wrong(f"refers to {reference[:100]}, which is not in it.")
            return True
        return place

    def _fill(self, schema: Schema, parts: list[_Part]) -> None:
        for i, part in enumerate(parts):
            for group in _GROUPS:
                if group not in part.raw or group in part.decided:
                    continue
                branches = part.raw[group]
                decided = _Part(part.raw, part.decided | {group})
                if not isinstance(branches, list) or not branches:
                    self._wrong(f"has {_one(group)} that is not a list of schemas.")
                    branches = [True]
                self._charge(len(branches) * len(parts))
                rest = [*parts[:i], decided, *parts[i + 1 :]]
                schema.alternatives = tuple(self._schema(rest, [branch]) for branch in branches)
                schema.exclusive = group == "oneOf" and len(branches) > 1
                return
        slots = Slots(self._charge, self._wrong, self._not_held, self._schema_of, self._names)
        try:
            merged(schema, [part.raw for part in parts], slots)
        except SchemaError as error:
            self._wrong(str(error))

    def _schema_of(self, raws: list[Json]) -> Schema:
        return self._schema([], raws)

    def _names(self, raw: Json) -> tuple[list[str] | None, list[str]] | None:
        """What propertyNames allows: the names, if it lists them, and the patterns it asks for; None: it is more."""
        names: list[str] | None = None
        patterns = []
        for part in self._expand([raw]):
            if part is None or part.raw.keys() & {"anyOf", "oneOf", "minLength", "maxLength", "format"}:
                return None
            for listed in (part.raw.get("enum"), [part.raw["const"]] if "const" in part.raw else None):
                if isinstance(listed, list):
                    texts = [name for name in listed if isinstance(name, str)]
                    names = texts if names is None else [name for name in names if name in texts]
            if isinstance(part.raw.get("pattern"), str):
                patterns.append(part.raw["pattern"])
        return names, patterns


def _values(found: Json) -> list[Json]:
    return list(found.values()) if isinstance(found, Mapping) else []


def _one(word: str) -> str:
    return f"{'an' if word[0] in 'aeio' else 'a'} {word}"
