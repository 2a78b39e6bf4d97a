"""Checkpoint -> packed model, streaming: a few experts or a block of rows in memory at a time.

Reading and quantising run on several threads while this one writes, in a fixed order: the result does not depend on
threads, on interruptions or on how the source stores its experts. Knows models only through their Architecture.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flashmoe.errors import FlashMoeError, FormatError
from flashmoe.files.atomic import NewFile, atomic_file, write_atomically
from flashmoe.files.checksum import checksum, file_checksum
from flashmoe.files.jsonfile import parse_object
from flashmoe.files.opening import read_bytes
from flashmoe.files.safetensors import TENSOR_ALIGNMENT, read_header
from flashmoe.hub import Checkpoint, open_checkpoint
from flashmoe.hub.links import source_file
from flashmoe.hub.shards import Shards
from flashmoe.models import architecture
from flashmoe.models.architecture import Architecture, Kind
from flashmoe.ops.weights import AffineMatrix, Matrix
from flashmoe.pack.contents import Contents
from flashmoe.pack.convert import convert, ordered_map, record, window
from flashmoe.pack.manifest import NAME, PARTS, LayerFile, Manifest, TrunkFile
from flashmoe.pack.names import COPIED
from flashmoe.pack.plan import TRUNK, LayerPlan, Plan, TrunkItem, layer_file, make_plan
from flashmoe.pack.recipe import Recipe
from flashmoe.pack.seal import begin, seal
from flashmoe.pack.shardspace import check_space, kept_shards, refuse_links, removable_shards, remove_shard
from flashmoe.pack.workspace import Finished, Workspace, open_workspace

_STATE_VERSION = 2
"""Of what `.packing` holds."""
BLOCK_BYTES = 4 << 20
"""Source bytes of a block of rows: large enough to read well, small enough for several in memory."""
MAX_THREADS = 16


@dataclass
class Reports:
    """Whom to tell: `progress(bytes written so far, bytes in all)` and `say(sentence)`."""

    progress: Callable[[int, int], None] = field(default=lambda _done, _total: None)
    say: Callable[[str], None] = field(default=lambda _sentence: None)


def pack(
    source: Path, out: Path, recipe: Recipe, *, delete_source: bool = False, reports: Reports | None = None
) -> Manifest:
    """Pack the checkpoint in `source` into `out`, going on where an interrupted pack of the same source stopped.

    Raises FlashMoeError for anything wrong with the source, the disk or the options; `out` then holds no file that is
    not complete, and the pack can be started again.
    """
    with open_workspace(out) as workspace:
        checkpoint = _open_source(source, recipe, workspace)
        try:
            return _Packer(workspace, checkpoint, recipe, delete_source, reports or Reports()).run()
        finally:
            checkpoint.close()


def _open_source(source: Path, recipe: Recipe, workspace: Workspace) -> Checkpoint:
    """The source as planned before, or as it is now, with the plan stored once it is known to be packable."""
    asked: dict[str, Any] = {"bits": recipe.expert_bits, "trunk_bits": recipe.trunk_bits}
    stored = workspace.stored_plan()
    if stored is None:
        return open_checkpoint(source)
    where = str(workspace.state)
    anew = f"Give the same source and options, or remove {workspace.directory} to start anew."
    if stored.get("version") != _STATE_VERSION:
        raise FlashMoeError(
            f"{workspace.directory} was begun by another version of Flash-MoE. Finish it with that one, or remove "
            "it to start anew."
        )
    if stored.get("options") != asked:
        raise FlashMoeError(f"{workspace.directory} was begun with other options: {stored.get('options')}. {anew}")
    if not source.is_dir() or stored.get("config") != file_checksum(source_file(source, "config.json")):
        raise FlashMoeError(f"{workspace.directory} was begun from another source than {source}. {anew}")
    shards = stored.get("shards")
    if not isinstance(shards, dict):
        raise FormatError(f"{where} is damaged. Remove {workspace.directory} to start anew.")
    return open_checkpoint(source, Shards.from_json(source, shards, where))


def _read_texts(source: Path) -> dict[str, bytes]:
    """The files that are copied, by name. Raises FormatError for one that cannot be read or is not what its name says;
    tokenizer.json is left to those who can load it."""
    texts = {}
    for name in COPIED:
        path = source_file(source, name)
        if not path.exists():
            continue
        try:
            texts[name] = read_bytes(path)
            if path.suffix == ".jinja":
                texts[name].decode("utf-8")
        except OSError as error:
            raise FormatError(f"{path} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError as error:
            raise FormatError(f"{path} is not UTF-8 text (byte {error.start}). Fetch it again.") from None
        if path.suffix == ".json" and name != "tokenizer.json":
            parse_object(texts[name], str(path))
    return texts


class _Packer:
    def __init__(
        self, workspace: Workspace, checkpoint: Checkpoint, recipe: Recipe, delete_source: bool, reports: Reports
    ) -> None:
        self.workspace = workspace
        self.checkpoint = checkpoint
        self.recipe = recipe
        self.delete_source = delete_source
        self.reports = reports
        self.architecture: Architecture = architecture(checkpoint.config)
        self.plan: Plan = make_plan(checkpoint, self.architecture, recipe)
        self.threads = min(MAX_THREADS, usable_processors())
        self.written = 0

    @property
    def out(self) -> Path:
        return self.workspace.directory

    def run(self) -> Manifest:
        texts = _read_texts(self.checkpoint.directory)
        finished = {name: self.workspace.finished(name) for name in self.plan.sizes}
        unwritten = [name for name, record in finished.items() if record is None]
        if self.delete_source:
            refuse_links(self.checkpoint.shards)
        check_space(self.out, self.checkpoint, self.plan, unwritten, self.delete_source)
        self._store_plan()
        self._announce(len(finished) - len(unwritten))
        for name, data in texts.items():
            write_atomically(self.out / name, data)
        self._advance(sum(record.bytes for record in finished.values() if record))
        done = {name: record for name, record in finished.items() if record}
        with ThreadPoolExecutor(self.threads) as pool:
            while unwritten:
                self._free_shards(unwritten, done)
                name = unwritten.pop(0)
                done[name] = self._write(name, pool)
        manifest = self._manifest(done, {name: checksum(data) for name, data in texts.items()})
        write_atomically(self.out / NAME, manifest.to_json())
        Contents.open(self.out).close()  # the last shards go when the packed model has been seen to open
        self._free_shards(unwritten, done)
        self.workspace.close()
        return manifest

    def _store_plan(self) -> None:
        if self.workspace.stored_plan() is None:
            self.workspace.store_plan(
                {
                    "version": _STATE_VERSION,
                    "options": {"bits": self.recipe.expert_bits, "trunk_bits": self.recipe.trunk_bits},
                    "config": file_checksum(self.checkpoint.directory / "config.json"),
                    "shards": self.checkpoint.shards.to_json(),
                }
            )

    def _announce(self, done: int) -> None:
        for what, count in self.checkpoint.skipped.items():
            self.reports.say(f"Skipping {count} tensors of {what}: only text is computed.")
        if self.delete_source:
            for shard, tensor in sorted(kept_shards(self.checkpoint).items()):
                self.reports.say(f"Keeping {shard}: it holds what is not packed, like {tensor}.")
        if done:
            self.reports.say(f"Going on: {done} of {len(self.plan.sizes)} files are finished.")
        if not (self.checkpoint.directory / "tokenizer.json").exists():
            self.reports.say(
                f"{self.checkpoint.directory} has no tokenizer.json, so the packed model will compute but not read or "
                "write text. Save it once with transformers' AutoTokenizer and copy tokenizer.json into the pack."
            )

    def _free_shards(self, unwritten: list[str], done: dict[str, Finished]) -> None:
        """Delete what no unwritten file needs, once the headers of all written ones have been read again."""
        if not self.delete_source:
            return
        for name, written in done.items():
            if read_header(self.out / name).xxh3 != written.header_xxh3:
                raise FormatError(f"{self.out / name} is not as it was written. Remove it, and start again.")
        for shard in removable_shards(self.checkpoint, self.plan, unwritten):
            remove_shard(self.checkpoint.shards, shard)

    def _advance(self, count: int) -> None:
        self.written += count
        self.reports.progress(self.written, sum(self.plan.sizes.values()))

    def _write(self, name: str, pool: ThreadPoolExecutor) -> Finished:
        records: list[str] = []
        layer = next((layer for layer in self.plan.layers if layer_file(layer.number) == name), None)
        header = layer.header if layer else self.plan.trunk_header
        with atomic_file(self.out / name) as file:
            begin(file, header)
            self._advance(file.bytes)
            if layer:
                records = self._write_layer(file, layer, pool)
            else:
                self._write_trunk(file, pool)
            sealed = seal(file, header)
        result = Finished(file.bytes, sealed.xxh3, sealed.header_xxh3, "".join(records))
        self.workspace.finish(name, result)
        return result

    def _write_layer(self, file: NewFile, layer: LayerPlan, pool: ThreadPoolExecutor) -> list[str]:
        def make(expert: int) -> tuple[Any, str]:
            matrices = {p: self.checkpoint.expert_matrix(layer.prefix, expert, p) for p in PARTS}
            data = record(layer.layout, {part: (matrix, layer.bits[part]) for part, matrix in matrices.items()})
            return data, checksum(data)

        first = [self.checkpoint.expert_matrix(layer.prefix, 0, part) for part in PARTS]
        ahead = window(sum(m.shape[0] * m.row_bytes for m in first) + layer.layout.record_bytes, self.threads)
        checksums = []
        for data, digest in ordered_map(pool, make, range(layer.experts), ahead):
            file.write(data)
            checksums.append(digest)
            self._advance(len(data))
        return checksums

    def _write_trunk(self, file: NewFile, pool: ThreadPoolExecutor) -> None:
        for item in self.plan.trunk:
            before = file.bytes
            if item.source is None:
                self._write_array(file, [self._vector(item)])
            else:
                self._write_matrix(file, item, pool)
            self._advance(file.bytes - before)

    def _write_array(self, file: NewFile, pieces: Iterable[Any]) -> None:
        """One tensor, in pieces that may be made while it is written, and the padding after it."""
        count = 0
        for piece in pieces:
            data = np.ascontiguousarray(piece)
            file.write(data.reshape(-1).view(np.uint8))
            count += data.nbytes
        file.write(bytes(-count % TENSOR_ALIGNMENT))

    def _vector(self, item: TrunkItem) -> Any:
        values = self.checkpoint.vector(item.tensor.source).reshape(item.tensor.shape)
        if item.tensor.kind is Kind.NORM and item.tensor.zero_centred and not self.checkpoint.norms_shifted:
            return np.float32(1) + values
        return values

    def _write_matrix(self, file: NewFile, item: TrunkItem, pool: ThreadPoolExecutor) -> None:
        """Codes go out as they come; scales and biases, an eighth of them at most, wait for the codes to end."""
        source = item.source
        assert source is not None
        step = max(1, BLOCK_BYTES // source.row_bytes)
        rows_of_source = item.rows
        blocks = [rows_of_source[i : i + step] for i in range(0, len(rows_of_source), step)]

        def make(rows: Any) -> Matrix:
            return convert(source.take(rows), item.bits, source.name)

        scales: list[Any] = []
        biases: list[Any] = []

        def codes() -> Iterator[Any]:
            for block in ordered_map(pool, make, blocks, window(BLOCK_BYTES, self.threads)):
                if isinstance(block, AffineMatrix):
                    scales.append(block.scales)
                    biases.append(block.biases)
                    yield block.codes
                else:
                    yield block.values

        self._write_array(file, codes())
        if scales:
            self._write_array(file, scales)
            self._write_array(file, biases)

    def _manifest(self, finished: dict[str, Finished], files: dict[str, str]) -> Manifest:
        layouts = self.plan.layouts
        layers = tuple(
            LayerFile(
                path=self.out / (name := layer_file(layer.number)),
                experts=layer.experts,
                layout=layouts.index(layer.layout),
                data_offset=len(layer.header),
                xxh3=finished[name].xxh3,
                records_xxh3=finished[name].records_xxh3,
                header_xxh3=finished[name].header_xxh3,
            )
            for layer in self.plan.layers
        )
        trunk = finished[TRUNK]
        return Manifest(
            directory=self.out,
            model_type=self.architecture.config.model_type,
            source=self.checkpoint.source,
            quantisation=self.plan.quantisation(),
            layouts=tuple(layouts),
            layers=layers,
            trunk=TrunkFile(self.out / TRUNK, trunk.bytes, trunk.xxh3, trunk.header_xxh3),
            files=files,
        )


def usable_processors() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
