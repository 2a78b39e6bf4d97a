"""Answers to clients that may go away: server-sent events with signs of life, and waiting that ends with the client.

Knows HTTP; knows no API's events.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flashmoe.server.errors import ApiError, as_api_error, log_failure

KEEP_ALIVE_SECONDS = 10.0
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


class EventStream(Response):
    """Sends what `chunks` yields; a comment line when it yields nothing for a while. It is closed when the client goes.

    failed: the last chunk after an error. over: called at the end, however it comes.
    """

    media_type = "text/event-stream"

    def __init__(
        self, chunks: AsyncGenerator[str, None], failed: Callable[[ApiError], str], over: Callable[[], None]
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks, self._failed, self._over = chunks, failed, over

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
        async with aclosing(_alive(self._chunks)) as chunks:
            try:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk.encode(), "more_body": True})
            except Exception as error:
                told = as_api_error(error)
                if told.status >= 500:
                    log_failure(error)
                await send({"type": "http.response.body", "body": self._failed(told).encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _alive(chunks: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    step: asyncio.Future[str | None] | None = None
    try:
        while True:
            step = asyncio.ensure_future(anext(chunks, None))
            while not (await asyncio.wait((step,), timeout=KEEP_ALIVE_SECONDS))[0]:
                yield ": keep-alive\n\n"
            if (chunk := await step) is None:
                return
            yield chunk
    finally:
        if step is not None:
            step.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await step
        await chunks.aclose()
