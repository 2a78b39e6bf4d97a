"""Made-up tools: a verb and an object, a schema, and the ways a user asks for it.

The verbs and their synonyms are common language, shared by the splits. The objects (nouns, many of them made up), hence
the tool names, belong to one split. Knows no conversations.
"""

from dataclasses import dataclass
from typing import Any

from training import texts, words
from training.kinds import Json
from training.parameters import Parameter, draw_parameters
from training.source import Source

# What a tool may be called, and what a user may say for it.
VERBS: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (("get", "fetch", "show", "read"), ("get", "show me", "fetch", "give me", "show", "look up"), "Returns {a}"),
    (("find", "search"), ("find", "search for", "look for"), "Searches for {a}"),
    (("create", "add", "make", "new"), ("create", "add", "make", "set up"), "Creates {a}"),
    (("delete", "remove"), ("delete", "remove", "get rid of"), "Deletes {a}"),
    (("update", "edit", "change"), ("update", "change", "edit", "modify"), "Changes {a}"),
    (("book", "reserve"), ("book", "reserve"), "Books {a}"),
    (("cancel", "stop"), ("cancel", "stop", "call off"), "Cancels {a}"),
    (("send", "share"), ("send", "share"), "Sends {a}"),
    (("buy", "order"), ("buy", "order", "purchase"), "Buys {a}"),
    (("count",), ("count", "how many are there of"), "Counts {a}"),
    (("open", "start"), ("open", "start"), "Opens {a}"),
    (("close", "lock"), ("close", "lock"), "Closes {a}"),
    (("schedule", "plan"), ("schedule", "plan"), "Plans {a}"),
    (("rename",), ("rename", "give a new name to"), "Renames {a}"),
    (("check", "verify"), ("check", "verify"), "Checks {a}"),
    (("print",), ("print", "print out"), "Prints {a}"),
    (("copy", "duplicate"), ("copy", "duplicate"), "Copies {a}"),
    (("rate", "review"), ("rate", "review"), "Rates {a}"),
)


@dataclass
class Tool:
    """`object`: the noun as said; `verb`: index into VERBS; `called`: the verb in its name."""

    name: str
    verb: int
    called: str
    object: str
    parameters: list[Parameter]
    description: str

    @property
    def schema(self) -> dict[str, Json]:
        """The entry of a request's `tools` list."""
        parameters: dict[str, Any] = {"type": "object", "properties": {p.name: p.schema for p in self.parameters}}
        parameters["required"] = [p.name for p in self.parameters if p.required]
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


def draw_tools(s: Source, count: int) -> list[Tool]:
    """Different tools; some share the verb or the object with another, so that both words matter."""
    tools: list[Tool] = []
    seen: set[tuple[int, str]] = set()
    while len(tools) < count:
        near = s.pick(tools) if tools and s.chance(0.35) else None
        same_object = near is not None and s.chance(0.5)
        verb = near.verb if near and not same_object else s.rng.randrange(len(VERBS))
        noun = near.object if near and same_object else draw_object(s)
        if (verb, noun) not in seen:
            seen.add((verb, noun))
            tools.append(_tool(s, verb, noun))
    return tools


def draw_object(s: Source) -> str:
    form = s.rng.random()
    if form < 0.7:
        return s.listed("noun")
    if form < 0.8:
        return s.made_up()
    first = s.listed("adjective") if s.chance(0.5) else s.pick(words.COMMON)
    return f"{first} {s.listed('noun')}"


def _tool(s: Source, verb: int, noun: str) -> Tool:
    names, _, does = VERBS[verb]
    parameters = draw_parameters(s, noun, s.pick((0, 1, 1, 1, 2, 2, 2, 3)))
    chosen = s.pick(names)
    description = does.format(a=("an " if noun[0] in "aeiou" else "a ") + noun)
    if s.chance(0.2):
        description = f"{chosen.capitalize()} {noun}"
    name = tool_name(s, [chosen, *noun.split()])
    s.used.add(("tool", name))
    return Tool(name, verb, chosen, noun, parameters, description + s.pick(("", ".")))


def tool_name(s: Source, parts: list[str]) -> str:
    """snake_case mostly; sometimes camelCase, kebab-case or the object first."""
    form = s.rng.random()
    if form < 0.84:
        return "_".join(parts)
    if form < 0.9:
        return parts[0] + "".join(part.capitalize() for part in parts[1:])
    if form < 0.96:
        return "-".join(parts)
    return "_".join(parts[1:] + parts[:1])


OPENERS = texts.phrases("ask openers")
MODALS = texts.phrases("ask modals")
ENDS = texts.phrases("ask ends")
QUESTIONS = texts.phrases("ask questions")
ARTICLES = ("the ", "a ", "", "my ", "the ", "our ", "this ")
JOINS = (" ", ", ", "; ", ", ")


def ask(s: Source, tool: Tool, phrases: list[str]) -> str:
    """One request for this tool with these phrases, in any order."""
    surfaces = VERBS[tool.verb][1]
    does = s.pick(surfaces) if s.chance(0.3) or tool.called not in surfaces else tool.called
    article = s.pick(ARTICLES)
    if article == "a " and tool.object[0] in "aeiou":
        article = "an "
    s.rng.shuffle(phrases)
    rest = article + tool.object
    for index, phrase in enumerate(phrases):
        rest += (s.pick((" ", ", ", ": ")) if index == 0 else s.pick(JOINS)) + phrase
    modals = QUESTIONS if tool.verb < 2 and s.chance(0.25) else MODALS
    form = s.frame("ask", OPENERS, modals, ("{do}",) if modals is MODALS else ("{rest}",), ENDS)
    text = form.format(do=f"{does} {rest}", rest=rest)
    text = text[0].upper() + text[1:] if s.chance(0.85) else text
    return text if text[-1] in "?." else text + s.pick(("", ".", "?", "!", "."))
