"""The forms an answer can be held to, by llguidance: JSON, JSON of a schema, calls of tools; and a bound on thinking.

Invariant: what is generated under a form has that form, once the thinking before it is over. Knows tokens and grammars,
not requests.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from flashmoe.chat.documents import read_text
from flashmoe.chat.schema import permitted_types
from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.chat.tool_calls import Tool, function_of
from flashmoe.errors import FlashMoeError

Json = Any
_FEW_SPACES = {"whitespace_pattern": r"[ \n\t]{0,16}"}
"""Between JSON's tokens; without a bound, a model that has nothing to say says spaces for ever."""


class Form:
    """A constraint (engine.request) on one answer: first thinking, if it is open, then what the grammar allows.

    thinking_begin: the token that opens the thinking if it is the first; thinking_end: the one that ends it, if it is
    open; budget: the most tokens before that.
    """

    def __init__(
        self,
        matcher: llguidance.LLMatcher | None,
        vocab: int,
        stop_ids: frozenset[int],
        thinking_begin: int | None,
        thinking_end: int | None,
        budget: int | None,
    ) -> None:
        self._matcher, self._vocab, self._budget = matcher, vocab, budget
        self._begin, self._end = thinking_begin, None if thinking_begin is not None else thinking_end
        self._later_end = thinking_end
        self._thought = 0
        self._stops = self._mask(stop_ids)

    def _mask(self, ids: frozenset[int]) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = np.zeros(self._vocab, dtype=np.bool_)
        mask[[i for i in ids if i < self._vocab]] = True
        return mask

    def allowed(self) -> NDArray[np.bool_] | None:
        if self._end is not None:
            if self._budget is not None and self._thought >= self._budget:
                return self._mask(frozenset([self._end]))
            return ~self._stops if self._matcher else None
        if self._matcher is None:
            return None
        if self._matcher.is_stopped():
            return self._stops
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, count=self._vocab, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        if self._begin is not None:
            self._end = self._later_end if token == self._begin else None
            self._begin = None
        elif self._end is not None:
            self._thought += 1
            if token == self._end:
                self._end = None
        elif self._matcher and not self._matcher.is_stopped() and not self._matcher.consume_token(token):
            raise FlashMoeError(f"The answer left its form: {self._matcher.get_error()}")


class Grammars:
    """Makes forms for one model; its tokenizer is prepared at the first, a second for a vocabulary of 248320."""

    def __init__(self, directory: Path, tokenizer: Tokenizer, vocab: int, stop_ids: frozenset[int]) -> None:
        self._directory, self._tokenizer, self._vocab, self._stop_ids = directory, tokenizer, vocab, stop_ids
        self._lock = threading.Lock()

    @cached_property
    def _prepared(self) -> llguidance.LLTokenizer:
        text = read_text(self._directory / "tokenizer.json")
        return llguidance.LLTokenizer(text, n_vocab=self._vocab, eos_token=sorted(self._stop_ids))

    def form(self, grammar: str | None, *, thinking_open: bool, budget: int | None = None) -> Form:
        """A form for one answer. Raises FlashMoeError for a grammar that is not valid, or where this model's thinking
        does not end with a token of its own."""
        begin = self._tokenizer.token_id("<think>") if grammar is None and not thinking_open else None
        end = self._tokenizer.token_id("</think>") if thinking_open or begin is not None else None
        if thinking_open and end is None:
            raise FlashMoeError("This model cannot think and keep to a form; ask for an answer without thinking.")
        matcher = None
        if grammar is not None:
            with self._lock:
                tokenizer = self._prepared
            matcher = llguidance.LLMatcher(tokenizer, grammar)
            if matcher.is_error():
                raise FlashMoeError(f"No answer can be held to this schema: {matcher.get_error().splitlines()[0]}.")
        return Form(matcher, self._vocab, self._stop_ids, begin, end, budget)

    def json(self, schema: Json) -> str:
        """Any JSON that fits the schema."""
        return f"start: /\\s{{0,2}}/ value\nvalue: %json {_bounded(schema)}\n"

    def json_or_calls(self, schema: Json, tools: Sequence[Tool], *, several: bool) -> str:
        """Any JSON that fits the schema, or calls."""
        start, rest = self.calls(tools, several=several).split("\n", 1)
        calls = start.removeprefix("start: /\\s{0,2}/ ")
        return f"start: /\\s{{0,2}}/ (value | {calls})\nvalue: %json {_bounded(schema)}\n{rest}"

    def calls(self, tools: Sequence[Tool], *, several: bool, optional: bool = False) -> str:
        """Calls of these tools with arguments that fit their schemas; optional: after any text, or none at all."""
        names = [f"f{i}" for i in range(len(tools))]
        call = (
            f'call: {self._tag("<tool_call>")} "\\n" ({" | ".join(names)}) "</function>\\n" {self._tag("</tool_call>")}'
        )
        calls = 'call ("\\n" call)*' if several else "call"
        start = f"start: text | text {calls}\ntext: /(?s:.*)/" if optional else f"start: /\\s{{0,2}}/ {calls}"
        rules = [start, call]
        for name, tool in zip(names, tools, strict=True):
            rules += _function_rules(name, function_of(tool))
        return "\n".join(rules) + "\n"

    def _tag(self, tag: str) -> str:
        """A tag is one token in the vocabularies that know it, which no text matches, and text in others."""
        token = self._tokenizer.token_id(tag)
        return json.dumps(tag) if token is None else f"<[{token}]>"


def _bounded(schema: Json) -> str:
    return json.dumps({**schema, "x-guidance": _FEW_SPACES} if isinstance(schema, Mapping) else schema)


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}


def _function_rules(name: str, function: Mapping[str, Any]) -> list[str]:
    schema = _mapping(function.get("parameters"))
    properties = _mapping(schema.get("properties"))
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    required = schema["required"] if isinstance(schema.get("required"), list) else []
    parts, rules = [], []
    for i, (key, value) in enumerate(properties.items()):
        if ">" in key or "\n" in key:
            raise FlashMoeError(f"The parameter {key!r} of {function['name']} cannot be written in a call; rename it.")
        rule = f"{name}p{i}"
        parts.append(rule if key in required else f"{rule}?")
        rules += [
            f"{rule}: {json.dumps(f'<parameter={key}>' + chr(10))} {rule}v",
            *_value_rules(f"{rule}v", value, shared),
        ]
    return [" ".join([f"{name}:", json.dumps(f"<function={function['name']}>\n"), *parts]), *rules]


def _value_rules(rule: str, schema: Json, shared: Mapping[str, Json]) -> list[str]:
    """A string stands as it is, anything else as JSON (chat/tool_calls.py)."""
    end = json.dumps("\n</parameter>\n")
    schema = _mapping(schema)
    types, words = permitted_types(schema), schema.get("enum")
    if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
        return [f"{rule}: ({' | '.join(map(json.dumps, words))}) {end}"]
    if "$ref" not in schema and (not types or "string" in types):
        return [f"{rule}[suffix={end}]: /(?s:.*)/"]
    return [f"{rule}: {rule}j {end}", f"{rule}j: %json {_bounded({**schema, **shared})}"]
