"""Requests that come and go, answered together: one thread steps one ragged batch of one token of each running answer
and a piece of each prompt that is still being read.

Invariant: each answer is, token for token, what `generation.generate` gives for its request alone. Any thread may
submit and cancel; the engine is used by the scheduler's thread alone. Knows token ids; knows neither text nor clients.
"""

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from flashmoe.engine.batch import Tokens
from flashmoe.engine.engine import Engine
from flashmoe.engine.prefixes import NoPrefixes, Prefixes
from flashmoe.engine.request import End, Failed, Listener, Progress, Request
from flashmoe.engine.running import Running, Ticket
from flashmoe.engine.sampling import Sampler, check_bias
from flashmoe.engine.state import SequenceState
from flashmoe.errors import FlashMoeError
from flashmoe.ops.interface import Array
from flashmoe.streaming.experts import StoreStats

PROMPT_TOKENS_BESIDE_ANSWERS = 256
"""The most prompt tokens in a step that others wait for: their next token comes after about a second and not ten."""
MAX_WAITING = 64


class QueueFullError(FlashMoeError):
    """As many requests wait as may."""


class ClosingError(FlashMoeError):
    """Nothing more is taken."""


class _CancelledError(Exception):
    """Nobody waits any more for what a step computes."""


@dataclass(frozen=True)
class _Sought:
    """A request whose saved state is looked for, and perhaps read, in another thread."""

    ticket: Ticket
    sampler: Sampler
    search: Future[SequenceState | None]


class Scheduler:
    """Owns an engine from now on, until it is closed (the engine is not closed with it).

    prefixes: where states are saved and found; None: nowhere. max_waiting: requests beyond the running ones.
    """

    def __init__(self, engine: Engine, prefixes: Prefixes | None = None, max_waiting: int = MAX_WAITING) -> None:
        self.engine = engine
        self._prefixes = prefixes or NoPrefixes(engine.new_sequence)
        self._max_waiting = max_waiting
        self._waiting: deque[Ticket] = deque()
        self._sought: list[_Sought] = []
        self._running: list[Running] = []
        self._searches = ThreadPoolExecutor(engine.limits.sequences, "saved states")
        self._changed = threading.Condition()
        self._closing = False
        self._store_stats = engine.store.stats
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, listener: Listener) -> Ticket:
        """Queue a request; the listener hears Progress, Scored, Token ... and at last one End or Failed.

        Raises QueueFullError, ClosingError, FlashMoeError for a request that is not valid, CapacityError for one that
        does not fit.
        """
        prompt = self.engine.check_tokens(request.prompt)
        if request.max_tokens is not None and request.max_tokens < 0:
            raise FlashMoeError(f"max_tokens must be a whole number of at least 0, not {request.max_tokens}.")
        self.engine.check_context(len(prompt) + (1 if request.max_tokens is None else request.max_tokens))
        check_bias(request.bias, self.engine.config.vocab)
        left = self.engine.limits.context - len(prompt)
        ticket = Ticket(request, prompt, left if request.max_tokens is None else request.max_tokens, listener)
        with self._changed:
            if self._closing:
                raise ClosingError("The server is shutting down; ask again when it is back.")
            if sum(not waiting.cancelled for waiting in self._waiting) >= self._max_waiting:
                raise QueueFullError(f"{self._max_waiting} requests wait already; try again later.")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    @property
    def stats(self) -> "Load":
        saved, running = self._prefixes, len(self._sought) + len(self._running)
        return Load(len(self._waiting), running, self._store_stats, saved.nbytes, saved.disk_bytes)

    def cancel(self) -> None:
        """Take nothing more and end everything, within the step that is being computed, with End("cancelled")."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def close(self) -> None:
        """`cancel`, and wait until that has come through."""
        self.cancel()
        self._thread.join()
        self._searches.shutdown(cancel_futures=True)

    # The engine's thread ----------------------------------------------------------------------------------------------
    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._running or self._found or self._can_begin)
                if self._closing:
                    break
                fresh = self._next_waiting()
            for ticket in fresh:
                self._begin(ticket)
            for sought in self._found:
                self._sought.remove(sought)
                self._start(sought)
            self._drop_cancelled()
            if self._running:
                self._step()
        for ticket in [*self._waiting, *(s.ticket for s in self._sought), *(r.ticket for r in self._running)]:
            ticket.tell(End("cancelled"))
        self._waiting.clear()
        self._sought.clear()
        self._running.clear()

    @property
    def _free(self) -> int:
        return self.engine.limits.sequences - len(self._sought) - len(self._running)

    @property
    def _can_begin(self) -> bool:
        return self._free > 0 and len(self._waiting) > 0

    @property
    def _found(self) -> list[_Sought]:
        return [sought for sought in self._sought if sought.search.done()]

    def _next_waiting(self) -> list[Ticket]:
        for ticket in [t for t in self._waiting if t.cancelled]:
            self._waiting.remove(ticket)
            ticket.tell(End("cancelled"))
        return [self._waiting.popleft() for _ in range(min(self._free, len(self._waiting)))]

    def _begin(self, ticket: Ticket) -> None:
        """Look for a saved state, beside the others' steps: reading one takes a second a gigabyte or two."""
        request = ticket.request
        try:
            sampler = Sampler(request.sampling, self.engine.config.vocab, ticket.prompt, request.bias)
            search = None if request.score_prompt else self._prefixes.search(ticket.prompt)
        except Exception as error:
            ticket.tell(Failed(error))
            return
        future: Future[SequenceState | None] = Future()
        if search is None:
            future.set_result(None)
        else:
            future = self._searches.submit(search)
            future.add_done_callback(self._wake)
        self._sought.append(_Sought(ticket, sampler, future))

    def _wake(self, _: Future[SequenceState | None]) -> None:
        with self._changed:
            self._changed.notify()

    def _start(self, sought: _Sought) -> None:
        ticket = sought.ticket
        try:
            scored, found = ticket.request.score_prompt, sought.search.result()
            state = self.engine.new_sequence() if scored else self._prefixes.begin(ticket.prompt, found)
        except Exception as error:
            ticket.tell(Failed(error))
            return
        stops = frozenset(self.engine.config.eos) if ticket.request.stop_ids is None else ticket.request.stop_ids
        self._running.append(Running(ticket, state, sought.sampler, stops))
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
            for (sequence, tokens), end in zip(parts, ends, strict=True):
                if sequence.ticket.request.score_prompt and not sequence.generated:
                    self._score(sequence, x[end + 1 - len(tokens) : end + 1])
            ready = [(s, end) for (s, _), end in zip(parts, ends, strict=True) if s.wants_token]
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

    def _parts(self) -> list[tuple[Running, Tokens]]:
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

    def _after_prompt_piece(self, sequence: Running, count: int) -> None:
        done, prompt = sequence.state.length, sequence.ticket.prompt
        if done in sequence.ticket.request.prefix_checkpoints:
            self._save(sequence)
        if count:
            sequence.ticket.tell(Progress(done, len(prompt)))
        if not sequence.prompt_left and sequence.ticket.max_tokens == 0:
            sequence.end(End("length"))
            self._save(sequence)

    def _score(self, sequence: Running, x: Array) -> None:
        """Tell what the rows of a piece of a prompt say of the tokens after each; its last row foresees no prompt."""
        begin = sequence.state.length - len(x)
        try:
            sequence.score(begin, self.engine.logits_of(x[: len(sequence.ticket.prompt) - 1 - begin]))
        except Exception as error:
            sequence.end(Failed(error))

    def _save(self, sequence: Running) -> None:
        if sequence.state.length and not sequence.ticket.request.score_prompt:
            self._prefixes.save(sequence.tokens, sequence.state)


@dataclass(frozen=True)
class Load:
    """How busy a scheduler is, what its engine's experts cost so far, and the bytes of its saved states. running: those
    among them whose saved state is being read."""

    waiting: int
    running: int
    store: StoreStats
    saved_bytes: int
    saved_disk_bytes: int
