"""Directories that are the program's own: a small file in each says so, and only in such a one is anything deleted.

Invariant: a directory is marked only if it was empty, or held nothing but what a version before the marks had written.
Knows names and marks, not what is kept.
"""

import json
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flashmoe.errors import FlashMoeError, FormatError
from flashmoe.files.atomic import final_name, write_atomically
from flashmoe.files.jsonfile import Fields, read_object

MARK = ".flashmoe"
_PRIVATE = 0o700


@dataclass(frozen=True)
class Use:
    """What a directory is for. kind: in its mark. format: of what is in it. says: for sentences, "Sessions are kept".

    recognises: whether an entry of an unmarked directory was written by a version before the marks.
    """

    kind: str
    format: int
    says: str
    recognises: Callable[[os.DirEntry[str]], bool]


def is_marked(directory: Path, use: Use) -> bool:
    """Whether the directory has this mark. Raises FormatError if it has another."""
    path = directory / MARK
    if not path.is_symlink() and not path.exists():
        return False
    fields = Fields(read_object(path), str(path))
    found = fields.text("kind"), fields.integer("format")
    if found != (use.kind, use.format):
        raise FormatError(
            f"{directory} is marked as {found[0]!r:.40} of format {found[1]}, and this is {use.kind!r} of format "
            f"{use.format}. Choose another directory."
        )
    return True


def refuse_foreign(directory: Path, use: Use) -> None:
    """Raise FlashMoeError unless the directory is absent, empty, marked, or all of it is recognised; OSError if it
    cannot be read."""
    if not directory.exists() or is_marked(directory, use):
        return
    with os.scandir(directory) as entries:
        foreign = sorted(e.name for e in entries if final_name(e.name) != MARK and not use.recognises(e))
    if foreign:
        raise FlashMoeError(
            f"{directory} holds {foreign[0]!r:.80}, which Flash-MoE did not write. {use.says} only in a directory that "
            "holds nothing else. Choose another one, which may be empty or not exist yet, or move that file away."
        )


def claim(directory: Path, use: Use) -> None:
    """Make the directory, or take one that `refuse_foreign` lets pass, and mark it. Raises as that does."""
    refuse_foreign(directory, use)
    directory.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    if not (directory / MARK).exists():
        write_atomically(directory / MARK, json.dumps({"kind": use.kind, "format": use.format}).encode() + b"\n")


def make_private(directory: Path) -> None:
    """Make the directory, not a link, or close the one that is there to everybody else. Raises OSError if that cannot
    be done."""
    directory.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(0, "it is a link and not a directory", str(directory))
    if status.st_mode & 0o077:
        directory.chmod(_PRIVATE)
        if directory.lstat().st_mode & 0o077:
            raise PermissionError(0, "others may read what is in it, and that cannot be changed", str(directory))


def remove_files(directory: Path, names: re.Pattern[str], *, unfinished_only: bool = False) -> None:
    """Delete the regular files of a directory whose names match, finished or not; none where `directory` is a link.
    Raises OSError."""
    if directory.is_symlink() or not directory.is_dir():
        return
    with os.scandir(directory) as entries:
        for entry in list(entries):
            unfinished = final_name(entry.name)
            name = unfinished if unfinished_only else unfinished or entry.name
            if name and names.fullmatch(name) and entry.is_file(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)


def remove_if_empty(directory: Path) -> None:
    """Remove a directory with nothing in it; any other stays, without an error."""
    with suppress(OSError):
        directory.rmdir()
