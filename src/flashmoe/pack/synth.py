"""A packed model of true shapes with random weights of sane scale, written about as fast as the disk takes it.

Invariant: to every reader it is a packed model like any other, checksums included, and the same choices and seed give
the same bytes. Knows models only through their Architecture.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from flashmoe import _native
from flashmoe.files.atomic import NewFile, atomic_file, write_atomically
from flashmoe.files.checksum import checksum
from flashmoe.files.safetensors import TENSOR_ALIGNMENT, padded
from flashmoe.hub.matrix import bfloat16_bits
from flashmoe.models import architecture
from flashmoe.models.architecture import Architecture, Kind, TrunkTensor
from flashmoe.ops.weights import GROUP, RecordLayout
from flashmoe.pack.agreement import MATRICES, TRUNK_PART, stored_tensors
from flashmoe.pack.manifest import NAME, PARTS, LayerFile, Manifest, TrunkFile, make_layout
from flashmoe.pack.newdir import new_directory
from flashmoe.pack.plan import TRUNK, layer_file, layer_header
from flashmoe.pack.randompool import RandomPool
from flashmoe.pack.recipe import SENSITIVE_BITS
from flashmoe.pack.seal import begin, blank_header, seal
from flashmoe.pack.shapes import shaped_config
from flashmoe.pack.skew import skewed_norms
from flashmoe.pack.toytext import text_files

ROUTER_STD = 1.5
"""Deviation of router logits for inputs of unit scale."""
SKEW_RANGE = (0.2, 0.5)
"""Gini coefficients of routing, by layer, measured on a 397B model."""


@dataclass(frozen=True)
class Choices:
    """A published model's shapes, how many of its layers (None: all), bits, and whether routing is skewed."""

    like: str
    layers: int | None = None
    expert_bits: int = 4
    trunk_bits: int = 4
    skew: bool = False
    seed: int = 0

    @property
    def config(self) -> dict[str, Any]:
        return shaped_config(self.like, self.layers)


def synth(choices: Choices, out: Path, progress: Callable[[int, int], None] = lambda _done, _total: None) -> Manifest:
    """Write the model to `out`, which must be empty or absent. Raises FlashMoeError; `out` is then as it was."""
    config = choices.config
    config["eos_token_id"] = config["vocab_size"] - 1
    return synth_config(config, choices, out, progress)


def synth_config(config: dict[str, Any], choices: Choices, out: Path, progress: Callable[[int, int], None]) -> Manifest:
    """The same for any config: its shapes count, not those that `choices` names."""
    parsed = architecture(config)
    c = parsed.config
    shapes = {"gate": (c.expert_inter, c.hidden), "up": (c.expert_inter, c.hidden), "down": (c.hidden, c.expert_inter)}
    layout = make_layout((part, *shapes[part], choices.expert_bits) for part in PARTS)
    files = {"config.json": json.dumps(config, indent=1).encode(), **text_files(c.vocab)}
    writer = _Writer(parsed, choices, layout, out, progress)
    names = [*files, TRUNK, NAME, *(layer_file(i) for i in range(c.layers))]
    with new_directory(out, names, writer.total + sum(map(len, files.values()))):
        (out / "experts").mkdir()
        for name, data in files.items():
            write_atomically(out / name, data)
        manifest = writer.write({name: checksum(data) for name, data in files.items()})
        write_atomically(out / NAME, manifest.to_json())
    return manifest


class _Writer:
    def __init__(
        self,
        parsed: Architecture,
        choices: Choices,
        layout: RecordLayout,
        out: Path,
        progress: Callable[[int, int], None],
    ) -> None:
        self.architecture = parsed
        self.choices = choices
        self.layout = layout
        self.out = out
        self.progress = progress
        self.pool = RandomPool(choices.seed)
        self.routers = {prefix.removesuffix("experts") + "gate" for prefix in parsed.expert_prefixes}
        self.trunk_tensors = padded(t for tensor in parsed.trunk for t in stored_tensors(tensor, self.bits(tensor)))
        c = parsed.config
        self.trunk_header = blank_header(self.trunk_tensors, TRUNK_PART)
        self.layer_headers = [layer_header(i, c.experts, layout) for i in range(c.layers)]
        headers = len(self.trunk_header) + sum(map(len, self.layer_headers))
        self.total = headers + sum(t.nbytes for t in self.trunk_tensors) + c.layers * c.experts * layout.record_bytes
        self.done = 0

    def bits(self, tensor: TrunkTensor) -> int:
        """Bits of a trunk tensor; a matrix that does not divide into groups stays bfloat16."""
        if tensor.kind not in MATRICES:
            return 32
        if tensor.shape[1] % GROUP:
            return 16
        return SENSITIVE_BITS if tensor.kind is Kind.SENSITIVE else self.choices.trunk_bits

    def write(self, files: dict[str, str]) -> Manifest:
        c = self.architecture.config
        with atomic_file(self.out / TRUNK) as trunk:
            self._begin(trunk, self.trunk_header)
            for tensor in self.architecture.trunk:
                for piece in self._tensor(tensor):
                    self._write(trunk, piece)
            trunk_seal = seal(trunk, self.trunk_header)
        layers = tuple(self._layer(i) for i in range(c.layers))
        kinds = {
            kind.value: sorted({self.bits(t) for t in self.architecture.trunk if t.kind is kind}) for kind in MATRICES
        }
        return Manifest(
            directory=self.out,
            model_type=c.model_type,
            source={"name": self.choices.like, "revision": f"seed {self.choices.seed}", "kind": "synth"},
            quantisation={"group_size": GROUP, "experts": [self.choices.expert_bits], **kinds},
            layouts=(self.layout,),
            layers=layers,
            trunk=TrunkFile(self.out / TRUNK, trunk.bytes, trunk_seal.xxh3, trunk_seal.header_xxh3),
            files=files,
        )

    def _begin(self, file: NewFile, header: bytes) -> None:
        begin(file, header)
        self._advance(len(header))

    def _write(self, file: NewFile, data: Any) -> None:
        file.write(data)
        self._advance(len(memoryview(data).cast("B")))

    def _advance(self, count: int) -> None:
        self.done += count
        self.progress(self.done, self.total)

    def _layer(self, layer: int) -> LayerFile:
        path, experts = self.out / layer_file(layer), self.architecture.config.experts
        header, checksums = self.layer_headers[layer], []
        with atomic_file(path) as file:
            self._begin(file, header)
            for _ in range(experts):
                state = xxhash.xxh3_64()
                for piece in self._record():
                    state.update(piece)
                    file.write(piece)
                checksums.append(state.hexdigest())
                self._advance(self.layout.record_bytes)
            sealed = seal(file, header)
        return LayerFile(path, experts, 0, len(header), sealed.xxh3, "".join(checksums), sealed.header_xxh3)

    def _record(self) -> Iterator[Any]:
        position = 0
        for part in PARTS:
            place = self.layout.part(f"{part}.weight")
            yield bytes(place.offset - position)
            rows, columns = place.shape[0], place.shape[1] * 32 // self.choices.expert_bits
            yield from self._matrix(rows, columns, self.choices.expert_bits, columns**-0.5)
            end = self.layout.part(f"{part}.biases")
            position = end.offset + end.shape[0] * end.shape[1] * 2
        yield bytes(self.layout.record_bytes - position)

    def _matrix(self, rows: int, columns: int, bits: int, std: float) -> Iterator[Any]:
        """Codes, scales and biases, each filled up to a multiple of 64 bytes."""
        scales, biases = self.pool.scales_and_biases(std, bits, rows * columns // GROUP)
        for pieces in (self.pool.codes(rows * columns * bits // 8), scales, biases):
            count = 0
            for piece in pieces:
                count += piece.nbytes
                yield piece
            yield bytes(-count % TENSOR_ALIGNMENT)

    def _tensor(self, tensor: TrunkTensor) -> Iterator[Any]:
        bits = self.bits(tensor)
        if tensor.kind in (Kind.MATRIX, Kind.EMBEDDING) and bits <= 8:
            rows, columns = tensor.shape
            yield from self._matrix(rows, columns, bits, 1.0 if tensor.kind is Kind.EMBEDDING else columns**-0.5)
            return
        values = self._values(tensor)
        if bits == 16:
            values = bfloat16_bits(values)
        for array in _native.quantise(values, bits) if bits <= 8 else (values,):
            yield array.reshape(-1).view(np.uint8)
            yield bytes(-array.nbytes % TENSOR_ALIGNMENT)

    def _values(self, tensor: TrunkTensor) -> Any:
        """What is small enough to be drawn value by value."""
        rng = self.pool.rng
        draw = rng.standard_normal(tensor.shape, np.float32)
        if tensor.kind is Kind.NORM:
            return 1 + 0.1 * draw
        if tensor.kind in (Kind.CONV, Kind.VECTOR):
            return 0.5 * draw
        draw *= (ROUTER_STD if tensor.name in self.routers else 1.0) * tensor.shape[1] ** -0.5
        if tensor.name in self.routers and self.choices.skew:
            c = self.architecture.config
            draw *= skewed_norms(rng, c.experts, c.top_k, rng.uniform(*SKEW_RANGE)).astype(np.float32)[:, None]
        return draw
