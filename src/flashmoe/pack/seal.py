"""What ties the files of a pack together, as it is written: each weight file's header says which part it is and what
its data sum up to, and the manifest lists the checksum of every header.

So headers alone, which are read anyway, tell files of one pack from those of another (`agreement` does). A header is
written twice: with a blank digest before the data, and whole before the file gets its name. Knows bytes, not models.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flashmoe.files.atomic import NewFile
from flashmoe.files.checksum import checksum, file_checksum
from flashmoe.files.safetensors import NewTensor, make_header, read_header
from flashmoe.pack.agreement import PART

DIGEST = "data_xxh3"
_BLANK = "0" * 16


@dataclass(frozen=True)
class Seal:
    """Checksums of a finished file and of its header."""

    xxh3: str
    header_xxh3: str


def blank_header(tensors: Iterable[NewTensor], part: str) -> bytes:
    """The header of a weight file, of its final length, with the digest still to come."""
    return make_header(tensors, {PART: part, DIGEST: _BLANK})


def begin(file: NewFile, header: bytes) -> None:
    """Write the blank header."""
    file.write(header)
    file.sum_up_from_here()


def seal(file: NewFile, header: bytes) -> Seal:
    """Fill the header in, once all data are written."""
    whole = header.replace(_BLANK.encode(), file.xxh3.encode(), 1)
    file.replace_start(whole)
    return Seal(file.xxh3, checksum(whole))


def reseal(path: Path) -> Seal:
    """Of a weight file whose data were changed in place: bring its header up to date."""
    old = read_header(path)
    with path.open("r+b") as file:
        header = file.read(old.data_offset)
        whole = header.replace(old.metadata[DIGEST].encode(), checksum(file.read()).encode(), 1)
        file.seek(0)
        file.write(whole)
    return Seal(file_checksum(path), checksum(whole))
