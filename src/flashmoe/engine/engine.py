"""Token ids in, logits out: sequences grow through one forward, in chunks that bound the memory.

Invariant: a sequence's logits do not depend on the chunk size or on what else is in the batch. Knows token ids, not
text.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flashmoe.engine.batch import Tokens, make_batch
from flashmoe.engine.foresight import Foresight
from flashmoe.engine.learned import LearnedUses
from flashmoe.engine.session import Progress, Session, SessionCache
from flashmoe.engine.snapshot_files import SnapshotFiles
from flashmoe.engine.state import SequenceState
from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.models.architecture import ModelConfig
from flashmoe.models.decoder import Decoder
from flashmoe.models.forward_context import Step
from flashmoe.models.observer import RoutingObserver
from flashmoe.ops.interface import Array, Ops
from flashmoe.streaming.experts import ExpertStore
from flashmoe.streaming.memory import MemoryPlan

Logits = NDArray[np.float32]
SNAPSHOT_DISK = 8 << 30
"""Bytes of sessions on disk unless told otherwise: some fifty of 4,096 tokens of 35B."""
_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class Limits:
    """context: tokens a sequence may grow to. chunk: prompt tokens that go through a layer together. sequences: those
    that may run at a time. snapshots: bytes that saved states may hold."""

    context: int
    chunk: int
    sequences: int = 1
    snapshots: int = 0


class Engine:
    """A loaded model (engine.loader makes it). One thread uses it; close it, or use it in a `with` block.

    own_top_k: experts per token as the model was made. defaults: the checkpoint's generation_config.json. identity: 16
    characters that stand for all that decides the bits of a sequence's state. observers: told of every routing decision
    from now on.
    """

    def __init__(
        self,
        ops: Ops,
        decoder: Decoder,
        store: ExpertStore,
        plan: MemoryPlan,
        limits: Limits,
        own_top_k: int,
        defaults: dict[str, Any],
        identity: str,
        learned: LearnedUses | None,
    ) -> None:
        self.ops, self.decoder, self.store = ops, decoder, store
        self.plan, self.limits, self.own_top_k, self.defaults = plan, limits, own_top_k, defaults
        self.identity, self.learned = identity, learned
        self._process = os.getpid()
        self.foresight: Foresight | None = None
        self.observers: list[RoutingObserver] = []

    @property
    def config(self) -> ModelConfig:
        """The model's sizes, with experts_per_token in force."""
        return self.decoder.config

    @property
    def summary(self) -> str:
        """One line that says what was chosen: device, memory, reads, context, experts per token."""
        chosen = self.config.top_k
        experts = f"{chosen} experts per token"
        if chosen != self.own_top_k:
            experts += f" and not the model's {self.own_top_k}, which changes its answers"
        reads = f"{'direct' if self.store.direct else 'buffered'} reads into {self.store.arena}"
        if not self.store.keep:
            reads += ", experts left to the page cache"
        if self.foresight is not None:
            reads += ", ahead of the router while the disk is idle"
        return f"{self.ops.device}; {self.plan}; {reads}; context {self.limits.context}; {experts}"

    def new_sequence(self) -> SequenceState:
        return SequenceState(self.decoder.new_states(), self.config.layer_types)

    def session_cache(self, directory: Path | None = None, disk: int = SNAPSHOT_DISK) -> SessionCache:
        """A store of states with the memory that the plan has for them; directory: where they outlive the process, in
        files of at most `disk` bytes in all."""
        files = SnapshotFiles(directory, self.identity, disk, self.new_sequence) if directory else None
        return SessionCache(self.new_sequence, self.limits.snapshots, files)

    def session(self, cache: SessionCache | None = None) -> Session:
        """A conversation; cache: shared with others, or None for one of its own."""
        return Session(self, cache or self.session_cache(), self.limits.chunk)

    def forward(self, parts: Sequence[tuple[SequenceState, Tokens]], step: Step | None = None) -> Array:
        """Append tokens to sequences: the last layer's output [T, D], T tokens of all parts together.

        step: told of each piece of the work which part of it all is done; it may raise to end the forward. A forward
        that ends by any error breaks its sequences. Raises CapacityError for a sequence that would outgrow the context,
        and FlashMoeError for a broken one, or in a process that was forked after the model was loaded.
        """
        if os.getpid() != self._process:
            raise FlashMoeError(
                f"The model was loaded by process {self._process}, and this one was forked from it, without its "
                "threads. Load the model after forking, or start the process anew (multiprocessing's `spawn`)."
            )
        for state, tokens in parts:
            state.check()
            self.check_context(state.length + len(tokens))
        prefetch_callback = None if self.foresight is None else self.foresight.by(self.store)
        try:
            x = self.decoder.forward(make_batch(parts), self.store, self.observers, step, prefetch_callback)
        except BaseException:
            for state, _ in parts:
                state.broken = True
            raise
        for state, tokens in parts:
            state.length += len(tokens)
        return x

    def prefill(self, state: SequenceState, tokens: Tokens, progress: Progress | None = None) -> Logits:
        """Append a prompt, chunk by chunk; logits [vocab] after its last token.

        progress: told the tokens done, counting layers, and all of them, several times a second. It may raise to end
        the prefill; the sequence is broken then, unless a chunk had just ended.
        """
        done, x = 0, self.ops.empty(0, self.config.hidden)
        for chunk in self._chunks(tokens):
            del x  # the chunk before: the plan holds one
            x = self.forward([(state, chunk)], _step(progress, done, len(chunk), len(tokens)))
            done += len(chunk)
            if progress:
                progress(done, len(tokens))
        logits: Logits = np.asarray(self.decoder.logits(x[-1:]))[0]
        return logits

    def logits(self, token_ids: ArrayLike) -> Logits:
        """Logits float32 [T, vocab] of a sequence of its own: row t says what follows tokens 0..t."""
        rows = list(self.logit_blocks(token_ids))
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def logit_blocks(self, token_ids: ArrayLike) -> Iterator[Logits]:
        """The rows of `logits` in order, so many at a time as take a few MiB."""
        tokens = self.check_tokens(token_ids)
        state = self.new_sequence()
        self.check_context(len(tokens))
        for chunk in self._chunks(tokens):
            yield from self.logits_of(self.forward([(state, chunk)]))

    def logits_of(self, x: Array) -> Iterator[Logits]:
        """Logits [n, vocab] of rows [T, D] of `forward`'s result in order, so many at a time as take a few MiB."""
        rows = max(1, _BLOCK_BYTES // (4 * self.config.vocab))
        for begin in range(0, len(x), rows):
            yield np.asarray(self.decoder.logits(x[begin : begin + rows]))

    def check_context(self, length: int) -> None:
        """Raise CapacityError if a sequence of `length` tokens does not fit."""
        if length > self.limits.context:
            raise CapacityError(
                f"{length} tokens do not fit the context of {self.limits.context}; shorten the prompt or max_tokens, "
                f"or give a larger context (the model allows {self.config.max_context}) and the memory for it."
            )

    def check_tokens(self, token_ids: ArrayLike) -> Tokens:
        """Token ids as int32 [T]; FlashMoeError if there are none, or one is not of the vocabulary."""
        tokens = np.asarray(token_ids)
        if tokens.ndim != 1 or tokens.size == 0 or not np.issubdtype(tokens.dtype, np.integer):
            raise FlashMoeError("The prompt must be a list of at least one token id.")
        if tokens.min() < 0 or tokens.max() >= self.config.vocab:
            bad = int(tokens.max() if tokens.max() >= self.config.vocab else tokens.min())
            raise FlashMoeError(f"Token id {bad} is not in the vocabulary of {self.config.vocab}.")
        return tokens.astype(np.int32)

    def _chunks(self, tokens: Tokens) -> Iterator[Tokens]:
        for begin in range(0, len(tokens), self.limits.chunk):
            yield tokens[begin : begin + self.limits.chunk]

    def close(self) -> None:
        """Stop reading, close the files, and remember which experts were used."""
        self.store.close()
        if self.learned is not None:
            self.learned.add(self.store.uses)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _step(progress: Progress | None, done: int, chunk: int, total: int) -> Step | None:
    """What tells `progress` of a forward of `chunk` tokens after `done` others."""
    if progress is None:
        return None
    return lambda share: progress(done + int(share * chunk), total)
