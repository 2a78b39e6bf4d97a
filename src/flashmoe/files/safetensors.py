"""The safetensors container: headers read from files nobody vouches for, and headers written with aligned data.

The file is a little-endian u64 header length n, n bytes of JSON, then the data; tensors fill it without gap or overlap.
Invariant: a Header that exists describes a file of exactly the right size, and every range in it lies in the data.
Knows nothing of what the tensors mean. Format: github.com/huggingface/safetensors.
"""

import json
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from flashmoe.errors import FormatError
from flashmoe.files.checksum import checksum
from flashmoe.files.jsonfile import Fields, parse_object
from flashmoe.files.opening import opened

ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
MAX_HEADER_BYTES = 100_000_000
"""What the safetensors package accepts, too."""
PAGE = 4096
TENSOR_ALIGNMENT = 64


@dataclass(frozen=True)
class TensorInfo:
    """One tensor; its bytes are begin:end of the file (not of the data)."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """What a file holds. `tensors` are in file order; `data_offset` is where the first begins; `xxh3` is the checksum
    of all bytes before it."""

    tensors: dict[str, TensorInfo]
    data_offset: int
    file_bytes: int
    metadata: dict[str, str]
    xxh3: str


def read_header(path: Path) -> Header:
    """Read and check the header of `path`. Raises FormatError naming the file and what is wrong with it."""
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(8)
            length = _header_length(path, first, size)
            text = file.read(length)
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist.") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}.") from None
    if len(text) != length:
        raise FormatError(f"{path} is truncated: its header ends early. Fetch the file again.")
    return _check_header(path, first, text, size)


def _header_length(path: Path, first: bytes, size: int) -> int:
    if len(first) < 8:
        raise FormatError(f"{path} is truncated: {size} bytes cannot hold a safetensors header. Fetch the file again.")
    length: int = struct.unpack("<Q", first)[0]
    if length > MAX_HEADER_BYTES:
        raise FormatError(f"{path} is not a safetensors file: it claims a header of {length} bytes.")
    if 8 + length > size:
        raise FormatError(
            f"{path} is truncated: its header alone needs {8 + length} bytes, it has {size}. Fetch the file again."
        )
    return length


def _check_header(path: Path, first: bytes, text: bytes, size: int) -> Header:
    where = f"The header of {path}"
    if not text.startswith(b"{"):
        raise FormatError(f"{path} is not a safetensors file: its header does not begin with '{{'.")
    entries = parse_object(text, where)
    metadata = Fields(entries, where).strings("__metadata__") if "__metadata__" in entries else {}
    data_offset = 8 + len(text)
    tensors = {
        name: _tensor(Fields(value, f"{where}, tensor {name!r:.80},"), data_offset)
        if isinstance(value, dict)
        else _not_a_tensor(where, name)
        for name, value in entries.items()
        if name != "__metadata__"
    }
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    position = data_offset
    for name, info in ordered.items():
        if info.begin != position:
            raise FormatError(f"{where} leaves a gap or an overlap before tensor {name!r:.80}.")
        position = info.end
    if position > size:
        raise FormatError(f"{path} is truncated: it should have {position} bytes, it has {size}. Fetch the file again.")
    if position < size:
        raise FormatError(f"{path} has {size - position} bytes that belong to no tensor. Fetch the file again.")
    return Header(ordered, data_offset, size, metadata, checksum(first + text))


def _not_a_tensor(where: str, name: str) -> TensorInfo:
    raise FormatError(f"{where}: {name!r:.80} must be an object.")


def _tensor(fields: Fields, data_offset: int) -> TensorInfo:
    dtype = fields.text("dtype")
    if dtype not in ITEM_BYTES:
        raise FormatError(f"{fields.where} has the unknown dtype {dtype!r:.40}.")
    shape = fields.integers("shape")
    offsets = fields.integers("data_offsets")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{fields.where} has data_offsets that are not a begin and an end.")
    elements = ITEM_BYTES[dtype]
    for extent in shape:
        # The running product, as zero extents would hide an overflow that other readers refuse.
        elements *= extent
        if elements >= 2**63:
            raise FormatError(f"{fields.where} has a shape too large for any file.")
    if elements != offsets[1] - offsets[0]:
        raise FormatError(
            f"{fields.where} is {dtype} {list(shape)!s:.60}, which takes {elements} bytes, but has "
            f"{offsets[1] - offsets[0]}."
        )
    return TensorInfo(dtype, shape, data_offset + offsets[0], data_offset + offsets[1])


@dataclass(frozen=True)
class NewTensor:
    """A tensor about to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return ITEM_BYTES[self.dtype] * prod(self.shape)


def padded(tensors: Iterable[NewTensor]) -> list[NewTensor]:
    """The tensors with U8 tensors `padding.N` put in where the next one would not begin at a multiple of 64 bytes.

    The container allows no gaps, so padding has to be tensors.
    """
    result: list[NewTensor] = []
    for tensor in tensors:
        result.append(tensor)
        if short := -tensor.nbytes % TENSOR_ALIGNMENT:
            result.append(NewTensor(f"padding.{len(result)}", "U8", (short,)))
    return result


def make_header(tensors: Iterable[NewTensor], metadata: dict[str, str] | None = None) -> bytes:
    """Length and JSON for tensors laid out in this order, padded with spaces so that data begins at a multiple of 4096
    bytes."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for tensor in tensors:
        if tensor.name in entries:
            raise FormatError(f"Two tensors would have the name {tensor.name!r}.")
        end = position + tensor.nbytes
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % PAGE)
    return struct.pack("<Q", len(text)) + text
