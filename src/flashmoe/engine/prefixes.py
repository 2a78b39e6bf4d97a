"""What the scheduler needs of whoever keeps states for prompts that begin alike. Knows token ids and states."""

from collections.abc import Callable
from typing import Protocol

from flashmoe.engine.batch import Tokens
from flashmoe.engine.state import SequenceState

Search = Callable[[], SequenceState | None]


class Prefixes(Protocol):
    """States of prefixes. One thread uses it; a search runs beside it."""

    @property
    def nbytes(self) -> int:
        """What they hold of the memory."""

    @property
    def disk_bytes(self) -> int:
        """What they hold of the disk."""

    def search(self, tokens: Tokens) -> Search | None:
        """What takes long, for another thread to do: read the state of a longer prefix than memory has, if there is
        one. None if there is nowhere to look."""

    def begin(self, tokens: Tokens, stored: SequenceState | None) -> SequenceState:
        """A state of its own after the longest prefix known that is shorter than `tokens`, perhaps of length 0.

        stored: what a search for these tokens has found.
        """

    def save(self, tokens: Tokens, state: SequenceState) -> None:
        """Keep a copy of the state after exactly these tokens."""


class NoPrefixes:
    """Keeps none."""

    nbytes = disk_bytes = 0

    def __init__(self, new_sequence: Callable[[], SequenceState]) -> None:
        self._new_sequence = new_sequence

    def search(self, tokens: Tokens) -> Search | None: ...

    def begin(self, tokens: Tokens, stored: SequenceState | None) -> SequenceState:  # noqa: ARG002
        return self._new_sequence()

    def save(self, tokens: Tokens, state: SequenceState) -> None: ...
