"""The one way in which files are opened for reading: regular files alone, and small ones up to a stated size.

Invariant: nothing here waits for another program, as opening a pipe would. Whatever cannot be opened is an OSError
whose `strerror` goes on from "PATH cannot be read: ". Knows no file's meaning.
"""

import errno
import os
import stat
from io import BufferedReader, StringIO
from pathlib import Path

MAX_TEXT_BYTES = 100_000_000
"""Of a file that is read whole and parsed. The largest known, the index of a checkpoint with an entry for each expert,
has some 20 MB."""
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666, *, links: bool = True) -> int:
    """A descriptor of a regular file; links: whether `path` itself may be a symbolic link to one.

    flags, mode: as os.open takes them. Raises OSError.
    """
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, mode)
    except OSError as error:
        if error.errno == errno.ELOOP and not links:
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from None
        if error.errno in (errno.ENXIO, errno.EISDIR):  # a socket, or a pipe or directory that was to be written
            raise _not_regular(path, path.stat().st_mode) from None
        raise
    if not stat.S_ISREG(kind := os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path, kind)
    return descriptor


def _not_regular(path: Path, mode: int) -> OSError:
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    return OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def opened(path: Path, *, links: bool = True) -> BufferedReader:
    """The file, to be closed by the caller. Raises OSError."""
    return open(open_regular(path, links=links), "rb")


def read_text(path: Path, most: int = MAX_TEXT_BYTES) -> str:
    """The whole file as UTF-8, each end of a line as `\\n`. Raises UnicodeDecodeError, and OSError as `read_bytes`."""
    return StringIO(read_bytes(path, most).decode(), newline=None).read()


def read_bytes(path: Path, most: int = MAX_TEXT_BYTES) -> bytes:
    """The whole file. Raises OSError, also for one of more than `most` bytes, of which none is read."""
    with opened(path) as file:
        if (size := os.fstat(file.fileno()).st_size) <= most:
            data = file.read(most + 1)
            size = max(size, len(data))
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size} bytes, and such a file may have {most}", str(path))
    return data
