"""One answer of the model as pieces of a turn, which Ctrl-C ends early. Knows a text engine, not the screen."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flashmoe.chat.call_writer import CallBroken, Called
from flashmoe.chat.tool_calls import Turn, thinking_is_open
from flashmoe.chat.turn_parser import Content, Thinking, TurnEvent, TurnParser
from flashmoe.engine.generation import Statistics
from flashmoe.engine.session import Session
from flashmoe.text_engine import TextEngine, TextStream

Messages = Sequence[Mapping[str, Any]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Choices:
    """thinking: None for what the template does. sampling: as TextEngine.stream takes it."""

    max_tokens: int | None = None
    thinking: bool | None = None
    sampling: Mapping[str, Any] | None = None


class RawAnswer:
    """Text that goes on from a prompt and is no turn: iterate over it for the pieces, all of them content; then `stats`
    and whether it was `stopped` by Ctrl-C."""

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[TurnEvent]:
        with _interrupts(self._stream.cancel):
            for piece in self._stream:
                yield from self._events_of(piece.text)
        yield from self._last_events()

    def _events_of(self, text: str) -> list[TurnEvent]:
        return [Content(text)]

    def _last_events(self) -> list[TurnEvent]:
        return []

    @property
    def stats(self) -> Statistics:
        return self._stream.stats

    @property
    def stopped(self) -> bool:
        return self._stream.finish_reason == "cancelled"


class Answer(RawAnswer):
    """Iterate over it for the pieces; then `turn`, `stats` and whether it was `stopped` by Ctrl-C.

    session: what the turns before have computed is not computed again; None for a single turn. Raises FlashMoeError
    where the prompt does not fit the context or the template refuses it.
    """

    def __init__(
        self,
        engine: TextEngine,
        messages: Messages,
        tools: Sequence[Mapping[str, Any]],
        choices: Choices,
        progress: Progress,
        session: Session | None = None,
    ) -> None:
        variables = {} if choices.thinking is None else {"enable_thinking": choices.thinking}
        prompt = engine.template.render(messages, tools=tools or None, **variables)
        self._parser = TurnParser(tools, thinking_open=thinking_is_open(prompt))
        super().__init__(
            engine.stream(
                messages,
                tools=tools or None,
                max_tokens=choices.max_tokens,
                enable_thinking=choices.thinking,
                progress=progress,
                session=session,
                **(choices.sampling or {}),
            )
        )
        self._events: list[TurnEvent] = []

    def _events_of(self, text: str) -> list[TurnEvent]:
        return self._keep(self._parser.push(text))

    def _last_events(self) -> list[TurnEvent]:
        return self._keep(self._parser.finish(cut=self._stream.finish_reason != "stop"))

    def _keep(self, events: list[TurnEvent]) -> list[TurnEvent]:
        """A call that broke off is shown as the model wrote it; nobody runs it."""
        kept: list[TurnEvent] = [Content(event.text) if isinstance(event, CallBroken) else event for event in events]
        self._events += kept
        return kept

    @property
    def turn(self) -> Turn:
        """What was said so far."""
        thinking, content = (
            "".join(e.text for e in self._events if isinstance(e, kind)) for kind in (Thinking, Content)
        )
        return Turn(thinking, content, tuple(e.call for e in self._events if isinstance(e, Called)))

    @property
    def cut(self) -> bool:
        """max_tokens or the context ended it."""
        return self._stream.finish_reason == "length"


@contextmanager
def _interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C stops the answer between two tokens and raises nothing: the engine is never left within a step."""
    before = signal.signal(signal.SIGINT, lambda _number, _frame: stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
