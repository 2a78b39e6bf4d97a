"""Holes in a packed model, as a copy that was broken off leaves them: are zeros right there?

Invariant: a file without holes costs a few system calls; of one with holes, the records that these touch are compared
with their checksums, since a file system or a tool may have made a hole of zeros that belong there. Knows the manifest.
"""

from pathlib import Path

from flashmoe.errors import FlashMoeError, FormatError
from flashmoe.files.checksum import checksum
from flashmoe.files.holes import holes
from flashmoe.files.opening import opened
from flashmoe.pack.manifest import LayerFile, Manifest


def found_holes(manifest: Manifest, path: Path) -> list[tuple[int, int]]:
    """(begin, end) of each hole in a file. Raises FlashMoeError if it cannot be opened."""
    try:
        return holes(path)
    except OSError as error:
        raise FlashMoeError(
            f"{path} cannot be opened: {error.strerror}. Check the model with `flashmoe verify {manifest.directory}`."
        ) from None


def refuse_unwritten(manifest: Manifest) -> None:
    """Raise FormatError naming the expert that lies in a hole and should not be zeros."""
    for number, entry in enumerate(manifest.layers):
        if found := found_holes(manifest, entry.path):
            _check(number, entry, manifest.layout(number).record_bytes, found)


def _check(number: int, entry: LayerFile, record_bytes: int, found: list[tuple[int, int]]) -> None:
    touched = set[int]()
    for begin, end in found:
        first, last = (begin - entry.data_offset) // record_bytes, (end - 1 - entry.data_offset) // record_bytes
        touched.update(range(max(0, first), min(last, entry.experts - 1) + 1))
    with opened(entry.path) as file:
        for expert in sorted(touched):
            file.seek(entry.data_offset + expert * record_bytes)
            if checksum(file.read(record_bytes)) != entry.record_xxh3(expert):
                raise FormatError(
                    f"{entry.path} has its full size, but a part of expert {expert} of layer {number} was never "
                    "written: a copy was broken off. Copy the file again, or pack the model again."
                )
