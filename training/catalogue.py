"""A few dozen everyday tools written by hand (everyday.txt), each with requests as people word them.

They occur in training alone. `{name}` in a request stands for the value of that parameter; a request gives exactly
the parameters it names. Kinds are those of parameters.py; `enum:a,b` lists the options.
"""

import re
from dataclasses import dataclass

from training import texts
from training.kinds import BY_NAME, Json
from training.parameters import listing
from training.source import Source


@dataclass(frozen=True)
class Everyday:
    """One tool. `parameters`: (name, kind, required)."""

    name: str
    description: str
    parameters: tuple[tuple[str, str, bool], ...]
    requests: tuple[str, ...]

    @property
    def schema(self) -> dict[str, Json]:
        """The entry of a request's `tools` list."""
        properties = {name: _schema(kind) for name, kind, _ in self.parameters}
        required = [name for name, _, needed in self.parameters if needed]
        parameters = {"type": "object", "properties": properties, "required": required}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    def request(self, s: Source) -> tuple[str, dict[str, Json]]:
        """A user's sentence and the arguments it asks for, in the schema's order."""
        text = s.pick(self.requests)
        s.used.add(("tool", self.name))
        arguments = {name: _value(s, kind) for name, kind, _ in self.parameters if "{" + name + "}" in text}
        said = {name: listing(value) if isinstance(value, list) else str(value) for name, value in arguments.items()}
        return text.format(**said), arguments

    def varied(self, s: Source) -> "Everyday":
        """The same tool under other names, so that names are read from the request's tools and not remembered."""
        parts = self.name.split("_")
        name = s.pick(
            (
                self.name,
                self.name,
                self.name,
                "_".join(parts[1:] + parts[:1]),
                parts[0] + "".join(part.capitalize() for part in parts[1:]),
                f"{s.listed('adjective')}_{self.name}",
            )
        )
        renamed = {}
        for old, kind, _ in self.parameters:
            names = ("option", "choice") if kind.startswith("enum") else BY_NAME[kind].names
            new = old if s.chance(0.7) else s.pick(names)
            renamed[old] = new if new not in renamed.values() else old
        if len(set(renamed.values())) < len(renamed):
            renamed = {old: old for old in renamed}
        parameters = tuple((renamed[old], kind, needed) for old, kind, needed in self.parameters)
        requests = tuple(_renamed(text, renamed) for text in self.requests)
        return Everyday(name, self.description, parameters, requests)


def _renamed(text: str, names: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: "{" + names[match[1]] + "}", text)


def _schema(kind: str) -> dict[str, Json]:
    if kind.startswith("enum:"):
        return {"type": "string", "enum": kind[5:].split(",")}
    return dict(BY_NAME[kind].schema)


def _value(s: Source, kind: str) -> Json:
    if kind.startswith("enum:"):
        return s.pick(kind[5:].split(","))
    if kind == "strings":
        return [BY_NAME["strings"].draw(s) for _ in range(s.pick((2, 2, 3)))]
    return BY_NAME[kind].draw(s)


def _read() -> tuple[Everyday, ...]:
    """everyday.txt: a head line for each tool, its requests indented below."""
    tools: list[tuple[str, list[str]]] = []
    for line in texts.sections("everyday.txt")["tools"]:
        if line.startswith("  "):
            tools[-1][1].append(line.strip())
        else:
            tools.append((line, []))
    return tuple(_tool(head, tuple(requests)) for head, requests in tools)


def _tool(head: str, requests: tuple[str, ...]) -> Everyday:
    name, description, listed = (part.strip() for part in head.split("|"))
    parameters = []
    for entry in listed.split(", "):
        key, kind = entry.split(" ")
        kind = kind.replace("enum(", "enum:").rstrip(")").replace("/", ",")
        parameters.append((key.rstrip("!"), kind, key.endswith("!")))
    return Everyday(name, description, tuple(parameters), requests)


EVERYDAY = _read()
