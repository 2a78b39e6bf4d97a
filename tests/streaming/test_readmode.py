"""Direct or buffered: one answer a file system, from cold records, and never an error of its own."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from record_files import PAGE, assert_holds, ids, make_model, wait_for_all

from flashmoe._native import Reader
from flashmoe.errors import FlashMoeError
from flashmoe.streaming import readmode
from flashmoe.streaming.experts import ExpertStore
from flashmoe.streaming.pagecache import forget
from flashmoe.streaming.reader import ExpertFile
from flashmoe.streaming.readmode import choose_direct


@pytest.fixture
def files(tmp_path: Path) -> list[ExpertFile]:
    return make_model(tmp_path, experts=[40, 40], record_bytes=[2 * PAGE, 2 * PAGE])


@pytest.fixture
def in_memory() -> Iterator[list[ExpertFile]]:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no file system in memory")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield make_model(Path(directory), experts=[12], record_bytes=[PAGE])


class FakeDisk:
    """Takes the place of the clock, and remembers what was read in which way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, buffered: Sequence[float]) -> None:
        self.buffered, self.seen = iter(buffered), list[tuple[ExpertFile, int]]()
        monkeypatch.setattr(readmode, "_time", self.time)
        monkeypatch.setattr(readmode, "forget", lambda *_: True)

    def time(self, _reader: Reader, records: Sequence[tuple[ExpertFile, int]], _buffer: object, direct: bool) -> float:
        self.seen += records
        return 1.0 if direct else next(self.buffered)


@pytest.mark.parametrize(
    ("buffered", "direct"),
    [([0.5, 0.5, 0.5], False), ([2.0], True), ([0.9], True), ([0.5, 0.9], True), ([0.5, 0.5, 1.5], True)],
)
def test_buffered_reads_must_be_clearly_faster_every_time(
    buffered: list[float], direct: bool, files: list[ExpertFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FakeDisk(monkeypatch, buffered)
    assert choose_direct(files) == [direct, direct]
    assert len(disk.seen) == len(set(disk.seen)) == 8 * len(buffered)


def test_every_record_that_is_timed_was_cold(files: list[ExpertFile], monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = set()

    def remember(path: Path, begin: int, nbytes: int) -> bool:
        if forget(path, begin, nbytes):
            dropped.add((path, begin))
            return True
        return False

    disk = FakeDisk(monkeypatch, [2.0])
    monkeypatch.setattr(readmode, "forget", remember)
    choose_direct(files)
    assert {(file.path, offset) for file, offset in disk.seen} <= dropped


def test_each_file_system_has_its_own_answer(
    files: list[ExpertFile], in_memory: list[ExpertFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readmode, "_direct_is_better", lambda members: members == in_memory)
    assert choose_direct([files[0], *in_memory, files[1]]) == [False, True, False]


def test_where_nothing_can_be_measured_the_reads_work_all_the_same(in_memory: list[ExpertFile]) -> None:
    with ExpertStore(in_memory, slots=8) as store, store.fetch(0, ids(3, 9)) as lease:
        wait_for_all(lease)
        assert_holds(store, lease, 0, in_memory[0], [3, 9])


def test_errors_are_left_to_those_who_need_the_bytes(files: list[ExpertFile]) -> None:
    os.truncate(files[0].path, PAGE)
    files[1].path.unlink()
    assert choose_direct(files) == [True, True]
    with pytest.raises(FlashMoeError, match="it was cut short"):
        ExpertStore(files, slots=8)


def test_a_chosen_way_is_not_measured(files: list[ExpertFile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(readmode, "_time")
    for direct in (False, True):
        with ExpertStore(files, slots=8, direct=direct) as store:
            assert store.direct <= direct
