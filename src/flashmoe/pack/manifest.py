"""flashmoe.json: what a packed model is made of (docs/format.md).

Invariant: a Manifest that exists is consistent in itself: every record layout fits its record, every path stays inside
the directory, every checksum has its 16 digits. Whether the files agree with it is `verify`'s matter.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any, Self

from flashmoe.errors import FormatError
from flashmoe.files.jsonfile import Fields, read_object
from flashmoe.files.safetensors import ITEM_BYTES, PAGE, TENSOR_ALIGNMENT
from flashmoe.ops.weights import GROUP, RecordLayout, RecordPart

NAME = "flashmoe.json"
FORMAT = 1
PARTS = ("gate", "up", "down")
ARRAYS = {"weight": "U32", "scales": "BF16", "biases": "BF16"}
"""Arrays of one matrix in a record, in order, with their dtypes."""


@dataclass(frozen=True)
class LayerFile:
    """The experts of one layer: record e lies at data_offset + e * record_bytes of `path`."""

    path: Path
    experts: int
    layout: int
    data_offset: int
    xxh3: str
    records_xxh3: str

    def record_xxh3(self, expert: int) -> str:
        return self.records_xxh3[16 * expert : 16 * expert + 16]


@dataclass(frozen=True)
class TrunkFile:
    """Everything that is not a routed expert."""

    path: Path
    bytes: int
    xxh3: str


@dataclass(frozen=True)
class Manifest:
    """`source`: name, revision and kind (hf, mlx, synth). `quantisation`: group_size, and by tensor class the bits that
    occur in it (16 and 32: not quantised). `files`: checksums of the copied files."""

    directory: Path
    model_type: str
    source: dict[str, str]
    quantisation: dict[str, Any]
    layouts: tuple[RecordLayout, ...]
    layers: tuple[LayerFile, ...]
    trunk: TrunkFile
    files: dict[str, str] = field(default_factory=dict)

    def layout(self, layer: int) -> RecordLayout:
        """The layout of the records of a layer."""
        return self.layouts[self.layers[layer].layout]

    @property
    def expert_bytes(self) -> int:
        """Bytes of all experts' records."""
        return sum(entry.experts * self.layout(i).record_bytes for i, entry in enumerate(self.layers))

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read DIR/flashmoe.json. Raises FormatError with the key that is wrong, or if DIR is no packed model."""
        path = directory / NAME
        if not path.is_file():
            raise FormatError(
                f"{directory} is not a packed model: it has no {NAME}. Make one with `flashmoe pack SRC {directory}`."
            )
        fields = Fields(read_object(path), str(path))
        if (version := fields.integer("format")) != FORMAT:
            raise FormatError(f"{path} is format {version}; this program reads format {FORMAT}. Pack the model again.")
        layouts = tuple(_read_layout(f) for f in fields.objects("layouts"))
        trunk = Fields(fields.mapping("trunk"), f"{path}, trunk")
        files = fields.strings("files")
        return cls(
            directory=directory,
            model_type=fields.text("model_type"),
            source=fields.strings("source"),
            quantisation=fields.mapping("quantisation"),
            layouts=layouts,
            layers=tuple(_read_layer(f, directory, layouts) for f in fields.objects("layers")),
            trunk=TrunkFile(_inside(trunk, directory), trunk.integer("bytes"), _digits(trunk, "xxh3")),
            files={_plain(path, name): _digits(Fields(files, f"{path}, files"), name) for name in files},
        )

    def to_json(self) -> bytes:
        """The file's text; the same manifest always gives the same bytes."""

        def relative(path: Path) -> str:
            return path.relative_to(self.directory).as_posix()

        value = {
            "format": FORMAT,
            "model_type": self.model_type,
            "source": self.source,
            "quantisation": self.quantisation,
            "layouts": [
                {
                    "record_bytes": layout.record_bytes,
                    "parts": [
                        {"name": p.name, "dtype": p.dtype, "shape": list(p.shape), "offset": p.offset}
                        for p in layout.parts
                    ],
                }
                for layout in self.layouts
            ],
            "layers": [
                {
                    "file": relative(entry.path),
                    "experts": entry.experts,
                    "layout": entry.layout,
                    "data_offset": entry.data_offset,
                    "xxh3": entry.xxh3,
                    "records_xxh3": entry.records_xxh3,
                }
                for entry in self.layers
            ],
            "trunk": {"file": relative(self.trunk.path), "bytes": self.trunk.bytes, "xxh3": self.trunk.xxh3},
            "files": self.files,
        }
        return json.dumps(value, indent=1).encode() + b"\n"


def make_layout(shapes: Iterable[tuple[str, int, int, int]]) -> RecordLayout:
    """The layout of a record from (part, out_features, in_features, bits) of gate, up and down, in this order."""
    parts: list[RecordPart] = []
    offset = 0
    for part, out_features, in_features, bits in shapes:
        columns = {"weight": in_features * bits // 32, "scales": in_features // GROUP, "biases": in_features // GROUP}
        for array, dtype in ARRAYS.items():
            parts.append(RecordPart(f"{part}.{array}", dtype, (out_features, columns[array]), offset))
            offset += out_features * columns[array] * ITEM_BYTES[dtype]
            offset += -offset % TENSOR_ALIGNMENT
    return RecordLayout(tuple(parts), offset + -offset % PAGE)


def _read_layout(fields: Fields) -> RecordLayout:
    record_bytes = fields.integer("record_bytes", 1)
    parts = []
    end = 0
    for part in fields.objects("parts"):
        name, dtype, shape = part.text("name"), part.text("dtype"), part.integers("shape")
        offset = part.integer("offset")
        if dtype != ARRAYS.get(name.rpartition(".")[2]) or len(shape) != 2 or 0 in shape:
            raise FormatError(f"{part.where}: {name!r:.40} cannot be {dtype!r:.40} {list(shape)}.")
        if offset < end or offset % TENSOR_ALIGNMENT:
            raise FormatError(f"{part.where}: offset {offset} overlaps the part before it or is not a multiple of 64.")
        end = offset + prod(shape) * ITEM_BYTES[dtype]
        parts.append(RecordPart(name, dtype, (shape[0], shape[1]), offset))
    if [p.name for p in parts] != [f"{part}.{array}" for part in PARTS for array in ARRAYS]:
        raise FormatError(f"{fields.where}: the parts must be weight, scales and biases of gate, up and down.")
    if record_bytes % PAGE or end > record_bytes:
        raise FormatError(f"{fields.where}: record_bytes {record_bytes} must be a multiple of 4096 that holds {end}.")
    _check_columns(fields.where, RecordLayout(tuple(parts), record_bytes))
    return RecordLayout(tuple(parts), record_bytes)


def _check_columns(where: str, layout: RecordLayout) -> None:
    for part in PARTS:
        weight, scales = layout.part(f"{part}.weight").shape, layout.part(f"{part}.scales").shape
        if scales != layout.part(f"{part}.biases").shape or scales[0] != weight[0]:
            raise FormatError(f"{where}: weight, scales and biases of {part} differ in shape.")
        if weight[1] * 32 not in [scales[1] * GROUP * bits for bits in (2, 4, 8)]:
            raise FormatError(f"{where}: {part} has neither 2, 4 nor 8 bits a weight.")


def _read_layer(fields: Fields, directory: Path, layouts: tuple[RecordLayout, ...]) -> LayerFile:
    experts, layout = fields.integer("experts", 1), fields.integer("layout")
    if layout >= len(layouts):
        raise FormatError(f"{fields.where}: there is no layout {layout}.")
    data_offset = fields.integer("data_offset", 1)
    if data_offset % PAGE:
        raise FormatError(f"{fields.where}: data_offset {data_offset} is not a multiple of 4096.")
    return LayerFile(
        path=_inside(fields, directory),
        experts=experts,
        layout=layout,
        data_offset=data_offset,
        xxh3=_digits(fields, "xxh3"),
        records_xxh3=_digits(fields, "records_xxh3", experts),
    )


def _inside(fields: Fields, directory: Path) -> Path:
    name = fields.text("file")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
        raise FormatError(f"{fields.where}: the file {name!r:.60} is not inside the packed model.")
    return directory / path


def _plain(path: Path, name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise FormatError(f"{path}, files: {name!r:.60} is not a plain file name.")
    return name


def _digits(fields: Fields, key: str, count: int = 1) -> str:
    text = fields.text(key)
    if not re.fullmatch(f"[0-9a-f]{{{16 * count}}}", text):
        raise FormatError(f"{fields.where}: {key!r} must be {16 * count} hexadecimal digits.")
    return text
