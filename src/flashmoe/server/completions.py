"""OpenAI's /v1/completions: text goes on from a prompt, without the chat template."""

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from uuid import uuid4

from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.engine.request import Token
from flashmoe.server.answer import Answer
from flashmoe.server.ask import Ask
from flashmoe.server.chat_answer import finish_reason, progress, token_logprobs, usage
from flashmoe.server.errors import ApiError
from flashmoe.server.events import Delta, Finish, Reading
from flashmoe.server.openai_types import CompletionRequest, one_most
from flashmoe.server.sse import data

Json = dict[str, Any]


def ask_of(r: CompletionRequest) -> Ask:
    """ApiError for several prompts at once, which are several requests here."""
    most = one_most(max_tokens=r.max_tokens, n_predict=r.n_predict)
    prompt: Any = r.prompt
    if isinstance(prompt, list) and any(isinstance(part, str) for part in prompt):
        if len(prompt) > 1:
            raise ApiError(400, "prompt must be one text or one list of token ids.", "prompt")
        prompt = prompt[0]
    return Ask(
        prompt=prompt,
        sampling=r.sampling(),
        max_tokens=16 if most is None and r.max_tokens is None else most,
        min_tokens=r.least(),
        stop=r.stops(),
        bias=r.bias(),
        top_logprobs=r.logprobs,
        choices=r.n or 1,
    )


def _head(model: str) -> Json:
    return {"id": f"cmpl-{uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": model}


def _logprobs(tokens: Sequence[Token], tokenizer: Tokenizer, begin: int = 0) -> Json | None:
    if not tokens:
        return None
    entries = token_logprobs(tokens, tokenizer)
    texts = [entry["token"] for entry in entries]
    offsets = [begin + sum(map(len, texts[:i])) for i in range(len(texts))]
    tops = [{top["token"]: top["logprob"] for top in entry["top_logprobs"]} for entry in entries]
    values = [entry["logprob"] for entry in entries]
    return {"tokens": texts, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


async def whole(answer: Answer, model: str) -> Json:
    """The text_completion object."""
    texts = [""] * len(answer.tickets)
    tokens: list[list[Token]] = [[] for _ in texts]
    async for index, event in answer.events():
        if isinstance(event, Delta):
            texts[index] += event.content
            tokens[index] += event.reported
    choices = [
        {
            "index": i,
            "text": text,
            "logprobs": _logprobs(tokens[i], answer.tokenizer),
            "finish_reason": finish_reason(answer.finished[i]),
        }
        for i, text in enumerate(texts)
    ]
    return {**_head(model), "choices": choices, "usage": usage(answer)}


class TextChunks:
    """text_completion objects as server-sent events."""

    def __init__(self, answer: Answer, model: str, include_usage: bool) -> None:
        self._answer, self._include_usage = answer, include_usage
        self._head = _head(model)

    def _chunk(self, index: int, **fields: Any) -> str:
        choice = {"index": index, "text": "", "logprobs": None, "finish_reason": None} | fields
        return data({**self._head, "choices": [choice], **({"usage": None} if self._include_usage else {})})

    async def events(self) -> AsyncGenerator[str, None]:
        answer = self._answer
        told = [0] * len(answer.tickets)
        yield self.alive()
        async for index, event in answer.events():
            if isinstance(event, Reading):
                yield progress(event)
            elif isinstance(event, Finish):
                yield self._chunk(index, finish_reason=finish_reason(event))
            else:
                logprobs = _logprobs(event.reported, answer.tokenizer, told[index])
                told[index] += len(event.content)
                yield self._chunk(index, text=event.content, logprobs=logprobs)
        if self._include_usage:
            yield data({**self._head, "choices": [], "usage": usage(answer)})
        yield "data: [DONE]\n\n"

    def alive(self) -> str:
        return self._chunk(0)

    def failed(self, error: ApiError) -> str:
        return data(error.openai())
