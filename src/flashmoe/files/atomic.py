"""Files that appear complete or not at all.

A new file is written under a temporary name in its own directory, synced, renamed and the directory synced; whatever
fails in between leaves nothing under the final name. A process that is killed leaves `.NAME.partial` behind.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from flashmoe.errors import CapacityError, FlashMoeError

SUFFIX = ".partial"


def partial_path(path: Path, owner: str = "") -> Path:
    """The temporary name `path` is written under; owner: tells apart processes that may write the same file."""
    return path.with_name(f".{path.name}{owner and '.'}{owner}{SUFFIX}")


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
    """The file being written: sequential writes, a running checksum and the bytes so far."""

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

    @property
    def xxh3(self) -> str:
        return str(self._state.hexdigest())


@contextmanager
def atomic_file(path: Path, owner: str = "") -> Iterator[NewFile]:
    """Write `path` atomically. On any exception the temporary file is removed and `path` stays as it was."""
    temporary = partial_path(path, owner)
    with writing_errors(path):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
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


def write_atomically(path: Path, data: bytes) -> None:
    """A whole small file at once."""
    with atomic_file(path) as file:
        file.write(data)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
