"""Packed model -> ordinary Hugging Face checkpoint with the dequantised weights: any engine can be given exactly the
weights that this one computes with.

Invariant: in float32 every exported value equals the packed one; what packing changed in form (norms with their 1,
split projections, experts in records) is changed back. Streams: one block of rows or one expert at a time.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashmoe.errors import FlashMoeError, FormatError
from flashmoe.files.atomic import atomic_file, write_atomically
from flashmoe.files.opening import read_bytes
from flashmoe.files.safetensors import NewTensor, make_header
from flashmoe.hub.links import source_file
from flashmoe.hub.matrix import bfloat16_bits
from flashmoe.hub.shards import INDEX
from flashmoe.models.architecture import Kind, TrunkTensor
from flashmoe.pack.agreement import MATRICES
from flashmoe.pack.contents import Contents, float_rows
from flashmoe.pack.convert import ordered_map, window
from flashmoe.pack.newdir import new_directory
from flashmoe.pack.packer import MAX_THREADS, usable_processors

DTYPES = {"float32": "F32", "bfloat16": "BF16"}
SHARD_BYTES = 5 * 10**9
"""A shard is closed before it grows beyond this; a single larger tensor gets its own."""
BLOCK_VALUES = 1 << 22

Block = Callable[[], NDArray[np.float32]]


@dataclass(frozen=True)
class _Tensor:
    """What is written under one Hugging Face name: its blocks, in order, each computed when called."""

    info: NewTensor
    blocks: list[Block]
    block_bytes: int


def export(
    directory: Path, out: Path, dtype: str, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> int:
    """Write the packed model in `directory` to `out` as `float32` or `bfloat16`; the bytes written.

    Raises FlashMoeError if `out` is not empty, the disk is too small or the packed model is damaged.
    """
    if dtype not in DTYPES:
        raise FlashMoeError(f"Export writes {' or '.join(DTYPES)}, not {dtype!r}.")
    contents = Contents.open(directory)
    try:
        tensors = [*_trunk(contents, DTYPES[dtype]), *_experts(contents, DTYPES[dtype])]
        total = sum(t.info.nbytes for t in tensors)
        shards = _shards(tensors)
        with new_directory(out, [*shards, INDEX, "config.json", *contents.manifest.files], total):
            _write_shards(out, shards, total, progress)
            _write_config(contents, out, dtype)
        return total
    finally:
        contents.close()


def _trunk(contents: Contents, dtype: str) -> Iterator[_Tensor]:
    """One tensor per source name; several trunk tensors may be rows of one."""
    by_source: dict[str, list[TrunkTensor]] = {}
    for tensor in contents.architecture.trunk:
        by_source.setdefault(tensor.source, []).append(tensor)
    for source, parts in by_source.items():
        if parts[0].kind not in MATRICES:
            yield _vector(contents, parts[0])
        elif parts[0].rows is None:
            yield _matrix(contents, parts[0], dtype)
        else:
            yield _joined(contents, source, parts, dtype)


def _vector(contents: Contents, tensor: TrunkTensor) -> _Tensor:
    """Vectors stay float32: they are small, and norms would lose their exact 1 + w."""
    rows, *rest = tensor.shape
    shape = (rows, 1, *rest) if tensor.kind is Kind.CONV else tensor.shape

    def values() -> NDArray[np.float32]:
        stored = contents.vector(tensor)
        # Exact: the packed value is itself 1 + w, rounded once.
        return stored - np.float32(1) if tensor.zero_centred else stored

    info = NewTensor(tensor.source, "F32", shape)
    return _Tensor(info, [values], info.nbytes)


def _matrix(contents: Contents, tensor: TrunkTensor, dtype: str) -> _Tensor:
    matrix = contents.matrix(tensor)
    rows, columns = tensor.shape
    step = max(1, BLOCK_VALUES // columns)
    blocks: list[Block] = [partial(float_rows, matrix, np.arange(i, min(rows, i + step))) for i in range(0, rows, step)]
    return _Tensor(NewTensor(tensor.source, dtype, tensor.shape), blocks, 4 * step * columns)


def _joined(contents: Contents, source: str, parts: list[TrunkTensor], dtype: str) -> _Tensor:
    """The source whose rows were dealt out to several tensors."""
    places = [part.rows() for part in parts if part.rows is not None]
    order = np.concatenate(places)
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        raise FormatError(f"{source} cannot be put together again: its parts do not make up all of its rows.")
    shape = (len(order), parts[0].shape[1])

    def values() -> NDArray[np.float32]:
        whole = np.empty(shape, np.float32)
        for part, rows in zip(parts, places, strict=True):
            whole[rows] = float_rows(contents.matrix(part), np.arange(part.shape[0]))
        return whole

    return _Tensor(NewTensor(source, dtype, shape), [values], 4 * shape[0] * shape[1])


def _experts(contents: Contents, dtype: str) -> Iterator[_Tensor]:
    for layer, prefix in enumerate(contents.architecture.expert_prefixes):
        count = contents.manifest.layers[layer].experts
        for name, parts in (("gate_up_proj", ("gate", "up")), ("down_proj", ("down",))):
            first = [contents.expert_matrix(layer, 0, part).shape for part in parts]
            shape = (count, sum(rows for rows, _ in first), first[0][1])
            blocks: list[Block] = [partial(_expert, contents, layer, expert, parts) for expert in range(count)]
            yield _Tensor(NewTensor(f"{prefix}.{name}", dtype, shape), blocks, 4 * shape[1] * shape[2])


def _expert(contents: Contents, layer: int, expert: int, parts: tuple[str, ...]) -> NDArray[np.float32]:
    matrices = [contents.expert_matrix(layer, expert, part) for part in parts]
    return np.concatenate([float_rows(m, np.arange(m.shape[0])) for m in matrices])


def _shards(tensors: list[_Tensor]) -> dict[str, list[_Tensor]]:
    """What goes into each file, by its name."""
    shards: list[list[_Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.info.nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.info.nbytes
    return {f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards)}


def _write_shards(
    out: Path, shards: dict[str, list[_Tensor]], total: int, progress: Callable[[int, int], None]
) -> None:
    weight_map: dict[str, str] = {}
    threads = min(MAX_THREADS, usable_processors())
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        for name, tensors in shards.items():
            with atomic_file(out / name) as file:
                file.write(make_header([t.info for t in tensors], {"format": "pt"}))
                for tensor in tensors:
                    weight_map[tensor.info.name] = name
                    ahead = window(tensor.block_bytes, threads)
                    for values in ordered_map(pool, partial(_encode, tensor.info.dtype), tensor.blocks, ahead):
                        file.write(values)
                        done += values.nbytes
                        progress(done, total)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_atomically(out / INDEX, json.dumps(index, indent=1).encode())


def _encode(dtype: str, block: Block) -> NDArray[Any]:
    values = np.ascontiguousarray(block()).reshape(-1)
    return bfloat16_bits(values) if dtype == "BF16" else values


def _write_config(contents: Contents, out: Path, dtype: str) -> None:
    """config.json of the text model alone, and the tokenizer's files as they are."""
    config = dict(contents.config)
    if isinstance(inner := config.get("text_config"), dict):
        tied = config.get("tie_word_embeddings", inner.get("tie_word_embeddings", False))
        config = {**inner, "model_type": f"{config['model_type']}_text", "tie_word_embeddings": tied}
    for key in ("quantization", "quantization_config", "torch_dtype", "architectures"):
        config.pop(key, None)
    config["dtype"] = dtype
    write_atomically(out / "config.json", json.dumps(config, indent=1).encode())
    for name in contents.manifest.files:
        if name != "config.json":
            try:
                data = read_bytes(source_file(contents.manifest.directory, name))
            except OSError as error:
                raise FormatError(f"{contents.manifest.directory / name} cannot be read: {error.strerror}.") from None
            write_atomically(out / name, data)
