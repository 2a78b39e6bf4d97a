"""The parameters a made-up tool may have: drawn with their schemas, filled with values, said by a user.

Users either say a value the natural way ("in Lisbon") or by the parameter's own name ("with city Lisbon"), which also
works for names nobody has heard before.
"""

from dataclasses import dataclass, field

from training import texts
from training.kinds import SCALARS, WEIGHTED, Json, Kind
from training.source import Source


@dataclass
class Parameter:
    """One parameter of one tool. `words` is its name as a person would say it."""

    name: str
    words: str
    kind: Kind
    schema: dict[str, Json]
    required: bool
    natural: bool
    fields: list["Parameter"] = field(default_factory=list)


def draw_parameters(s: Source, noun: str, count: int) -> list[Parameter]:
    """`count` parameters with different names; at least one is required when there is any."""
    parameters: list[Parameter] = []
    taken: set[str] = {noun}
    while len(parameters) < count:
        kind = s.pick(WEIGHTED)
        parameter = _draw(s, kind, noun, taken, nested=False)
        if parameter is not None:
            parameters.append(parameter)
    groups = [p.kind.group for p in parameters]
    for parameter in parameters:
        alone = not parameter.kind.group or groups.count(parameter.kind.group) == 1
        parameter.natural = parameter.natural and alone
    if parameters and not any(p.required for p in parameters):
        parameters[0].required = True
    return parameters


def _draw(s: Source, kind: Kind, noun: str, taken: set[str], nested: bool) -> Parameter | None:
    name = s.pick(kind.names)
    if name in taken:
        return None
    taken.add(name)
    words = name.replace("_", " ")
    schema = dict(kind.schema)
    if kind.hint and s.chance(0.4):
        schema["description"] = kind.hint.format(w=words, n=noun)
    parameter = Parameter(name, words, kind, schema, s.chance(0.65), bool(kind.natural) and not nested)
    if kind.name == "enum":
        schema["enum"] = _options(s)
    if kind.name == "object":
        inner: set[str] = set()
        while len(parameter.fields) < 2:
            if one := _draw(s, s.pick(SCALARS), noun, inner, nested=True):
                one.required = True
                parameter.fields.append(one)
        schema["properties"] = {f.name: f.schema for f in parameter.fields}
        schema["required"] = [f.name for f in parameter.fields]
    return parameter


def _options(s: Source) -> list[str]:
    draw = s.pick((lambda: s.listed("colour"), lambda: s.listed("adjective"), lambda: s.listed("adjective"), s.made_up))
    options: list[str] = []
    wanted = s.pick((2, 3, 3))
    while len(options) < wanted:
        # The small splits own too few colours for four different ones.
        option = draw() if s.split == "train" or len(options) < 2 else s.made_up()
        if option not in options:
            options.append(option)
    return options


def draw_value(s: Source, parameter: Parameter) -> Json:
    """A value that fits the parameter's schema."""
    kind = parameter.kind
    if kind.name == "enum":
        return s.pick(parameter.schema["enum"])
    if kind.name == "object":
        return {f.name: draw_value(s, f) for f in parameter.fields}
    if kind.name in ("strings", "integers"):
        return [kind.draw(s) for _ in range(s.pick((1, 2, 2, 3)))]
    return kind.draw(s)


def listing(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(items) == 1:
        return items[0]
    return ", ".join(items[:-1]) + " and " + items[-1]


def spoken(s: Source, value: Json) -> str:
    """A scalar or a list the way a user writes it."""
    if isinstance(value, bool):
        return s.pick(("yes", "true", "on")) if value else s.pick(("no", "false", "off"))
    if isinstance(value, list):
        return listing([str(item) for item in value])
    return str(value)


LEADS = texts.phrases("named leads")
LINKS = texts.phrases("named links")
STATED = texts.phrases("stated leads")
STATES = texts.phrases("stated links")
TURNED = texts.phrases("turned leads")
TURNS = texts.phrases("turned links")
OBJECT_LINKS = ("", "", ":", "of", "with", "being", "having")


def _named(s: Source, words: str, value: str) -> str:
    """A parameter by its own name, before its value or after it."""
    sort = s.rng.random()
    if sort < 0.5:
        form = s.frame("named", LEADS, ("{w}",), LINKS) + " {v}"
    elif sort < 0.85:
        form = s.frame("stated", STATED, ("{w}",), STATES).replace(" :", ":") + " {v}"
    else:
        form = s.frame("turned", TURNED, ("{v}",), TURNS) + " {w}"
    return form.format(w=words, v=value)


def say(s: Source, parameter: Parameter, value: Json) -> str:
    """The phrase with which a user gives this parameter this value."""
    if isinstance(value, dict):
        joint = s.pick((" ", " ", ": ", " = "))
        inner = [f"{f.words}{joint}{spoken(s, quoted(f, value[f.name]))}" for f in parameter.fields]
        form = s.frame("object", LEADS, ("{w}",), OBJECT_LINKS)
        return form.replace(" :", ":").format(w=parameter.words) + " " + listing(inner)
    if isinstance(value, bool) and s.chance(0.6):
        forms = [
            "with {w}",
            "{w} on",
            "make it {w}",
            "with {w} on",
            "turn {w} on",
            "it should be {w}",
        ]
        negated = [
            "without {w}",
            "{w} off",
            "do not make it {w}",
            "with {w} off",
            "turn {w} off",
            "it should not be {w}",
        ]
        return (s.pick(forms) if value else s.pick(negated)).format(w=parameter.words)
    if parameter.natural and s.chance(0.4):
        return s.pick(parameter.kind.natural).format(v=quoted(parameter, value), w=parameter.words)
    return _named(s, parameter.words, spoken(s, quoted(parameter, value)))


def quoted(parameter: Parameter, value: Json) -> Json:
    """Sentences, and labels of several words, come in quotes: otherwise nobody could say where they end."""
    name = parameter.kind.name
    return f'"{value}"' if name == "text" or (name == "label" and " " in value) else value
