"""JSON from text: one record or several, given keys or a schema, numbers, booleans, lists, nested objects, nulls."""

import json

from training import texts, values
from training.case import Case, Json, assistant, user
from training.parameters import listing
from training.source import Source

# An attribute: key names, value, sentences about a subject {n}. {v} is the value as said.
ATTRIBUTES = (
    (
        "city",
        ("city", "town", "home"),
        values.city,
        (
            "{n} lives in {v}.",
            "{n} comes from {v}.",
            "The home of {n} is {v}.",
            "{n} is from {v}.",
            "{v} is the home of {n}.",
            "{n} has a home in {v}.",
        ),
    ),
    (
        "age",
        ("age", "years"),
        lambda s: s.rng.randint(3, 99),
        (
            "{n} is {v} years old.",
            "The age of {n} is {v}.",
            "{n} turned {v}.",
            "{n} is {v}.",
            "{n} has the age of {v}.",
            "{n} turned {v} years old.",
        ),
    ),
    (
        "job",
        ("job", "profession", "work"),
        lambda s: s.listed("job"),
        (
            "{n} is a {v} by profession.",
            "{n} works as a {v}.",
            "The job of {n} is {v}.",
            "{n} has a job as a {v}.",
            "The work of {n} is {v}.",
            "{n} has work as a {v}.",
        ),
    ),
    (
        "email",
        ("email", "mail", "contact"),
        values.email,
        (
            "The email of {n} is {v}.",
            "Write to {n} at {v}.",
            "{n} uses the email {v}.",
            "{n} can be reached at {v}.",
            "The mail of {n} is {v}.",
            "{n} has the email {v}.",
        ),
    ),
    (
        "phone",
        ("phone", "tel"),
        values.phone,
        (
            "The phone number of {n} is {v}.",
            "Call {n} at {v}.",
            "{n} has the phone {v}.",
            "Phone {n}: {v}.",
            "{n} uses the phone {v}.",
            "The phone of {n} is {v}.",
        ),
    ),
    (
        "date",
        ("date", "joined", "since"),
        values.date,
        (
            "{n} joined on {v}.",
            "The date of {n} is {v}.",
            "{n} is here since {v}.",
            "Since {v} {n} is with us.",
            "{n} is with us since {v}.",
            "{n} has joined on {v}.",
        ),
    ),
    (
        "price",
        ("price", "cost", "salary"),
        values.decimal,
        (
            "The {k} of {n} is {v}.",
            "{n} has a {k} of {v}.",
            "For {n} the {k} is {v}.",
            "{n}: {k} {v}.",
            "{n} has the {k} {v}.",
            "A {k} of {v} is for {n}.",
        ),
    ),
    (
        "count",
        ("count", "points", "stock", "cats", "books"),
        values.integer,
        (
            "{n} has {v} {k}.",
            "The {k} of {n} are {v}.",
            "{v} {k} belong to {n}.",
            "{n}: {v} {k}.",
            "For {n} the {k} are {v}.",
            "{n} has got {v} {k}.",
        ),
    ),
    (
        "flag",
        ("active", "member", "married", "paid", "open"),
        lambda s: s.chance(0.5),
        (
            "{n} is {not}{k}.",
            "{n} is {not}{k} today.",
            "Note that {n} is {not}{k}.",
            "{n} was {not}{k}.",
            "{n} is {not}{k} now.",
            "Now {n} is {not}{k}.",
        ),
    ),
    (
        "list",
        ("likes", "hobbies", "items", "colours", "tags"),
        lambda s: [values.word(s) for _ in range(s.pick((2, 3)))],
        (
            "The {k} of {n} are {v}.",
            "{n} has the {k} {v}.",
            "{n}: {k} {v}.",
            "Among the {k} of {n} are {v}.",
            "For {n} the {k} are {v}.",
            "{n} has {k} {v}.",
        ),
    ),
    (
        "code",
        ("id", "code", "ref"),
        values.code,
        (
            "The {k} of {n} is {v}.",
            "{n} has the {k} {v}.",
            "{k} {v} is {n}.",
            "{n}, {k} {v}.",
            "{n}: {k} {v}.",
            "For {n} the {k} is {v}.",
        ),
    ),
)
# Sentences about any attribute, from parts: the name first, the key first, or the value first.
HAS = texts.phrases("fact has")
IS = texts.phrases("fact is")
OF = texts.phrases("fact of")
DETERMINERS = texts.phrases("fact determiners")
OPENINGS = texts.phrases("fact openings")


def _sentence(s: Source, key: str, name: str, value: str) -> str:
    """`name has the key value`, `the key of name is value` or `value is the key of name`."""
    form = s.rng.random()
    if form < 0.45:
        frame = s.frame("fact", OPENINGS, ("{n}",), HAS, DETERMINERS, ("{k}",), ("", "", "", "of", "=", ":"), ("{v}",))
    elif form < 0.85:
        frame = s.frame("fact", OPENINGS, DETERMINERS, ("{k}",), OF, ("{n}",), IS, ("{v}",))
    elif form < 0.93:
        frame = s.frame("fact", OPENINGS, ("{v}",), IS[:5], DETERMINERS, ("{k}",), OF, ("{n}",))
    else:
        frame = s.frame("fact", OPENINGS, OF, ("{n}",), DETERMINERS, ("{k}",), IS, ("{v}",))
    frame = frame.replace(" :", ":")
    # A value or a key keeps its letters: only the frame's own first word is capitalised.
    return (frame if frame[0] == "{" else frame[0].upper() + frame[1:]).format(n=name, k=key, v=value) + "."


Attribute = tuple[str, tuple[str, ...], Json]


def _draw_attributes(s: Source, count: int) -> list[Attribute]:
    """(key, sentences, draw) with different keys."""
    chosen: dict[str, Attribute] = {}
    for _, names, draw, sentences in s.some(ATTRIBUTES, count):
        if s.chance(0.1):
            key = s.made_up()
            chosen[key] = (key, (), s.pick((values.word, values.integer, values.code, values.decimal)))
        else:
            key = s.pick(names)
            chosen[key] = (key, sentences, draw)
    return list(chosen.values())


def _tell(s: Source, attribute: Attribute, name: str, value: Json) -> str:
    key, idioms, _ = attribute
    said = listing(value) if isinstance(value, list) else str(value)
    if isinstance(value, bool) or (idioms and s.chance(0.35)):
        return s.pick(idioms).format(n=name, k=key, v=said, **{"not": "" if value is True else "not "})
    return _sentence(s, key, name, said)


def _subject(s: Source) -> str:
    return values.person(s) if s.chance(0.7) else s.made_up().capitalize()


VERBS = texts.phrases("extract verbs")
OBJECTS = texts.phrases("extract objects")
SCHEMAS = texts.phrases("extract schemas")
ARRAYS = texts.phrases("extract arrays")
TAILS = texts.phrases("extract tails")


def _ask(s: Source, objects: tuple[str, ...], keys: str, text: str) -> str:
    """The instruction before or after the text."""
    asked = s.frame("extract", VERBS, objects, TAILS).format(k=keys)
    if s.chance(0.55):
        return asked + s.pick((":\n\n", ".\n\n", ":\n", ": ", ".\n", "\n\n")) + s.pick(("", "", "Text: ")) + text
    return (
        s.pick(("", "", "Text: ", "Read this: ")) + text + s.pick(("\n\n", "\n", " ")) + asked + s.pick((".", "", ":"))
    )


def record(s: Source, thinking: bool) -> Case:
    """One subject; the asked keys in the asked order; null for what the text does not say."""
    attributes = _draw_attributes(s, s.pick((1, 2, 2, 3, 3, 4)))
    name = _subject(s)
    facts = {a[0]: a[2](s) for a in attributes}
    facts["name"] = name
    sentences = [
        _tell(s, a, name if i == 0 or s.chance(0.3) else s.pick((name.split()[0], name)), facts[a[0]])
        for i, a in enumerate(attributes)
    ]
    s.rng.shuffle(sentences)
    keys = [a[0] for a in attributes if s.chance(0.8)] + ["name"]
    s.rng.shuffle(keys)
    wanted: Json = {key: facts[key] for key in keys}
    if s.chance(0.1):
        absent = s.made_up() if s.chance(0.1) else s.pick(("size", "nickname", "height", "street"))
        wanted[absent] = None
        keys.append(absent)
    text = " ".join(sentences)
    if s.chance(0.25):
        outer = s.made_up() if s.chance(0.1) else s.pick(("person", "data", "result", "entry"))
        cut = s.rng.randint(1, len(wanted))
        inner = dict(list(wanted.items())[:cut])
        wanted = {outer: inner, **dict(list(wanted.items())[cut:])}
        asked = _ask(s, SCHEMAS, json.dumps(_form(wanted)), text)
    elif s.chance(0.25):
        asked = _ask(s, SCHEMAS, json.dumps(_form(wanted)), text)
    else:
        asked = _ask(s, OBJECTS, listing(keys) if s.chance(0.7) else ", ".join(keys), text)
    return _case(s, "json_record", asked, wanted, thinking)


def _form(value: Json) -> Json:
    """The same shape with type names in place of values."""
    if isinstance(value, dict):
        return {key: _form(item) for key, item in value.items()}
    names = {bool: "boolean", int: "integer", float: "number", list: "list", type(None): "string", str: "string"}
    return names[type(value)]


def records(s: Source, thinking: bool) -> Case:
    """Two to four subjects with the same keys: a JSON array of objects, in the order of the text."""
    attributes = _draw_attributes(s, s.pick((1, 1, 2, 2)))
    rows = []
    sentences = []
    for _ in range(s.pick((2, 2, 3))):
        name = _subject(s)
        row = {"name": name, **{a[0]: a[2](s) for a in attributes}}
        sentences += [_tell(s, a, name, row[a[0]]) for a in attributes]
        rows.append(row)
    asked = _ask(s, ARRAYS, listing(list(rows[0])), " ".join(sentences))
    return _case(s, "json_array", asked, rows, thinking)


def _case(s: Source, family: str, asked: str, wanted: Json, thinking: bool) -> Case:
    keys = list(wanted) if isinstance(wanted, dict) else list(wanted[0])
    thought = f"The keys are {', '.join(keys)}." if thinking else ""
    answer = assistant(json.dumps(wanted, ensure_ascii=False), thought)
    return Case(family, [user(asked), answer], {"kind": "json", "json": wanted}, None, thinking, s.used)
