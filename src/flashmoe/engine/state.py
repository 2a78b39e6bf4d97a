"""What the engine keeps of one sequence. Knows how long it is, not which tokens it has."""

from dataclasses import dataclass

from flashmoe.ops.interface import Handle


@dataclass(slots=True)
class SequenceState:
    """The mixers' states, one a layer, after `length` tokens."""

    mixers: list[Handle]
    length: int = 0
