"""Packed models changed by hand: as somebody would forge one, and as earlier versions wrote them."""

import json
import re
from pathlib import Path
from typing import Any

from flashmoe.files.checksum import checksum, file_checksum

BLANK = "0" * 16


def read_manifest(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "flashmoe.json").read_text())


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    """With its own checksum right, if it has one."""
    if "identity" in manifest:
        manifest = {**manifest, "identity": BLANK}
    text = json.dumps(manifest, indent=1) + "\n"
    if "identity" in manifest:
        text = text.replace(BLANK, checksum(text.encode()), 1)
    (directory / "flashmoe.json").write_text(text)


def reseal(directory: Path) -> None:
    """Make every checksum that is read at a load right again: of text files that are there, of headers, and of the
    manifest."""
    manifest = read_manifest(directory)
    there = [name for name in manifest["files"] if (directory / name).exists()]
    manifest["files"] = {name: file_checksum(directory / name) for name in there}
    for entry in weight_files(manifest):
        entry["header_xxh3"] = checksum(header_of(directory / entry["file"]))
    write_manifest(directory, manifest)


def weight_files(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The trunk's entry and those of the layers."""
    return [manifest["trunk"], *manifest["layers"]]


def header_of(path: Path) -> bytes:
    """Everything before the data."""
    with path.open("rb") as file:
        length = file.read(8)
        return length + file.read(int.from_bytes(length, "little"))


def without_identity(directory: Path) -> None:
    """Turn a packed model into what versions before there was an identity wrote, but for its trunk's header, which
    may be a page longer."""
    manifest = read_manifest(directory)
    del manifest["identity"]
    for entry in weight_files(manifest):
        path = directory / entry["file"]
        header = header_of(path)
        plain = re.sub(rb'"__metadata__":\{[^}]*\},', lambda found: b" " * len(found[0]), header)
        assert plain != header
        with path.open("r+b") as file:
            file.write(plain)
        del entry["header_xxh3"]
        entry["xxh3"] = file_checksum(path)
    write_manifest(directory, manifest)
