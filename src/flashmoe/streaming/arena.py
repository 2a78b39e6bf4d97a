"""The memory that experts live in: one mapping, cut into slots of one record each.

Invariant: slot i is bytes i * slot_bytes to (i + 1) * slot_bytes, for the life of the arena. Does not know what is in a
slot or who uses it.
"""

import numpy as np
from numpy.typing import NDArray

from flashmoe._native import Buffer
from flashmoe.errors import CapacityError
from flashmoe.settings import format_bytes


class Arena:
    """Slots of `slot_bytes`, zeroed, in huge pages where the system grants them; an untouched slot takes no memory.

    array: uint8 [slots, slot_bytes], with 4096 readable bytes past its end. buffer: the same bytes, for a reader.
    Raises CapacityError if the address space does not hold it.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self.slots = slots
        self.slot_bytes = slot_bytes
        try:
            self.buffer = Buffer(slots * slot_bytes)
        except MemoryError as error:
            raise CapacityError(
                f"The system refused {format_bytes(slots * slot_bytes)} for {slots} experts; ask for less by --memory."
            ) from error
        self.array: NDArray[np.uint8] = self.buffer.array.reshape(slots, slot_bytes)
