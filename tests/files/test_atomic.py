"""A file appears whole under its name or not at all."""

import resource
from pathlib import Path

import pytest
import xxhash

from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.files.atomic import NewFile, atomic_file, partial_path, write_atomically
from flashmoe.files.checksum import file_checksum


def test_written_file_has_the_bytes_and_the_checksum_it_reports(tmp_path):
    path = tmp_path / "file"
    with atomic_file(path) as file:
        file.write(b"one ")
        assert not path.exists()
        file.write(b"two")
    assert path.read_bytes() == b"one two"
    assert file.bytes == 7
    assert file.xxh3 == xxhash.xxh3_64_hexdigest(b"one two") == file_checksum(path)


def write_then_fail(file: NewFile, error: type[BaseException]) -> None:
    file.write(b"new")
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_failure_leaves_the_old_file_and_no_temporary(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_file(path) as file:
        write_then_fail(file, error)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_full_disk_is_a_sentence_and_leaves_nothing(tmp_path):
    path = tmp_path / "file"
    partial_path(path).symlink_to("/dev/full")
    with pytest.raises(CapacityError, match=r"disk is full: .*file could not be written"):
        write_atomically(path, b"data")
    assert list(tmp_path.iterdir()) == []


def test_file_size_limit_is_a_sentence_and_leaves_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(CapacityError, match="larger than"):
            write_atomically(tmp_path / "file", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_missing_directory_is_a_sentence(tmp_path):
    with pytest.raises(FlashMoeError, match="No such file"):
        write_atomically(tmp_path / "none" / "file", b"")
