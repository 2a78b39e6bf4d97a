"""Answers of Anthropic's /v1/messages, whole or event by event.

Invariant: the events of a stream add up to the message that `whole` gives for the same answer.
"""

from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

from flashmoe.chat.call_writer import CallArguments, CallBegun
from flashmoe.server.answer import Answer
from flashmoe.server.chat_answer import progress
from flashmoe.server.errors import ApiError
from flashmoe.server.events import Delta, Finish, Reading
from flashmoe.server.sse import named

Json = dict[str, Any]
_SIGNATURE = "unsigned"
"""Thinking blocks must have one; nothing here needs to trust what comes back."""


def _reason(finish: Finish) -> str:
    if finish.stop is not None:
        return "stop_sequence"
    return {"stop": "end_turn", "tool_calls": "tool_use"}.get(finish.reason, "max_tokens")


def _usage(answer: Answer, output: int) -> Json:
    cached = answer.cached_tokens or 0
    return {
        "input_tokens": answer.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
    }


def _message(answer: Answer, model: str) -> Json:
    return {
        "id": f"msg_{uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(answer, 0),
    }


async def whole(answer: Answer, model: str) -> Json:
    """The message object."""
    blocks: list[Json] = []
    async for _, event in answer.events():
        if isinstance(event, Delta):
            _add(blocks, event)
    finish = answer.finished[0]
    return {
        **_message(answer, model),
        "content": blocks,
        "stop_reason": _reason(finish),
        "stop_sequence": finish.stop,
        "usage": _usage(answer, answer.tokens),
    }


def _add(blocks: list[Json], delta: Delta) -> None:
    if isinstance(delta.call, CallBegun):
        blocks.append(_opening(delta))
    elif delta.call and not isinstance(delta.call, CallArguments):
        blocks[-1]["input"] = delta.call.call.arguments
    for kind, text in (("thinking", delta.thinking), ("text", delta.content)):
        if text and not (blocks and blocks[-1]["type"] == kind):
            blocks.append({"type": kind, kind: ""} | ({"signature": _SIGNATURE} if kind == "thinking" else {}))
        if text:
            blocks[-1][kind] += text


class MessageEvents:
    """The events of a message. Its beginning does not wait for the engine, so what of the prompt is not computed again
    is told at the end."""

    def __init__(self, answer: Answer, model: str) -> None:
        self._answer, self._model = answer, model
        self._index, self._kind = -1, ""  # of the block that is open

    async def events(self) -> AsyncGenerator[str, None]:
        answer = self._answer
        yield named("message_start", message=_message(answer, self._model))
        async for _, event in answer.events():
            if isinstance(event, Reading):
                yield progress(event)
            elif isinstance(event, Delta):
                if events := self._add(event):
                    yield events
            else:
                yield self._close() + self._end(event)

    def alive(self) -> str:
        return named("ping")

    def failed(self, error: ApiError) -> str:
        return named("error", error=error.anthropic()["error"])

    def _end(self, finish: Finish) -> str:
        delta = {"stop_reason": _reason(finish), "stop_sequence": finish.stop}
        return named("message_delta", delta=delta, usage=_usage(self._answer, self._answer.tokens)) + named(
            "message_stop"
        )

    def _add(self, delta: Delta) -> str:
        if delta.call is None:
            kind = "thinking" if delta.thinking else "text" if delta.content else ""
            if not kind:
                return ""
            events = self._open(kind, delta) if kind != self._kind else ""
            return events + self._block_delta(f"{kind}_delta", **{kind: delta.thinking or delta.content})
        if isinstance(delta.call, CallBegun):
            return self._open("tool_use", delta)
        if isinstance(delta.call, CallArguments):
            return self._block_delta("input_json_delta", partial_json=delta.call.json)
        return self._close()

    def _open(self, kind: str, delta: Delta) -> str:
        events = self._close()
        self._kind, self._index = kind, self._index + 1
        return events + named("content_block_start", index=self._index, content_block=_opening(delta))

    def _block_delta(self, kind: str, **fields: str) -> str:
        return named("content_block_delta", index=self._index, delta={"type": kind, **fields})

    def _close(self) -> str:
        """End the block that is open, if one is."""
        if not self._kind:
            return ""
        signature = self._block_delta("signature_delta", signature=_SIGNATURE) if self._kind == "thinking" else ""
        self._kind = ""
        return signature + named("content_block_stop", index=self._index)


def _opening(delta: Delta) -> Json:
    """The block that begins with this."""
    if isinstance(delta.call, CallBegun):
        return {"type": "tool_use", "id": delta.call_id, "name": delta.call.name, "input": {}}
    return {"type": "thinking", "thinking": "", "signature": ""} if delta.thinking else {"type": "text", "text": ""}
