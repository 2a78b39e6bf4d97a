"""Conversations with tools: one call, several, none, a missing argument, a result put in words.

A conversation keeps one set of tools; up to three earlier exchanges precede the one that is judged.
"""

import json

from training import smalltalk, texts, values
from training.case import Case, Json, Message, assistant, system, tool_result, user
from training.catalogue import EVERYDAY, Everyday
from training.parameters import draw_value, listing, say
from training.source import Source
from training.tools import Tool, ask, draw_tools

AnyTool = Tool | Everyday
Call = dict[str, Json]

NO_TOOL = texts.phrases("no tool")
MISSING = "Which {w} should I use?"
SYSTEMS = texts.phrases("tool systems")
MORE = texts.phrases("tool systems more")
LINKS = texts.phrases("several links")
INTROS = texts.phrases("several intros")
ERRORS = texts.phrases("errors")


def single(s: Source, thinking: bool) -> Case:
    return _conversation(s, "tool_single", thinking)


def parallel(s: Source, thinking: bool) -> Case:
    return _conversation(s, "tool_parallel", thinking)


def none(s: Source, thinking: bool) -> Case:
    return _conversation(s, "tool_none", thinking)


def answer(s: Source, thinking: bool) -> Case:
    return _conversation(s, "tool_answer", thinking)


def _conversation(s: Source, family: str, thinking: bool) -> Case:
    tools = _draw(s, s.pick((1, 1, 2, 2, 3, 3)))
    messages: list[Message] = []
    if s.chance(0.3):
        messages.append(system(s.frame("system", SYSTEMS, MORE).replace(" .", ".")))
    # Training conversations are longer: more answers to learn from for the price of one list of tools.
    for _ in range(s.pick((0, 1, 1, 2, 2, 3) if s.split == "train" else (0, 0, 0, 1, 1, 2))):
        turns, _ = _exchange(
            s, s.pick(("tool_single", "tool_single", "tool_answer", "tool_none", "tool_parallel")), tools
        )
        if turns[-1].get("tool_calls"):
            turns += _answered(s, len(turns[-1]["tool_calls"]))
        messages += turns
    turns, expect = _exchange(s, family, tools)
    case = Case(family, messages + turns, expect, [tool.schema for tool in tools], thinking, s.used)
    if not thinking:
        for message in case.messages:
            message.pop("reasoning_content", None)
    for message in case.messages:
        message.pop("says", None)
    return case


def _draw(s: Source, count: int) -> list[AnyTool]:
    everyday = [tool.varied(s) for tool in EVERYDAY if s.chance(0.012)][:count] if s.split == "train" else []
    for tool in everyday:
        s.used.add(("tool", tool.name))
    tools: list[AnyTool] = [*draw_tools(s, max(1, count - len(everyday))), *everyday]
    s.rng.shuffle(tools)
    return tools


def _exchange(s: Source, family: str, tools: list[AnyTool]) -> tuple[list[Message], Json]:
    """The turns of one exchange and what its last turn is judged by."""
    if family == "tool_parallel":
        return _several(s, tools)
    if family == "tool_none":
        return _without_call(s, tools)
    text, call = _request(s, s.pick(tools))
    turns = [user(text), assistant("", _plan([call]), [call])]
    if family == "tool_answer":
        more = _answered(s, 1)
        values_said = more[-1].pop("says")
        return turns + more, {"kind": "text", "contains": values_said}
    return turns, {"kind": "calls", "calls": [call]}


def _request(s: Source, tool: AnyTool) -> tuple[str, Call]:
    if isinstance(tool, Everyday):
        text, arguments = tool.request(s)
        return text, {"name": tool.name, "arguments": arguments}
    given = [p for p in tool.parameters if p.required or s.chance(0.4)]
    arguments = {p.name: draw_value(s, p) for p in given}
    text = ask(s, tool, [say(s, p, arguments[p.name]) for p in given])
    return text, {"name": tool.name, "arguments": arguments}


def _plan(calls: list[Call]) -> str:
    parts = [f"{call['name']} with {', '.join(call['arguments']) or 'nothing'}" for call in calls]
    return "I call " + "; then ".join(parts) + "."


def _several(s: Source, tools: list[AnyTool]) -> tuple[list[Message], Json]:
    """Two or three requests in one message: of one tool or of different ones."""
    count = s.pick((2, 2, 2, 2, 3))
    same = s.chance(0.4)
    chosen = s.pick(tools)
    requests = [_request(s, chosen if same else s.pick(tools)) for _ in range(count)]
    sentences = [text for text, _ in requests]
    calls = [call for _, call in requests]
    return [user(_joined(s, sentences)), assistant("", _plan(calls), calls)], {"kind": "calls", "calls": calls}


def _joined(s: Source, sentences: list[str]) -> str:
    """A list, or sentences with a word between them."""
    if s.chance(0.4):
        # One line, so that the frame tells the marks apart; each item stands on a line of its own.
        intro, mark = s.frame("list", INTROS, ("|",), ("#.", "#)", "-", "*", "+", "(#)", ">")).split("|")
        items = [f"{mark.strip().replace('#', str(n))} {one}" for n, one in enumerate(sentences, 1)]
        return "\n".join([intro.strip(), *items] if intro.strip() else items)
    link = s.frame("link", LINKS, (":", ",", "", "-", "please", "please:"), ("/", "|"))
    word, newline = link[:-1].strip().replace(" :", ":").replace(" ,", ","), link[-1] == "/"
    text = sentences[0]
    for one in sentences[1:]:
        text += ("" if text[-1] in ".?!" else ".") + ("\n" if newline else " ") + f"{word} {one}"
    return text


def _without_call(s: Source, tools: list[AnyTool]) -> tuple[list[Message], Json]:
    """Nothing fits, a required argument is missing, or the user only talks."""
    expect = {"kind": "calls", "calls": []}
    form = s.rng.random()
    lacking = [t for t in tools if isinstance(t, Tool) and any(p.required for p in t.parameters)]
    if form < 0.4 and lacking:
        return _missing(s, s.pick(lacking)), expect
    if form < 0.75:
        taken = {(t.verb, t.object) for t in tools if isinstance(t, Tool)}
        while (other := draw_tools(s, 1)[0]) and any(other.object == noun for _, noun in taken):
            pass
        text, _ = _request(s, other)
        return [user(text), assistant(s.pick(NO_TOOL), "No tool fits.")], expect
    said, reply = smalltalk.pair(s)
    return [user(said), assistant(reply, "No tool is needed.")], expect


def _missing(s: Source, tool: Tool) -> list[Message]:
    omitted = s.pick([p for p in tool.parameters if p.required])
    given = [p for p in tool.parameters if p is not omitted and (p.required or s.chance(0.3))]
    text = ask(s, tool, [say(s, p, draw_value(s, p)) for p in given])
    return [
        user(text),
        assistant(MISSING.format(w=omitted.words), f"{tool.name} needs {omitted.name}, which is missing."),
    ]


def _answered(s: Source, count: int) -> list[Message]:
    """Results of `count` calls and the assistant's words for them; `says` lists the values the words must have."""
    turns: list[Message] = []
    sentences: list[str] = []
    said: list[str] = []
    for _ in range(count):
        result, text, shown = _result(s)
        turns.append(tool_result(json.dumps(result, ensure_ascii=False)))
        sentences.append(text)
        said += shown
    final = assistant(" ".join(sentences), "I tell the result.")
    return [*turns, {**final, "says": said}]


def _result(s: Source) -> tuple[Json, str, list[str]]:
    """A tool's result, a sentence for it, and the values in the sentence."""
    form = s.rng.random()
    if form < 0.12:
        return {"status": "ok"}, "Done.", ["Done"]
    if form < 0.24:
        reason = s.frame("error", ("", "the", "this", "your", "that", "our", "a"), ("{a}",), ERRORS)
        reason = reason.format(a=s.listed("noun") if s.chance(0.5) else s.made_up())
        return {"error": reason}, f"That did not work: {reason}.", [reason]
    keys: dict[str, Json] = {}
    wanted = s.pick((1, 2, 2, 3))
    while len(keys) < wanted:
        key = (
            s.made_up()
            if s.chance(0.15)
            else s.pick(("name", "price", "status", "id", "city", "date", "total", "owner"))
        )
        draw = s.pick(
            (values.word, values.code, values.integer, values.decimal, values.person, values.city, values.date)
        )
        keys[key] = [values.word(s) for _ in range(s.pick((2, 3)))] if s.chance(0.12) else draw(s)
    parts = [
        f"the {key} are {listing(value)}" if isinstance(value, list) else f"the {key} is {value}"
        for key, value in keys.items()
    ]
    text = listing(parts)
    shown = [item for value in keys.values() for item in (value if isinstance(value, list) else [str(value)])]
    return keys, text[0].upper() + text[1:] + ".", shown
