"""One file of a saved session: keys and values of some consecutive tokens, and, in the last, the recurrent states.

    header          magic, format, model, the tokens' first and last position (docs/sessions.md)
    tokens          int32
    rows            of each attention layer in turn, as `KeyValueState.read` gives them
    states          of each GatedDeltaNet layer in turn, conv and recurrent, float32; in the last part alone
    checksum        16 hex digits of the xxh3-64 of all before

Invariant: a part is appended to a state whole or not at all. Knows neither where files lie nor which are wanted.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashmoe.engine.batch import Tokens
from flashmoe.engine.state import SequenceState
from flashmoe.errors import FormatError
from flashmoe.files.atomic import atomic_file
from flashmoe.files.checksum import checksum
from flashmoe.files.opening import opened
from flashmoe.ops.interface import RecurrentState

FORMAT = 1
"""Counts up with this layout, and with any change of kernels that moves the bits of a state."""
_HEADER = struct.Struct("<8sII16sQQ")
MAGIC = b"flashmoe"
_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens begin .. end - 1 of `tokens`; last: the recurrent states after `end` are in it too."""

    model: str
    tokens: Tokens
    begin: int
    end: int
    last: bool

    @property
    def head(self) -> bytes:
        header = _HEADER.pack(MAGIC, FORMAT, self.last, self.model.encode(), self.begin, self.end)
        return header + np.ascontiguousarray(self.tokens[self.begin : self.end]).tobytes()

    def nbytes(self, state: SequenceState) -> int:
        """The whole file, for sequences like `state`."""
        rows = sum(cache.row_bytes for cache in state.caches) * (self.end - self.begin)
        return len(self.head) + rows + sum(mixer.nbytes for mixer in self._recurrent(state)) + _DIGITS

    def _recurrent(self, state: SequenceState) -> list[RecurrentState]:
        return state.recurrent if self.last else []

    def write(self, path: Path, state: SequenceState) -> None:
        """For the user alone, since it holds what was said. Raises FlashMoeError with a sentence."""
        with atomic_file(path, 0o600) as file:
            file.write(self.head)
            for cache in state.caches:
                rows = np.empty((self.end - self.begin, cache.row_bytes), np.uint8)
                cache.read(self.begin, self.end, rows)
                file.write(rows)
            for mixer in self._recurrent(state):
                values = np.empty(mixer.nbytes // 4, np.float32)
                mixer.read(values)
                file.write(values)
            file.write(file.xxh3.encode())

    def read(self, path: Path, state: SequenceState) -> None:
        """Go on with a state after `begin` tokens. Raises FormatError for any other content than `write` wrote, and
        OSError."""
        data = _content(path, self.nbytes(state))
        body, head = data[:-_DIGITS], self.head
        if checksum(body) != data[-_DIGITS:].tobytes().decode("latin-1"):
            raise FormatError(f"{path} is damaged")
        if body[: len(head)].tobytes() != head:
            raise FormatError(f"{path} is of another model, format or text")
        at = len(head)
        for cache in state.caches:
            size = (self.end - self.begin) * cache.row_bytes
            cache.append(body[at : at + size].reshape(self.end - self.begin, cache.row_bytes))
            at += size
        for mixer in self._recurrent(state):
            mixer.write(body[at : at + mixer.nbytes].copy().view(np.float32))  # aligned
            at += mixer.nbytes
        state.length = self.end


def _content(path: Path, size: int) -> NDArray[Any]:
    with opened(path, links=False) as file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise FormatError(f"{path} has {found} bytes, not {size}")
        data = np.empty(size, np.uint8)
        rest = data.data
        while len(rest):
            if not (got := file.readinto(rest)):
                raise FormatError(f"{path} became shorter while it was read")
            rest = rest[got:]
    return data
