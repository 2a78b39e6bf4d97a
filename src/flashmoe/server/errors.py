"""Errors as HTTP has them: a status, a sentence, and the field it is about. Each API writes them in its own shape."""

import logging
from dataclasses import dataclass
from typing import Any

from flashmoe.engine.scheduler import ClosingError, QueueFullError
from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.server.events import UnansweredError

_log = logging.getLogger("flashmoe.server")
_RETRY = {"Retry-After": "5"}

_OPENAI_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


@dataclass
class ApiError(Exception):
    """status: of HTTP. param: the field at fault. code: a word for programs. headers: of the response."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] | None = None

    def openai(self) -> dict[str, Any]:
        kind = _OPENAI_TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def anthropic(self) -> dict[str, Any]:
        kind = _ANTHROPIC_TYPES.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": self.message}}


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an error: a FlashMoeError's own sentence, of a defect only that there is one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), code="rate_limit_exceeded", headers=_RETRY)
    if isinstance(error, ClosingError):
        return busy(str(error))
    if isinstance(error, CapacityError):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, FlashMoeError):
        return ApiError(400, str(error))
    if isinstance(error, RecursionError):  # bodies may not be so deep, but JSON in a string of theirs may
        return ApiError(400, "Something in the request is nested too deeply.")
    if isinstance(error, UnansweredError) and isinstance(error.__cause__, FlashMoeError):
        return ApiError(500, str(error.__cause__))
    return ApiError(500, "The server has a defect; its log says more.")


def busy(message: str) -> ApiError:
    """Not now, but soon."""
    return ApiError(503, message, headers=_RETRY)


def log_failure(error: Exception) -> None:
    """One line for what the engine says of files and memory, all of it for a defect."""
    if isinstance(error, UnansweredError) and isinstance(error.__cause__, FlashMoeError):
        _log.error("An answer failed: %s", error.__cause__)
    else:
        _log.error("A request failed.", exc_info=error)
