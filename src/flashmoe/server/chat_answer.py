"""Answers of OpenAI's /v1/chat/completions, whole or as chunks.

Invariant: the chunks of a stream add up to the message that `whole` gives for the same answer.
"""

import math
import time
from collections.abc import AsyncGenerator, Iterable
from typing import Any
from uuid import uuid4

from flashmoe.chat.call_writer import CallBegun
from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.engine.request import Logprob, Token
from flashmoe.server.answer import Answer
from flashmoe.server.ask import Ask, Origin
from flashmoe.server.errors import ApiError
from flashmoe.server.events import Delta, Finish, Reading
from flashmoe.server.sse import comment, data
from flashmoe.server.tools import given_by

Json = dict[str, Any]


def usage(answer: Answer) -> Json:
    """The numbers of tokens of an answer that is finished."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.tokens,
        "total_tokens": answer.prompt_tokens + answer.tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": answer.thinking_tokens},
    }


def token_logprobs(tokens: Iterable[Token], tokenizer: Tokenizer) -> list[Json]:
    """Of the tokens as they were chosen, those of the thinking among them."""

    def entry(logprob: Logprob) -> Json:
        written = tokenizer.token_bytes(logprob.token_id)
        value = logprob.value if math.isfinite(logprob.value) else -9999.0
        return {"token": written.decode("utf-8", "replace"), "logprob": value, "bytes": list(written)}

    return [{**entry(t.logprob), "top_logprobs": [entry(o) for o in t.top]} for t in tokens if t.logprob]


def finish_reason(finish: Finish) -> str:
    """Only a server that shuts down cancels while somebody listens: the answer was cut short."""
    return "length" if finish.reason == "cancelled" else finish.reason


def _reason(finish: Finish, ask: Ask) -> str:
    reason = finish_reason(finish)
    return "function_call" if reason == "tool_calls" and ask.legacy else reason


def progress(reading: Reading) -> str:
    """A comment line, which clients skip."""
    return comment(f"prompt {reading.done}/{reading.total}")


def _head(kind: str, model: str) -> Json:
    return {"id": f"chatcmpl-{uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _logprobs(tokens: Iterable[Token], tokenizer: Tokenizer) -> Json | None:
    entries = token_logprobs(tokens, tokenizer)
    return {"content": entries, "refusal": None} if entries else None


class _Calls:
    """The calls of one choice, of functions and custom tools: what each event adds to them, and what they are."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._origin = Origin("")
        self._made: list[Json] = []

    def add(self, delta: Delta) -> Json:
        """What a chunk says of it, if anything."""
        if delta.call is None:
            return {}
        if isinstance(delta.call, CallBegun):
            self._origin = self._ask.origin(delta.call.name)
            kind, field = self._form()
            begun = {"name": self._origin.name, field: ""}
            self._made.append({"id": delta.call_id, "type": kind, kind: begun})
            return self._as_told([{"index": len(self._made) - 1, **self._made[-1], kind: dict(begun)}])
        kind, field = self._form()
        given = given_by(delta.call, self._origin, self._made[-1][kind][field])
        self._made[-1][kind][field] += given
        return self._as_told([{"index": len(self._made) - 1, kind: {field: given}}]) if given else {}

    def all(self) -> Json:
        """The calls as a message has them."""
        return self._as_told(self._made) if self._made else {}

    def _form(self) -> tuple[str, str]:
        return ("custom", "input") if self._origin.form == "custom" else ("function", "arguments")

    def _as_told(self, calls: list[Json]) -> Json:
        return {"function_call": calls[0]["function"]} if self._ask.legacy else {"tool_calls": calls}


class _Choice:
    """One choice as it grows."""

    def __init__(self, ask: Ask) -> None:
        self._content = self._thinking = ""
        self._calls = _Calls(ask)
        self._tokens: list[Token] = []

    def add(self, delta: Delta) -> None:
        self._content += delta.content
        self._thinking += delta.thinking
        self._calls.add(delta)
        self._tokens += delta.reported

    def whole(self, index: int, answer: Answer) -> Json:
        calls = self._calls.all()
        message: Json = {"role": "assistant", "content": self._content or (None if calls else ""), "refusal": None}
        if self._thinking:
            message["reasoning_content"] = self._thinking
        logprobs, reason = _logprobs(self._tokens, answer.tokenizer), _reason(answer.finished[index], answer.ask)
        return {"index": index, "message": message | calls, "logprobs": logprobs, "finish_reason": reason}


async def whole(answer: Answer, model: str) -> Json:
    """The chat.completion object."""
    choices = [_Choice(answer.ask) for _ in answer.tickets]
    async for index, event in answer.events():
        if isinstance(event, Delta):
            choices[index].add(event)
    return {
        **_head("chat.completion", model),
        "choices": [choice.whole(i, answer) for i, choice in enumerate(choices)],
        "usage": usage(answer),
    }


class Chunks:
    """The chat.completion.chunk objects as server-sent events; progress on the prompt as comments."""

    def __init__(self, answer: Answer, model: str, include_usage: bool) -> None:
        self._answer, self._include_usage = answer, include_usage
        self._head = _head("chat.completion.chunk", model)

    def _chunk(self, index: int, delta: Json, reason: str | None = None, logprobs: Json | None = None) -> str:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return data({**self._head, "choices": [choice], **({"usage": None} if self._include_usage else {})})

    async def events(self) -> AsyncGenerator[str, None]:
        answer, calls = self._answer, [_Calls(self._answer.ask) for _ in self._answer.tickets]
        for index in range(len(calls)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        async for index, event in answer.events():
            if isinstance(event, Reading):
                yield progress(event)
            elif isinstance(event, Finish):
                yield self._chunk(index, {}, _reason(event, answer.ask))
            else:
                delta = _delta(event, calls[index])
                if delta or event.reported:
                    yield self._chunk(index, delta, None, _logprobs(event.reported, answer.tokenizer))
        if self._include_usage:
            yield data({**self._head, "choices": [], "usage": usage(answer)})
        yield "data: [DONE]\n\n"

    def alive(self) -> str:
        return self._chunk(0, {})

    def failed(self, error: ApiError) -> str:
        return data(error.openai())


def _delta(event: Delta, calls: _Calls) -> Json:
    delta = calls.add(event) | ({"content": event.content} if event.content else {})
    return delta | ({"reasoning_content": event.thinking} if event.thinking else {})
