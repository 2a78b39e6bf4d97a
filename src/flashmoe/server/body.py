"""From the bytes of a request to a typed object: bounded, strict, and with the field named that is wrong."""

import asyncio
import re
from typing import TypeVar

import msgspec
from starlette.requests import Request

from flashmoe.server.errors import ApiError

MAX_BODY = 32 * 2**20
SECONDS_BETWEEN_PIECES = 30
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_ONLY_NULL = "Expected `null`"
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
T = TypeVar("T")


async def read_body(request: Request) -> bytes:
    """The body; ApiError if it is too large, comes too slowly, or is not called JSON."""
    # A page of another site can send text to a server on loopback unasked, but not application/json.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "Send JSON, with the header Content-Type: application/json.")
    body = bytearray()
    pieces = aiter(request.stream())
    try:
        while piece := await asyncio.wait_for(anext(pieces, None), SECONDS_BETWEEN_PIECES):
            body += piece
            if len(body) > MAX_BODY:
                raise ApiError(413, f"The body is larger than {MAX_BODY} bytes.")
    except TimeoutError:
        raise ApiError(408, f"Nothing of the body came for {SECONDS_BETWEEN_PIECES} seconds.") from None
    return bytes(body)


def decode(body: bytes, kind: type[T]) -> T:
    """The object that JSON describes; ApiError 400 that names the field for what is unknown or of the wrong type."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise ApiError(400, f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.") from None


def _invalid(message: str) -> ApiError:
    match = _PLACE.match(message)
    assert match is not None
    path = (match["path"] or "").removeprefix("$").removeprefix(".")
    if unknown := _UNKNOWN.search(match["what"]):
        param = f"{path}.{unknown[1]}".removeprefix(".")
        return ApiError(400, f"{param} is not a field that is supported here.", param, "unknown_parameter")
    if path and match["what"].startswith(_ONLY_NULL):
        return ApiError(400, f"{path} is not supported here.", path, "unknown_parameter")
    where = f"{path}: " if path else ""
    return ApiError(400, f"{where}{match['what'][:500]}.", path or None)
