"""What a layer remembers of a sequence, in plain arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class KeyValueCache:
    """keys and values float32 [tokens, KV, d]."""

    keys: NDArray[np.float32]
    values: NDArray[np.float32]

    @property
    def length(self) -> int:
        return len(self.keys)


@dataclass
class DeltaState:
    """conv: the last kernel - 1 inputs of the convolution [kernel - 1, C]; s: the memory [V, dk, dv]; both float32."""

    conv: NDArray[np.float32]
    s: NDArray[np.float32]
