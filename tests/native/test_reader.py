"""Buffer and Reader as Python sees them; what the reader does with a misbehaving disk is tested in csrc/tests."""

import errno
from pathlib import Path

import numpy as np
import pytest

from flashmoe._native import Buffer, Reader, ReadError
from strange_files import KINDS, put, run

PAGE = 4096


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "records"
    path.write_bytes(np.random.default_rng(0).integers(0, 256, 16 * PAGE, dtype=np.uint8).tobytes())
    return path


def test_buffer_is_writable_zeroed_and_page_aligned() -> None:
    array = Buffer(10 * PAGE).array
    assert array.shape == (10 * PAGE,)
    assert array.ctypes.data % PAGE == 0
    assert not array.any()
    array[-1] = 7
    assert array[-1] == 7


def test_a_view_keeps_the_buffer_alive() -> None:
    views = [Buffer(64 * PAGE).array for _ in range(8)]
    for i, view in enumerate(views):
        view[:] = i
    assert [int(view[PAGE]) for view in views] == list(range(8))


def test_a_buffer_beyond_the_address_space_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        Buffer(1 << 62)


@pytest.mark.parametrize("direct", [False, True])
def test_reader_puts_bytes_where_they_belong(file: Path, direct: bool) -> None:
    reader, buffer = Reader(2), Buffer(16 * PAGE)
    number = reader.open(str(file), direct)
    tickets = {reader.submit(number, i * PAGE, PAGE, buffer, (15 - i) * PAGE, 0) for i in range(16)}
    while tickets:
        tickets -= set(reader.wait_any(sorted(tickets)))
    expected = np.frombuffer(file.read_bytes(), dtype=np.uint8).reshape(16, PAGE)[::-1]
    np.testing.assert_array_equal(buffer.array.reshape(16, PAGE), expected)
    assert (reader.reads, reader.bytes_read) == (16, 16 * PAGE)
    assert reader.read_seconds > 0


def test_several_reads_at_once_have_consecutive_tickets(file: Path) -> None:
    reader, buffer = Reader(2), Buffer(16 * PAGE)
    places = [i * PAGE for i in range(16)]
    first = reader.submit_many(reader.open(str(file), True), places, PAGE, buffer, places[::-1], 0)
    for ticket in range(first, first + 16):
        reader.wait(ticket)
    expected = np.frombuffer(file.read_bytes(), dtype=np.uint8).reshape(16, PAGE)[::-1]
    np.testing.assert_array_equal(buffer.array.reshape(16, PAGE), expected)
    with pytest.raises(ValueError, match="each offset needs one position"):
        reader.submit_many(0, places, PAGE, buffer, places[:3], 0)


def test_a_prefetch_may_be_promoted_at_any_time_before_it_is_spent(file: Path) -> None:
    reader, buffer = Reader(1), Buffer(16 * PAGE)
    places = [i * PAGE for i in range(16)]
    first = reader.submit_many(reader.open(str(file), True), places, PAGE, buffer, places, 1)
    for ticket in range(first + 15, first - 1, -1):
        reader.promote(ticket)
        reader.wait(ticket)
    np.testing.assert_array_equal(buffer.array, np.frombuffer(file.read_bytes(), dtype=np.uint8))
    with pytest.raises(ValueError, match="spent"):
        reader.promote(first)


def test_the_end_of_the_file_is_an_error_with_ticket_and_progress(file: Path) -> None:
    reader, buffer = Reader(1), Buffer(2 * PAGE)
    ticket = reader.submit(reader.open(str(file), False), 15 * PAGE, 2 * PAGE, buffer, 0, 0)
    with pytest.raises(ReadError, match="the file ended after 4096 of 8192 bytes") as caught:
        reader.wait(ticket)
    assert isinstance(caught.value, OSError)
    assert (caught.value.errno, caught.value.ticket, caught.value.got) == (errno.ENODATA, ticket, PAGE)
    with pytest.raises(ValueError, match="spent"):
        reader.wait(ticket)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direct", [False, True])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, kind: str, direct: bool) -> None:
    put(kind, tmp_path / "file")
    code = f"""
import sys
from flashmoe._native import Reader
try:
    Reader(1).open(sys.argv[1], {direct})
except OSError as error:
    print(error.strerror, error.filename == sys.argv[1])
"""
    assert run(code, tmp_path / "file") == "it is not a regular file True\n"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Reader(1).open(str(tmp_path / "none"), True)
    assert caught.value.filename == str(tmp_path / "none")


def test_a_name_that_is_not_utf8_is_opened_and_told(tmp_path: Path) -> None:
    odd = tmp_path / "a\udcff"
    with pytest.raises(FileNotFoundError) as caught:
        Reader(1).open(str(odd), True)
    assert caught.value.filename == str(odd)
    odd.write_bytes(bytes(PAGE))
    assert Reader(1).open(str(odd), True) == 0


def test_a_closed_reader_says_so(file: Path) -> None:
    reader, buffer = Reader(1), Buffer(PAGE)
    number = reader.open(str(file), False)
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.submit(number, 0, PAGE, buffer, 0, 0)


def test_a_buffer_may_be_dropped_while_reads_into_it_run(file: Path) -> None:
    for _ in range(20):
        reader = Reader(3)
        number = reader.open(str(file), True)
        for i in range(16):
            reader.submit(number, i * PAGE, PAGE, Buffer(PAGE), 0, 1)
        del reader
