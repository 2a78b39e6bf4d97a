"""The directory a pack is growing in: one process at a time, and a memory of what is finished.

OUT/.packing holds plan.json (what was asked, of which source) and one small JSON per finished file. Invariant: a file
that has its JSON is complete and durable under its final name; what is deleted has a name that a pack writes, in a
directory that is marked, and whoever does not hold the lock deletes nothing. Knows names and JSON, not tensors.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashmoe.errors import FlashMoeError
from flashmoe.files.atomic import final_name, sync_directory, write_atomically, writing_errors
from flashmoe.files.jsonfile import Fields, read_object
from flashmoe.files.owned import Use, claim, is_marked, remove_if_empty
from flashmoe.pack.manifest import NAME
from flashmoe.pack.names import (
    EXPERTS,
    PLAN,
    STATE,
    STATE_FILES,
    remove_state,
    remove_unfinished,
)


def _earlier(entry: os.DirEntry[str]) -> bool:
    """Whether a version before the marks wrote it into .packing, as far as names tell."""
    return bool(STATE_FILES.fullmatch(final_name(entry.name) or entry.name)) and entry.is_file(follow_symlinks=False)


_USE = Use("unfinished pack", 1, "An unfinished pack is remembered", _earlier)


@dataclass(frozen=True)
class Finished:
    """What is remembered of a finished file. `records_xxh3` is empty for one without records."""

    bytes: int
    xxh3: str
    header_xxh3: str
    records_xxh3: str = ""


class Workspace:
    """OUT while it is being filled."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / STATE

    def stored_plan(self) -> dict[str, Any] | None:
        """What an earlier, unfinished pack stored, if there was one."""
        path = self.state / PLAN
        return read_object(path) if path.exists() else None

    def store_plan(self, value: dict[str, Any]) -> None:
        write_atomically(self.state / PLAN, json.dumps(value).encode())

    def finished(self, name: str) -> Finished | None:
        """The record of an output file, if it is finished and still there in full."""
        path, file = self._record(name), self.directory / name
        if not path.exists() or not file.exists():
            return None
        fields = Fields(read_object(path), str(path))
        found = Finished(fields.integer("bytes"), *map(fields.text, ("xxh3", "header_xxh3", "records_xxh3")))
        return found if file.stat().st_size == found.bytes else None

    def finish(self, name: str, record: Finished) -> None:
        """Remember that an output file is durable under its final name."""
        write_atomically(self._record(name), json.dumps(vars(record)).encode())

    def close(self) -> None:
        """The pack is whole: forget how it came about. The plan goes first, so that a rest of this is no pack."""
        with writing_errors(self.state):
            (self.state / PLAN).unlink()
            sync_directory(self.state)
            remove_state(self.directory)

    def _record(self, name: str) -> Path:
        return self.state / (Path(name).name.removesuffix(".safetensors") + ".json")


@contextmanager
def open_workspace(directory: Path) -> Iterator[Workspace]:
    """Take OUT for this process: created, or an unfinished pack without its temporary files.

    Raises FlashMoeError if OUT is something else, a finished pack, or being packed into by another process.
    """
    workspace = Workspace(directory)
    existed = directory.exists()
    with writing_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor, directory)
        _check_contents(workspace)
        with writing_errors(directory):
            claim(workspace.state, _USE)
        try:
            with writing_errors(directory):
                (directory / EXPERTS).mkdir(exist_ok=True)
                remove_unfinished(directory)
            yield workspace
        finally:
            if not (workspace.state / PLAN).exists() and not (directory / NAME).exists():
                _leave_as_it_was(directory, existed)
    finally:
        os.close(descriptor)


def _leave_as_it_was(directory: Path, existed: bool) -> None:
    """Nothing came of it."""
    with suppress(OSError):
        remove_state(directory)
    remove_if_empty(directory / EXPERTS)
    if not existed:
        remove_if_empty(directory)


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had it before may have removed the directory, and another may have made it again.
        mine = os.path.samestat(os.fstat(descriptor), directory.stat())
    except OSError:
        mine = False
    if not mine:
        raise FlashMoeError(f"Another process is writing to {directory}. Wait for it, or stop it.")


def _check_contents(workspace: Workspace) -> None:
    """Raise FlashMoeError unless OUT is empty or an unfinished pack."""
    directory, state = workspace.directory, workspace.state
    marked = not state.is_symlink() and is_marked(state, _USE)
    if (state / PLAN).exists():
        return
    if (directory / NAME).exists():
        if marked:
            with suppress(OSError):
                remove_state(directory)
        raise FlashMoeError(f"{directory} already holds a packed model. Choose another directory, or remove it first.")
    with writing_errors(directory):
        names = {path.name for path in directory.iterdir()} - {STATE, EXPERTS}
        if (experts := directory / EXPERTS).is_dir():
            names |= {f"{EXPERTS}/{path.name}" for path in experts.iterdir()}
    if names:
        raise FlashMoeError(f"{directory} is not empty: it holds {min(names)!r}. Choose another directory.")
