"""Answers of OpenAI's /v1/responses as items, whole or event by event.

Invariant: the response that ends a stream is the one that `whole` gives for the same answer.
"""

import time
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

from flashmoe.chat.call_writer import CallBegun, CallBroken, Called, CallEvent
from flashmoe.server.answer import Answer
from flashmoe.server.ask import Origin
from flashmoe.server.chat_answer import progress
from flashmoe.server.errors import ApiError
from flashmoe.server.events import Delta, Finish, Reading
from flashmoe.server.responses import said_back
from flashmoe.server.responses_types import ResponsesRequest
from flashmoe.server.sse import named
from flashmoe.server.tools import given_by

Json = dict[str, Any]


async def whole(request: ResponsesRequest, answer: Answer, model: str) -> Json:
    """The response object."""
    events = ResponseEvents(request, answer, model)
    async for _, event in answer.events():
        if isinstance(event, Delta):
            events.add(event)
    events.close()
    return events.response(answer.finished[0])


class ResponseEvents:
    """The response as it grows: each delta goes into its items, and comes out as the events that tell of it."""

    def __init__(self, request: ResponsesRequest, answer: Answer, model: str) -> None:
        self._request, self._answer, self._model = request, answer, model
        self._id, self._created = f"resp_{uuid4().hex}", int(time.time())
        self._items: list[Json] = []
        self._number = 0
        self._queued = True
        self._origin = Origin("")  # of the call that grows

    async def events(self) -> AsyncGenerator[str, None]:
        yield self._event("response.created", response=self.response(None))
        async for _, event in self._answer.events():
            if self._queued:
                self._queued = False
                yield self.alive()
            if isinstance(event, Reading):
                yield progress(event)
            elif isinstance(event, Delta):
                if events := self.add(event):
                    yield events
            else:
                closed, response = self.close(), self.response(event)
                yield closed + self._event(f"response.{response['status']}", response=response)

    def alive(self) -> str:
        response = self.response(None)
        return self._event(f"response.{response['status']}", response=response)

    def failed(self, error: ApiError) -> str:
        """Some clients look for the one event, some for the other."""
        code = error.code or "server_error"
        failed = {**self.response(None), "status": "failed", "error": {"code": code, "message": error.message}}
        return self._event("error", code=code, message=error.message, param=error.param) + self._event(
            "response.failed", response=failed
        )

    def response(self, finish: Finish | None) -> Json:
        """The response object; finish: None while it grows."""
        cut = finish is not None and finish.reason in ("length", "cancelled")
        growing = "queued" if self._queued else "in_progress"
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "model": self._model,
            "status": growing if finish is None else "incomplete" if cut else "completed",
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._items,
            **said_back(self._request),
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

    def _event(self, kind: str, **fields: Any) -> str:
        self._number += 1
        return named(kind, sequence_number=self._number - 1, **fields)

    # Items ------------------------------------------------------------------------------------------------------------
    def add(self, delta: Delta) -> str:
        """The events that tell of what came."""
        if delta.call:
            return self._add_to_call(delta.call, delta.call_id)
        if delta.thinking:
            return self._grow("reasoning", "reasoning_text", delta.thinking)
        return self._grow("message", "output_text", delta.content) if delta.content else ""

    def close(self) -> str:
        """End the text that grows, if one does."""
        if not self._items or self._items[-1]["status"] != "in_progress":
            return ""
        part = self._items[-1]["content"][0]
        kind = part["type"]
        more: Json = {"logprobs": []} if kind == "output_text" else {}
        return (
            self._event(f"response.{kind}.done", **self._place(), content_index=0, text=part["text"], **more)
            + self._event("response.content_part.done", **self._place(), content_index=0, part=part)
            + self._end_item("completed")
        )

    def _place(self) -> Json:
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}

    def _begin_item(self, item: Json) -> str:
        events = self.close()
        self._items.append(item)
        return events + self._event("response.output_item.added", output_index=len(self._items) - 1, item=item)

    def _end_item(self, status: str) -> str:
        item = self._items[-1]
        item["status"] = status
        return self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    def _grow(self, kind: str, part: str, text: str) -> str:
        last = self._items[-1] if self._items else {}
        is_new = (last.get("type"), last.get("status")) != (kind, "in_progress")
        events = self._begin_text(kind, part) if is_new else ""
        self._items[-1]["content"][0]["text"] += text
        more: Json = {"logprobs": []} if part == "output_text" else {}
        return events + self._event(f"response.{part}.delta", **self._place(), content_index=0, delta=text, **more)

    def _begin_text(self, kind: str, part: str) -> str:
        item: Json = {"id": f"{kind[:3]}_{uuid4().hex}", "type": kind, "status": "in_progress", "content": []}
        own: Json = {"role": "assistant"} if kind == "message" else {"summary": []}
        events = self._begin_item(item | own)
        more: Json = {"annotations": [], "logprobs": []} if kind == "message" else {}
        new = {"type": part, "text": "", **more}
        events += self._event("response.content_part.added", **self._place(), content_index=0, part=new)
        self._items[-1]["content"].append(new)
        return events

    def _add_to_call(self, event: CallEvent, call_id: str) -> str:
        if isinstance(event, CallBegun):
            self._origin = self._answer.ask.origin(event.name)
            return self._begin_item(_call_item(call_id, self._origin))
        item, custom = self._items[-1], self._origin.form == "custom"
        kind, field = ("custom_tool_call_input", "input") if custom else ("function_call_arguments", "arguments")
        events = ""
        if given := given_by(event, self._origin, item[field]):
            item[field] += given
            events = self._event(f"response.{kind}.delta", **self._place(), delta=given)
        if isinstance(event, CallBroken):
            return self._end_item("incomplete")
        if isinstance(event, Called):
            more: Json = {field: item[field]} if custom else {"name": item["name"], field: item[field]}
            events += self._event(f"response.{kind}.done", **self._place(), **more) + self._end_item("completed")
        return events


def _call_item(call_id: str, origin: Origin) -> Json:
    """The item of a call that begins, in the form of the client's tool."""
    custom = origin.form == "custom"
    item = {
        "id": f"{'ctc' if custom else 'fc'}_{uuid4().hex}",
        "type": "custom_tool_call" if custom else "function_call",
        "status": "in_progress",
        "call_id": call_id,
        "name": origin.name,
        "input" if custom else "arguments": "",
    }
    return item | ({"namespace": origin.namespace} if origin.namespace else {})
