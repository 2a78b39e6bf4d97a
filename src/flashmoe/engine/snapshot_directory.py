"""The directory of saved states: which of its files are the program's, what they take, and their removal.

    ROOT/.flashmoe              the mark (files.owned)
    ROOT/MODEL/NAME             a part of a session
    ROOT/turns.jsonl            the server's (chat.replay)

Invariant: what is deleted has a part's name, is a regular file that begins as a part does, and lies under a ROOT with
the mark, in no linked folder; other files are neither read nor counted. Knows names, not tokens.
"""

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from flashmoe.engine.snapshot_part import MAGIC
from flashmoe.errors import FlashMoeError
from flashmoe.files.atomic import final_name
from flashmoe.files.opening import opened
from flashmoe.files.owned import Use, claim, make_private, refuse_foreign

_ABANDONED_SECONDS = 3600
_MODEL = re.compile(r"[0-9a-f]{16}")
_PART = re.compile(r"[0-9]{8}-[0-9a-f]{16}\.(?:state|keys)")
_TURNS = "turns.jsonl"
_TURNS_BEGIN = b'{"ids": '


@dataclass(order=True, frozen=True, slots=True)
class SavedPart:
    """used: when it last was, in ns."""

    used: int
    nbytes: int
    path: Path = field(compare=False)


class SnapshotDirectory:
    """ROOT, for the states of the model that these 16 characters stand for.

    Raises FlashMoeError where ROOT holds what is not the program's.
    """

    def __init__(self, root: Path, model: str) -> None:
        self.root, self.path = root, root / model
        self._marked = False
        with suppress(OSError):  # whoever writes there says so
            refuse_foreign(root, _USE)
            with suppress(FlashMoeError):
                self._mark()

    def _mark(self) -> None:
        claim(self.root, _USE)
        self._marked = True

    def prepare(self) -> None:
        """Before a part is written: raises FlashMoeError or OSError where none may be, or others could read it."""
        if not self._marked:
            self._mark()
        make_private(self.path)

    def names(self) -> set[str]:
        """Of the model's parts."""
        return {entry.name for entry in _entries(self.path) if _PART.fullmatch(entry.name)}

    def parts(self) -> list[SavedPart]:
        """Those of all models, the least recently used first. What killed processes left of some is removed."""
        found = []
        for model in _entries(self.root, folders=True):
            for entry in _entries(Path(model.path)):
                with suppress(OSError):  # another process removed it
                    status = entry.stat(follow_symlinks=False)
                    if _PART.fullmatch(entry.name):
                        found.append(SavedPart(status.st_mtime_ns, status.st_size, Path(entry.path)))
                    elif _is_unfinished(entry) and time.time() - status.st_mtime > _ABANDONED_SECONDS:
                        self.remove(Path(entry.path))
        return sorted(found)

    def remove(self, path: Path) -> None:
        """Delete a part, if it is one. Raises OSError."""
        with suppress(FileNotFoundError):  # another process was first
            if self._marked and _begins_as_a_part(path):
                path.unlink()


def _entries(directory: Path, *, folders: bool = False) -> list[os.DirEntry[str]]:
    """The files of a directory, or the folders of models in it; none where it is a link or cannot be read."""
    if directory.is_symlink() and not folders:
        return []
    try:
        with os.scandir(directory) as entries:
            if folders:
                return [e for e in entries if _MODEL.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
            return [e for e in entries if e.is_file(follow_symlinks=False)]
    except OSError:
        return []


def _is_unfinished(entry: os.DirEntry[str]) -> bool:
    name = final_name(entry.name)
    return name is not None and _PART.fullmatch(name) is not None


def _begins_as_a_part(path: Path) -> bool:
    """Of one that is unfinished there may be less."""
    begin = _begin(path, len(MAGIC))
    return begin == MAGIC or (final_name(path.name) is not None and MAGIC.startswith(begin))


def _begin(path: Path, nbytes: int) -> bytes:
    with opened(path, links=False) as file:
        return file.read(nbytes)


def _earlier(entry: os.DirEntry[str]) -> bool:
    """Whether a version before the marks wrote it, as far as names and first bytes tell."""
    if entry.name == _TURNS and entry.is_file(follow_symlinks=False):
        return _begin(Path(entry.path), len(_TURNS_BEGIN)) == _TURNS_BEGIN
    if not (_MODEL.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)):
        return False
    with os.scandir(entry) as inside:
        return all(
            e.is_file(follow_symlinks=False)
            and (_PART.fullmatch(e.name) or _is_unfinished(e))
            and _begins_as_a_part(Path(e.path))
            for e in inside
        )


_USE = Use("saved states", 1, "Saved states are kept", _earlier)
