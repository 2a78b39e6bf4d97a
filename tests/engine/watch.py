"""A routing observer that keeps what it was told."""

import numpy as np


class Watch:
    """seen: (layer, x, ids, weights) in order. interrupt_at: a layer in which Ctrl-C comes."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.seen = []
        self.interrupt_at = interrupt_at

    def begin(self, batch) -> None:
        pass

    def routed(self, layer, x, ids, weights) -> None:
        if layer == self.interrupt_at:
            raise KeyboardInterrupt
        self.seen.append((layer, np.array(x), ids, weights))
