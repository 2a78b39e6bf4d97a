"""The forms an answer can be held to, by llguidance: JSON, JSON of a schema, calls of tools; and a bound on thinking.

Invariant: what is generated under a form has that form, once the thinking before it is over; a form that cannot go on
is an error, never the end of the answer. What the library says of a grammar is logged, shortly, and shown to nobody.
Knows tokens and grammars, not requests.
"""

import itertools
import json
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from flashmoe.chat.arguments import Signatures
from flashmoe.chat.call_style import CallStyle
from flashmoe.chat.documents import read_text
from flashmoe.chat.schema import Schema
from flashmoe.chat.schema_resolution import Resolved, resolve
from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.errors import FlashMoeError
from flashmoe.server.call_grammar import call_rules
from flashmoe.server.json_grammar import json_rule

Json = Any
MOST_BYTES = 2_000_000
"""Of a grammar; compiling one takes seconds at most."""
_KEPT, _KEPT_BYTES = 8, 100_000
"""Compiled grammars, of so many bytes at most: an agent sends the same tools at each turn."""
_SPACE = r"/[ \n]{0,2}/"
"""Before the answer; other spaces than these are not JSON's."""
_log = logging.getLogger("flashmoe.server")


def _limits() -> llguidance.LLParserLimits:
    """An object of 2,000 optional properties takes a row of 8,000 items."""
    return llguidance.LLParserLimits(max_items_in_row=20_000, verbose_errors=False)


@dataclass(frozen=True)
class Grammar:
    """Text for llguidance. unheld: keywords of its schemas that it does not hold answers to."""

    text: str
    unheld: tuple[str, ...] = ()


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
        """The tokens that may come next. Raises FlashMoeError if none may, or the grammar outgrows its limits."""
        if self._end is not None:
            if self._budget is not None and self._thought >= self._budget:
                return self._mask(frozenset([self._end]))
            return ~self._stops if self._matcher else None
        if self._matcher is None:
            return None
        if self._matcher.is_stopped():
            self._check(self._matcher)
            return self._stops
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check(self._matcher)
        return np.unpackbits(bits, count=self._vocab, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        if self._begin is not None:
            self._end = self._later_end if token == self._begin else None
            self._begin = None
        elif self._end is not None:
            self._thought += 1
            if token == self._end:
                self._end = None
        elif self._matcher and not self._matcher.is_stopped():
            self._matcher.consume_token(token)
            self._check(self._matcher)

    def _check(self, matcher: llguidance.LLMatcher) -> None:
        if matcher.is_error():
            _log.warning("A grammar failed while an answer was held to it: %s", _short(matcher))
            raise FlashMoeError("The answer cannot go on within the grammar of its schema; make the schema simpler.")


class Grammars:
    """Makes forms for one model; its tokenizer is prepared at the first, a second for a vocabulary of 248320. Any
    thread may use it. find_style: how its template writes calls, None: not in a way that is known; asked once, when a
    call is forced, since it renders with a template that may take long."""

    def __init__(
        self,
        directory: Path,
        tokenizer: Tokenizer,
        vocab: int,
        stop_ids: frozenset[int],
        find_style: Callable[[], CallStyle | None],
    ) -> None:
        self._directory, self._tokenizer, self._vocab, self._stop_ids = directory, tokenizer, vocab, stop_ids
        self._find_style = find_style
        self._lock = threading.Lock()
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()

    @cached_property
    def _style(self) -> CallStyle | None:
        return self._find_style()

    @cached_property
    def _prepared(self) -> llguidance.LLTokenizer:
        text = read_text(self._directory / "tokenizer.json")
        return llguidance.LLTokenizer(text, n_vocab=self._vocab, eos_token=sorted(self._stop_ids))

    def form(self, grammar: Grammar | None, *, thinking_open: bool, budget: int | None = None) -> Form:
        """A form for one answer. Raises FlashMoeError for a grammar that is not valid, or where this model's thinking
        does not end with a token of its own."""
        begin = self._tokenizer.token_id("<think>") if grammar is None and not thinking_open else None
        end = self._tokenizer.token_id("</think>") if thinking_open or begin is not None else None
        if thinking_open and end is None:
            raise FlashMoeError("This model cannot think and keep to a form; ask for an answer without thinking.")
        matcher = None if grammar is None else self._matcher(grammar.text)
        return Form(matcher, self._vocab, self._stop_ids, begin, end, budget)

    def _matcher(self, text: str) -> llguidance.LLMatcher:
        """Compiles one grammar at a time, so that requests do not take all processors from answers."""
        if len(text) > MOST_BYTES:
            raise FlashMoeError(f"The schemas make a grammar of {len(text)} bytes, more than {MOST_BYTES}.")
        with self._lock:
            matcher = self._compiled.get(text)
            if matcher is None:
                matcher = self._compile(text)
            if len(text) <= _KEPT_BYTES:
                self._compiled[text] = matcher
                self._compiled.move_to_end(text)
                if len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
            return matcher.deep_copy()

    def _compile(self, text: str) -> llguidance.LLMatcher:
        matcher = llguidance.LLMatcher(self._prepared, text, log_level=0, limits=_limits())
        if not matcher.is_error():
            matcher.compute_bitmask()  # some limits are met only now
        if matcher.is_error():
            _log.warning("A grammar cannot be compiled: %s", _short(matcher))
            raise FlashMoeError("No answer can be held to this schema; make it simpler.")
        return matcher

    def json(self, schema: Json, *, strict: bool = False) -> Grammar:
        """Any JSON that fits the schema. strict: a schema with keywords that cannot be held is refused."""
        value, unheld = self._value(schema, strict)
        return Grammar(f"start: {_SPACE} value\n{value}", unheld)

    def json_or_calls(self, schema: Json, tools: Signatures, *, several: bool, strict: bool = False) -> Grammar:
        """Any JSON that fits the schema, or calls."""
        value, unheld = self._value(schema, strict)
        calls, others = self._calls(tools, several)
        return Grammar(f"start: {_SPACE} (value | calls)\n{value}{calls}", _once(unheld, others))

    def calls(self, tools: Signatures, *, several: bool, optional: bool = False) -> Grammar:
        """Calls of these tools with arguments that fit their schemas; optional: after any text, or none at all."""
        start = f"start: TEXT | TEXT calls\nTEXT: {self._text_without_calls}" if optional else f"start: {_SPACE} calls"
        calls, unheld = self._calls(tools, several)
        return Grammar(f"{start}\n{calls}", unheld)

    @property
    def _text_without_calls(self) -> str:
        """A tag of a function that stands alone is read as a call too (chat/turn_parser.py)."""
        tags = ["<function=", *(["<tool_call>"] if self._tokenizer.token_id("<tool_call>") is None else [])]
        return " & ".join(["/(?s:.*)/", *(f"~/(?s:.*){tag}(?s:.*)/" for tag in tags)])

    def _value(self, schema: Json, strict: bool) -> tuple[str, tuple[str, ...]]:
        resolved = resolve(schema)
        found = list(resolved.unheld)
        rule = json_rule(_usable(resolved, "The schema of the answer"), found.append)
        _check_held(found, strict, "The schema of the answer")
        return f"value: %json {rule}\n", _once(found)

    def _calls(self, tools: Signatures, several: bool) -> tuple[str, tuple[str, ...]]:
        if self._style is None:
            raise FlashMoeError("A call cannot be forced: this model's chat template writes none in a known way.")
        schemas: dict[str, Schema] = {}
        unheld: dict[str, list[str]] = {}
        for function in tools.functions():
            name, resolved = function["name"], tools.resolved(function["name"])
            schemas[name], unheld[name] = _usable(resolved, f"The schema of {name}"), list(resolved.unheld)
            if "object" not in schemas[name].implied:
                raise FlashMoeError(f"The schema of {name} allows no object, and arguments are one.")
        hear = {name: found.append for name, found in unheld.items()}
        rules = call_rules(self._style, schemas, several, self._literal, hear)
        for function in tools.functions():
            name = function["name"]
            _check_held(unheld[name], function.get("strict") is True, f"The schema of {name}")
        return "\n".join(rules) + "\n", _once(*unheld.values())

    def _literal(self, text: str) -> str:
        """A tag is one token in the vocabularies that know it, which no text matches, and text in others."""
        parts = []
        for part in re.split(r"(</?tool_call>)", text):
            token = self._tokenizer.token_id(part) if part.endswith("tool_call>") else None
            if part:
                parts.append(json.dumps(part) if token is None else f"<[{token}]>")
        return " ".join(parts)


def _usable(resolved: Resolved, what: str) -> Schema:
    if resolved.faults:
        raise FlashMoeError(f"{what} {resolved.faults[0]}")
    return resolved.schema


def _check_held(unheld: Sequence[str], strict: bool, what: str) -> None:
    if unheld and strict:
        raise FlashMoeError(f"{what} is strict, and an answer cannot be held to its {', '.join(_once(unheld))}.")


def _once(*names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(itertools.chain(*names)))


def _short(matcher: llguidance.LLMatcher) -> str:
    """The beginning of what the library says: it may go on to dump its state."""
    return " ".join(matcher.get_error()[:200].split())
