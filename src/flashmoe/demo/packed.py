"""The word `demo`: the small trained model that ships with Flash-MoE, packed into the user's cache at first use.

Invariant: what the word leads to is a whole pack of the checkpoint that ships, made with RECIPE in today's format, and
made once however many processes ask. Of the cache, which is marked, nothing is deleted but packs, file by file.
Knows where both lie, not what is done with a packed model.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from flashmoe.errors import FlashMoeError
from flashmoe.files.atomic import writing_errors
from flashmoe.files.checksum import checksum, file_checksum
from flashmoe.files.owned import Use, claim
from flashmoe.pack.manifest import FORMAT, NAME
from flashmoe.pack.names import STATE, remove_pack
from flashmoe.pack.packer import Reports, pack
from flashmoe.pack.recipe import Recipe
from flashmoe.pack.verify import verify

WORD = "demo"
CHECKPOINT = Path(__file__).with_name("checkpoint")
RECIPE = Recipe()
_LOCK = f"{WORD}.lock"
_PACK = re.compile(rf"{WORD}-[0-9a-f]{{16}}(?:\.new)?")

Progress = Callable[[int, int], None]
"""Told bytes packed so far, and bytes in all; not called where nothing is packed."""


def model_directory(name: str | Path, progress: Progress = lambda _done, _total: None) -> Path:
    """The directory of the packed model that a user means by `name`: the demo model's for the word `demo`, else itself.

    A packed model in a directory `demo` of the working directory goes before the word; a Path is never the word.
    Raises FlashMoeError where the demo model is not installed or cannot be packed.
    """
    directory = Path(name)
    if name != WORD or (directory / NAME).exists() or (directory / STATE).exists():
        return directory
    return _packed(progress)


def model_name(directory: Path) -> str:
    """What a user calls the model in `directory`: the word for the demo model's pack, else the directory's own name."""
    resolved = directory.resolve()
    is_demo = resolved.parent == _cache().resolve() and resolved.name.startswith(f"{WORD}-")
    return WORD if is_demo else resolved.name


def _cache() -> Path:
    return platformdirs.user_cache_path("flashmoe", appauthor=False)


def _packed(progress: Progress) -> Path:
    if not (CHECKPOINT / "config.json").is_file():
        raise FlashMoeError(
            f"This installation of Flash-MoE lacks the demo model: there is no checkpoint in {CHECKPOINT}. Install it "
            "again, or name the directory of a packed model."
        )
    cache = _cache()
    target = cache / f"{WORD}-{_key()}"
    if _is_whole(target):
        return target
    with writing_errors(cache):
        claim(cache, _USE)
        with _alone(cache / _LOCK):
            if not _is_whole(target):
                _pack_into(target, progress)
    return target


def _key() -> str:
    """Changes with the checkpoint (20 ms for its 64 MB), the format and the recipe."""
    files = [(path.name, file_checksum(path)) for path in sorted(CHECKPOINT.iterdir()) if path.is_file()]
    return checksum(repr((FORMAT, RECIPE, files)).encode())


def _is_whole(directory: Path) -> bool:
    """Every checksum: it is 18 MB, and a cache is what people and programs delete parts of."""
    try:
        return not verify(directory)[1]
    except FlashMoeError:
        return False


def _pack_into(target: Path, progress: Progress) -> None:
    """Packed beside it and renamed, in place of the packs of other versions and of interrupted beginnings."""
    for old in [path for path in target.parent.iterdir() if _PACK.fullmatch(path.name) and not path.is_symlink()]:
        remove_pack(old)
    growing = target.with_name(f"{target.name}.new")
    pack(CHECKPOINT, growing, RECIPE, reports=Reports(progress))
    growing.rename(target)


def _earlier(entry: os.DirEntry[str]) -> bool:
    """Whether a version before the marks made it. The saved states beside the packs have a mark of their own."""
    if entry.name == _LOCK:
        return entry.is_file(follow_symlinks=False)
    return entry.is_dir() and (entry.name == "sessions" or _PACK.fullmatch(entry.name) is not None)


_USE = Use("cache", 1, "The demo model is packed", _earlier)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; the others wait, and find the work done."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
