"""Saved states of sequences on disk: found again by the tokens they have seen, also by another process, under a byte
budget.

A session is a chain of parts of _SEGMENT tokens, which longer sessions share, and a last part with what is left of the
tokens and the recurrent states. A part's name holds the checksum of all tokens up to its end. Files appear whole under
their names and are never changed; whoever finds one missing or damaged computes instead.

Invariant: a part is never older, by its modification time, than the parts that need it, and the oldest files go first:
so no chain loses a part before it has lost its end. A directory that holds files of somebody else is refused at the
start; what fails later is one warning, never an error.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from flashmoe.engine.batch import Tokens
from flashmoe.engine.snapshot_directory import SnapshotDirectory
from flashmoe.engine.snapshot_part import Part
from flashmoe.engine.snapshots import Snapshot
from flashmoe.engine.state import SequenceState
from flashmoe.errors import FlashMoeError, FormatError
from flashmoe.files.checksum import prefix_checksums
from flashmoe.settings import format_bytes

_SEGMENT = 256
_MOST_WAITING = 2
"""Snapshots that wait for the disk while it is slow; further ones are not written."""
_LAST, _KEYS = "state", "keys"
_log = logging.getLogger("flashmoe")


class SnapshotFiles:
    """Sessions of one model in a directory that other models and processes may share.

    model: 16 characters that stand for all that decides a state's bits. budget: bytes of all parts in the directory.
    Raises FlashMoeError if the directory holds what the program did not write.
    """

    def __init__(self, root: Path, model: str, budget: int, new_sequence: Callable[[], SequenceState]) -> None:
        self._directory, self._model, self._budget = SnapshotDirectory(root, model), model, budget
        self._process = os.getpid()
        self._new_sequence = new_sequence
        self._writer = ThreadPoolExecutor(1, "snapshots")
        self._waiting: list[Future[None]] = []
        self._warned, self._refused = False, set[Path]()
        self.nbytes = sum(part.nbytes for part in self._directory.parts())

    # Reading ----------------------------------------------------------------------------------------------------------
    def longest(self, tokens: Tokens, above: int) -> SequenceState | None:
        """A state after the longest saved prefix of more than `above` tokens that is shorter than `tokens`."""
        names = self._directory.names()
        ends = sorted({int(name[:8]) for name in names if above < int(name[:8]) < len(tokens)})
        for end, digest in reversed(list(zip(ends, prefix_checksums(tokens, ends), strict=True))):
            for kind in (_LAST, _KEYS):
                if _name(end, digest, kind) in names and (state := self._read(tokens[:end], kind)):
                    return state
        return None

    def _read(self, tokens: Tokens, kind: str) -> SequenceState | None:
        state = self._new_sequence()
        if kind == _KEYS and not state.cuttable:
            return None
        parts = list(self._parts(tokens, kind))
        for path, part in parts:
            try:
                part.read(path, state)
            except FileNotFoundError:
                return None
            except (FormatError, OSError) as error:
                self._refuse(path, error)
                return None
        self._touch([path for path, _ in parts])
        return state

    def _parts(self, tokens: Tokens, kind: str) -> Iterator[tuple[Path, Part]]:
        """The chain of these tokens, first part first; kind: of its end."""
        ends = [*range(_SEGMENT, len(tokens), _SEGMENT), len(tokens)]
        kinds = [_KEYS] * (len(ends) - 1) + [kind]
        digests = prefix_checksums(tokens, ends)
        for begin, end, digest, kind in zip([0, *ends], ends, digests, kinds, strict=False):
            part = Part(self._model, tokens, begin, end, last=kind == _LAST)
            yield self._directory.path / _name(end, digest, kind), part

    def _refuse(self, path: Path, error: Exception) -> None:
        if path not in self._refused:
            _log.warning("%s; the session is computed anew.", str(error).rstrip("."))
        self._refused.add(path)
        with suppress(OSError):
            self._directory.remove(path)

    # Writing ----------------------------------------------------------------------------------------------------------
    def save(self, snapshot: Snapshot) -> None:
        """Write it in the background."""
        self._waiting = [w for w in self._waiting if not w.done()]
        if os.getpid() != self._process:  # a forked child, which has no thread to write
            return
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(self._writer.submit(self._write, snapshot))

    def flush(self) -> None:
        """Wait until all is written."""
        if os.getpid() == self._process:
            for waiting in self._waiting:
                waiting.result()

    def _write(self, snapshot: Snapshot) -> None:
        parts = list(self._parts(snapshot.tokens, _LAST))
        size = sum(part.nbytes(snapshot.state) for _, part in parts)
        if size > self._budget:
            return
        try:
            self._directory.prepare()
            for path, part in parts:
                if not os.path.lexists(path):
                    part.write(path, snapshot.state)
            self._touch([path for path, _ in parts])
            self._evict()
        except (FlashMoeError, OSError) as error:
            if not self._warned:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                _log.warning("Sessions are not kept in %s for later: %s", self._directory.path, reason)
            self._warned = True

    def _touch(self, chain: list[Path]) -> None:
        """Mark as used now, each part later than those that need it."""
        now = time.time_ns()
        for i, path in enumerate(reversed(chain)):
            with suppress(OSError):
                os.utime(path, ns=(now, now + 1000 * i), follow_symlinks=False)

    def _evict(self) -> None:
        """Remove the oldest files until the budget holds."""
        found = self._directory.parts()
        total = sum(part.nbytes for part in found)
        for part in found:
            if total <= self._budget:
                break
            self._directory.remove(part.path)
            total -= part.nbytes
        self.nbytes = total

    def __str__(self) -> str:
        return f"sessions in {self._directory.root}, up to {format_bytes(self._budget)}"


def _name(end: int, digest: str, kind: str) -> str:
    return f"{end:08d}-{digest}.{kind}"
