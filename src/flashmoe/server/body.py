"""From the bytes of a request to a typed object: bounded, strict, and with the field named that is wrong."""

import asyncio
import re
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from flashmoe.errors import FlashMoeError
from flashmoe.server import limits
from flashmoe.server.errors import ApiError
from flashmoe.server.fields import Body
from flashmoe.server.sse import ClientGoneError

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
T = TypeVar("T", bound=Body)


async def read_body(request: Request, most: int) -> bytes:
    """The body; ApiError if it has more than `most` bytes, comes too slowly, or is not called JSON; ClientGoneError if
    it breaks off."""
    # A page of another site can send text to a server on loopback unasked, but not application/json.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "Send JSON, with the header Content-Type: application/json.")
    too_large = ApiError(413, f"The body is larger than {most} bytes, which is more than the context holds.")
    if (length := request.headers.get("content-length", "")).isdecimal() and int(length[:20]) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, f"The body was not here after {limits.BODY_SECONDS} seconds.") from None
    except ClientDisconnect:
        raise ClientGoneError from None
    return bytes(body)


def decode(body: bytes, kind: type[T]) -> T:
    """The object that JSON describes; ApiError 400 that names the field for what is unknown or of the wrong type, and
    for JSON of a shape that would take long."""
    raw = _parse(body)
    if isinstance(raw, dict):
        kind.prepare(raw)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None


def parse_text(text: str, where: str) -> Any:
    """The JSON in a string of a body; ApiError 400 for what is none."""
    try:
        return _parse(text.encode("utf-8", "surrogatepass"))
    except ApiError as error:
        raise ApiError(400, error.message.replace("The body", where, 1), where) from None


def _parse(text: bytes) -> Any:
    try:
        limits.check_shape(text)
        return msgspec.json.decode(text)
    except FlashMoeError as error:
        raise ApiError(400, str(error)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        what = str(error).partition(" - at ")[0]
        raise ApiError(400, f"The body is not valid JSON: {what}.") from None


def _invalid(message: str) -> ApiError:
    match = _PLACE.match(message)
    assert match is not None
    path = (match["path"] or "").removeprefix("$").removeprefix(".")
    if unknown := _UNKNOWN.search(match["what"]):
        param = f"{path}.{unknown[1]}".removeprefix(".")
        sentence = f"{param} is not a field that is supported here; is it spelt right?"
        return ApiError(400, sentence, param, "unknown_parameter")
    where = f"{path}: " if path else ""
    return ApiError(400, f"{where}{match['what'][:500]}.", path or None)
