"""One forward on its way through the layers: its pieces, where its experts come from, who is told how far it is.

A long prompt goes through each operation in pieces, which bound scratch memory and the time until it can be stopped;
how it is cut changes no result. Knows multiplications, not what an operation does with them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from flashmoe.models.architecture import ModelConfig
from flashmoe.models.batch import Block
from flashmoe.models.readahead import ReadAhead
from flashmoe.models.source import ExpertSource
from flashmoe.ops.interface import Array

Step = Callable[[float], None]
"""Told after each piece which part of the forward is done (0 to 1). What it raises ends the forward, and leaves the
states of its sequences between two tokens."""

PrefetchCallback = Callable[[int, Callable[[], Array]], None]
"""Told of each layer while the last of its experts may still be on their way: makes on demand the residual stream
[T, D] behind it, as far as it is known."""

BLOCK = 128
"""Tokens that go through a mixer together: enough that unpacking its weights counts little, and so few that malloc
keeps the memory of what they make. With 512 that was fresh pages each time, 6 % of a prompt's processor time."""
_MULTIPLICATIONS = 1 << 34
"""Of one call: 0.1 to 0.3 s on two cores with VNNI."""
_FEWEST = 32


def expert_entries(config: ModelConfig) -> int:
    """Products of a token and an expert that one call computes."""
    return max(_FEWEST, _MULTIPLICATIONS // (3 * config.hidden * config.expert_inter))


@dataclass(slots=True)
class ForwardContext:
    """outputs: room for the experts' results [T * K, D], of one layer at a time."""

    config: ModelConfig
    blocks: list[Block]
    source: ExpertSource
    ahead: ReadAhead
    outputs: Array
    step: Step | None
    prefetch_callback: PrefetchCallback | None
    _entries: int = 0

    def block_done(self, layer: int, number: int) -> None:
        """A block has gone through the layer's mixer, which counts for half of the layer."""
        self._entries = 0
        if self.step:
            self.step((layer + (number + 1) / (2 * len(self.blocks))) / self.config.layers)

    def entries_done(self, layer: int, count: int) -> None:
        """So many of the layer's products of a token and an expert are there."""
        self._entries += count
        if self.step:
            self.step((layer + 0.5 + 0.5 * self._entries / len(self.outputs)) / self.config.layers)
