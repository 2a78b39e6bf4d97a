"""An answer on its way: what the scheduler tells of its requests, read as turns.

Invariant: abandoning an answer cancels its requests. Lives in the event loop; the scheduler tells from its own thread.
Knows no HTTP.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from flashmoe.chat.arguments import Signatures
from flashmoe.chat.replay import WrittenTurns
from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.chat.turn_parser import TurnParser
from flashmoe.engine import request as engine
from flashmoe.engine.running import Ticket
from flashmoe.server.ask import Ask
from flashmoe.server.events import Delta, Event, Finish, Reading, UnansweredError
from flashmoe.server.metrics import Clock, Metrics
from flashmoe.server.turn import TurnReader


@dataclass(frozen=True)
class Prompt:
    """A prompt in tokens. thinking_open: it ends inside a thinking block. prefix_checkpoints: see engine.request.
    ignored: fields that this model's template can do nothing with."""

    tokens: NDArray[np.int32]
    thinking_open: bool
    prefix_checkpoints: tuple[int, ...]
    ignored: tuple[str, ...] = ()


class Answer:
    """Iterate over `events` for (choice, event); leaving the iteration, or `cancel`, ends the computing."""

    def __init__(
        self,
        ask: Ask,
        prompt: Prompt,
        tools: Signatures,
        tokenizer: Tokenizer,
        written: WrittenTurns,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.ask, self.prompt, self._tools, self.tokenizer = ask, prompt, tools, tokenizer
        self._written, self._metrics, self._clock = written, metrics, clock
        self._queue: asyncio.Queue[tuple[int, engine.Event]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.tickets: list[Ticket] = []
        self.cached_tokens: int | None = None
        self.finished: dict[int, Finish] = {}

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt.tokens)

    @property
    def tokens(self) -> int:
        """Generated, all choices together, once they are finished."""
        return sum(finish.tokens for finish in self.finished.values())

    @property
    def thinking_tokens(self) -> int:
        return sum(finish.thinking_tokens for finish in self.finished.values())

    def listener(self, index: int) -> engine.Listener:
        def tell(event: engine.Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be gone when the last requests are cancelled
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

        return tell

    def cancel(self) -> None:
        for ticket in self.tickets:
            ticket.cancel()

    async def events(self) -> AsyncGenerator[tuple[int, Event], None]:
        """Events of all choices as they come. Raises what the engine failed with."""
        ask = self.ask
        readers = []
        for _ in self.tickets:
            parser = TurnParser(self._tools, thinking_open=self.prompt.thinking_open) if ask.prompt is None else None
            readers.append(TurnReader(self.tokenizer, parser, ask.stop, not ask.several_calls))
        try:
            while len(self.finished) < len(readers):
                index, event = await self._queue.get()
                if index in self.finished:
                    continue
                for told in self._tell(event, readers[index], self.tickets[index]):
                    if isinstance(told, Finish):
                        self.finished[index] = told
                        self._written.remember(readers[index].written())
                    yield index, told
                if isinstance(event, engine.Token):
                    self._clock.token(index, monotonic())
        finally:
            self.cancel()
            self._metrics.count(self.prompt_tokens, self.cached_tokens or 0, self.tokens)

    def _tell(self, event: engine.Event, reader: TurnReader, ticket: Ticket) -> list[Event]:
        if isinstance(event, engine.Failed):
            raise UnansweredError from event.error
        if isinstance(event, engine.Progress):
            if self.cached_tokens is None:
                self.cached_tokens = event.done
            return [Reading(event.done, event.total)]
        if isinstance(event, engine.Scored):
            return [Delta(reported=event.tokens)]
        if isinstance(event, engine.End):
            return list(reader.finish(event.reason, event.token))
        told: list[Delta | Finish] = list(reader.token(event))
        if reader.over:
            ticket.cancel()
            told += reader.finish("cancelled")
        return list(told)
