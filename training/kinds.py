"""The sorts of value a parameter can take: names it goes by, JSON schema, how one is drawn, how people say it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from training import values
from training.source import Source

Json = Any


@dataclass(frozen=True)
class Kind:
    """`natural`: phrases with {v}, sayable when no other parameter of the tool shares the group."""

    name: str
    names: tuple[str, ...]
    schema: dict[str, Json]
    draw: Callable[[Source], Json]
    natural: tuple[str, ...] = ()
    hint: str = ""
    group: str = ""


def _string(**extra: Json) -> dict[str, Json]:
    return {"type": "string", **extra}


KINDS = (
    Kind(
        "city",
        ("city", "town", "place", "location", "destination"),
        _string(),
        values.city,
        ("in {v}", "near {v}", "around {v}", "close to {v}", "at {v}", "in {v}"),
        "Name of the {w}",
        "place",
    ),
    Kind(
        "person",
        ("name", "person", "recipient", "contact", "guest", "owner", "employee", "user"),
        _string(),
        values.person,
        ("for {v}", "to {v}", "on behalf of {v}", "for {v}"),
        "Who the {n} is for",
        "who",
    ),
    Kind(
        "date",
        ("date", "day", "start_date", "due_date", "end_date"),
        _string(),
        values.date,
        ("on {v}", "on {v}", "for {v}", "starting {v}", "dated {v}"),
        "Date as YYYY-MM-DD",
        "date",
    ),
    Kind(
        "time",
        ("time", "start_time", "hour"),
        _string(),
        values.time,
        ("at {v}", "at {v}", "from {v}", "starting at {v}", "around {v}"),
        "Time as HH:MM",
        "time",
    ),
    Kind(
        "code",
        ("id", "code", "number", "reference", "key", "serial"),
        _string(),
        values.code,
        ("number {v}", "no. {v}", "with number {v}"),
        "The {w} of the {n}",
        "code",
    ),
    Kind("email", ("email", "address", "mail", "account_email"), _string(), values.email, ("to {v}",), "", "who"),
    Kind("path", ("path", "file", "source", "attachment"), _string(), values.path, ("from {v}",), "", "from"),
    Kind("url", ("url", "link", "site"), _string(), values.url, ("at {v}",), "", "time"),
    Kind("phone", ("phone", "phone_number", "mobile"), _string(), values.phone, (), "Number with country code"),
    Kind(
        "text",
        ("message", "text", "note", "body", "comment", "content", "reason"),
        _string(),
        values.sentence,
        ("saying {v}", "with the text {v}", "that says {v}", "with text {v}", "and write {v}", "reading {v}", "{v}"),
        "",
        "text",
    ),
    Kind(
        "label",
        ("title", "label", "subject", "topic", "query", "category", "tag"),
        _string(),
        values.label,
        ("called {v}", "named {v}", "about {v}", "titled {v}", "with the name {v}"),
        "",
        "label",
    ),
    Kind(
        "count",
        ("count", "quantity", "amount", "limit", "people", "seats", "days", "copies", "rooms", "pages", "size"),
        {"type": "integer"},
        values.integer,
        ("{v} {w}",),
        "How many {w}",
    ),
    Kind(
        "decimal",
        ("price", "budget", "weight", "temperature", "rate", "distance", "total", "score"),
        {"type": "number"},
        values.decimal,
        ("a {w} of {v}",),
    ),
    Kind(
        "flag",
        ("urgent", "express", "private", "notify", "repeat", "insured", "public", "draft", "silent", "shared"),
        {"type": "boolean"},
        lambda s: s.chance(0.5),
        (),
    ),
    Kind(
        "enum",
        ("unit", "mode", "priority", "color", "format", "status", "type", "level", "language", "style"),
        _string(),
        values.word,
        ("in {v} {w}", "with {v} {w}"),
    ),
    Kind(
        "strings",
        ("tags", "items", "names", "keywords", "labels", "toppings", "steps"),
        {"type": "array", "items": {"type": "string"}},
        values.word,
        (),
    ),
    Kind(
        "integers",
        ("numbers", "ids", "scores", "pages", "sizes"),
        {"type": "array", "items": {"type": "integer"}},
        values.integer,
        (),
    ),
    Kind(
        "object", ("options", "settings", "details", "config", "address", "filter"), {"type": "object"}, values.word, ()
    ),
)
BY_NAME = {kind.name: kind for kind in KINDS}
WEIGHTED = [
    BY_NAME[name]
    for name, weight in {
        "city": 5,
        "person": 6,
        "date": 5,
        "time": 4,
        "code": 5,
        "email": 3,
        "path": 2,
        "url": 2,
        "phone": 2,
        "text": 4,
        "label": 5,
        "count": 7,
        "decimal": 5,
        "flag": 5,
        "enum": 5,
        "strings": 4,
        "integers": 3,
        "object": 3,
    }.items()
    for _ in range(weight)
]
SCALARS = [BY_NAME[name] for name in ("city", "person", "code", "label", "count", "decimal", "flag", "date")]
