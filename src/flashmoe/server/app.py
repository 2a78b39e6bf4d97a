"""The routes: each reads a body, asks the service, and answers in its API's shape."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from flashmoe.errors import FlashMoeError
from flashmoe.server import (
    chat_answer,
    chat_completions,
    completions,
    limits,
    messages,
    messages_answer,
    responses,
    responses_answer,
)
from flashmoe.server.answer import Answer
from flashmoe.server.ask import Ask
from flashmoe.server.body import decode, read_body
from flashmoe.server.chat_types import ChatRequest
from flashmoe.server.completions import Completion
from flashmoe.server.errors import ApiError, as_api_error, busy
from flashmoe.server.fields import Body, dropped
from flashmoe.server.guard import Guard, is_anthropics, respond
from flashmoe.server.live import Live
from flashmoe.server.messages_types import CountRequest, MessagesRequest
from flashmoe.server.openai_types import CompletionRequest
from flashmoe.server.openapi import Operation, document
from flashmoe.server.page import page_routes
from flashmoe.server.responses_types import ResponsesRequest
from flashmoe.server.service import Service
from flashmoe.server.sse import ALIVE_SECONDS, ClientGoneError, Events, EventStream, comment, data, unless_gone

HINTS = "x-flashmoe-hints"
"""The header that names fields without effect."""
LEFT_OUT = "x-flashmoe-left-out"
"""The header that names tools that the model was not shown."""
_TOLD_AT_MOST, _SAID_AT_MOST = 100, 1000
_BOTH = ("application/json", "text/event-stream")
T = TypeVar("T", bound=Body)
Asked = TypeVar("Asked", Ask, list[Ask])
Handler = Callable[[Request], Awaitable[Response]]
_log = logging.getLogger("flashmoe.server")


class _Watching:
    """The live view as server-sent events."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def events(self) -> AsyncGenerator[str, None]:
        async for event in self._live.events():
            yield data(event)

    def alive(self) -> str:
        return comment("nothing happens")

    def failed(self, error: ApiError) -> str:
        return data(error.openai())


class _Routes:
    def __init__(self, service: Service, alive_seconds: float) -> None:
        self._service, self._alive_seconds = service, alive_seconds
        self._said: set[tuple[str, str, str]] = set()
        self._most_bytes = limits.most_bytes(service.text.engine.limits.context)
        self._decoder = ThreadPoolExecutor(1, "bodies")

    async def _read(self, request: Request, kind: type[T], ask_of: Callable[[T], Asked]) -> tuple[T, Asked]:
        """What is asked. All that takes time with the size of the body happens in one thread, one body after another:
        decoding keeps Python to itself, so that several at once would keep it from the event loop."""
        content = await read_body(request, self._most_bytes)
        if len(content) < limits.LARGE_BODY:
            body, ask, hints = self._understand(content, kind, ask_of)
        else:
            work = asyncio.get_running_loop().run_in_executor(self._decoder, self._understand, content, kind, ask_of)
            body, ask, hints = await unless_gone(request, work)
        request.state.hints = hints
        return body, ask

    def _understand(self, content: bytes, kind: type[T], ask_of: Callable[[T], Asked]) -> tuple[T, Asked, list[str]]:
        body = decode(content, kind)
        if body.model != self._service.name:
            raise ApiError(404, f"There is no model {body.model!r:.200} here, only {self._service.name}.", "model")
        hints = dropped(body)
        asked = ask_of(body)
        for ask in asked if isinstance(asked, list) else [asked]:
            limits.check(ask)
        return body, asked, hints

    async def _answer(self, request: Request, ask: Ask) -> Answer:
        answer = await unless_gone(request, self._service.answer(ask))
        request.state.hints += [*ask.hints, *answer.prompt.ignored]
        request.state.left_out = ask.left_out
        return answer

    async def _whole(self, request: Request, answer: Answer | Completion, work: Awaitable[Any]) -> Response:
        try:
            return _json(await unless_gone(request, work))
        finally:
            answer.cancel()

    def telling(self, handler: Handler) -> Handler:
        """The handler, with headers that say what of a request was without effect; the log says each once."""

        async def handle(request: Request) -> Response:
            response = await handler(request)
            told = {HINTS: getattr(request.state, "hints", ()), LEFT_OUT: getattr(request.state, "left_out", ())}
            for header, given in told.items():
                names = list(dict.fromkeys(map(_ascii, given)))[:_TOLD_AT_MOST]
                if names:
                    response.headers[header] = ", ".join(names)
                for name in names:
                    self._say_once(request.url.path, header, name)
            return response

        return handle

    def _say_once(self, path: str, header: str, name: str) -> None:
        what = (path, header, name)
        if what not in self._said and len(self._said) < _SAID_AT_MOST:
            self._said.add(what)
            meaning = "a hint, which changes no answer"
            if name.startswith("schema."):
                meaning = "a keyword that answers are not held to"
            elif header == LEFT_OUT:
                meaning = "a tool that is not the client's, left out"
            _log.warning("%s: %s is %s.", path, name, meaning)

    def _stream(self, events: Events, over: Callable[[], None]) -> EventStream:
        return EventStream(events, over, self._alive_seconds)

    async def chat(self, request: Request) -> Response:
        body, ask = await self._read(request, ChatRequest, chat_completions.ask_of)
        answer, name = await self._answer(request, ask), self._service.name
        if not body.stream:
            return await self._whole(request, answer, chat_answer.whole(answer, name))
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return self._stream(chat_answer.Chunks(answer, name, usage), answer.cancel)

    async def completions(self, request: Request) -> Response:
        body, asks = await self._read(request, CompletionRequest, completions.asks_of)
        completion = await unless_gone(request, completions.begin(self._service, body, asks))
        if not body.stream:
            return await self._whole(request, completion, completion.whole())
        return self._stream(completion, completion.cancel)

    async def responses(self, request: Request) -> Response:
        body, ask = await self._read(request, ResponsesRequest, responses.ask_of)
        answer, name = await self._answer(request, ask), self._service.name
        if not body.stream:
            return await self._whole(request, answer, responses_answer.whole(body, answer, name))
        return self._stream(responses_answer.ResponseEvents(body, answer, name), answer.cancel)

    async def messages(self, request: Request) -> Response:
        body, ask = await self._read(request, MessagesRequest, messages.ask_of)
        answer, name = await self._answer(request, ask), self._service.name
        if not body.stream:
            return await self._whole(request, answer, messages_answer.whole(answer, name))
        return self._stream(messages_answer.MessageEvents(answer, name), answer.cancel)

    async def count_tokens(self, request: Request) -> Response:
        _, ask = await self._read(request, CountRequest, messages.ask_of)
        return _json({"input_tokens": await unless_gone(request, self._service.count_tokens(ask))})

    async def models(self, request: Request) -> Response:
        name, model = self._service.name, self._model(request)
        if is_anthropics(request.scope):
            return _json({"data": [model], "has_more": False, "first_id": name, "last_id": name})
        return _json({"object": "list", "data": [model]})

    async def model(self, request: Request) -> Response:
        if request.path_params["name"] != self._service.name:
            raise ApiError(404, f"There is no such model here, only {self._service.name}.", "model")
        return _json(self._model(request))

    def _model(self, request: Request) -> dict[str, Any]:
        name, context = self._service.name, self._service.text.engine.limits.context
        if is_anthropics(request.scope):
            model = {"id": name, "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
            return {**model, "max_input_tokens": context, "max_tokens": context}
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "flashmoe",
            "max_model_len": context,
            "context_length": context,
        }

    async def health(self, request: Request) -> Response:  # noqa: ARG002
        load = self._service.scheduler.stats
        return _json({"status": "ok", "waiting": load.waiting, "running": load.running})

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def events(self, request: Request) -> Response:
        live = self._service.live
        if request.method == "HEAD":
            return Response(media_type=EventStream.media_type)
        if live.watchers >= limits.WATCHERS:
            raise busy(f"{limits.WATCHERS} watch already; try again later.")
        live.join()
        return self._stream(_Watching(live), live.leave)

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        return _json(document([operation for operation, _ in self.table()]))

    def table(self) -> list[tuple[Operation, Callable[[Request], Awaitable[Response]]]]:
        return [
            (Operation("POST", "/v1/chat/completions", "Answer a chat.", ChatRequest, _BOTH), self.chat),
            (Operation("POST", "/v1/completions", "Go on from a text.", CompletionRequest, _BOTH), self.completions),
            (Operation("POST", "/v1/responses", "Answer a chat, as items.", ResponsesRequest, _BOTH), self.responses),
            (Operation("POST", "/v1/messages", "Answer a chat, as Anthropic.", MessagesRequest, _BOTH), self.messages),
            (Operation("POST", "/v1/messages/count_tokens", "Tokens of a prompt.", CountRequest), self.count_tokens),
            (Operation("GET", "/v1/models", "The model served."), self.models),
            (Operation("GET", "/v1/models/{name}", "The model of that name."), self.model),
            (Operation("GET", "/health", "Whether the server is up; needs no key."), self.health),
            (Operation("GET", "/metrics", "For Prometheus.", produces=("text/plain",)), self.metrics),
            (Operation("GET", "/events", "The engine at work, for the page.", produces=_BOTH[1:]), self.events),
            (Operation("GET", "/openapi.json", "This document."), self.openapi),
        ]


def _ascii(name: str) -> str:
    """A name from a request as a header may hold it."""
    return re.sub(r"[^\w.\[\]-]", "?", name, flags=re.ASCII)[:60]


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: "There is nothing at this address.", 405: "This address does not take that method."}
    headers = dict(error.headers) if error.headers else None
    return respond(
        ApiError(error.status_code, what.get(error.status_code, error.detail), headers=headers), request.scope
    )


async def _failed(request: Request, error: Exception) -> Response:
    return respond(as_api_error(error), request.scope)


async def _gone(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return Response(status_code=499)  # as nginx counts it; nobody reads it


def _pattern(operation: Operation) -> str:
    """A model's name may have slashes."""
    return operation.path.replace("{name}", "{name:path}")


def make_app(
    service: Service,
    key: str | None = None,
    hosts: frozenset[str] | None = None,
    most: int = limits.REQUESTS,
    alive_seconds: float = ALIVE_SECONDS,
) -> ASGIApp:
    """The ASGI application. key: what clients must show. hosts: names allowed in the Host header, None for any.
    most: requests at once. alive_seconds: from one event of a stream to the next, at most."""
    routes = _Routes(service, alive_seconds)
    table = [
        Route(_pattern(operation), routes.telling(handler), methods=[operation.method])
        for operation, handler in routes.table()
    ]
    table += page_routes()
    paths = frozenset(route.path for route in table)
    handlers = {HTTPException: _refused, ClientGoneError: _gone}
    told = dict.fromkeys((ApiError, FlashMoeError, RecursionError, Exception), _failed)
    app = Starlette(routes=table, exception_handlers={**handlers, **told})
    return Guard(app, key, hosts, service.metrics, paths, most)
