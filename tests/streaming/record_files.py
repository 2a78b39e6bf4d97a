"""Files of records whose bytes follow from layer and expert."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flashmoe.streaming.experts import ExpertStore
from flashmoe.streaming.lease import Lease
from flashmoe.streaming.reader import ExpertFile

PAGE = 4096


def record(layer: int, expert: int, record_bytes: int) -> NDArray[np.uint8]:
    return np.random.default_rng([layer, expert]).integers(0, 256, record_bytes, dtype=np.uint8)


def write_layer(file: ExpertFile, layer: int) -> None:
    """The whole file, in place, so that those who have it open see it too."""
    content = b"".join(record(layer, expert, file.record_bytes).tobytes() for expert in range(file.experts))
    with file.path.open("r+b" if file.path.exists() else "wb") as out:
        out.write(bytes(file.data_offset) + content)


def cut(file: ExpertFile, experts: int) -> None:
    """Leave the file with so many whole experts."""
    os.truncate(file.path, file.data_offset + experts * file.record_bytes)


def make_model(directory: Path, experts: Sequence[int], record_bytes: Sequence[int]) -> list[ExpertFile]:
    """One file a layer under DIR/experts, with so many experts of so many bytes."""
    (directory / "experts").mkdir()
    files = []
    for layer, (count, size) in enumerate(zip(experts, record_bytes, strict=True)):
        file = ExpertFile(directory / f"experts/layer-{layer:03}.safetensors", PAGE, count, size)
        write_layer(file, layer)
        files.append(file)
    return files


def ids(*experts: int) -> NDArray[np.int32]:
    return np.array(experts, dtype=np.int32)


def assert_holds(store: ExpertStore, lease: Lease, layer: int, file: ExpertFile, experts: Sequence[int]) -> None:
    """The slots of the lease hold exactly these records of the layer."""
    for slot, expert in zip(lease.slots, experts, strict=True):
        np.testing.assert_array_equal(
            store.arena.array[slot, : file.record_bytes], record(layer, int(expert), file.record_bytes)
        )


def wait_for_all(lease: Lease) -> list[int]:
    """The indices in the order they became ready."""
    return [int(index) for group in lease.groups() for index in group]
