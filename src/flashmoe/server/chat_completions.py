"""OpenAI's /v1/chat/completions: its requests as asks, and answers in its shapes."""

import json
import math
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any
from uuid import uuid4

import msgspec

from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.engine.request import Logprob, Token
from flashmoe.server.ask import Ask, Call, Delta, Finish, Origin, Reading
from flashmoe.server.chat_types import (
    AllowedTools,
    Assistant,
    ChatRequest,
    CustomTool,
    Developer,
    FunctionResult,
    JsonObject,
    JsonSchema,
    Message,
    NamedCustom,
    NamedFunction,
    NamedTool,
    OtherTool,
    RefusalPart,
    Text,
    TextPart,
    Thinking,
    ToolResult,
)
from flashmoe.server.errors import ApiError
from flashmoe.server.openai_types import one_most
from flashmoe.server.service import Answer
from flashmoe.server.tools import Toolbox, call_text, check_choice, past_call

Json = dict[str, Any]


def ask_of(r: ChatRequest) -> Ask:
    """ApiError for fields that contradict each other or need another."""
    if r.top_logprobs and not r.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true.", "top_logprobs")
    tools = _tools(r)
    schema = _schema(r)
    choice = check_choice(_chosen(r, tools), tools.functions, schema, "response_format")
    variables = dict(r.chat_template_kwargs or {})
    if taken := {"messages", "tools", "add_generation_prompt"} & variables.keys():
        raise ApiError(400, f"chat_template_kwargs may not hold {min(taken)}.", "chat_template_kwargs")
    thinking, thinking_tokens = _thinking(r, variables.pop("enable_thinking", None))
    return Ask(
        messages=_messages(r.messages),
        tools=tools.templates_tools(),
        origins=tools.origins,
        left_out=tuple(tools.left_out),
        choice=choice,
        several_calls=r.parallel_tool_calls is not False and not r.functions,
        sampling=r.sampling(),
        max_tokens=one_most(
            max_tokens=r.max_tokens, max_completion_tokens=r.max_completion_tokens, n_predict=r.n_predict
        ),
        min_tokens=r.least(),
        stop=r.stops(),
        bias=r.bias(),
        top_logprobs=(r.top_logprobs or 0) if r.logprobs else None,
        schema=schema,
        thinking=thinking,
        insist=True,
        thinking_tokens=thinking_tokens,
        template_variables=variables,
        choices=r.n or 1,
        hints=("stream_options",) if r.stream_options and not r.stream else (),
    )


def _schema(r: ChatRequest) -> Any:
    if isinstance(r.response_format, JsonSchema):
        return r.response_format.json_schema.schema
    return {"type": "object"} if isinstance(r.response_format, JsonObject) else None


def _thinking(r: ChatRequest, template_switch: Any) -> tuple[bool | None, int | None]:
    """Whether to think, None for the template's own way, and the most tokens. A switch rules over an effort."""
    if not isinstance(template_switch, bool | None):
        raise ApiError(400, "chat_template_kwargs.enable_thinking must be true or false.", "chat_template_kwargs")
    tokens = r.thinking_budget
    switches = [template_switch, r.enable_thinking]
    if isinstance(r.thinking, Thinking):
        switches.append(r.thinking.type != "disabled")
        tokens = tokens or r.thinking.budget_tokens
    else:
        switches.append(r.thinking)
    efforts = [r.reasoning_effort]
    if r.reasoning:
        switches.append(r.reasoning.enabled)
        efforts.append(r.reasoning.effort)
        tokens = tokens or r.reasoning.max_tokens
    switches += [effort != "none" for effort in efforts if effort is not None]
    return next((switch for switch in switches if switch is not None), None), tokens


# Tools ----------------------------------------------------------------------------------------------------------------
def _tools(r: ChatRequest) -> Toolbox:
    tools = Toolbox()
    for i, tool in enumerate(r.tools or ()):
        if isinstance(tool, OtherTool):
            tools.leave_out(tool.name)
        elif isinstance(tool, CustomTool):
            custom = tool.custom
            origin = Origin(custom.name, form="custom")
            tools.add_custom(custom.description, custom.format, origin, f"tools[{i}].custom.name")
        else:
            name = tool.function.name
            tools.add(_function(tool.function), Origin(name), f"tools[{i}].function.name")
    for i, function in enumerate(r.functions or ()):
        tools.add(_function(function), Origin(function.name, form="legacy"), f"functions[{i}].name")
    if r.web_search_options is not None:
        tools.leave_out("web_search_options")
    tools.check()
    if isinstance(r.tool_choice, AllowedTools):
        tools.only(tools.shown(_named(tool)) for tool in r.tool_choice.allowed_tools.tools)
    return tools


def _function(function: Any) -> Json:
    described: Json = msgspec.to_builtins(function)
    described.pop("cache_control", None)
    return described


def _named(tool: NamedTool | NamedCustom) -> str:
    return tool.function.name if isinstance(tool, NamedTool) else tool.custom.name


def _chosen(r: ChatRequest, tools: Toolbox) -> str | None:
    choice = r.tool_choice
    if isinstance(choice, AllowedTools):
        return choice.allowed_tools.mode
    if choice is None:
        legacy = r.function_call
        return tools.shown(legacy.name) if isinstance(legacy, NamedFunction) else legacy
    return choice if isinstance(choice, str) else tools.shown(_named(choice))


# Messages -------------------------------------------------------------------------------------------------------------
def plain(text: Text | None) -> str:
    """Parts as one string."""
    if text is None or isinstance(text, str):
        return text or ""
    return "".join(part.text if isinstance(part, TextPart) else _refusal(part) for part in text)


def _refusal(part: Any) -> str:
    return part.refusal if isinstance(part, RefusalPart) else ""


def _messages(messages: Sequence[Message]) -> list[Json]:
    """As chat templates take them. A call by `function_call` has no id, so it gets one, and so does its result."""
    found: list[Json] = []
    legacy = 0
    for i, message in enumerate(messages):
        if isinstance(message, Assistant):
            legacy += message.function_call is not None
            found.append(_assistant(message, f"legacy_{legacy}", f"messages[{i}]"))
        elif isinstance(message, ToolResult):
            found.append({"role": "tool", "content": plain(message.content), "tool_call_id": message.tool_call_id})
        elif isinstance(message, FunctionResult):
            found.append({"role": "tool", "content": plain(message.content), "tool_call_id": f"legacy_{legacy}"})
        else:
            role = "system" if isinstance(message, Developer) else str(message.__struct_config__.tag)
            found.append({"role": role, "content": plain(message.content)})
    return found


def _assistant(message: Assistant, legacy_id: str, where: str) -> Json:
    calls = []
    for i, call in enumerate(message.tool_calls or ()):
        place = f"{where}.tool_calls[{i}]"
        if call.type == "custom" and call.custom:
            origin = Origin(call.custom.name, form="custom")
            calls.append(past_call(call.id, origin, call.custom.input, f"{place}.custom.input"))
        elif call.type == "function" and call.function:
            origin = Origin(call.function.name)
            calls.append(past_call(call.id, origin, call.function.arguments, f"{place}.function.arguments"))
        else:
            raise ApiError(400, f"{place} needs {call.type}.", place)
    if legacy := message.function_call:
        calls.append(past_call(legacy_id, Origin(legacy.name), legacy.arguments, f"{where}.function_call.arguments"))
    said: Json = {"role": "assistant", "content": plain(message.content) or message.refusal or ""}
    thought = _thought(message)
    said |= {} if thought is None else {"reasoning_content": thought}
    return said | ({"tool_calls": calls} if calls else {})


def _thought(message: Assistant) -> str | None:
    """What the model thought, by the first name that has it. Details are OpenRouter's: texts, summaries or ciphers."""
    for text in (message.reasoning_content, message.reasoning):
        if text is not None:
            return text
    details = message.reasoning_details or ()
    texts = [detail.get("text") or detail.get("summary") for detail in details]
    known = [text for text in texts if isinstance(text, str)]
    return "".join(known) if known else None


# Answers ------------------------------------------------------------------------------------------------------------
def usage(answer: Answer) -> Json:
    """The numbers of tokens of an answer that is finished."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.tokens,
        "total_tokens": answer.prompt_tokens + answer.tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": answer.thinking_tokens},
    }


def tool_call(call: Call, ask: Ask) -> Json:
    """A call of a function or a custom tool."""
    origin = ask.origin(call.call.name)
    given = call_text(call.call, origin)
    if origin.form == "custom":
        return {"id": call.id, "type": "custom", "custom": {"name": origin.name, "input": given}}
    return {"id": call.id, "type": "function", "function": {"name": origin.name, "arguments": given}}


def calls_of(calls: Sequence[Json], ask: Ask) -> Json:
    """Calls as a message, or a piece of one, has them."""
    return {"function_call": calls[0]["function"]} if ask.legacy else {"tool_calls": list(calls)}


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
            choice["calls"] += [tool_call(event.call, answer.ask)] if event.call else []
            choice["tokens"] += event.reported
    return {
        **_head("chat.completion", model),
        "choices": [_choice(i, c, answer, tokenizer) for i, c in enumerate(choices)],
        "usage": usage(answer),
    }


def _head(kind: str, model: str) -> Json:
    return {"id": f"chatcmpl-{uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _choice(index: int, said: Json, answer: Answer, tokenizer: Tokenizer) -> Json:
    message: Json = {
        "role": "assistant",
        "content": said["content"] or (None if said["calls"] else ""),
        "refusal": None,
    }
    if said["thinking"]:
        message["reasoning_content"] = said["thinking"]
    if said["calls"]:
        message |= calls_of(said["calls"], answer.ask)
    logprobs = {"content": token_logprobs(said["tokens"], tokenizer), "refusal": None} if said["tokens"] else None
    reason = _reason(answer.finished[index], answer.ask)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def finish_reason(finish: Finish) -> str:
    """Only a server that shuts down cancels while somebody listens: the answer was cut short."""
    return "length" if finish.reason == "cancelled" else finish.reason


def _reason(finish: Finish, ask: Ask) -> str:
    reason = finish_reason(finish)
    return "function_call" if reason == "tool_calls" and ask.legacy else reason


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
            yield chunk(index, {}, _reason(event, answer.ask))
            continue
        delta: Json = {}
        if event.call:
            delta |= calls_of([{"index": calls[index], **tool_call(event.call, answer.ask)}], answer.ask)
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
