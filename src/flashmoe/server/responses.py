"""OpenAI's /v1/responses: its requests as asks, and answers as items, whole or event by event.

Invariant: the response that ends a stream is the one that `whole` gives for the same answer.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from uuid import uuid4

import msgspec

from flashmoe.server.ask import Ask, Call, Delta, Finish, Origin, Reading
from flashmoe.server.chat_completions import progress
from flashmoe.server.chat_types import OtherTool
from flashmoe.server.errors import ApiError
from flashmoe.server.messages import named
from flashmoe.server.openai_types import one_most
from flashmoe.server.responses_types import (
    AllowedTools,
    CustomCall,
    CustomOutput,
    CustomTool,
    FunctionCall,
    FunctionOutput,
    FunctionTool,
    Item,
    Message,
    Namespace,
    ObjectFormat,
    ReasoningItem,
    Refusal,
    ResponsesRequest,
    SchemaFormat,
)
from flashmoe.server.service import Answer
from flashmoe.server.tools import Toolbox, call_text, check_choice, past_call

Json = dict[str, Any]


def ask_of(r: ResponsesRequest) -> Ask:
    """ApiError for fields that contradict each other or lack something."""
    form = r.text.format if r.text else None
    schema = form.schema if isinstance(form, SchemaFormat) else None
    schema = {"type": "object"} if isinstance(form, ObjectFormat) else schema
    if isinstance(r.include, list) and "message.output_text.logprobs" in r.include:
        raise ApiError(400, "include: log probabilities are told by /v1/chat/completions alone.", "include")
    tools = _tools(r)
    effort = r.reasoning.effort if r.reasoning else None
    return Ask(
        messages=_messages(r),
        tools=tools.templates_tools(),
        origins=tools.origins,
        left_out=tuple(tools.left_out),
        choice=check_choice(_choice(r, tools), tools.functions, schema, "text"),
        several_calls=r.parallel_tool_calls is not False,
        sampling=r.sampling(),
        max_tokens=one_most(max_output_tokens=r.max_output_tokens),
        schema=schema,
        thinking=None if effort is None else effort != "none",
        insist=True,
    )


# Tools ----------------------------------------------------------------------------------------------------------------
def _tools(r: ResponsesRequest) -> Toolbox:
    tools = Toolbox()
    for i, tool in enumerate(r.tools or ()):
        if isinstance(tool, OtherTool):
            tools.leave_out(tool.name)
        elif isinstance(tool, Namespace):
            for j, inner in enumerate(tool.tools):
                _add(tools, inner, tool.name, f"tools[{i}].tools[{j}].name")
        else:
            _add(tools, tool, None, f"tools[{i}].name")
    tools.check()
    if isinstance(r.tool_choice, AllowedTools):
        named = [tool for tool in r.tool_choice.tools if not isinstance(tool, OtherTool)]
        tools.only(tools.shown(tool.name, tool.namespace) for tool in named)
    return tools


def _add(tools: Toolbox, tool: FunctionTool | CustomTool, namespace: str | None, where: str) -> None:
    if isinstance(tool, CustomTool):
        tools.add_custom(tool.description, tool.format, Origin(tool.name, namespace, "custom"), where)
    else:
        names = ("name", "description", "parameters", "strict")
        tools.add({name: getattr(tool, name) for name in names}, Origin(tool.name, namespace), where)


def _choice(r: ResponsesRequest, tools: Toolbox) -> str | None:
    choice = r.tool_choice
    if choice is None or isinstance(choice, str):
        return choice
    if isinstance(choice, AllowedTools):
        return choice.mode
    if isinstance(choice, OtherTool):
        raise ApiError(400, f"tool_choice asks for {choice.name!s:.60}, which this server cannot run.", "tool_choice")
    return tools.shown(choice.name, choice.namespace)


def said_back(r: ResponsesRequest) -> Json:
    """The tools that are used and the choice of one, as a response repeats them."""
    tools = [_without_nulls(tool) for tool in r.tools or () if not isinstance(tool, OtherTool)]
    defaults = {"parameters": None, "strict": False}
    choice = r.tool_choice if r.tool_choice is not None else "auto"
    return {
        "tools": [defaults | tool if tool["type"] == "function" else tool for tool in tools],
        "tool_choice": choice if isinstance(choice, str) else _without_nulls(choice),
    }


def _without_nulls(value: Any) -> Json:
    return {key: inner for key, inner in msgspec.to_builtins(value).items() if inner is not None}


# Messages -------------------------------------------------------------------------------------------------------------
def _messages(r: ResponsesRequest) -> list[Json]:
    """Items as messages: what the model thought, said and called in one go is one message."""
    messages: list[Json] = [{"role": "system", "content": r.instructions}] if r.instructions else []
    if isinstance(r.input, str):
        return [*messages, {"role": "user", "content": r.input}]
    for i, item in enumerate(r.input):
        if (new := _message(item, f"input[{i}]")) is None:
            continue
        last = messages[-1] if messages else {}
        if new["role"] == last.get("role") == "assistant" and not (last["content"] and new["content"]):
            last["content"] += new["content"]
            if calls := [*last.get("tool_calls", ()), *new.get("tool_calls", ())]:
                last["tool_calls"] = calls
            if thoughts := [m["reasoning_content"] for m in (last, new) if m.get("reasoning_content")]:
                last["reasoning_content"] = "\n".join(thoughts)
        else:
            messages.append(new)
    return messages


def _message(item: Item, where: str) -> Json | None:
    """An item as templates take it; None if there is nothing to read in it."""
    if isinstance(item, FunctionCall | CustomCall):
        custom = isinstance(item, CustomCall)
        origin = Origin(item.name, item.namespace, "custom" if custom else "function")
        given = item.input if isinstance(item, CustomCall) else item.arguments
        call = past_call(item.call_id, origin, given, f"{where}.{'input' if custom else 'arguments'}")
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if isinstance(item, FunctionOutput | CustomOutput):
        return {"role": "tool", "content": _text(item.output), "tool_call_id": item.call_id}
    if isinstance(item, ReasoningItem):
        thought = _text(item.content or item.summary or ())
        return {"role": "assistant", "content": "", "reasoning_content": thought} if thought else None
    assert isinstance(item, Message)  # the rest was refused
    return {"role": "system" if item.role == "developer" else item.role, "content": _text(item.content)}


def _text(content: str | Sequence[Any]) -> str:
    return content if isinstance(content, str) else "".join(map(_part_text, content))


def _part_text(part: Any) -> str:
    return str(part.refusal if isinstance(part, Refusal) else part.text)


# Answers ------------------------------------------------------------------------------------------------------------
class _Output:
    """The response as it grows: each delta goes into its items, and comes out as the events that tell of it."""

    def __init__(self, request: ResponsesRequest, answer: Answer, model: str) -> None:
        self._request, self._answer, self._model = request, answer, model
        self._id, self._created = f"resp_{uuid4().hex}", int(time.time())
        self._items: list[Json] = []
        self._number = 0

    def response(self, finish: Finish | None) -> Json:
        r, cut = self._request, finish is not None and finish.reason in ("length", "cancelled")
        status = "in_progress" if finish is None else "incomplete" if cut else "completed"
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "model": self._model,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": r.instructions,
            "max_output_tokens": r.max_output_tokens,
            "metadata": r.metadata or {},
            "output": self._items,
            "parallel_tool_calls": r.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": r.temperature,
            "top_p": r.top_p,
            "reasoning": {"effort": r.reasoning.effort if r.reasoning else None, "summary": None},
            "text": {"format": msgspec.to_builtins(r.text.format) if r.text and r.text.format else {"type": "text"}},
            **said_back(r),
            "truncation": "disabled",
            "user": r.user,
            "usage": None if finish is None else self._usage(),
        }

    def _usage(self) -> Json:
        a = self._answer
        return {
            "input_tokens": a.prompt_tokens,
            "input_tokens_details": {"cached_tokens": a.cached_tokens or 0, "cache_write_tokens": 0},
            "output_tokens": a.tokens,
            "output_tokens_details": {"reasoning_tokens": a.thinking_tokens},
            "total_tokens": a.prompt_tokens + a.tokens,
        }

    def event(self, kind: str, **fields: Any) -> str:
        self._number += 1
        return named(kind, sequence_number=self._number - 1, **fields)

    def add(self, delta: Delta) -> str:
        events = ""
        if delta.thinking:
            events += self._grow("reasoning", "reasoning_text", delta.thinking)
        if delta.content:
            events += self._grow("message", "output_text", delta.content)
        return events + (self._call(delta.call) if delta.call else "")

    def close(self) -> str:
        """End the item that grows, if one does."""
        if not self._items or self._items[-1]["status"] == "completed":
            return ""
        item, place = self._items[-1], self._place()
        part = item["content"][0]
        item["status"] = "completed"
        kind = part["type"]
        more: Json = {"logprobs": []} if kind == "output_text" else {}
        return (
            self.event(f"response.{kind}.done", **place, content_index=0, text=part["text"], **more)
            + self.event("response.content_part.done", **place, content_index=0, part=part)
            + self.event("response.output_item.done", output_index=place["output_index"], item=item)
        )

    def _place(self) -> Json:
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}

    def _grow(self, kind: str, part: str, text: str) -> str:
        events = ""
        if not self._items or self._items[-1]["type"] != kind or self._items[-1]["status"] == "completed":
            events = self.close() + self._begin(kind, part)
        self._items[-1]["content"][0]["text"] += text
        more: Json = {"logprobs": []} if part == "output_text" else {}
        return events + self.event(f"response.{part}.delta", **self._place(), content_index=0, delta=text, **more)

    def _begin(self, kind: str, part: str) -> str:
        item: Json = {"id": f"{kind[:3]}_{uuid4().hex}", "type": kind, "status": "in_progress", "content": []}
        own: Json = {"role": "assistant"} if kind == "message" else {"summary": []}
        item |= own
        self._items.append(item)
        events = self.event("response.output_item.added", output_index=len(self._items) - 1, item=item)
        more: Json = {"annotations": [], "logprobs": []} if kind == "message" else {}
        new = {"type": part, "text": "", **more}
        events += self.event("response.content_part.added", **self._place(), content_index=0, part=new)
        item["content"].append(new)
        return events

    def _call(self, call: Call) -> str:
        events = self.close()
        item, field = call_item(call, self._answer.ask.origin(call.call.name))
        given = item[field]
        self._items.append(item | {field: ""})
        item, place = self._items[-1], self._place()
        kind = "function_call_arguments" if field == "arguments" else "custom_tool_call_input"
        more: Json = {"name": item["name"]} if field == "arguments" else {}
        events += self.event("response.output_item.added", output_index=place["output_index"], item=item)
        events += self.event(f"response.{kind}.delta", **place, delta=given)
        events += self.event(f"response.{kind}.done", **place, **more, **{field: given})
        item |= {field: given, "status": "completed"}
        return events + self.event("response.output_item.done", output_index=place["output_index"], item=item)


def call_item(call: Call, origin: Origin) -> tuple[Json, str]:
    """The item of a call, not yet completed, and the field that holds what the model gave."""
    custom = origin.form == "custom"
    kind, field = ("custom_tool_call", "input") if custom else ("function_call", "arguments")
    item: Json = {
        "id": f"{'ctc' if custom else 'fc'}_{uuid4().hex}",
        "type": kind,
        "status": "in_progress",
        "call_id": call.id,
        "name": origin.name,
        field: call_text(call.call, origin),
    }
    return item | ({"namespace": origin.namespace} if origin.namespace else {}), field


async def whole(request: ResponsesRequest, answer: Answer, model: str) -> Json:
    """The response object."""
    output = _Output(request, answer, model)
    async for _, event in answer.events():
        if isinstance(event, Delta):
            output.add(event)
    output.close()
    return output.response(answer.finished[0])


async def stream(request: ResponsesRequest, answer: Answer, model: str) -> AsyncGenerator[str, None]:
    """The events of a response."""
    output = _Output(request, answer, model)
    yield output.event("response.created", response=output.response(None))
    yield output.event("response.in_progress", response=output.response(None))
    async for _, event in answer.events():
        if isinstance(event, Reading):
            yield progress(event)
        elif isinstance(event, Delta):
            if events := output.add(event):
                yield events
        else:
            yield output.close()
            response = output.response(event)
            yield output.event(f"response.{response['status']}", response=response)


def stream_error(error: ApiError) -> str:
    return named("error", sequence_number=0, code=error.code or "server_error", message=error.message, param=None)
