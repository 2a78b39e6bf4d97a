"""Holes: parts of a file that nobody has written. They read as zeros, so a file whose copy or download was broken off
can have its right size and no error.

Knows what the file system says, not whether zeros would be right there: that a checksum tells, where there is one.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from flashmoe.files.opening import opened

_ZEROS_INTO_HOLES = re.compile(r"zfs|nfs.*|cifs|smb.*|9p|virtiofs|fuse.*|overlay")
"""File systems that may not store zeros that were written, or pass on what such a one says: there a hole means
nothing."""


def holes(path: Path) -> list[tuple[int, int]]:
    """(begin, end) of each hole before the end of the file. Raises OSError if the file cannot be opened."""
    with opened(path) as file:
        return list(_holes(file.fileno(), os.fstat(file.fileno()).st_size))


def _holes(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < size:
        try:
            begin = os.lseek(descriptor, position, os.SEEK_HOLE)
        except OSError:  # it cannot tell
            return
        if begin >= size:
            return
        try:
            position = os.lseek(descriptor, begin, os.SEEK_DATA)
        except OSError:  # no data follow
            position = size
        yield begin, position


def unwritten(path: Path) -> int | None:
    """Where data that were never written begin in a file of which nothing else is known; None where there are none or
    its file system cannot tell them from zeros. Raises OSError if the file cannot be opened."""
    found = holes(path)
    return found[0][0] if found and _tells_zeros_from_holes(path) else None


def _tells_zeros_from_holes(path: Path) -> bool:
    """By the type of the file system; one that is not listed under its number (a part of a btrfs) is a local one."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    fields = [line.split(" ") for line in mounts]
    types = {f[f.index("-") + 1] for f in fields if f[2:3] == [number] and "-" in f}
    return not any(_ZEROS_INTO_HOLES.fullmatch(name) for name in types)
