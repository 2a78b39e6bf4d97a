"""A directory that is filled in one go: what fails leaves it as it was, and deletes nothing but what was to be written.
Knows paths alone.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.files.atomic import sync_directory, writing_errors
from flashmoe.files.owned import remove_if_empty
from flashmoe.settings import format_bytes


@contextmanager
def new_directory(path: Path, names: Iterable[str], needed: int) -> Iterator[None]:
    """Make `path`, which may exist but must be empty; on failure the files of these names, under it, are removed again,
    and so are the directories that are empty then.

    needed: bytes about to be written. Raises CapacityError if the disk has less.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FlashMoeError(f"{path} exists and is not an empty directory. Choose another, or remove it first.")
    existed = path.exists()
    with writing_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    try:
        free = shutil.disk_usage(path).free
        if needed > free:
            raise CapacityError(
                f"{path} needs {format_bytes(needed)}, and {format_bytes(free)} are free. Free some space."
            )
        yield
        sync_directory(path)
    except BaseException:
        files = [path / name for name in names]
        for file in files:
            file.unlink(missing_ok=True)
        for folder in {file.parent for file in files} - {path}:
            remove_if_empty(folder)
        if not existed:
            remove_if_empty(path)
        raise
