"""From the bytes of a request to a typed object: bounded, strict, and with the field named that is wrong."""

import asyncio
import re
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from flashmoe.server.errors import ApiError
from flashmoe.server.fields import Body

MAX_BODY = 32 * 2**20
MAX_DEPTH = 100
"""Of lists and objects in one another: what templates and grammars take without running out of stack."""
SECONDS_BETWEEN_PIECES = 30
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_CONTAINERS = (dict, list)
_TOO_DEEP = f"The body is nested deeper than {MAX_DEPTH} levels."
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
T = TypeVar("T", bound=Body)


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
        value = msgspec.json.decode(text)
    except RecursionError:
        raise ApiError(400, _TOO_DEEP) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        what = str(error).partition(" - at ")[0]
        raise ApiError(400, f"The body is not valid JSON: {what}.") from None
    if is_deeper(value, MAX_DEPTH):
        raise ApiError(400, _TOO_DEEP)
    return value


def is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects lie in one another deeper than so many levels."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(levels):
        children = (inner for v in level for inner in (v.values() if type(v) is dict else v))
        level = [inner for inner in children if type(inner) in _CONTAINERS]
        if not level:
            return False
    return True


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
