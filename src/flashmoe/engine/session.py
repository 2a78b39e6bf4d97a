"""Conversations: whoever wants an answer gives the whole token prefix, and what was computed of it before is reused.

Invariant: logits do not depend on what was reused. Knows token ids and states, not text; docs/sessions.md says where
states are worth saving.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flashmoe.engine.batch import Tokens
from flashmoe.engine.prefixes import Search
from flashmoe.engine.snapshot_files import SnapshotFiles
from flashmoe.engine.snapshots import Snapshot, Snapshots
from flashmoe.engine.state import SequenceState

_SPACING = 4096
"""Tokens of a long prompt between saved states: computing so many again is bearable, and a state of 35B's
GatedDeltaNet layers takes 66 MB whatever its length."""

Progress = Callable[[int, int], None]
"""(tokens done, all tokens)"""


def prefix_checkpoints(begin: int, end: int, chunk: int) -> list[int]:
    """Positions inside a prompt's tokens begin .. end - 1 that are worth a snapshot: ends of chunks of its prefill, so
    that saving cuts no chunk in two."""
    step = -(-_SPACING // chunk) * chunk
    return list(range(begin + step, end, step))


class SessionCache:
    """Saved states, found again by tokens (engine.prefixes). One thread uses it; searches may run in others.

    new_sequence: makes an empty state. budget: bytes that states in memory may hold. files: where they are kept beyond
    the process, if anywhere.
    """

    def __init__(
        self, new_sequence: Callable[[], SequenceState], budget: int, files: SnapshotFiles | None = None
    ) -> None:
        self._new_sequence = new_sequence
        self.memory, self.files = Snapshots(budget), files

    @property
    def keeps(self) -> bool:
        """Whether saving is of any use."""
        return self.memory.budget > 0 or self.files is not None

    @property
    def nbytes(self) -> int:
        """What the states hold of the memory."""
        return self.memory.bytes

    @property
    def disk_bytes(self) -> int:
        """What the files hold of the disk, all models and processes together, when this process last wrote one."""
        return self.files.nbytes if self.files else 0

    def search(self, tokens: Tokens) -> Search | None:
        """What reads the state of a longer prefix from disk than memory has, or finds none; any thread may run it."""
        if not self.files:
            return None
        tokens = np.ascontiguousarray(tokens, np.int32)
        _, length = self.memory.longest(tokens) or (None, 0)
        return partial(self.files.longest, tokens, length)

    def take(self, tokens: Tokens) -> SequenceState:
        """A state of its own after the longest saved prefix that is shorter than `tokens`, perhaps of length 0."""
        search = self.search(tokens)
        return self.begin(tokens, search() if search else None)

    def begin(self, tokens: Tokens, stored: SequenceState | None) -> SequenceState:
        """As `take`, of what is in memory and what a search for these tokens has found, which is then in memory too."""
        tokens = np.ascontiguousarray(tokens, np.int32)
        state, length = self.memory.longest(tokens) or (None, 0)
        if stored and stored.length > length:
            self.memory.add(Snapshot(np.array(tokens[: stored.length], np.int32), stored.fork()))
            return stored
        return state.fork(length) if state else self._new_sequence()

    def save(self, tokens: Tokens, state: SequenceState, *, on_disk: bool = True) -> None:
        """Keep a copy of the state after exactly these tokens, in memory and, where there are files, in the background
        on disk. Raises FlashMoeError for a broken one."""
        assert state.length == len(tokens)
        if not len(tokens) or not self.keeps:
            return
        snapshot = Snapshot(np.array(tokens, np.int32), state.fork())
        self.memory.add(snapshot)
        if self.files and on_disk:
            self.files.save(snapshot)

    def flush(self) -> None:
        """Wait until all that was saved is on disk; the end of the process does so too."""
        if self.files:
            self.files.flush()


class Runner(Protocol):
    """What a session needs of an engine."""

    def new_sequence(self) -> SequenceState: ...

    def check_tokens(self, token_ids: ArrayLike) -> Tokens: ...

    def prefill(
        self, state: SequenceState, tokens: Tokens, progress: Progress | None = None
    ) -> NDArray[np.float32]: ...


class Session:
    """One conversation on an engine. state: after the tokens so far.

    The state of the last answer is kept beside the cache, so that going on costs no copy.
    """

    def __init__(self, runner: Runner, cache: SessionCache, chunk: int) -> None:
        self._runner, self._cache, self._chunk = runner, cache, chunk
        self.state = runner.new_sequence()
        self._tokens = list[int]()

    @property
    def tokens(self) -> Tokens:
        """All that the state has seen, int32."""
        return np.array(self._tokens[: self.state.length], np.int32)

    def prefill(
        self, token_ids: ArrayLike, prefix_checkpoint: int | None = None, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Logits [vocab] after a whole prefix, computing what no saved state spares.

        prefix_checkpoint: how many of the tokens a later prompt will probably repeat: up to where the template opens
        the answer, since an answer is often rendered otherwise once it is history. None: all but the last, for
        a second try.
        progress: told the tokens done, those that were spared included, and all of them; it may raise to end the
        prefill.
        """
        tokens = self._runner.check_tokens(token_ids)
        state = self.state = self._begin(tokens)
        self._tokens = tokens[: state.length].tolist()
        likely = len(tokens) - 1 if prefix_checkpoint is None else prefix_checkpoint
        stops = {*prefix_checkpoints(state.length, len(tokens), self._chunk), likely} if self._cache.keeps else set()
        for stop in sorted(s for s in stops if state.length < s < len(tokens)):
            self._extend(tokens[state.length : stop], progress, len(tokens))
            self._cache.save(self.tokens, state, on_disk=stop == likely)
        return self._extend(tokens[state.length :], progress, len(tokens))

    def step(self, token: int) -> NDArray[np.float32]:
        """Logits [vocab] after one more token."""
        return self._extend(np.array([token], np.int32))

    def save(self) -> None:
        """Keep the state as it is now; worth while at the end of an answer."""
        self._cache.save(self.tokens, self.state)

    def _extend(self, tokens: Tokens, progress: Progress | None = None, total: int = 0) -> NDArray[np.float32]:
        before = self.state.length
        self._tokens += tokens.tolist()
        if progress is None:
            return self._runner.prefill(self.state, tokens)
        return self._runner.prefill(self.state, tokens, lambda done, _: progress(before + done, total))

    def _begin(self, tokens: Tokens) -> SequenceState:
        """The state to go on from: the last one, cut back if it can be, or a saved one."""
        last = Snapshot(self.tokens, self.state)
        spared = last.reusable(tokens) if not self.state.broken else 0
        if spared and spared == self.state.length:
            return self.state
        saved = self._cache.take(tokens)
        return self.state.fork(spared) if spared > saved.length else saved
