"""What the engine keeps of one sequence. Knows how long it is, not which tokens it has."""

from dataclasses import dataclass

from flashmoe.ops.interface import Handle


@dataclass(slots=True)
class SequenceState:
    """The mixers' states, one a layer, after `length` tokens.

    broken: a forward was broken off, so that the layers need not have seen the same tokens.
    """

    mixers: list[Handle]
    length: int = 0
    broken: bool = False
