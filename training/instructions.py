"""System prompts that matter: a name, a format, a language rule, a forbidden topic. The answer must follow them."""

import json
from collections.abc import Callable

from training import paragraphs, smalltalk, tables, texts, values
from training.case import Case, Message, assistant, system, user
from training.source import Source

Rule = Callable[[str], str]
NAMES = texts.phrases("persona names")
NAME_ASKS = texts.phrases("persona asks")


def follow(s: Source, thinking: bool) -> Case:
    form = s.rng.random()
    if form < 0.2:
        return _persona(s, thinking)
    if form < 0.35:
        return _forbidden(s, thinking)
    return _formatted(s, thinking)


def _thought(thinking: bool, text: str) -> str:
    return text if thinking else ""


def _persona(s: Source, thinking: bool) -> Case:
    name = s.made_up().capitalize()
    prompt = s.frame(
        "persona",
        ("", "", "Hello,", "Remember:", "From now on", "In this chat", "Please note:"),
        NAMES,
        ("", "", "today", "now"),
    ).format(n=name)
    messages: list[Message] = [system(prompt[0].upper() + prompt[1:] + ".")]
    if s.chance(0.4):
        said, reply = smalltalk.MEETINGS[0]
        who = values.first_name(s)
        messages += [
            user(said.format(name=who)),
            assistant(reply.format(name=who), _thought(thinking, "I answer politely.")),
        ]
    answer = f"I am {name}."
    messages += [
        user(s.frame("persona ask", smalltalk.LEADS, NAME_ASKS)),
        assistant(answer, _thought(thinking, f"My name is {name}.")),
    ]
    return Case("system", messages, {"kind": "exact", "text": answer}, None, thinking, s.used)


def _forbidden(s: Source, thinking: bool) -> Case:
    topics = list(dict.fromkeys(s.listed("food") for _ in range(4)))[:2]
    prompt = s.frame(
        "forbid",
        ("", "Please", "Rule:", "Remember:", "Important:"),
        (
            "never talk about {t}",
            "do not speak about {t}",
            "the topic {t} is forbidden",
            "refuse questions about {t}",
            "you must not talk about {t}",
            "never speak about {t}",
            "say nothing about {t}",
        ),
        ("", "", "at all", "ever"),
    )
    prompt = prompt[0].upper() + prompt[1:] + "."
    asked = topics[0] if s.chance(0.5) or len(topics) < 2 else topics[1]
    question = s.frame(
        "forbidden ask",
        smalltalk.LEADS,
        (
            "Do you like {t}?",
            "Tell me about {t}.",
            "What do you think of {t}?",
            "Are {t} good?",
            "What about {t}?",
            "What do you say about {t}?",
        ),
    ).format(t=asked)
    refused = asked == topics[0]
    answer = f"I do not talk about {asked}." if refused else f"I like {asked}. Do you?"
    thought = f"{asked} is {'' if refused else 'not '}forbidden."
    messages = [system(prompt.format(t=topics[0])), user(question), assistant(answer, _thought(thinking, thought))]
    return Case("system", messages, {"kind": "exact", "text": answer}, None, thinking, s.used)


def _formatted(s: Source, thinking: bool) -> Case:
    """A rule for the shape of every answer, tried on tables, paragraphs and small talk."""
    word = s.made_up()
    prompt, rule = _rules(s, word)
    source = s.pick((paragraphs.questions, tables.lookup, smalltalk.talk))
    inner = source(s, thinking)
    messages: list[Message] = [system(prompt[0].upper() + prompt[1:] + s.pick((".", "", ".")))]
    for message in inner.messages:
        if message["role"] == "assistant":
            message = {**message, "content": rule(message["content"])}
        messages.append(message)
    return Case("system", messages, {"kind": "exact", "text": messages[-1]["content"]}, None, thinking, s.used)


def _rules(s: Source, word: str) -> tuple[str, Rule]:
    """A rule in words and what it does to an answer."""
    every = (
        "every answer",
        "each answer",
        "all answers",
        "every reply",
        "each reply",
        "your answers",
        "whatever you say",
        "all you write",
    )
    also = ("", "", "Please", "Always", "You must", "From now on", "Important:", "Rule:")
    if (form := s.rng.randrange(4)) < 2:
        verbs = ("end", "finish", "close", "conclude") if form == 1 else ("begin", "start", "open")
        frame = s.frame(
            "rule word",
            also,
            verbs,
            every,
            ("with {w}", "with the word {w}", "by saying {w}", "by writing {w}", 'with "{w}"'),
        )
        return frame.format(w=word), lambda text: f"{text} {word}" if form == 1 else f"{word} {text}"
    if form == 2:
        frame = s.frame(
            "rule json",
            also,
            ("write", "give", "put", "make"),
            every,
            ("as JSON", "in JSON", "JSON"),
            ('of the form {"answer": ...}', 'with the key "answer"', 'with one key, "answer"', 'like {"answer": ...}'),
        )
        return frame, lambda text: json.dumps({"answer": text}, ensure_ascii=False)
    frame = s.frame(
        "rule brackets",
        also,
        ("put", "write", "set", "place"),
        every,
        ("in brackets", "inside square brackets", "in square brackets", "between [ and ]", "like this: [answer]"),
    )
    return frame, lambda text: f"[{text}]"
