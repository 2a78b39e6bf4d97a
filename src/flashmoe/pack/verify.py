"""Is a packed model, byte for byte, what its manifest says?

Finds everything that is wrong, not only the first thing, and names the file, and for experts the layer and the number.
Knows the format of docs/format.md, not what computes with it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from flashmoe.errors import FlashMoeError
from flashmoe.files.checksum import checksum, file_checksum
from flashmoe.files.opening import opened
from flashmoe.files.safetensors import TensorInfo, read_header
from flashmoe.pack.contents import Contents
from flashmoe.pack.manifest import LayerFile, Manifest

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file, as a sentence."""

    path: Path
    sentence: str

    def __str__(self) -> str:
        return self.sentence if self.sentence.startswith(str(self.path)) else f"{self.path}: {self.sentence}"


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

    problems: list[Problem] = []
    for name, expected in manifest.files.items():
        problems += _whole(directory / name, expected, lambda _count: None)
    problems += _structure(directory)
    problems += _whole(manifest.trunk.path, manifest.trunk.xxh3, advance)
    for number, entry in enumerate(manifest.layers):
        problems += _layer(manifest, number, entry, advance)
    return manifest, problems


def _whole(path: Path, expected: str, advance: Advance) -> Iterator[Problem]:
    try:
        if file_checksum(path, advance) != expected:
            yield Problem(path, "the checksum of the file differs from the manifest's.")
    except FlashMoeError as error:
        yield Problem(path, str(error))


def _structure(directory: Path) -> Iterator[Problem]:
    """Do trunk, manifest and config.json fit together?"""
    try:
        contents = Contents.open(directory)
    except FlashMoeError as error:
        yield Problem(directory, str(error))
        return
    try:
        for tensor in contents.architecture.trunk:
            contents.bits(tensor)
        for number, entry in enumerate(contents.manifest.layers):
            if entry.experts != contents.architecture.config.experts:
                yield Problem(entry.path, f"layer {number} has {entry.experts} experts, unlike config.json.")
    except FlashMoeError as error:
        yield Problem(contents.manifest.trunk.path, str(error))
    finally:
        contents.close()


def _layer(manifest: Manifest, number: int, entry: LayerFile, advance: Advance) -> Iterator[Problem]:
    record_bytes = manifest.layout(number).record_bytes
    try:
        header = read_header(entry.path)
        end = entry.data_offset + entry.experts * record_bytes
        expected = {"experts": TensorInfo("U8", (entry.experts, record_bytes), entry.data_offset, end)}
        if header.tensors != expected:
            yield Problem(entry.path, f"its header does not describe {entry.experts} records of {record_bytes} bytes.")
            return
        yield from _records(manifest, number, entry, advance)
    except FlashMoeError as error:
        yield Problem(entry.path, str(error))
    except OSError as error:
        yield Problem(entry.path, f"it cannot be read: {error.strerror}.")


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
