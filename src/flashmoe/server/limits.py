"""What one client may ask of the server, in numbers, so that nobody holds it up for the others.

Invariant: everything that a request can make long is bounded here, by the schemas' limits (grammar) or by the rendering
of templates (chat); docs/server.md states the figures. Knows bytes and asks, not HTTP.
"""

import re
from collections.abc import Sequence

from flashmoe.errors import FlashMoeError
from flashmoe.server.ask import Ask

BODY_BYTES, BODY_BYTES_A_TOKEN = 4 * 2**20, 16
"""Of a body, and what each token of the context adds: several times what a token is long in JSON."""
VALUES = 500_000
"""JSON values in a body, by its commas and brackets; a prompt may be a list of token ids."""
NESTING = 100
"""Of arrays and objects in a body. Python's own recursion ends near 1,000, with several calls to a level."""
LARGE_BODY = 64 * 1024
"""From here on, bodies are decoded in a thread."""

MESSAGES, TOOLS = 10_000, 1_024
STOP_STRINGS, STOP_CHARACTERS = 16, 4_096
"""The characters are of all strings together."""
BIASED_TOKENS = 1_024

REQUESTS = 512
"""That are here at once, those that wait in the queue and those that watch among them."""
WATCHERS = 16
"""Of the engine at work: what each is told is made for it alone, ten times a second."""
CONNECTIONS = 1_024
"""Open at once; fewer where the system gives fewer descriptors."""
KEPT_DESCRIPTORS = 256
"""For those who are served: files of sessions, processes, what is accepted before somebody gives way."""

HEAD_SECONDS = 20
"""For a request's headers, from the connection or from their first byte."""
BODY_SECONDS = 60
UNREAD_SECONDS = 120
"""For a client that reads nothing of what is sent to it."""
IDLE_SECONDS = 75
"""Between two requests: longer than clients keep idle connections, so that none is closed under a request."""

_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[][{},]', re.DOTALL)
_OPENING, _CLOSING, _COMMA = b"[{", b"]}", ord(",")


def most_bytes(context: int) -> int:
    """Of a body, for a context of so many tokens."""
    return BODY_BYTES + BODY_BYTES_A_TOKEN * context


def check_shape(body: bytes) -> None:
    """Raise FlashMoeError for JSON that is nested too deeply or has too many values. Other threads run
    meanwhile; while it is decoded, which takes longer the more values there are, none does. What is no JSON passes."""
    depth = found = 0
    for marks, match in enumerate(_MARK.finditer(body)):
        mark = body[match.start()]
        if mark in _OPENING:
            depth += 1
            found += 1
            if depth > NESTING:
                raise FlashMoeError(f"The body is nested deeper than {NESTING} levels.")
        elif mark in _CLOSING:
            depth -= 1
        elif mark == _COMMA:
            found += 1
        if found > VALUES or marks > 4 * VALUES:
            raise FlashMoeError(f"The body has too many JSON values; at most {VALUES} are taken.")


def check(ask: Ask) -> None:
    """Raise FlashMoeError for an ask of which something is too long."""
    _check_count("messages", ask.messages, MESSAGES)
    _check_count("tools", ask.tools, TOOLS)
    _check_count("stop strings", ask.stop, STOP_STRINGS)
    if (length := sum(map(len, ask.stop))) > STOP_CHARACTERS:
        raise FlashMoeError(f"The stop strings have {length} characters; all together may have {STOP_CHARACTERS}.")
    _check_count("tokens in logit_bias", list(ask.bias), BIASED_TOKENS)


def _check_count(what: str, given: Sequence[object], most: int) -> None:
    if len(given) > most:
        raise FlashMoeError(f"There are {len(given)} {what}; at most {most} are taken.")
