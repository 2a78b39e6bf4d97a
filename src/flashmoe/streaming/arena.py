"""The memory that experts live in: one mapping, cut into slots of one record each.

Invariant: slot i is bytes i * slot_bytes to (i + 1) * slot_bytes, for the life of the arena. Does not know what is in a
slot or who uses it.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flashmoe._native import Buffer
from flashmoe.errors import CapacityError
from flashmoe.settings import format_bytes


class Arena:
    """Slots of `slot_bytes`, zeroed, in huge pages and locked in memory where the system lets; an untouched slot takes
    no memory.

    array: uint8 [slots, slot_bytes], with 4096 readable bytes past its end. buffer: the same bytes, for a reader.
    locked: whether what is touched cannot be swapped out. huge: whether the first page was a huge one.

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
        self.locked = self.buffer.lock()
        self.array[0, 0] = 0  # touched, so that the system shows which pages it grants
        self.huge = _huge_bytes(self.array.ctypes.data) > 0

    def __str__(self) -> str:
        """How the memory is held, in words."""
        return f"{'huge' if self.huge else 'small'} pages, {'locked' if self.locked else 'not locked'}"


def _huge_bytes(address: int, smaps: Path = Path("/proc/self/smaps")) -> int:
    """Bytes in huge pages of the mapping that holds the address; 0 where the system does not tell."""
    try:
        lines = smaps.read_text().splitlines()
    except OSError:
        return 0
    inside = False
    for line in lines:
        field, *values = line.split()
        if not field.endswith(":"):
            begin, end = (int(part, 16) for part in field.split("-"))
            inside = begin <= address < end
        elif inside and field == "AnonHugePages:":
            return int(values[0]) * 1024
    return 0
