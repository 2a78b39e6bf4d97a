"""A whole file into one buffer, by the pool of threads that reads records. Knows bytes alone."""

from pathlib import Path

from flashmoe._native import Buffer, Reader
from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.settings import format_bytes

_THREADS = 8
_PIECE = 8 << 20


def read_whole(path: Path, nbytes: int) -> Buffer:
    """The file's `nbytes` bytes in memory of their own, read past the page cache where that is possible.

    Raises CapacityError if the memory cannot be had, FlashMoeError naming the file if it cannot be read.
    """
    try:
        buffer = Buffer(nbytes)
    except MemoryError as error:
        raise CapacityError(f"The system refused {format_bytes(nbytes)} of memory for {path}.") from error
    reader = Reader(_THREADS)
    try:
        file = reader.open(str(path), True)
        tickets = [
            reader.submit(file, begin, min(_PIECE, nbytes - begin), buffer, begin, 0)
            for begin in range(0, nbytes, _PIECE)
        ]
        for ticket in tickets:
            reader.wait(ticket)
    except OSError as error:
        raise FlashMoeError(
            f"{path} could not be read: {error.strerror}. Check the model with `flashmoe verify {path.parent}`."
        ) from error
    finally:
        reader.close()
    return buffer
