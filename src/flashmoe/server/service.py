"""From what a client asks to an answer on its way: prompts rendered, requests scheduled.

Invariant: an answer's tokens are those of the scheduler. Lives in the event loop; rendering and tokenising happen in
threads, computing in the scheduler's. Knows no HTTP.
"""

import asyncio
import contextlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from flashmoe.chat.arguments import Signatures
from flashmoe.chat.call_style import call_style
from flashmoe.chat.marking import Rendered
from flashmoe.chat.renderer import Cancel
from flashmoe.chat.replay import WrittenTurns
from flashmoe.chat.template import ChatTemplate, NoTemplateError
from flashmoe.chat.tool_calls import thinking_is_open
from flashmoe.engine import request as engine
from flashmoe.engine.sampling import Sampling
from flashmoe.engine.scheduler import Scheduler
from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.server.answer import Answer, Prompt
from flashmoe.server.ask import Ask
from flashmoe.server.floor import AtLeast
from flashmoe.server.grammar import Grammar, Grammars
from flashmoe.server.live import Live
from flashmoe.server.metrics import Metrics
from flashmoe.text_engine import TextEngine

_RECENT_PROMPTS = 8
_LEAST_SHARED = 32


class Service:
    """A model that answers. name: what clients call it. written: the turns with calls that it remembers."""

    def __init__(self, text: TextEngine, scheduler: Scheduler, name: str, written: WrittenTurns | None = None) -> None:
        self.text, self.scheduler, self.name = text, scheduler, name
        self.metrics = Metrics(scheduler)
        self.live = Live(scheduler)
        self.written = written or WrittenTurns()
        self.stop_ids = text.tokenizer.eos_ids | frozenset(text.engine.config.eos)
        with contextlib.suppress(NoTemplateError):
            _ = text.template  # one that is damaged ends the server here, where its path may be said
        vocab = text.engine.config.vocab
        self.grammars = Grammars(
            text.directory, text.tokenizer, vocab, self.stop_ids, lambda: call_style(self._template)
        )
        self._templates = ThreadPoolExecutor(1, "templates")  # they are rendered one after the other, by one process
        self._compiling = ThreadPoolExecutor(1, "grammars")  # apart, so that a large one holds up no other prompts
        self._recent: deque[NDArray[np.int32]] = deque(maxlen=_RECENT_PROMPTS)

    async def count_tokens(self, ask: Ask) -> int:
        """How long the prompt is."""
        rendered = await self._rendered(ask)
        return len((await asyncio.to_thread(self._prompt, ask, rendered)).tokens)

    async def answer(self, ask: Ask) -> Answer:
        """Queue the requests of an ask. Raises FlashMoeError for what cannot be done, QueueFullError."""
        clock = self.metrics.clock(monotonic())
        rendered = await self._rendered(ask)
        prompt, sampling, tools, grammar = await asyncio.to_thread(self._prepare, ask, rendered)
        forms = await self._forms(ask, grammar, prompt.thinking_open)
        room = self.text.engine.limits.context - len(prompt.tokens)
        most = room if ask.max_tokens is None else min(ask.max_tokens, room)
        answer = Answer(ask, prompt, tools, self.text.tokenizer, self.written, self.metrics, clock)
        try:
            for i, form in enumerate(forms):
                answer.tickets.append(
                    self.scheduler.submit(
                        engine.Request(
                            prompt.tokens,
                            sampling[i],
                            most,
                            self.stop_ids,
                            ask.bias,
                            ask.top_logprobs,
                            ask.score_prompt,
                            form,
                            prompt.prefix_checkpoints,
                        ),
                        answer.listener(i),
                    )
                )
        except BaseException:
            answer.cancel()
            raise
        self._recent.append(prompt.tokens)
        return answer

    async def _rendered(self, ask: Ask) -> tuple[Rendered, ...]:
        """A conversation through the template, with and without the opening of an answer; nothing for a raw prompt.
        Where the caller is cancelled, a template that works is ended and one that waits never begins."""
        if ask.prompt is not None:
            return ()
        cancel = Cancel()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._templates, self._render, ask, cancel)
        except asyncio.CancelledError:
            cancel.set()
            raise

    async def _forms(self, ask: Ask, grammar: Grammar | None, thinking_open: bool) -> list[engine.Constraint | None]:
        """A form for each choice. Of a caller that is cancelled, a grammar that waits is never compiled."""
        make = partial(self._make_forms, ask, grammar, thinking_open)
        return await asyncio.get_running_loop().run_in_executor(self._compiling, make) if grammar else make()

    def _make_forms(self, ask: Ask, grammar: Grammar | None, thinking_open: bool) -> list[engine.Constraint | None]:
        forms: list[engine.Constraint | None] = [None] * ask.choices
        if grammar is not None or ask.thinking_tokens is not None:
            form = partial(self.grammars.form, grammar, thinking_open=thinking_open, budget=ask.thinking_tokens)
            forms = [form() for _ in range(ask.choices)]
        if ask.min_tokens:
            others = np.ones(self.text.engine.config.vocab, dtype=np.bool_)
            others[[i for i in self.stop_ids if i < len(others)]] = False
            forms = [AtLeast(form, ask.min_tokens, others) for form in forms]
        return forms

    # In a thread ------------------------------------------------------------------------------------------------------
    def _prepare(
        self, ask: Ask, rendered: tuple[Rendered, ...]
    ) -> tuple[Prompt, list[Sampling], Signatures, Grammar | None]:
        sampling = []
        for i in range(ask.choices):
            seed = ask.sampling.get("seed")
            chosen = {**ask.sampling, "seed": None if seed is None else seed + i}
            sampling.append(Sampling.from_generation_config(self.text.engine.defaults, **chosen))
        prompt = self._prompt(ask, rendered)
        self._check_fits(len(prompt.tokens))
        tools = Signatures(ask.tools if ask.choice != "none" else ())
        tools.resolve_all()  # here, because calls are parsed in the event loop
        grammar = self._grammar(ask, tools)
        if grammar:
            prompt = replace(prompt, ignored=(*prompt.ignored, *(f"schema.{keyword}" for keyword in grammar.unheld)))
        return prompt, sampling, tools, grammar

    def _grammar(self, ask: Ask, tools: Signatures) -> Grammar | None:
        if ask.schema is not None and not tools:
            return self.grammars.json(ask.schema, strict=ask.strict)
        if ask.schema is not None:
            return self.grammars.json_or_calls(ask.schema, tools, several=ask.several_calls, strict=ask.strict)
        strict = any(function.get("strict") for function in tools.functions())
        if not tools or (ask.choice in (None, "auto") and not strict):
            return None
        if ask.choice not in (None, "auto", "required"):
            if ask.choice not in tools:
                raise FlashMoeError(f"tool_choice names {ask.choice}, which is none of the tools.")
            tools = tools.only(ask.choice)
        return self.grammars.calls(tools, several=ask.several_calls, optional=ask.choice in (None, "auto"))

    @property
    def _template(self) -> ChatTemplate:
        try:
            return self.text.template
        except NoTemplateError:
            raise FlashMoeError("This model has no chat template: it can only go on from plain text.") from None

    def _render(self, ask: Ask, cancel: Cancel) -> tuple[Rendered, ...]:
        variables = dict(ask.template_variables)
        known = self._template.variables
        if unknown := sorted(variables.keys() - known):
            raise FlashMoeError(f"chat_template_kwargs.{unknown[0]} is nothing that this model's template knows.")
        if ask.thinking is not None:
            variables["enable_thinking"] = ask.thinking
        messages = self.written.restore(ask.messages)
        # A template that is told of tools describes them, so they are withheld where none may be called.
        tools = None if ask.choice == "none" else (list(ask.tools) or None)
        return tuple(
            self.text.render(messages, tools, {**variables, "add_generation_prompt": opening}, cancel)
            for opening in (True, False)
        )

    def _prompt(self, ask: Ask, rendered: tuple[Rendered, ...]) -> Prompt:
        tokenizer = self.text.tokenizer
        if ask.prompt is not None:
            raw = ask.prompt
            ids = raw
            if isinstance(raw, str):
                self._check_length(raw)
                ids = tokenizer.encode(raw, add_special_tokens=True)
            tokens = self.text.engine.check_tokens(ids)
            return Prompt(tokens, False, self._prefix_checkpoints(tokens, len(tokens) - 1))
        # What comes after the last message is rendered otherwise once an answer follows.
        prompt, before = rendered
        self._check_length(prompt.text)
        tokens = self.text.engine.check_tokens(tokenizer.encode_prompt(prompt))
        thinking_open = thinking_is_open(prompt.text)
        if ask.insist and ask.thinking is False and thinking_open:
            raise FlashMoeError("thinking cannot be disabled: this model always thinks before it answers.")
        unable = ask.thinking and not thinking_open and not self._template.can_think
        shared = common_prefix(tokens, np.array(tokenizer.encode_prompt(before), dtype=np.int32))
        return Prompt(tokens, thinking_open, self._prefix_checkpoints(tokens, shared), ("thinking",) if unable else ())

    def _check_length(self, text: str) -> None:
        """Refuse what cannot fit before all of it is tokenised, which takes a second a megabyte."""
        self._check_fits(self.text.tokenizer.count_up_to(text, self.text.engine.limits.context), "at least ")

    def _check_fits(self, tokens: int, about: str = "") -> None:
        """Raise CapacityError, in the words that clients look for, if the prompt leaves no room for an answer."""
        context, largest = self.text.engine.limits.context, self.text.engine.config.max_context
        if tokens >= context:
            raise CapacityError(
                f"prompt is too long: {about}{tokens} tokens > {context - 1} maximum. This model's maximum context "
                f"length is {context} tokens here, of which an answer needs one. Shorten the prompt, or start the "
                f"server with a larger --context (the model allows {largest})."
            )

    def _prefix_checkpoints(self, tokens: NDArray[np.int32], end: int) -> tuple[int, ...]:
        """Where the next prompt may part from this one: at `end`, and where a recent prompt did."""
        shared = max((common_prefix(tokens, other) for other in list(self._recent)), default=0)
        found = {end} | ({shared} if shared >= _LEAST_SHARED else set())
        return tuple(sorted(f for f in found if 0 < f < len(tokens)))


def common_prefix(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """How many tokens two prompts begin with alike."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length
