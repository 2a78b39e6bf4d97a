"""flashmoe.json: what a packed model is made of (docs/format.md).

Invariant: a Manifest that exists is consistent in itself: every record layout fits its record, every path stays inside
the directory, every checksum has its 16 digits, and so has the file's own, which is right. Whether the other files
agree with it is the matter of `agreement` and `verify`.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Self

from flashmoe.errors import FormatError
from flashmoe.files.checksum import checksum
from flashmoe.files.jsonfile import Fields, parse_object, read_json
from flashmoe.files.safetensors import ITEM_BYTES, PAGE, TENSOR_ALIGNMENT
from flashmoe.ops.weights import GROUP, RecordLayout, RecordPart

NAME = "flashmoe.json"
FORMAT = 1
IDENTITY = "identity"
_BLANK = "0" * 16
CLASSES = ("experts", "matrix", "embedding", "sensitive")
PARTS = ("gate", "up", "down")
ARRAYS = {"weight": "U32", "scales": "BF16", "biases": "BF16"}
"""Arrays of one matrix in a record, in order, with their dtypes."""


@dataclass(frozen=True)
class LayerFile:
    """The experts of one layer: record e lies at data_offset + e * record_bytes of `path`. header_xxh3: the checksum of
    what lies before the records; empty in a pack of before there was an identity."""

    path: Path
    experts: int
    layout: int
    data_offset: int
    xxh3: str
    records_xxh3: str
    header_xxh3: str = ""

    def record_xxh3(self, expert: int) -> str:
        return self.records_xxh3[16 * expert : 16 * expert + 16]


@dataclass(frozen=True)
class TrunkFile:
    """Everything that is not a routed expert. header_xxh3: as that of a layer."""

    path: Path
    bytes: int
    xxh3: str
    header_xxh3: str = ""


@dataclass(frozen=True)
class Manifest:
    """`source`: name, revision and kind (hf, mlx, synth). `quantisation`: group_size, and by tensor class (CLASSES) the
    bits that occur in it (16 and 32: not quantised). `files`: checksums of the copied files."""

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
    def has_identity(self) -> bool:
        """Whether headers, and the manifest itself, have checksums: all packs but those of early versions."""
        return bool(self.trunk.header_xxh3)

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
        data = read_json(path)
        fields = Fields(parse_object(data, str(path)), str(path))
        if (version := fields.integer("format")) != FORMAT:
            raise FormatError(f"{path} is format {version}; this program reads format {FORMAT}. Pack the model again.")
        layouts = tuple(_read_layout(f) for f in fields.objects("layouts"))
        files = fields.strings("files")
        manifest = cls(
            directory=directory,
            model_type=fields.text("model_type"),
            source=fields.strings("source"),
            quantisation=_read_quantisation(Fields(fields.mapping("quantisation"), f"{path}, quantisation")),
            layouts=layouts,
            layers=tuple(_read_layer(f, directory, layouts) for f in fields.objects("layers")),
            trunk=_read_trunk(Fields(fields.mapping("trunk"), f"{path}, trunk"), directory),
            files={_plain(path, name): _digits(Fields(files, f"{path}, files"), name) for name in files},
        )
        _check_identity(fields, data, manifest)
        return manifest

    def to_json(self) -> bytes:
        """The file's text; the same manifest always gives the same bytes."""
        text = json.dumps(self._as_json(), indent=1).encode() + b"\n"
        return text.replace(_BLANK.encode(), checksum(text).encode(), 1) if self.has_identity else text

    def _as_json(self) -> dict[str, Any]:
        """With a blank identity, as the first key."""

        def relative(path: Path) -> str:
            return path.relative_to(self.directory).as_posix()

        def header(file: LayerFile | TrunkFile) -> dict[str, str]:
            return {"header_xxh3": file.header_xxh3} if file.header_xxh3 else {}

        return {
            **({IDENTITY: _BLANK} if self.has_identity else {}),
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
                    **header(entry),
                    "xxh3": entry.xxh3,
                    "records_xxh3": entry.records_xxh3,
                }
                for entry in self.layers
            ],
            "trunk": {
                "file": relative(self.trunk.path),
                "bytes": self.trunk.bytes,
                **header(self.trunk),
                "xxh3": self.trunk.xxh3,
            },
            "files": self.files,
        }


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


def _check_identity(fields: Fields, data: bytes, manifest: Manifest) -> None:
    """All files have header checksums and the manifest its own, which is right; or none of them, as in early packs."""
    sealed = IDENTITY in fields.values
    headers = [manifest.trunk.header_xxh3, *(layer.header_xxh3 for layer in manifest.layers)]
    if any(bool(header) != sealed for header in headers):
        raise FormatError(
            f"{fields.where} has an identity without a header_xxh3 for each file, or the other way round. It was "
            "changed since it was packed; pack the model again."
        )
    if not sealed:
        return
    digits = _digits(fields, IDENTITY)
    if checksum(data.replace(digits.encode(), _BLANK.encode(), 1)) != digits:
        raise FormatError(
            f"{fields.where} is not as it was written: its own checksum, 'identity', differs. Put the file back, or "
            "pack the model again."
        )


def _read_quantisation(fields: Fields) -> dict[str, Any]:
    if (group := fields.integer("group_size")) != GROUP:
        raise FormatError(f"{fields.where}: group_size is {group}; it must be {GROUP}.")
    bits = {key: list(fields.integers(key)) for key in CLASSES}
    if wrong := [key for key in CLASSES if not set(bits[key]) <= {2, 4, 8, 16, 32}]:
        raise FormatError(f"{fields.where}: {wrong[0]!r} must be a list of 2, 4, 8, 16 or 32.")
    return {"group_size": group, **bits}


def _read_layout(fields: Fields) -> RecordLayout:
    parts = []
    for part in fields.objects("parts"):
        name, dtype, shape = part.text("name"), part.text("dtype"), part.integers("shape")
        if dtype != ARRAYS.get(name.rpartition(".")[2]) or len(shape) != 2 or 0 in shape:
            raise FormatError(f"{part.where}: {name!r:.40} cannot be {dtype!r:.40} {list(shape)!s:.60}.")
        parts.append(RecordPart(name, dtype, (shape[0], shape[1]), part.integer("offset")))
    if [p.name for p in parts] != [f"{part}.{array}" for part in PARTS for array in ARRAYS]:
        raise FormatError(f"{fields.where}: the parts must be weight, scales and biases of gate, up and down.")
    layout = RecordLayout(tuple(parts), fields.integer("record_bytes", 1))
    if layout != make_layout(_matrix_shape(fields.where, layout, part) for part in PARTS):
        raise FormatError(
            f"{fields.where}: offsets and record_bytes are not those of a record with these shapes. They were changed "
            "since it was packed; pack the model again."
        )
    return layout


def _matrix_shape(where: str, layout: RecordLayout, part: str) -> tuple[str, int, int, int]:
    """Part, out_features, in_features and bits, as `make_layout` takes them."""
    weight, scales = layout.part(f"{part}.weight").shape, layout.part(f"{part}.scales").shape
    if scales != layout.part(f"{part}.biases").shape or scales[0] != weight[0]:
        raise FormatError(f"{where}: weight, scales and biases of {part} differ in shape.")
    bits, rest = divmod(weight[1] * 32, scales[1] * GROUP)
    if rest or bits not in (2, 4, 8):
        raise FormatError(f"{where}: {part} has neither 2, 4 nor 8 bits a weight.")
    return part, weight[0], scales[1] * GROUP, bits


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
        header_xxh3=_digits_if_present(fields, "header_xxh3"),
    )


def _read_trunk(fields: Fields, directory: Path) -> TrunkFile:
    return TrunkFile(
        path=_inside(fields, directory),
        bytes=fields.integer("bytes"),
        xxh3=_digits(fields, "xxh3"),
        header_xxh3=_digits_if_present(fields, "header_xxh3"),
    )


def _inside(fields: Fields, directory: Path) -> Path:
    name = fields.text("file")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or not _is_a_name(name):
        raise FormatError(f"{fields.where}: the file {name!r:.60} is not inside the packed model.")
    return directory / path


def _plain(path: Path, name: str) -> str:
    if name in ("", ".", "..") or "/" in name or not _is_a_name(name):
        raise FormatError(f"{path}, files: {name!r:.60} is not a plain file name.")
    return name


def _is_a_name(name: str) -> bool:
    """Short enough for a file system, and without characters that would move a terminal's cursor."""
    return name.isprintable() and len(name.encode()) <= 255


def _digits(fields: Fields, key: str, count: int = 1) -> str:
    text = fields.text(key)
    if len(text) != 16 * count or not re.fullmatch("[0-9a-f]*", text):
        raise FormatError(f"{fields.where}: {key!r:.60} must be {16 * count} hexadecimal digits.")
    return text


def _digits_if_present(fields: Fields, key: str) -> str:
    return _digits(fields, key) if key in fields.values else ""
