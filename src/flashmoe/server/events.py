"""What an answer tells while it comes, in one form for all interfaces. Knows neither HTTP nor any API's shapes."""

from dataclasses import dataclass

from flashmoe.chat.call_writer import CallEvent
from flashmoe.engine.request import Token


@dataclass(frozen=True)
class Reading:
    """So many tokens of the prompt are read."""

    done: int
    total: int


@dataclass(frozen=True)
class Delta:
    """What tokens added: thinking, content or a part of a call.

    call: one after the other CallBegun, its CallArguments, and Called or CallBroken, with nothing else in between.
    call_id: under which the call's result comes back. reported: tokens whose probabilities were asked for.
    """

    thinking: str = ""
    content: str = ""
    call: CallEvent | None = None
    call_id: str = ""
    reported: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Finish:
    """The end of one choice. reason: `stop`, `length`, `tool_calls` or `cancelled`; stop: the string that ended it."""

    reason: str
    stop: str | None
    tokens: int
    thinking_tokens: int


Event = Reading | Delta | Finish


class UnansweredError(Exception):
    """The engine failed on what it had accepted; its error is the cause."""
