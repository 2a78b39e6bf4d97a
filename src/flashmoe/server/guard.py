"""Who may ask: keys, and the names under which a server without a key may be reached; and what errors look like.

Knows headers and paths, not what is asked.
"""

import asyncio
import hmac

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flashmoe.server.errors import ApiError, busy, log_failure
from flashmoe.server.metrics import Metrics
from flashmoe.server.page import PAGE_PATHS

OPEN_PATHS = frozenset({"/health"}) | PAGE_PATHS
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def is_anthropics(scope: Scope) -> bool:
    """Whether a request is of Anthropic's API; paths that both have are asked for by its clients with a header."""
    return str(scope["path"]).startswith("/v1/messages") or "anthropic-version" in Headers(scope=scope)


def respond(error: ApiError, scope: Scope) -> JSONResponse:
    """An error in the shape of the API that was asked."""
    body = error.anthropic() if is_anthropics(scope) else error.openai()
    return JSONResponse(body, error.status, error.headers)


class Guard:
    """Wraps the application. key: None for no key; hosts: names allowed in the Host header, None for any.
    paths: those that are counted by name. most: requests at once; a sign of life is given beyond that.

    A server on loopback without a key refuses other names, so that a web page cannot reach it under a name that it made
    point to loopback.
    """

    def __init__(
        self,
        app: ASGIApp,
        key: str | None,
        hosts: frozenset[str] | None,
        metrics: Metrics,
        paths: frozenset[str],
        most: int,
    ) -> None:
        self._app, self._key, self._hosts, self._metrics, self._paths = app, key, hosts, metrics, paths
        self._most, self._open = most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def counting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self._open += 1
        try:
            self._check(scope["path"], Headers(scope=scope))
            await self._app(scope, receive, counting)
        except ApiError as error:
            await respond(error, scope)(scope, receive, counting)
        except asyncio.CancelledError:
            pass  # the server ends and waits no longer; for uvicorn this would be an error with a traceback
        except Exception as error:  # answered as 500 already
            log_failure(error)
        finally:
            self._open -= 1
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()

    def _check(self, path: str, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self._hosts is not None and name not in self._hosts:
            raise ApiError(403, f"This server is not called {host[:200]!r}.")
        if self._open > self._most and path != "/health":
            raise busy(f"{self._most} requests are here already; try again later.")
        if self._key is None or path in OPEN_PATHS:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            missing = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, "The API key is missing or wrong.", code="invalid_api_key", headers=missing)


def loopback_names(host: str) -> frozenset[str]:
    """How a server on loopback may be called."""
    return frozenset({*_LOOPBACK, f"[{host}]" if ":" in host else host})
