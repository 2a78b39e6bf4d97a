"""Disk space of a pack: is there enough, and which source shards may go.

Invariant: nothing outside the source directory is ever removed, nothing that an unwritten file needs, nothing that
changed since its header was read, and no shard with a tensor that is not in the packed model. Knows sizes and names.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.hub import Checkpoint
from flashmoe.hub.names import tower
from flashmoe.hub.shards import Shards
from flashmoe.pack.plan import Plan
from flashmoe.settings import format_bytes

MARGIN_BYTES = 64 << 20
"""For small files, and for what file systems keep to themselves."""


def kept_shards(checkpoint: Checkpoint) -> dict[str, str]:
    """Shards with tensors that are not packed, each with one of them."""
    places = checkpoint.shards.tensors
    return {places[name][0]: name for name in sorted(places, reverse=True) if tower(name)}


def removable_shards(checkpoint: Checkpoint, plan: Plan, unwritten: Iterable[str]) -> list[str]:
    """Shards still there that no unwritten output file needs, and that were packed whole."""
    kept = {shard for name in unwritten for shard in plan.needs[name]} | kept_shards(checkpoint).keys()
    shards = checkpoint.shards
    return [name for name in shards.sizes if name not in kept and (shards.directory / name).exists()]


def refuse_links(shards: Shards) -> None:
    """Raise FlashMoeError unless every shard is a plain file in the source directory itself."""
    for name in shards.sizes:
        if (shards.directory / name).is_symlink():
            raise FlashMoeError(
                f"{shards.directory / name} is a link to a file elsewhere (as in the Hugging Face cache), so "
                "--delete-source will not delete it. Leave the option out, or give a directory that holds the files."
            )


def remove_shard(shards: Shards, name: str) -> None:
    """Delete one shard. Raises FlashMoeError, also if it is not what was packed any more."""
    shards.close(name)
    try:
        shards.refuse_changed(name)
        (shards.directory / name).unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise FlashMoeError(f"{shards.directory / name} cannot be deleted: {error.strerror}.") from None


def check_space(out: Path, checkpoint: Checkpoint, plan: Plan, unwritten: list[str], delete_source: bool) -> None:
    """Raise CapacityError unless the disk will hold what is still to be written, with both figures."""
    shards = checkpoint.shards
    same_disk = delete_source and shards.directory.stat().st_dev == out.stat().st_dev
    free = shutil.disk_usage(out).free
    used = most = 0
    gone: set[str] = set()
    for i, name in enumerate(unwritten):
        used += plan.sizes[name]
        most = max(most, used)
        if same_disk:
            going = set(removable_shards(checkpoint, plan, unwritten[i + 1 :])) - gone
            used -= sum(shards.sizes[shard] for shard in going)
            gone |= going
    if most + MARGIN_BYTES > free:
        advice = "Free some space." if delete_source else "Free some space, or use --delete-source."
        raise CapacityError(
            f"Packing into {out} needs {format_bytes(most + MARGIN_BYTES)} more, and {format_bytes(free)} are free. "
            f"{advice}"
        )
