"""A directory that is filled in one go: what fails leaves it as it was. Knows paths alone."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.files.atomic import sync_directory, writing_errors
from flashmoe.settings import format_bytes


@contextmanager
def new_directory(path: Path, needed: int) -> Iterator[None]:
    """Make `path`, which may exist but must be empty; on failure everything in it is removed again.

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
        for child in path.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
            else:
                child.unlink()
        if not existed:
            path.rmdir()
        raise
