"""Do the files of a packed model belong together? Asked at every load, of small files and headers alone.

Finds every disagreement, not only the first: of files with the manifest, and of the manifest and the trunk with
config.json. What the bytes behind the headers are is `verify`'s matter.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flashmoe.errors import FlashMoeError, FormatError
from flashmoe.files.checksum import file_checksum
from flashmoe.files.safetensors import Header, NewTensor, TensorInfo, read_header
from flashmoe.models.architecture import Architecture, Kind, ModelConfig, TrunkTensor
from flashmoe.ops.weights import GROUP, RecordLayout
from flashmoe.pack.manifest import NAME, Manifest

PART = "part"
"""The key of a header's metadata that says which part of the model the file is."""
TRUNK_PART = "trunk"
MATRICES = (Kind.MATRIX, Kind.EMBEDDING, Kind.SENSITIVE)


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file, as a sentence."""

    path: Path
    sentence: str

    def __str__(self) -> str:
        return self.sentence if self.sentence.startswith(str(self.path)) else f"{self.path}: {self.sentence}"


def layer_part(layer: int) -> str:
    """What the header of a layer's file says it is."""
    return f"layer {layer}"


def require_agreement(manifest: Manifest, described: Architecture) -> None:
    """Raise FormatError unless text files, headers, manifest and config.json are of one pack, naming the first file
    that is not."""
    for problem in _problems(manifest, described):
        directory = manifest.directory
        raise FormatError(f"{problem} Check the model with `flashmoe verify {directory}`, and pack it again.")


def _problems(manifest: Manifest, described: Architecture) -> Iterator[Problem]:
    yield from text_problems(manifest)
    yield from config_problems(manifest, described)
    yield from trunk_problems(manifest)
    for layer in range(len(manifest.layers)):
        yield from layer_problems(manifest, layer)
    yield from tensor_problems(manifest, described)


def text_problems(manifest: Manifest) -> Iterator[Problem]:
    """Files that were copied from the checkpoint and are missing or changed."""
    for name, packed in manifest.files.items():
        path = manifest.directory / name
        try:
            if file_checksum(path) != packed:
                yield Problem(path, f"it is not as it was packed: its checksum differs from that in {NAME}.")
        except FlashMoeError as error:
            yield Problem(path, str(error))


def trunk_problems(manifest: Manifest) -> Iterator[Problem]:
    """What the header of the trunk shows."""
    trunk = manifest.trunk
    try:
        header = read_header(trunk.path)
    except FlashMoeError as error:
        yield Problem(trunk.path, str(error))
        return
    yield from _identity_problems(header, trunk.path, TRUNK_PART, trunk.header_xxh3)
    if header.file_bytes != trunk.bytes:
        yield Problem(trunk.path, f"it has {header.file_bytes} bytes, and {NAME} says {trunk.bytes}.")


def layer_problems(manifest: Manifest, layer: int) -> Iterator[Problem]:
    """What the header of a layer's experts shows."""
    entry, record_bytes = manifest.layers[layer], manifest.layout(layer).record_bytes
    try:
        header = read_header(entry.path)
    except FlashMoeError as error:
        yield Problem(entry.path, str(error))
        return
    yield from _identity_problems(header, entry.path, layer_part(layer), entry.header_xxh3)
    end = entry.data_offset + entry.experts * record_bytes
    if header.tensors != {"experts": TensorInfo("U8", (entry.experts, record_bytes), entry.data_offset, end)}:
        records = f"{entry.experts} records of {record_bytes} bytes from byte {entry.data_offset} on"
        yield Problem(entry.path, f"its header does not describe {records}, as {NAME} does.")


def _identity_problems(header: Header, path: Path, part: str, listed: str) -> Iterator[Problem]:
    """listed: the header's checksum in the manifest; empty in one of before there was an identity."""
    found = header.metadata.get(PART)
    if not listed and found is not None:
        yield Problem(path, f"it is of a pack with an identity, and {NAME} has none.")
    elif listed and found is None:
        yield Problem(path, f"it is of a pack without identity, and {NAME} has one.")
    elif listed and found != part:
        yield Problem(path, f"it says that it is {found!r:.60}, and {NAME} lists it as {part!r}.")
    elif listed and header.xxh3 != listed:
        yield Problem(path, f"it is not the file that {NAME} lists: it is of another pack, or its header was changed.")


def config_problems(manifest: Manifest, described: Architecture) -> Iterator[Problem]:
    """Experts and layers that config.json does not have, or not so many, or in other shapes."""
    config, path = described.config, manifest.directory / NAME

    def differs(found: object, said: object) -> Problem:
        return Problem(path, f"it has {found}, but config.json says {said}. They are not of one model.")

    if manifest.model_type != config.model_type:
        yield differs(f"the model_type {manifest.model_type!r:.60}", repr(config.model_type))
    if len(manifest.layers) != config.layers:
        yield differs(f"{len(manifest.layers)} layers", config.layers)
        return
    for layer, entry in enumerate(manifest.layers):
        if entry.experts != config.experts:
            yield differs(f"{entry.experts} experts in layer {layer}", config.experts)
        for name, shape in _expert_shapes(config).items():
            if (found := _shape(manifest.layout(layer), name)) != shape:
                yield differs(f"{name} of {list(found)} in layer {layer}", list(shape))


def _expert_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    rising = (config.expert_inter, config.hidden)
    return {"gate": rising, "up": rising, "down": (config.hidden, config.expert_inter)}


def _shape(layout: RecordLayout, name: str) -> tuple[int, int]:
    rows, groups = layout.part(f"{name}.scales").shape
    return rows, groups * GROUP


def tensor_problems(manifest: Manifest, described: Architecture) -> Iterator[Problem]:
    """Tensors that config.json implies and the trunk does not hold, or in another shape."""
    path = manifest.trunk.path
    try:
        tensors = read_header(path).tensors
    except FlashMoeError:
        return  # said already, of the header
    for tensor in described.trunk:
        try:
            stored_bits(tensor, tensors, path)
        except FormatError as error:
            yield Problem(path, str(error))


def stored_tensors(tensor: TrunkTensor, bits: int) -> list[NewTensor]:
    """The tensors that hold a trunk tensor at 2, 4 or 8 bits, or at 16 or 32 unquantised (docs/format.md)."""
    if tensor.kind not in MATRICES:
        return [NewTensor(tensor.name, "F32", tensor.shape)]
    rows, columns = tensor.shape
    if bits > 8:
        return [NewTensor(f"{tensor.name}.weight", "BF16" if bits == 16 else "F32", (rows, columns))]
    return [
        NewTensor(f"{tensor.name}.weight", "U32", (rows, columns * bits // 32)),
        NewTensor(f"{tensor.name}.scales", "BF16", (rows, columns // GROUP)),
        NewTensor(f"{tensor.name}.biases", "BF16", (rows, columns // GROUP)),
    ]


def stored_bits(tensor: TrunkTensor, found: Mapping[str, TensorInfo], path: Path) -> int:
    """The bits at which the trunk `path`, with the tensors `found`, holds a tensor. Raises FormatError if it does not
    hold it in its shape."""
    forms = (32,) if tensor.kind not in MATRICES else (16, 32) if tensor.shape[-1] % GROUP else (2, 4, 8, 16, 32)
    for bits in forms:
        stored = stored_tensors(tensor, bits)
        if all((i := found.get(t.name)) and (i.dtype, i.shape) == (t.dtype, t.shape) for t in stored):
            return bits
    first = stored_tensors(tensor, 32)[0].name
    held = f"{found[first].dtype} {list(found[first].shape)!s:.60}" if first in found else "nothing"
    raise FormatError(
        f"{path} does not hold {tensor.name} as config.json implies: for {list(tensor.shape)} there is {held}."
    )
