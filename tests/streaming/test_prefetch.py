"""Guesses of the expert store: read while the disk is idle, promoted when wanted, taken back when wrong."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from record_files import PAGE, assert_holds, cut, ids, make_model, wait_for_all, write_layer

from flashmoe._native import ReadError
from flashmoe.errors import FlashMoeError
from flashmoe.streaming import reader
from flashmoe.streaming.experts import ExpertStore
from flashmoe.streaming.policy import LeastRecentlyUsed
from flashmoe.streaming.reader import PREFETCH, ExpertFile


class PatientReader(reader.Reader):
    """A disk that is never idle: a prefetch begins when `idle` is called, or it is promoted."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.held: dict[int, tuple[Any, ...]] = {}
        self.begun: dict[int, int] = {}  # ticket given out -> ticket of the read
        self.next = 1 << 32

    def submit_many(self, file: int, offsets: Sequence[int], nbytes: int, *rest: Any) -> int:
        buffer, positions, priority = rest
        if priority != PREFETCH:
            return super().submit_many(file, offsets, nbytes, *rest)
        first = self.next
        for offset, position in zip(offsets, positions, strict=True):
            self.held[self.next] = (file, offset, nbytes, buffer, position)
            self.next += 1
        return first

    def promote(self, ticket: int) -> None:
        if (read := self.held.pop(ticket, None)) is not None:
            self.begun[ticket] = super().submit(*read, 0)

    def idle(self) -> None:
        for ticket in list(self.held):
            self.promote(ticket)

    def cancel(self, ticket: int) -> bool:
        if self.held.pop(ticket, None) is not None:
            self.begun[ticket] = 0
            return True
        return super().cancel(self.begun.get(ticket, ticket))

    def await_any(self, tickets: Sequence[int]) -> None:
        super().await_any([self.begun.get(ticket, ticket) for ticket in tickets if ticket not in self.held])

    def ended(self, tickets: Sequence[int]) -> list[int]:
        given = {real: ticket for ticket, real in self.begun.items()}
        try:
            ended = super().ended([self.begun.get(ticket, ticket) for ticket in tickets if ticket not in self.held])
        except ReadError as error:
            error.ticket = given.get(error.ticket, error.ticket)
            raise
        return [given.get(ticket, ticket) for ticket in ended]


@pytest.fixture
def files(tmp_path: Path) -> list[ExpertFile]:
    return make_model(tmp_path, experts=[16, 16, 12], record_bytes=[2 * PAGE, 2 * PAGE, PAGE])


@pytest.fixture
def busy(files: list[ExpertFile], monkeypatch: pytest.MonkeyPatch) -> Iterator[ExpertStore]:
    """A store of eight slots whose disk is never idle."""
    monkeypatch.setattr(reader, "Reader", PatientReader)
    with ExpertStore(files, slots=8, policy=LeastRecentlyUsed) as store:
        yield store


def disk(store: ExpertStore) -> PatientReader:
    native = store._reader._native
    assert isinstance(native, PatientReader)
    return native


def wait_until_read(store: ExpertStore, records: int) -> None:
    while disk(store).reads < records:
        sleep(1e-4)


def fetch(store: ExpertStore, layer: int, *experts: int) -> NDArray[np.int32]:
    """Their slots, when all have been read."""
    with store.fetch(layer, ids(*experts)) as lease:
        wait_for_all(lease)
        return lease.slots


def test_what_was_prefetched_is_a_hit_that_nobody_reads_again(files: list[ExpertFile]) -> None:
    with ExpertStore(files, slots=8) as store:
        store.prefetch(1, ids(3, 9))
        with store.fetch(1, ids(3, 9)) as lease:
            wait_for_all(lease)
            assert_holds(store, lease, 1, files[1], [3, 9])
        stats = store.stats
    assert (stats.hits, stats.misses, stats.bytes_read) == (2, 0, 2 * 2 * PAGE)
    assert (stats.prefetched, stats.prefetch_used, stats.prefetch_wasted) == (2, 2, 0)


def test_a_guess_that_landed_comes_with_the_first_group(busy: ExpertStore) -> None:
    fetch(busy, 0, 1)
    busy.prefetch(0, ids(2))
    disk(busy).idle()
    wait_until_read(busy, 2)
    with busy.fetch(0, ids(1, 2)) as lease:
        assert [group.tolist() for group in lease.groups()] == [[0, 1]]


def test_a_guess_that_is_wanted_is_promoted_and_right(busy: ExpertStore, files: list[ExpertFile]) -> None:
    busy.prefetch(0, ids(5, 6))
    with busy.fetch(0, ids(4, 6)) as lease:
        assert len(disk(busy).held) == 1  # of expert 5
        assert sorted(wait_for_all(lease)) == [0, 1]
        assert_holds(busy, lease, 0, files[0], [4, 6])
    assert (busy.stats.hits, busy.stats.misses) == (1, 1)


def test_a_guess_that_was_wrong_costs_nothing_if_it_was_not_begun(busy: ExpertStore) -> None:
    slots = fetch(busy, 0, *range(8))
    busy.prefetch(1, ids(0, 1, 2, 3))
    busy.withdraw(1, keep=ids(2))
    np.testing.assert_array_equal(fetch(busy, 0, 0, 1, 3, 4, 5, 6, 7), np.delete(slots, 2))
    assert busy.stats.misses == 8
    fetch(busy, 1, 2)
    stats = busy.stats
    assert (stats.misses, stats.prefetched, stats.prefetch_used, stats.prefetch_wasted) == (8, 1, 1, 0)


def test_what_a_slot_held_is_not_taken_back_when_it_was_read_elsewhere(
    busy: ExpertStore, files: list[ExpertFile]
) -> None:
    fetch(busy, 0, *range(8))
    busy.prefetch(1, ids(0))  # to the slot of expert 0 of layer 0
    fetch(busy, 0, 0)
    busy.withdraw(1)
    with busy.fetch(0, ids(0, 2, 3, 4, 5, 6, 7, 8)) as lease:
        wait_for_all(lease)
        assert len(set(lease.slots.tolist())) == 8
        assert_holds(busy, lease, 0, files[0], [0, 2, 3, 4, 5, 6, 7, 8])


def test_a_wrong_guess_that_was_read_is_counted_and_leaves_first(busy: ExpertStore) -> None:
    fetch(busy, 0, *range(6))
    busy.prefetch(1, ids(0, 1))
    disk(busy).idle()
    wait_until_read(busy, 8)
    busy.withdraw(1)
    assert busy.stats.prefetch_wasted == 2 * 2 * PAGE
    fetch(busy, 0, 6, 7)
    fetch(busy, 0, *range(8))
    assert busy.stats.misses == 8  # neither pushed out an expert that was used


def test_a_guess_never_takes_the_slot_of_an_expert_that_is_in_use_or_expected(
    busy: ExpertStore, files: list[ExpertFile]
) -> None:
    fetch(busy, 1, 9)
    with busy.fetch(0, ids(0, 1, 2, 3, 4)) as lease:
        wait_for_all(lease)
        busy.prefetch(1, ids(0, 9, 1, 2, 3))
        disk(busy).idle()
        assert busy.stats.prefetched == 2  # eight slots less five in use and one expected
        assert_holds(busy, lease, 0, files[0], [0, 1, 2, 3, 4])
    fetch(busy, 1, 0, 9, 1)
    assert busy.stats.misses == 6


def test_guesses_give_way_to_a_fetch_that_needs_the_room(busy: ExpertStore, files: list[ExpertFile]) -> None:
    busy.prefetch(1, ids(*range(8)))
    with busy.fetch(0, ids(*range(8))) as lease:
        wait_for_all(lease)
        assert_holds(busy, lease, 0, files[0], range(8))
    assert (busy.stats.prefetched, busy.stats.prefetch_used, busy.stats.misses) == (0, 0, 8)


def test_the_last_guess_gives_way_first(busy: ExpertStore) -> None:
    busy.prefetch(1, ids(7, 3, 5))
    fetch(busy, 0, *range(7))
    fetch(busy, 1, 7)
    assert busy.stats.prefetch_used == 1


def test_a_guess_that_could_not_be_read_is_read_again_when_it_is_wanted(
    busy: ExpertStore, files: list[ExpertFile]
) -> None:
    cut(files[0], experts=6)
    busy.prefetch(0, ids(7))
    disk(busy).idle()
    while busy._reads:
        busy._collect()
        sleep(1e-4)
    write_layer(files[0], 0)
    with busy.fetch(0, ids(7)) as lease:
        wait_for_all(lease)
        assert_holds(busy, lease, 0, files[0], [7])
    assert busy.stats.misses == 1


def test_a_guess_beside_a_read_that_fails_holds_no_slot_when_it_is_wanted(
    busy: ExpertStore, files: list[ExpertFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(files[0], experts=6)
    with busy.fetch(0, ids(7)) as lease:
        with monkeypatch.context() as not_yet:
            not_yet.setattr(disk(busy), "ended", lambda _: [])
            busy.prefetch(0, ids(7))
        with pytest.raises(FlashMoeError):
            wait_for_all(lease)
    write_layer(files[0], 0)
    with busy.fetch(0, ids(*range(8))) as lease:  # no slot is left for anything else
        wait_for_all(lease)
        assert_holds(busy, lease, 0, files[0], list(range(8)))


def test_what_a_guess_was_about_to_displace_is_not_read_again_when_the_guess_gives_way(
    busy: ExpertStore, files: list[ExpertFile]
) -> None:
    fetch(busy, 0, *range(8))
    busy.prefetch(1, ids(9))
    before = busy.stats
    with busy.fetch(0, ids(*range(8))) as lease:
        wait_for_all(lease)
        assert_holds(busy, lease, 0, files[0], list(range(8)))
    assert (busy.stats.misses, busy.stats.bytes_read) == (before.misses, before.bytes_read)
