"""OpenAI's /v1/responses: its requests as asks, and answers as items, whole or event by event.

Invariant: the response that ends a stream is the one that `whole` gives for the same answer.
"""

import json
import time
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import msgspec

from flashmoe.files.jsonfile import parse_object
from flashmoe.server.ask import Ask, Call, Delta, Finish, Reading
from flashmoe.server.chat_completions import progress
from flashmoe.server.errors import ApiError
from flashmoe.server.messages import named
from flashmoe.server.responses_types import Item, NamedTool, ObjectFormat, ResponsesRequest, SchemaFormat
from flashmoe.server.service import Answer

Json = dict[str, Any]


def ask_of(r: ResponsesRequest) -> Ask:
    """ApiError for fields that contradict each other or lack something."""
    choice = r.tool_choice.name if isinstance(r.tool_choice, NamedTool) else r.tool_choice
    if choice not in (None, "none", "auto") and not r.tools:
        raise ApiError(400, "tool_choice needs tools.", "tool_choice")
    form = r.text.format if r.text else None
    schema = form.schema if isinstance(form, SchemaFormat) else None
    schema = {"type": "object"} if isinstance(form, ObjectFormat) else schema
    if schema is not None and choice not in (None, "none", "auto"):
        raise ApiError(400, "text.format and a required tool call exclude each other.", "text")
    sampling = {name: value for name in ("temperature", "top_p") if (value := getattr(r, name)) is not None}
    return Ask(
        messages=_messages(r),
        tools=[_tool(tool) for tool in _plain_tools(r)],
        choice=choice,
        several_calls=r.parallel_tool_calls is not False,
        sampling=sampling,
        max_tokens=r.max_output_tokens,
        schema=schema,
        thinking=False if r.reasoning and r.reasoning.effort == "none" else None,
        insist=True,
    )


def _plain_tools(r: ResponsesRequest) -> list[Json]:
    names = ("name", "description", "parameters", "strict")
    return [{n: v for n in names if (v := getattr(tool, n)) is not None} for tool in r.tools or ()]


def _tool(function: Json) -> Json:
    return {"type": "function", "function": function}


def _messages(r: ResponsesRequest) -> list[Json]:
    """Items as messages: what the model thought, said and called in one go is one message."""
    messages: list[Json] = [{"role": "system", "content": r.instructions}] if r.instructions else []
    if isinstance(r.input, str):
        return [*messages, {"role": "user", "content": r.input}]
    for i, item in enumerate(r.input):
        new = _message(item, f"input[{i}]")
        last = messages[-1] if messages else {}
        if new["role"] == last.get("role") == "assistant" and not (last["content"] and new["content"]):
            last["content"] += new["content"]
            last["tool_calls"] = last.get("tool_calls", []) + new.get("tool_calls", [])
            last |= {"reasoning_content": new["reasoning_content"]} if "reasoning_content" in new else {}
        else:
            messages.append(new)
    for message in messages:
        if not message.get("tool_calls", True):
            del message["tool_calls"]
    return messages


def _message(item: Item, where: str) -> Json:
    text = item.content if isinstance(item.content, str) else "".join(part.text for part in item.content or ())
    if item.type == "function_call":
        if item.call_id is None or item.name is None or item.arguments is None:
            raise ApiError(400, f"{where} needs call_id, name and arguments.", where)
        arguments = parse_object(
            (item.arguments.strip() or "{}").encode("utf-8", "surrogatepass"), f"{where}.arguments"
        )
        call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": arguments}}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if item.type == "function_call_output":
        if item.call_id is None or item.output is None:
            raise ApiError(400, f"{where} needs call_id and output.", where)
        output = item.output if isinstance(item.output, str) else "".join(part.text for part in item.output)
        return {"role": "tool", "content": output, "tool_call_id": item.call_id}
    if item.type == "reasoning":
        return {"role": "assistant", "content": "", "reasoning_content": text}
    if item.role is None or item.content is None:
        raise ApiError(400, f"{where} needs role and content.", where)
    return {"role": "system" if item.role == "developer" else item.role, "content": text}


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
        choice = r.tool_choice or "auto"
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
            "tool_choice": {"type": "function", "name": choice.name} if isinstance(choice, NamedTool) else choice,
            "tools": [{"type": "function", "strict": False, **tool} for tool in _plain_tools(r)],
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
        name, arguments = call.call.name, json.dumps(call.call.arguments, ensure_ascii=False)
        item = {"id": f"fc_{uuid4().hex}", "type": "function_call", "status": "in_progress", "call_id": call.id}
        self._items.append(item | {"name": name, "arguments": ""})
        item, place = self._items[-1], self._place()
        events += self.event("response.output_item.added", output_index=place["output_index"], item=item)
        events += self.event("response.function_call_arguments.delta", **place, delta=arguments)
        events += self.event("response.function_call_arguments.done", **place, name=name, arguments=arguments)
        item |= {"arguments": arguments, "status": "completed"}
        return events + self.event("response.output_item.done", output_index=place["output_index"], item=item)


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
