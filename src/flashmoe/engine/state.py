"""What the engine keeps of one sequence. Knows how long it is, not which tokens it has."""

from collections.abc import Sequence
from dataclasses import dataclass

from flashmoe.errors import FlashMoeError
from flashmoe.ops.interface import Handle, KeyValueState, RecurrentState

_FULL = "full_attention"


@dataclass(slots=True)
class SequenceState:
    """The mixers' states, one a layer, after `length` tokens; kinds: of the layers (ModelConfig.layer_types).

    broken: a forward was broken off, so that the layers need not have seen the same tokens.
    """

    mixers: list[Handle]
    kinds: Sequence[str]
    length: int = 0
    broken: bool = False

    @property
    def caches(self) -> list[KeyValueState]:
        """The states of the attention layers, in order."""
        return [m for m, kind in zip(self.mixers, self.kinds, strict=True) if kind == _FULL]

    @property
    def recurrent(self) -> list[RecurrentState]:
        """The states of the GatedDeltaNet layers, in order."""
        return [m for m, kind in zip(self.mixers, self.kinds, strict=True) if kind != _FULL]

    @property
    def cuttable(self) -> bool:
        """Whether the state after fewer tokens can be had from this one: only keys and values can be cut back."""
        return all(kind == _FULL for kind in self.kinds)

    def check(self) -> None:
        """Raise FlashMoeError for a broken sequence."""
        if self.broken:
            raise FlashMoeError("This sequence was broken off inside a forward; begin a new one with its tokens.")

    def fork(self, length: int | None = None) -> "SequenceState":
        """An independent state after these tokens, or, of a cuttable one, after the first `length`.

        Keys and values are shared by blocks, GatedDeltaNet states are copied.
        """
        kept = self.length if length is None else length
        self.check()
        assert kept == self.length or (self.cuttable and 0 <= kept <= self.length)
        pairs = zip(self.mixers, self.kinds, strict=True)
        return SequenceState([m.fork(kept) if kind == _FULL else m.fork() for m, kind in pairs], self.kinds, kept)
