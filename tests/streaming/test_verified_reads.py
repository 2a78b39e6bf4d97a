"""Records with checksums: what a lease gives is what was packed, or an error that names the record."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_files import PAGE, assert_holds, ids, make_model, record, wait_for_all, write_layer

from flashmoe.errors import FlashMoeError
from flashmoe.files.checksum import checksum
from flashmoe.streaming.experts import ExpertStore
from flashmoe.streaming.reader import ExpertFile

EXPERTS, RECORD_BYTES = 12, 2 * PAGE


def verified(directory: Path) -> list[ExpertFile]:
    return [
        replace(file, checksums="".join(checksum(record(layer, e, file.record_bytes)) for e in range(file.experts)))
        for layer, file in enumerate(make_model(directory, [EXPERTS, EXPERTS], [RECORD_BYTES, RECORD_BYTES]))
    ]


def flip(file: ExpertFile, expert: int, byte: int, bit: int) -> None:
    with file.path.open("r+b") as out:
        out.seek(file.data_offset + expert * file.record_bytes + byte)
        (value,) = out.read(1)
        out.seek(-1, 1)
        out.write(bytes([value ^ 1 << bit]))


@given(st.integers(0, 1), st.integers(0, EXPERTS - 1), st.integers(0, RECORD_BYTES - 1), st.integers(0, 7))
@settings(max_examples=25)
def test_one_flipped_bit_is_found_and_named(
    tmp_path_factory: pytest.TempPathFactory, layer: int, expert: int, byte: int, bit: int
) -> None:
    files = verified(tmp_path_factory.mktemp("verified"))
    flip(files[layer], expert, byte, bit)
    with ExpertStore(files, slots=EXPERTS) as store:
        for other in range(2):
            wanted = np.array([e for e in range(EXPERTS) if (other, e) != (layer, expert)], dtype=np.int32)
            with store.fetch(other, wanted) as lease:
                wait_for_all(lease)
                assert_holds(store, lease, other, files[other], wanted)
        with (
            pytest.raises(FlashMoeError, match=f"Expert {expert} of layer {layer} is not as it was packed") as caught,
            store.fetch(layer, ids(expert)) as lease,
        ):
            wait_for_all(lease)
        assert str(files[layer].path) in str(caught.value)
        write_layer(files[layer], layer)
        with store.fetch(layer, ids(expert)) as lease:  # mended: the slot was not lost, nor is the damage remembered
            wait_for_all(lease)
            assert_holds(store, lease, layer, files[layer], [expert])


def test_a_damaged_record_is_not_served_from_memory_later(tmp_path: Path) -> None:
    files = verified(tmp_path)
    flip(files[0], 4, 100, 3)
    with ExpertStore(files, slots=EXPERTS) as store:
        for _ in range(3 * EXPERTS):
            with pytest.raises(FlashMoeError, match="Expert 4 of layer 0"), store.fetch(0, ids(2, 4)) as lease:
                wait_for_all(lease)
        with store.fetch(1, np.arange(EXPERTS, dtype=np.int32)) as lease:
            assert len(wait_for_all(lease)) == EXPERTS
