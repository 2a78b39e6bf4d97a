"""Requests that come and go, answered together: one thread steps one ragged batch of one token of each running answer
and a piece of each prompt that is still being read.

Invariant: each answer is, token for token, what `generation.generate` gives for its request alone. Any thread may
submit and cancel; the engine is used by the scheduler's thread alone. Knows token ids; knows neither text nor clients.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flashmoe.engine.batch import Tokens
from flashmoe.engine.engine import Engine, Logits
from flashmoe.engine.request import End, Event, Failed, Listener, Logprob, Progress, Request, Token
from flashmoe.engine.sampling import Sampler, log_probabilities
from flashmoe.engine.state import SequenceState
from flashmoe.errors import FlashMoeError
from flashmoe.streaming.experts import StoreStats

PROMPT_TOKENS_BESIDE_ANSWERS = 256
"""The most prompt tokens in a step that others wait for: their next token comes after about a second and not ten."""
MAX_WAITING = 64


class QueueFullError(FlashMoeError):
    """As many requests wait as may."""


class Prefixes(Protocol):
    """States kept for prompts that begin alike."""

    @property
    def nbytes(self) -> int:
        """What they hold of the memory."""

    @property
    def disk_bytes(self) -> int:
        """What they hold of the disk."""

    def take(self, tokens: Tokens) -> SequenceState:
        """A state of the longest saved prefix that is shorter than `tokens`, perhaps of length 0."""

    def save(self, tokens: Tokens, state: SequenceState) -> None:
        """Keep a copy of the state after exactly these tokens."""


class _CancelledError(Exception):
    """Nobody waits any more for what a step computes."""


class _Nothing:
    """Prefixes that keeps none."""

    nbytes = disk_bytes = 0

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def take(self, tokens: Tokens) -> SequenceState:  # noqa: ARG002
        return self._engine.new_sequence()

    def save(self, tokens: Tokens, state: SequenceState) -> None: ...


class Ticket:
    """A request on its way."""

    def __init__(self, request: Request, prompt: Tokens, max_tokens: int, listener: Listener) -> None:
        self.request, self.prompt, self.max_tokens, self.tell = request, prompt, max_tokens, listener
        self.cancelled = False

    def cancel(self) -> None:
        """End after the step that is being computed, or in it if nobody else waits for it, with End("cancelled")."""
        self.cancelled = True


class _Running:
    """One sequence: first its prompt is read, then its answer grows."""

    def __init__(self, ticket: Ticket, state: SequenceState, sampler: Sampler, stop_ids: frozenset[int]) -> None:
        self.ticket, self.state, self.sampler, self.stop_ids = ticket, state, sampler, stop_ids
        self.generated: list[int] = []
        self.ended = False

    @property
    def prompt_left(self) -> int:
        return max(0, len(self.ticket.prompt) - self.state.length)

    @property
    def tokens(self) -> Tokens:
        """All that the state has seen."""
        return np.concatenate([self.ticket.prompt, np.array(self.generated, np.int32)])[: self.state.length]

    def next_tokens(self, most: int) -> Tokens:
        """What to compute next: a piece of the prompt that ends at a frontier if it meets one, or the last token."""
        begin = self.state.length
        if not self.prompt_left:
            return np.array(self.generated[-1:], dtype=np.int32)
        end = min(begin + most, len(self.ticket.prompt))
        return self.ticket.prompt[begin : min([f for f in self.ticket.request.frontiers if begin < f < end] + [end])]

    def choose(self, logits: Logits) -> None:
        request = self.ticket.request
        token = self.sampler.choose(logits, request.constraint.allowed() if request.constraint else None)
        if token in self.stop_ids:
            self.end(End("stop"))
            return
        if request.constraint:
            request.constraint.accept(token)
        self.generated.append(token)
        self.ticket.tell(_report(token, logits, request.top_logprobs))
        if len(self.generated) == self.ticket.max_tokens:
            self.end(End("length"))

    def end(self, event: Event) -> None:
        self.ended = True
        self.ticket.tell(event)


class Scheduler:
    """Owns an engine from now on, until it is closed (the engine is not closed with it).

    prefixes: where states are saved and found; None: nowhere. max_waiting: requests beyond the running ones.
    """

    def __init__(self, engine: Engine, prefixes: Prefixes | None = None, max_waiting: int = MAX_WAITING) -> None:
        self.engine = engine
        self._prefixes = prefixes or _Nothing(engine)
        self._max_waiting = max_waiting
        self._waiting: deque[Ticket] = deque()
        self._running: list[_Running] = []
        self._changed = threading.Condition()
        self._closing = False
        self._store_stats = engine.store.stats
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, listener: Listener) -> Ticket:
        """Queue a request; the listener hears Progress, Token ... and at last one End or Failed.

        Raises QueueFullError, FlashMoeError for a request that is not valid, CapacityError for one that does not fit.
        """
        prompt = self.engine.check_tokens(request.prompt)
        if request.max_tokens is not None and request.max_tokens < 1:
            raise FlashMoeError(f"max_tokens must be a whole number of at least 1, not {request.max_tokens}.")
        self.engine.check_context(len(prompt) + (request.max_tokens or 1))
        ticket = Ticket(request, prompt, request.max_tokens or self.engine.limits.context - len(prompt), listener)
        with self._changed:
            if self._closing:
                raise FlashMoeError("The server is shutting down; ask again when it is back.")
            if sum(not waiting.cancelled for waiting in self._waiting) >= self._max_waiting:
                raise QueueFullError(f"{self._max_waiting} requests wait already; try again later.")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    @property
    def stats(self) -> "Load":
        saved = self._prefixes
        return Load(len(self._waiting), len(self._running), self._store_stats, saved.nbytes, saved.disk_bytes)

    def close(self) -> None:
        """Cancel everything and wait until that has come through."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # The engine's thread ----------------------------------------------------------------------------------------------
    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._running or self._closing)
                if self._closing:
                    break
                fresh = self._next_waiting()
            for ticket in fresh:
                self._start(ticket)
            self._drop_cancelled()
            if self._running:
                self._step()
        for ticket in [*self._waiting, *(r.ticket for r in self._running)]:
            ticket.tell(End("cancelled"))
        self._waiting.clear()
        self._running.clear()

    def _next_waiting(self) -> list[Ticket]:
        for ticket in [t for t in self._waiting if t.cancelled]:
            self._waiting.remove(ticket)
            ticket.tell(End("cancelled"))
        free = self.engine.limits.sequences - len(self._running)
        return [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]

    def _start(self, ticket: Ticket) -> None:
        request, config = ticket.request, self.engine.config
        try:
            sampler = Sampler(request.sampling, config.vocab, ticket.prompt, request.bias)
            state = self._prefixes.take(ticket.prompt)
        except Exception as error:
            ticket.tell(Failed(error))
            return
        stops = frozenset(config.eos) if request.stop_ids is None else request.stop_ids
        self._running.append(_Running(ticket, state, sampler, stops))
        ticket.tell(Progress(state.length, len(ticket.prompt)))

    def _drop_cancelled(self) -> None:
        for sequence in self._running:
            if sequence.ticket.cancelled:
                self._save(sequence)
                sequence.end(End("cancelled"))
        self._running = [s for s in self._running if not s.ended]

    def _step(self) -> None:
        parts = self._parts()

        def check(_: float) -> None:
            if self._closing or all(sequence.ticket.cancelled for sequence, _ in parts):
                raise _CancelledError

        try:
            x = self.engine.forward([(sequence.state, tokens) for sequence, tokens in parts], check)
            ends = np.cumsum([len(tokens) for _, tokens in parts]) - 1
            ready = [(s, end) for (s, _), end in zip(parts, ends, strict=True) if not s.prompt_left]
            rows = np.asarray(self.engine.decoder.logits(x[[end for _, end in ready]])) if ready else ()
        except Exception as error:
            # Layers may have gone different ways: none of these sequences can go on.
            for sequence, _ in parts:
                sequence.end(End("cancelled") if isinstance(error, _CancelledError) else Failed(error))
            ready, rows = [], ()
        self._store_stats = self.engine.store.stats
        for sequence, tokens in parts:
            if not sequence.ended and len(sequence.generated) == 0:
                self._after_prompt_piece(sequence, len(tokens))
        for (sequence, _), logits in zip(ready, rows, strict=True):
            try:
                sequence.choose(logits)
            except Exception as error:
                sequence.end(Failed(error))
                continue
            if sequence.ended:
                self._save(sequence)
        self._running = [s for s in self._running if not s.ended]

    def _parts(self) -> list[tuple[_Running, Tokens]]:
        """One token of each answer, and of each prompt an equal share of what a step may hold, less where it ends."""
        answering = [s for s in self._running if not s.prompt_left]
        reading = sorted((s for s in self._running if s.prompt_left), key=lambda s: s.prompt_left)
        chunk = self.engine.limits.chunk
        left = min(PROMPT_TOKENS_BESIDE_ANSWERS, chunk - len(answering)) if answering else chunk
        parts = [(s, s.next_tokens(1)) for s in answering]
        for i, sequence in enumerate(reading):
            tokens = sequence.next_tokens(max(1, left // (len(reading) - i)))
            parts.append((sequence, tokens))
            left -= len(tokens)
        return parts

    def _after_prompt_piece(self, sequence: _Running, count: int) -> None:
        done, prompt = sequence.state.length, sequence.ticket.prompt
        if done in sequence.ticket.request.frontiers:
            self._save(sequence)
        if count:
            sequence.ticket.tell(Progress(done, len(prompt)))

    def _save(self, sequence: _Running) -> None:
        if sequence.state.length:
            self._prefixes.save(sequence.tokens, sequence.state)


@dataclass(frozen=True)
class Load:
    """How busy a scheduler is, what its engine's experts cost so far, and the bytes of its saved states."""

    waiting: int
    running: int
    store: StoreStats
    saved_bytes: int
    saved_disk_bytes: int


def _report(token: int, logits: Logits, top: int | None) -> Token:
    if top is None:
        return Token(token)
    values = log_probabilities(logits)
    best: Sequence[int] = _likeliest(values, top)
    return Token(token, Logprob(token, float(values[token])), tuple(Logprob(i, float(values[i])) for i in best))


def _likeliest(values: NDArray[np.float64], count: int) -> list[int]:
    """Indices of the largest values, falling; of equal ones the lower first."""
    if count == 0:
        return []
    found = np.argpartition(-values, min(count, len(values)) - 1)[:count]
    return sorted(found.tolist(), key=lambda i: (-values[i], i))
