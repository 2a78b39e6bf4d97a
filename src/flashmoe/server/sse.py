"""Answers to clients that may go away: server-sent events with signs of life, and waiting that ends with the client.

Knows HTTP; knows no API's events.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flashmoe.server.errors import ApiError, as_api_error, log_failure

ALIVE_SECONDS = 5.0
_COMMENT = ":"
T = TypeVar("T")


class ClientGoneError(Exception):
    """Nobody is there to answer."""


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled, with ClientGoneError, when the client disconnects."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return await task
    finally:
        gone.cancel()
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


class Events(Protocol):
    """What a stream says, in the events of its API; all of it happens in the event loop."""

    def events(self) -> AsyncGenerator[str, None]:
        """The events, and comments, which are no signs of life to a client."""

    def alive(self) -> str:
        """An event that says only that the answer is still on its way."""

    def failed(self, error: ApiError) -> str:
        """The last event after an error."""


class EventStream(Response):
    """Sends the events as they come, and a sign of life when none has come for a while. Closed when the client goes.

    over: called at the end, however it comes. alive_seconds: from one event to the next, at most.
    """

    media_type = "text/event-stream"

    def __init__(self, events: Events, over: Callable[[], None], alive_seconds: float = ALIVE_SECONDS) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._over, self._alive_seconds = events, over, alive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        sending, gone = asyncio.ensure_future(self._send_all(send)), asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            self._over()
            gone.cancel()
            sending.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await sending

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._with_signs_of_life()) as chunks:
            try:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk.encode(), "more_body": True})
            except Exception as error:
                told = as_api_error(error)
                if told.status >= 500:
                    log_failure(error)
                last = self._events.failed(told)
                await send({"type": "http.response.body", "body": last.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _with_signs_of_life(self) -> AsyncGenerator[str, None]:
        chunks, now = self._events.events(), asyncio.get_running_loop().time
        step: asyncio.Future[str | None] | None = None
        due = now() + self._alive_seconds
        try:
            while True:
                step = asyncio.ensure_future(anext(chunks, None))
                while not (await asyncio.wait((step,), timeout=max(0, due - now())))[0]:
                    yield self._events.alive()
                    due = now() + self._alive_seconds
                if (chunk := await step) is None:
                    return
                yield chunk
                if not chunk.startswith(_COMMENT):
                    due = now() + self._alive_seconds
        finally:
            if step is not None:
                step.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await step
            await chunks.aclose()


def data(value: Any) -> str:
    """One event without a name."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def named(kind: str, **fields: Any) -> str:
    """An event with a name, which its data repeats."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields}, ensure_ascii=False)}\n\n"


def comment(text: str) -> str:
    """A line that clients skip."""
    return f"{_COMMENT} {text}\n\n"
