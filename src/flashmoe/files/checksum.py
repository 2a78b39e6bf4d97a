"""xxh3-64 checksums: they find damaged bytes, not forged ones. Knows bytes alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xxhash

from flashmoe.errors import FormatError
from flashmoe.files.opening import opened

CHUNK_BYTES = 1 << 20


def checksum(data: Any) -> str:
    """16 hex digits of the xxh3-64 of contiguous bytes: any object with the buffer protocol."""
    return str(xxhash.xxh3_64_hexdigest(data))


def prefix_checksums(items: Any, ends: Sequence[int]) -> list[str]:
    """The checksum of items[:end] for each of `ends`, which rise; items: a contiguous array of one dimension."""
    state, begin, found = xxhash.xxh3_64(), 0, []
    for end in ends:
        state.update(memoryview(items)[begin:end])
        found.append(str(state.hexdigest()))
        begin = end
    return found


def file_checksum(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """16 hex digits of the xxh3-64 of a whole file, calling `advance` with the bytes of each chunk."""
    state = xxhash.xxh3_64()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        with opened(path) as file:
            while got := file.readinto(buffer):
                state.update(buffer[:got])
                if advance is not None:
                    advance(got)
    except FileNotFoundError:
        raise FormatError(f"{path} is missing.") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}.") from None
    return str(state.hexdigest())
