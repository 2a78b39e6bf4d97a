"""OpenAI's /v1/completions: text goes on from prompts, without the chat template.

Several prompts are as many asks, whose answers come in one list of choices. With `echo` a choice begins with its
prompt, and with `logprobs` besides, the prompt's own tokens are scored.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, cast
from uuid import uuid4

from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.engine.request import Token
from flashmoe.engine.scheduler import MAX_WAITING
from flashmoe.server.answer import Answer
from flashmoe.server.ask import Ask
from flashmoe.server.chat_answer import finish_reason, progress, token_logprobs, usage
from flashmoe.server.errors import ApiError
from flashmoe.server.events import Delta, Event, Finish, Reading
from flashmoe.server.openai_types import CompletionRequest, one_most
from flashmoe.server.service import Service
from flashmoe.server.sse import data

Json = dict[str, Any]
Prompt = str | list[int]
MOST_SCORES = 1_000_000
"""Probabilities of prompts' tokens that one request may ask for: each takes some 100 bytes until the answer is sent."""


def asks_of(r: CompletionRequest) -> list[Ask]:
    """One for each prompt. ApiError for fields that contradict each other."""
    choices, candidates = r.n or 1, r.best_of or r.n or 1
    if candidates < choices:
        raise ApiError(400, f"best_of must be at least n, which is {choices}.", "best_of")
    if r.stream and candidates > choices:
        raise ApiError(400, "best_of above n cannot be streamed: which is best is known at the end.", "best_of")
    prompts = _prompts(r)
    if len(prompts) * candidates > MAX_WAITING:
        raise ApiError(400, f"A request may ask for {MAX_WAITING} answers, those to all prompts together.", "prompt")
    to_rank = 0 if candidates > choices else None
    return [
        Ask(
            prompt=prompt,
            score_prompt=bool(r.echo and r.logprobs is not None),
            sampling=r.sampling(),
            max_tokens=_most(r),
            min_tokens=r.least(),
            stop=r.stops(),
            bias=r.bias(),
            top_logprobs=to_rank if r.logprobs is None else r.logprobs,
            choices=candidates,
        )
        for prompt in prompts
    ]


def _prompts(r: CompletionRequest) -> list[Prompt]:
    prompt: Any = r.prompt
    if isinstance(prompt, str):
        return [prompt]
    kinds = {type(part) for part in prompt}
    if len(kinds) > 1:
        raise ApiError(400, "prompt must be one text, or a list of texts, of token ids or of lists of them.", "prompt")
    return cast(list[Prompt], prompt) if kinds & {str, list} else [prompt]


def _most(r: CompletionRequest) -> int | None:
    if r.max_tokens == 0 and r.n_predict in (None, 0):
        return 0
    most = one_most(max_tokens=r.max_tokens, n_predict=r.n_predict)
    return 16 if most is None and r.max_tokens is None else most


async def begin(service: Service, r: CompletionRequest, asks: Sequence[Ask]) -> "Completion":
    """Queue all that is asked. Raises what Service.answer does, and ApiError for more scores than can be held."""
    answers: list[Answer] = []
    scores = 0
    try:
        for ask in asks:
            answers.append(await service.answer(ask))
            if ask.score_prompt:
                scores += answers[-1].prompt_tokens * ask.choices * (1 + (ask.top_logprobs or 0))
            if scores > MOST_SCORES:
                raise ApiError(
                    400,
                    f"echo and logprobs ask for more than {MOST_SCORES} probabilities of the prompts' tokens; give "
                    "a smaller logprobs, or fewer prompts at a time.",
                    "logprobs",
                )
    except BaseException:
        for answer in answers:
            answer.cancel()
        raise
    return Completion(r, answers, service.name, service.text.tokenizer)


class _Choice:
    """One choice as it grows. echo: what it begins with. scored: how many tokens of the prompt are reported."""

    def __init__(self, index: int, echo: str, scored: int, tokenizer: Tokenizer) -> None:
        self.index, self._echo, self._scored, self._tokenizer = index, echo, scored, tokenizer
        self.text, self.tokens = "", list[Token]()
        self._told = self._offset = 0
        # Special tokens are part of a prompt's text, and not of what follows it.
        self._of_prompt, self._of_answer = tokenizer.stream(keep_special=True), tokenizer.stream()

    def add(self, delta: Delta) -> str:
        """The text that a delta adds, the prompt before it if that is not told yet."""
        text, self._echo = self._echo + delta.content, ""
        self.text += text
        self.tokens += delta.reported
        return text

    def logprobs(self) -> Json | None:
        """The object of the tokens since the last call; None for none."""
        texts, values, tops, offsets = [], [], [], []
        for token in self.tokens[self._told :]:
            entry = next(iter(token_logprobs([token], self._tokenizer)), None)
            texts.append(self._tokenizer.decode([token.token_id]))
            values.append(entry and entry["logprob"])
            tops.append(entry and _by_text(entry))
            offsets.append(self._offset)
            decoder = self._of_prompt if self._told < self._scored else self._of_answer
            self._offset += len(decoder.push(token.token_id))
            self._told += 1
        if not texts:
            return None
        return {"tokens": texts, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}

    @property
    def mean_logprob(self) -> float:
        """Of the tokens after the prompt."""
        values = [token.logprob.value for token in self.tokens[self._scored :] if token.logprob]
        return math.fsum(values) / len(values) if values else 0.0


def _by_text(entry: Json) -> Json:
    """The likeliest tokens and the chosen one. Tokens of incomplete characters may look alike: the likeliest counts."""
    found: Json = {}
    for one in [*entry["top_logprobs"], entry] if entry["top_logprobs"] else ():
        found.setdefault(one["token"], one["logprob"])
    return found


class Completion:
    """What one request is answered with: choice by choice, those of its first prompt first."""

    def __init__(
        self,
        request: CompletionRequest,
        answers: Sequence[Answer],
        model: str,
        tokenizer: Tokenizer,
    ) -> None:
        self._request, self._answers = request, answers
        self._head = {
            "id": f"cmpl-{uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._choices = list[list[_Choice]]()
        for answer in answers:
            prompt = answer.ask.prompt or ""
            text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
            echo, scored = text if request.echo else "", answer.prompt_tokens if answer.ask.score_prompt else 0
            first = sum(map(len, self._choices))
            numbers = range(first, first + len(answer.tickets))
            self._choices.append([_Choice(number, echo, scored, tokenizer) for number in numbers])

    def cancel(self) -> None:
        """End the computing."""
        for answer in self._answers:
            answer.cancel()

    async def whole(self) -> Json:
        """The text_completion object."""
        async for number, index, event in _together(self._answers):
            if isinstance(event, Delta):
                self._choices[number][index].add(event)
        return await asyncio.to_thread(self._object)  # thousands of tokens with their rivals take a while to write

    def _object(self) -> Json:
        told = list[Json]()
        for answer, candidates in zip(self._answers, self._choices, strict=True):
            wanted = self._request.n or 1
            best = sorted(candidates, key=lambda c: -c.mean_logprob) if len(candidates) > wanted else candidates
            for choice in best[:wanted]:
                choice.add(Delta())
                logprobs = None if self._request.logprobs is None else choice.logprobs()
                reason = finish_reason(answer.finished[candidates.index(choice)])
                told.append({"index": len(told), "text": choice.text, "logprobs": logprobs, "finish_reason": reason})
        return {**self._head, "choices": told, "usage": self._usage}

    async def events(self) -> AsyncGenerator[str, None]:
        """text_completion objects as server-sent events."""
        yield self.alive()
        async for number, index, event in _together(self._answers):
            if isinstance(event, Reading):
                yield progress(event)
                continue
            choice = self._choices[number][index]
            if isinstance(event, Finish):
                yield self._chunk(choice.index, text=choice.add(Delta()), finish_reason=finish_reason(event))
            else:
                yield self._chunk(choice.index, text=choice.add(event), logprobs=choice.logprobs())
        if self._include_usage:
            yield data({**self._head, "choices": [], "usage": self._usage})
        yield "data: [DONE]\n\n"

    def alive(self) -> str:
        return self._chunk(0)

    def failed(self, error: ApiError) -> str:
        return data(error.openai())

    def _chunk(self, index: int, **fields: Any) -> str:
        choice = {"index": index, "text": "", "logprobs": None, "finish_reason": None} | fields
        return data({**self._head, "choices": [choice], **({"usage": None} if self._include_usage else {})})

    @property
    def _include_usage(self) -> bool:
        options = self._request.stream_options
        return bool(options and options.include_usage)

    @property
    def _usage(self) -> Json:
        each = [usage(answer) for answer in self._answers]
        return {name: _sum([one[name] for one in each]) for name in each[0]}


def _sum(values: Sequence[Any]) -> Any:
    """Of numbers, or of objects of numbers by name."""
    return {name: sum(v[name] for v in values) for name in values[0]} if isinstance(values[0], dict) else sum(values)


async def _together(answers: Sequence[Answer]) -> AsyncGenerator[tuple[int, int, Event], None]:
    """(number of the answer, choice, event) of all answers as they come. Raises what one of them raises."""
    running = [answer.events() for answer in answers]
    steps = {asyncio.ensure_future(anext(events, None)): number for number, events in enumerate(running)}
    try:
        while steps:
            done, _ = await asyncio.wait(steps, return_when=asyncio.FIRST_COMPLETED)
            for step in done:
                number = steps.pop(step)
                if (told := step.result()) is not None:
                    steps[asyncio.ensure_future(anext(running[number], None))] = number
                    yield number, *told
    finally:
        for step in steps:
            step.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await step
        for events in running:
            await events.aclose()
