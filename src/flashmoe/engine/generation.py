"""The generation loop: prefill, then choose a token and run it, until a stop token, the limit or the caller ends it.

Knows token ids and counts what they cost; knows neither text nor where experts come from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

from numpy.typing import ArrayLike

from flashmoe.engine.batch import Tokens
from flashmoe.engine.engine import Engine
from flashmoe.engine.sampling import Sampler, Sampling
from flashmoe.engine.session import Progress, Session
from flashmoe.errors import FlashMoeError
from flashmoe.settings import format_bytes
from flashmoe.streaming.experts import StoreStats


@dataclass(frozen=True)
class Statistics:
    """What a generation cost. Seconds are wall time; hits, misses and bytes count expert records, prompt included.

    steps: forwards of one token; the first token comes out of the prompt's last forward and a stop token is not given
    out, so this is not the number of tokens.
    """

    prompt_tokens: int
    prompt_seconds: float
    generated_tokens: int
    steps: int
    generation_seconds: float
    hits: int
    misses: int
    bytes_read: int
    read_seconds: float
    stall_seconds: float
    native_seconds: float

    @property
    def prompt_rate(self) -> float:
        """Prompt tokens a second."""
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def generation_rate(self) -> float:
        """Tokens a second after the first."""
        return self.steps / self.generation_seconds if self.generation_seconds and self.steps else 0.0

    @property
    def hit_rate(self) -> float:
        """Share of the experts needed that were in memory."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 0.0

    @property
    def read_rate(self) -> float:
        """Bytes a second while reading."""
        return self.bytes_read / self.read_seconds if self.read_seconds else 0.0

    @property
    def read(self) -> str:
        """What was read and how fast, in words."""
        return f"read {format_bytes(self.bytes_read)} at {format_bytes(self.read_rate)}/s"

    @property
    def python_share(self) -> float:
        """Share of the wall time spent neither in native code nor waiting for the disk."""
        total = self.prompt_seconds + self.generation_seconds
        return max(0.0, 1 - (self.native_seconds + self.stall_seconds) / total) if total else 0.0


class _Cancelled(Exception):
    """Ends a prefill from inside."""


class Generation:
    """Iterate over it for the tokens; a stop token ends it and is not among them.

    finish_reason: `stop` (a stop token), `length` (the limit) or `cancelled` (also while the iteration still runs).
    """

    def __init__(
        self,
        engine: Engine,
        prompt: Tokens,
        sampling: Sampling,
        max_tokens: int,
        stop_ids: frozenset[int],
        progress: Progress | None,
        session: Session,
        prefix_checkpoint: int,
    ) -> None:
        self._progress, self._session, self._prefix_checkpoint = progress, session, prefix_checkpoint
        self._engine, self._prompt, self._max_tokens, self._stop_ids = engine, prompt, max_tokens, stop_ids
        self._sampler = Sampler(sampling, engine.config.vocab, prompt)
        self._before: StoreStats = engine.store.stats
        self._busy_before = engine.ops.busy_seconds
        self._prompt_seconds = self._generation_seconds = 0.0
        self._generated = self._steps = 0
        self._cancelled = False
        self.finish_reason = "cancelled"

    def cancel(self) -> None:
        """End after the token, or the piece of the prompt, that is being computed. Any thread may call it."""
        self._cancelled = True

    def _report(self, done: int, total: int) -> None:
        if self._cancelled:
            raise _Cancelled
        if self._progress:
            self._progress(done, total)

    def __iter__(self) -> Iterator[int]:
        session = self._session
        started = perf_counter()
        try:
            logits = session.prefill(self._prompt, self._prefix_checkpoint, self._report)
        except _Cancelled:
            return
        self._prompt_seconds = perf_counter() - started
        started = perf_counter()
        while not self._cancelled:
            token = self._sampler.choose(logits)
            self._generation_seconds = perf_counter() - started
            if token in self._stop_ids:
                self.finish_reason = "stop"
                return
            self._generated += 1
            yield token
            if self._generated == self._max_tokens:
                self.finish_reason = "length"
                return
            logits = session.step(token)
            self._steps += 1

    @property
    def statistics(self) -> Statistics:
        """So far."""
        now = self._engine.store.stats
        return Statistics(
            prompt_tokens=len(self._prompt),
            prompt_seconds=self._prompt_seconds,
            generated_tokens=self._generated,
            steps=self._steps,
            generation_seconds=self._generation_seconds,
            hits=now.hits - self._before.hits,
            misses=now.misses - self._before.misses,
            bytes_read=now.bytes_read - self._before.bytes_read,
            read_seconds=now.read_seconds - self._before.read_seconds,
            stall_seconds=now.stall_seconds - self._before.stall_seconds,
            native_seconds=self._engine.ops.busy_seconds - self._busy_before,
        )


def generate(
    engine: Engine,
    token_ids: ArrayLike,
    sampling: Sampling | None = None,
    *,
    max_tokens: int | None = None,
    stop_ids: frozenset[int] | None = None,
    progress: Progress | None = None,
    session: Session | None = None,
    prefix_checkpoint: int = 0,
) -> Generation:
    """An iterator over the tokens that follow a prompt, with the reason it ended and statistics.

    sampling: None for the checkpoint's own. max_tokens: None for what the context leaves; a prompt and max_tokens that
    do not fit the context together raise CapacityError. stop_ids: None for the model's EOS. progress: told how far the
    prompt is, as Engine.prefill says. session: a conversation of this engine, which spares what it has computed before;
    prefix_checkpoint: how many tokens of the prompt its next one will repeat (Session.prefill), 0 for unknown.
    """
    tokens = engine.check_tokens(token_ids)
    if max_tokens is not None and (not isinstance(max_tokens, int) or max_tokens < 1):
        raise FlashMoeError(f"max_tokens must be a whole number of at least 1, not {max_tokens!r}.")
    engine.check_context(len(tokens) + (max_tokens or 1))
    return Generation(
        engine,
        tokens,
        sampling or Sampling.from_generation_config(engine.defaults),
        max_tokens or engine.limits.context - len(tokens),
        frozenset(engine.config.eos) if stop_ids is None else stop_ids,
        progress,
        session or engine.session(),
        prefix_checkpoint,
    )
