"""OpenAI's /v1/chat/completions: its requests as asks, and answers in its shapes."""

import json
import math
import time
from collections.abc import AsyncGenerator, Iterable
from typing import Any
from uuid import uuid4

import msgspec

from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.engine.request import Logprob, Token
from flashmoe.server.ask import Ask, Call, Delta, Finish, Reading
from flashmoe.server.errors import ApiError
from flashmoe.server.openai_types import ChatRequest, Common, JsonObject, JsonSchema, NamedTool, for_template
from flashmoe.server.service import Answer

Json = dict[str, Any]


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """ApiError for an empty one, which would end everything."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > 16 or not all(stops):
        raise ApiError(400, "stop must be at most 16 strings of at least one character.", "stop")
    return stops


def bias_of(request: Common) -> dict[int, float]:
    """logit_bias by token id; ApiError for a key that is none."""
    bias = request.logit_bias or {}
    if wrong := next((key for key in bias if not (key.isascii() and key.isdigit() and len(key) < 10)), None):
        raise ApiError(400, f"logit_bias has the key {wrong!r}, which is no token id.", "logit_bias")
    return {int(key): value for key, value in bias.items()}


def ask_of(r: ChatRequest) -> Ask:
    """ApiError for fields that contradict each other."""
    if r.max_tokens is not None and r.max_completion_tokens is not None and r.max_tokens != r.max_completion_tokens:
        raise ApiError(400, "max_tokens and max_completion_tokens differ; give one of them.", "max_tokens")
    if r.top_logprobs is not None and not r.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true.", "top_logprobs")
    if r.stream_options is not None and not r.stream:
        raise ApiError(400, "stream_options needs stream: true.", "stream_options")
    choice = r.tool_choice.function.name if isinstance(r.tool_choice, NamedTool) else r.tool_choice
    if choice not in (None, "none", "auto") and not r.tools:
        raise ApiError(400, "tool_choice needs tools.", "tool_choice")
    schema = _schema(r)
    if schema is not None and choice not in (None, "none", "auto"):
        raise ApiError(400, "response_format and a required tool call exclude each other.", "response_format")
    variables = dict(r.chat_template_kwargs or {})
    if taken := {"messages", "tools", "add_generation_prompt"} & variables.keys():
        raise ApiError(400, f"chat_template_kwargs may not hold {min(taken)}.", "chat_template_kwargs")
    return Ask(
        messages=[for_template(message) for message in r.messages],
        tools=[msgspec.to_builtins(tool) for tool in r.tools or ()],
        choice=choice,
        several_calls=r.parallel_tool_calls is not False,
        sampling=r.sampling(),
        max_tokens=r.max_completion_tokens or r.max_tokens,
        stop=stop_strings(r.stop),
        bias=bias_of(r),
        top_logprobs=(r.top_logprobs or 0) if r.logprobs else None,
        schema=schema,
        template_variables=variables,
        choices=r.n or 1,
    )


def _schema(r: ChatRequest) -> Any:
    if isinstance(r.response_format, JsonSchema):
        return r.response_format.json_schema.schema
    return {"type": "object"} if isinstance(r.response_format, JsonObject) else None


def usage(answer: Answer) -> Json:
    """The numbers of tokens of an answer that is finished."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.tokens,
        "total_tokens": answer.prompt_tokens + answer.tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": answer.thinking_tokens},
    }


def tool_call(call: Call) -> Json:
    arguments = json.dumps(call.call.arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.call.name, "arguments": arguments}}


def token_logprobs(tokens: Iterable[Token], tokenizer: Tokenizer) -> list[Json]:
    """Of the tokens as they were chosen, those of the thinking among them."""

    def entry(logprob: Logprob) -> Json:
        written = tokenizer.token_bytes(logprob.token_id)
        value = logprob.value if math.isfinite(logprob.value) else -9999.0
        return {"token": written.decode("utf-8", "replace"), "logprob": value, "bytes": list(written)}

    return [{**entry(t.logprob), "top_logprobs": [entry(o) for o in t.top]} for t in tokens if t.logprob]


async def whole(answer: Answer, model: str, tokenizer: Tokenizer) -> Json:
    """The chat.completion object."""
    choices: list[Json] = [{"content": "", "thinking": "", "calls": [], "tokens": []} for _ in answer.tickets]
    async for index, event in answer.events():
        if isinstance(event, Delta):
            choice = choices[index]
            choice["content"] += event.content
            choice["thinking"] += event.thinking
            choice["calls"] += [tool_call(event.call)] if event.call else []
            choice["tokens"] += event.reported
    return {
        **_head("chat.completion", model),
        "choices": [_choice(i, c, answer.finished[i], tokenizer) for i, c in enumerate(choices)],
        "usage": usage(answer),
    }


def _head(kind: str, model: str) -> Json:
    return {"id": f"chatcmpl-{uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _choice(index: int, said: Json, finish: Finish, tokenizer: Tokenizer) -> Json:
    message: Json = {
        "role": "assistant",
        "content": said["content"] or (None if said["calls"] else ""),
        "refusal": None,
    }
    if said["thinking"]:
        message["reasoning_content"] = said["thinking"]
    if said["calls"]:
        message["tool_calls"] = said["calls"]
    logprobs = {"content": token_logprobs(said["tokens"], tokenizer), "refusal": None} if said["tokens"] else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish_reason(finish)}


def finish_reason(finish: Finish) -> str:
    """Only a server that shuts down cancels while somebody listens: the answer was cut short."""
    return "length" if finish.reason == "cancelled" else finish.reason


async def stream(answer: Answer, model: str, tokenizer: Tokenizer, include_usage: bool) -> AsyncGenerator[str, None]:
    """The chat.completion.chunk objects as server-sent events; progress on the prompt as comments."""
    head = _head("chat.completion.chunk", model)
    calls = [0] * len(answer.tickets)
    begun = set[int]()

    def chunk(index: int, delta: Json, reason: str | None = None, logprobs: Json | None = None) -> str:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return data({**head, "choices": [choice], **({"usage": None} if include_usage else {})})

    async for index, event in answer.events():
        if isinstance(event, Reading):
            yield progress(event)
            continue
        if index not in begun:
            begun.add(index)
            yield chunk(index, {"role": "assistant", "content": ""})
        if isinstance(event, Finish):
            yield chunk(index, {}, finish_reason(event))
            continue
        delta: Json = {}
        if event.call:
            delta["tool_calls"] = [{"index": calls[index], **tool_call(event.call)}]
            calls[index] += 1
        delta |= {"content": event.content} if event.content else {}
        delta |= {"reasoning_content": event.thinking} if event.thinking else {}
        logprobs = {"content": token_logprobs(event.reported, tokenizer), "refusal": None} if event.reported else None
        yield chunk(index, delta, None, logprobs)
    if include_usage:
        yield data({**head, "choices": [], "usage": usage(answer)})
    yield "data: [DONE]\n\n"


def data(value: Json) -> str:
    """One server-sent event without a name."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def progress(reading: Reading) -> str:
    """A comment line, which clients skip."""
    return f": prompt {reading.done}/{reading.total}\n\n"


def stream_error(error: ApiError) -> str:
    return data(error.openai())
