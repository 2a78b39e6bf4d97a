"""Is a packed model, byte for byte, what its manifest says?

Finds everything that is wrong, not only the first thing, and names the file, and for experts the layer and the number.
Knows the format of docs/format.md, not what computes with it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import xxhash

from flashmoe.errors import FlashMoeError
from flashmoe.files.checksum import checksum, file_checksum
from flashmoe.files.jsonfile import read_object
from flashmoe.files.opening import opened
from flashmoe.models import architecture
from flashmoe.pack.agreement import (
    Problem,
    config_problems,
    layer_problems,
    tensor_problems,
    text_problems,
    trunk_problems,
)
from flashmoe.pack.manifest import NAME, LayerFile, Manifest

Advance = Callable[[int], None]


def verify(
    directory: Path, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> tuple[Manifest, list[Problem]]:
    """Read every byte; the manifest, and the problems found. Raises FormatError if there is no manifest to go by."""
    manifest = Manifest.read(directory)
    total = manifest.trunk.bytes + manifest.expert_bytes
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done = min(done + count, total)
        progress(done, total)

    problems = [*text_problems(manifest), *_of_one_model(manifest), *_trunk(manifest, advance)]
    for number in range(len(manifest.layers)):
        problems += _layer(manifest, number, advance)
    return manifest, problems


def _of_one_model(manifest: Manifest) -> Iterator[Problem]:
    """Do manifest, trunk and config.json describe one model?"""
    path = manifest.directory / "config.json"
    try:
        described = architecture(read_object(path))
    except FlashMoeError as error:
        yield Problem(path, str(error))
        return
    yield from config_problems(manifest, described)
    yield from tensor_problems(manifest, described)


def _trunk(manifest: Manifest, advance: Advance) -> Iterator[Problem]:
    trunk = manifest.trunk
    problems = list(trunk_problems(manifest))
    try:
        if not problems and file_checksum(trunk.path, advance) != trunk.xxh3:
            problems.append(Problem(trunk.path, f"the checksum of the file differs from that in {NAME}."))
    except FlashMoeError as error:
        problems.append(Problem(trunk.path, str(error)))
    yield from problems


def _layer(manifest: Manifest, number: int, advance: Advance) -> Iterator[Problem]:
    path = manifest.layers[number].path
    problems = list(layer_problems(manifest, number))
    try:
        if not problems:
            problems += _records(manifest, number, manifest.layers[number], advance)
    except OSError as error:
        problems.append(Problem(path, f"it cannot be read: {error.strerror}."))
    yield from problems


def _records(manifest: Manifest, number: int, entry: LayerFile, advance: Advance) -> Iterator[Problem]:
    """One pass over a file: the checksum of each record, and of the whole for what lies outside them."""
    buffer = bytearray(manifest.layout(number).record_bytes)
    state = xxhash.xxh3_64()
    damaged = False
    with opened(entry.path) as file:
        state.update(file.read(entry.data_offset))
        for expert in range(entry.experts):
            file.readinto(buffer)
            state.update(buffer)
            advance(len(buffer))
            if checksum(buffer) != entry.record_xxh3(expert):
                damaged = True
                yield Problem(entry.path, f"the record of layer {number}, expert {expert} is damaged.")
    if not damaged and state.hexdigest() != entry.xxh3:
        yield Problem(entry.path, "the records are right, but the checksum of the file differs: its header is damaged.")
