"""The expert store on real files: right bytes, pins, sharing of reads, and what happens when a read fails."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from record_files import PAGE, assert_holds, cut, ids, make_model, wait_for_all, write_layer

from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.streaming.experts import ExpertStore
from flashmoe.streaming.reader import ExpertFile


@pytest.fixture
def files(tmp_path: Path) -> list[ExpertFile]:
    return make_model(tmp_path, experts=[16, 16, 12], record_bytes=[2 * PAGE, 2 * PAGE, PAGE])


@pytest.fixture
def store(files: list[ExpertFile]) -> Iterator[ExpertStore]:
    with ExpertStore(files, slots=8) as store:
        yield store


@pytest.mark.parametrize("direct", [False, True])
def test_a_fetch_brings_the_records_of_the_file(files: list[ExpertFile], direct: bool) -> None:
    with ExpertStore(files, slots=8, direct=direct) as store:
        for layer, file in enumerate(files):
            wanted = ids(11, 0, 7)
            with store.fetch(layer, wanted) as lease:
                assert sorted(wait_for_all(lease)) == [0, 1, 2]
                assert_holds(store, lease, layer, file, wanted)


def test_what_is_in_memory_comes_first_and_is_not_read_again(store: ExpertStore, files: list[ExpertFile]) -> None:
    with store.fetch(0, ids(2, 4)) as lease:
        wait_for_all(lease)
    with store.fetch(0, ids(1, 4, 3, 2)) as lease:
        groups = [group.tolist() for group in lease.groups()]
        assert_holds(store, lease, 0, files[0], [1, 4, 3, 2])
    assert groups[0] == [1, 3]
    assert sorted(index for group in groups[1:] for index in group) == [0, 2]
    assert (store.stats.hits, store.stats.misses) == (2, 4)
    assert store.stats.bytes_read == 4 * 2 * PAGE


def test_all_hits_are_one_group(store: ExpertStore) -> None:
    for _ in range(2):
        with store.fetch(1, ids(5, 3, 9)) as lease:
            groups = [group.tolist() for group in lease.groups()]
    assert groups == [[0, 1, 2]]


def test_an_empty_fetch_is_a_lease_of_nothing(store: ExpertStore) -> None:
    with store.fetch(0, ids()) as lease:
        assert wait_for_all(lease) == []
        assert len(lease.slots) == 0


def test_misses_are_read_in_file_order(store: ExpertStore) -> None:
    with store.fetch(0, ids(9, 2, 14, 5)) as lease:  # an empty arena hands out its slots in order
        assert lease.slots.tolist() == [2, 0, 3, 1]


def test_a_leased_expert_is_never_evicted(store: ExpertStore, files: list[ExpertFile]) -> None:
    with store.fetch(0, ids(0, 1, 2)) as kept:
        wait_for_all(kept)
        for first in range(0, 16, 4):
            with store.fetch(1, np.arange(first, first + 4, dtype=np.int32)) as lease:
                wait_for_all(lease)
        assert_holds(store, kept, 0, files[0], [0, 1, 2])


def test_two_leases_share_one_read(store: ExpertStore, files: list[ExpertFile]) -> None:
    with store.fetch(0, ids(3, 4)) as first, store.fetch(0, ids(4, 3)) as second:
        assert second.slots.tolist() == first.slots.tolist()[::-1]
        assert sorted(wait_for_all(second)) == [0, 1]
        assert sorted(wait_for_all(first)) == [0, 1]
        assert_holds(store, first, 0, files[0], [3, 4])
    assert store.stats.misses == 2
    assert store.stats.bytes_read == 2 * 2 * PAGE


def test_more_experts_than_slots_are_refused_with_both_figures(store: ExpertStore) -> None:
    assert store.max_lease == 8
    with pytest.raises(CapacityError, match=r"Layer 0 needs 9 experts at once, 9 of them from disk.* arena of 8"):
        store.fetch(0, np.arange(9, dtype=np.int32))
    with store.fetch(0, np.arange(8, dtype=np.int32)) as lease:
        assert len(wait_for_all(lease)) == 8


def test_a_refused_fetch_leaves_nothing_pinned(store: ExpertStore) -> None:
    with store.fetch(0, ids(0, 1, 2, 3, 4)) as lease:
        wait_for_all(lease)
        with pytest.raises(CapacityError, match="room for 3 more"):
            store.fetch(0, ids(0, 1, 6, 7, 8, 9))
    with store.fetch(1, np.arange(8, dtype=np.int32)) as lease:
        assert len(wait_for_all(lease)) == 8


def test_an_abandoned_lease_leaves_its_slots_to_others(store: ExpertStore, files: list[ExpertFile]) -> None:
    for round in range(20):
        with store.fetch(round % 2, np.arange(8, dtype=np.int32)):
            pass  # nobody waits for its reads
    with store.fetch(2, np.arange(8, dtype=np.int32)) as lease:
        wait_for_all(lease)
        assert_holds(store, lease, 2, files[2], range(8))


def test_a_failed_read_names_the_record_and_the_cure(
    store: ExpertStore, files: list[ExpertFile], tmp_path: Path
) -> None:
    cut(files[1], experts=6)
    with (
        pytest.raises(FlashMoeError, match="Expert 6 of layer 1 could not be read") as caught,
        store.fetch(1, ids(6)) as lease,
    ):
        wait_for_all(lease)
    assert str(files[1].path) in str(caught.value)
    assert f"`flashmoe verify {tmp_path}`" in str(caught.value)
    assert "the file ended after 0 of 8192 bytes" in str(caught.value)


def test_after_a_failed_read_the_next_fetch_tries_again(store: ExpertStore, files: list[ExpertFile]) -> None:
    cut(files[0], experts=6)
    for _ in range(30):  # more failures than slots: none of them may keep one
        with pytest.raises(FlashMoeError, match="of layer 0"), store.fetch(0, ids(1, 6, 7)) as lease:
            wait_for_all(lease)
    write_layer(files[0], 0)
    everything = np.arange(8, dtype=np.int32)
    with store.fetch(0, everything) as lease:
        wait_for_all(lease)
        assert_holds(store, lease, 0, files[0], everything)


def test_a_failed_read_fails_every_lease_that_waits_for_it(store: ExpertStore, files: list[ExpertFile]) -> None:
    cut(files[0], experts=6)
    with store.fetch(0, ids(8)) as first, store.fetch(0, ids(8, 2)) as second:
        for lease in (first, second, second):
            with pytest.raises(FlashMoeError, match="Expert 8 of layer 0"):
                wait_for_all(lease)
    with store.fetch(1, np.arange(8, dtype=np.int32)) as lease:
        assert len(wait_for_all(lease)) == 8


def test_a_deleted_file_can_still_be_read(store: ExpertStore, files: list[ExpertFile]) -> None:
    files[0].path.unlink()
    with store.fetch(0, ids(3)) as lease:
        wait_for_all(lease)
        assert_holds(store, lease, 0, files[0], [3])


def test_a_missing_file_is_known_at_the_start(files: list[ExpertFile], tmp_path: Path) -> None:
    files[1].path.unlink()
    with pytest.raises(FlashMoeError, match=f"layer 1 cannot be opened: .*No such file.*`flashmoe verify {tmp_path}`"):
        ExpertStore(files, slots=8)


def test_a_short_file_is_known_at_the_start(files: list[ExpertFile]) -> None:
    cut(files[2], experts=11)
    with pytest.raises(FlashMoeError, match="has 49152 bytes and needs 53248 for 12 experts: it was cut short"):
        ExpertStore(files, slots=8)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_known_at_the_start(files: list[ExpertFile]) -> None:
    files[0].path.chmod(0)
    with pytest.raises(FlashMoeError, match=r"layer 0 cannot be opened: .*Permission denied"):
        ExpertStore(files, slots=8)


def test_an_arena_beyond_the_address_space_is_refused(files: list[ExpertFile]) -> None:
    with pytest.raises(CapacityError, match="The system refused"):
        ExpertStore(files, slots=1 << 50)


def test_the_arena_outlives_the_store(files: list[ExpertFile]) -> None:
    with ExpertStore(files, slots=8) as store, store.fetch(0, ids(3)) as lease:
        wait_for_all(lease)
        view = store.arena.array[lease.slots[0]]
    before = view.copy()
    del store
    np.testing.assert_array_equal(view, before)
