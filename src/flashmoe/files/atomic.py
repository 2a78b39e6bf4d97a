"""Files that appear complete or not at all.

A new file is written under a temporary name in its own directory, synced, renamed and the directory synced; whatever
fails in between leaves nothing under the final name. Temporary names are new ones, `.NAME.8 hex digits.partial`, so
that nothing of anybody else's is written over; a process that is killed leaves its own behind.
"""

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.files.checksum import CHUNK_BYTES

_PARTIAL = re.compile(r"\.(.+?)(?:\.(?:[0-9a-f]{8}|[0-9]+))?\.partial", re.DOTALL)


def final_name(name: str) -> str | None:
    """What a file of this name was to be called when it was whole; None for a name that is not a temporary one. Earlier
    versions wrote a process's number, or nothing, in place of the digits."""
    match = _PARTIAL.fullmatch(name)
    return match[1] if match else None


@contextmanager
def writing_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of a write to `path` into a sentence: CapacityError if the disk is full, else FlashMoeError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CapacityError(
                f"The disk is full: {path} could not be written. Free some space and start again; "
                "what is finished is kept."
            ) from None
        if error.errno == errno.EFBIG:
            raise CapacityError(f"{path} is larger than this file system or process may write.") from None
        raise FlashMoeError(f"{path} cannot be written: {error.strerror}.") from None


class NewFile:
    """The file being written: sequential writes, a running checksum and the bytes so far.

    xxh3: of all bytes, or of those since `sum_up_from_here`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._state = xxhash.xxh3_64()
        self.bytes = 0

    def write(self, data: Any) -> None:
        """Append contiguous bytes: any object with the buffer protocol."""
        view = memoryview(data).cast("B")
        self._state.update(view)
        self.bytes += len(view)
        while len(view):
            view = view[os.write(self._descriptor, view) :]

    def sum_up_from_here(self) -> None:
        """Leave what was written so far out of the checksum."""
        self._state.reset()

    def replace_start(self, data: bytes) -> None:
        """Write over the first bytes, and sum up the whole file: it is read back, mostly from the page cache."""
        os.pwrite(self._descriptor, data, 0)
        self._state.reset()
        buffer = memoryview(bytearray(min(self.bytes, CHUNK_BYTES)))
        position = 0
        while got := os.preadv(self._descriptor, [buffer], position):
            self._state.update(buffer[:got])
            position += got

    @property
    def xxh3(self) -> str:
        return str(self._state.hexdigest())


@contextmanager
def atomic_file(path: Path, mode: int = 0o644) -> Iterator[NewFile]:
    """Write `path` atomically. On any exception the temporary file is removed and `path` stays as it was.

    mode: of the file, less what the umask forbids.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with writing_errors(path):
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            try:
                yield NewFile(descriptor)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """A whole small file at once."""
    with atomic_file(path, mode) as file:
        file.write(data)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
