"""A file appears whole under its name or not at all."""

import errno
import os
import resource

import pytest
import xxhash

from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.files.atomic import NewFile, atomic_file, final_name, write_atomically
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


def test_full_disk_is_a_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    monkeypatch.setattr(os, "write", disk_full)
    with pytest.raises(CapacityError, match=r"disk is full: .*file could not be written"):
        write_atomically(path, b"data")
    assert list(tmp_path.iterdir()) == []


def disk_full(_descriptor: int, _data: memoryview) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_nothing_that_is_there_is_written_over_on_the_way(tmp_path):
    """Neither a file of somebody else's with a temporary name nor what a link of such a name leads to."""
    photo = tmp_path / "photo"
    photo.write_bytes(b"mine")
    (tmp_path / ".file.partial").symlink_to(photo)
    (tmp_path / ".file.0123abcd.partial").write_bytes(b"mine, too")
    write_atomically(tmp_path / "file", b"data")
    assert photo.read_bytes() == b"mine"
    assert (tmp_path / ".file.partial").is_symlink()
    assert (tmp_path / ".file.0123abcd.partial").read_bytes() == b"mine, too"


def test_two_that_write_one_file_at_a_time_leave_one_of_them_whole(tmp_path):
    path = tmp_path / "file"
    with atomic_file(path) as one, atomic_file(path) as other:
        one.write(b"one")
        other.write(b"other")
        one.write(b"one")
    assert path.read_bytes() == b"oneone"


@pytest.mark.parametrize(
    ("name", "final"),
    [
        (".trunk.safetensors.partial", "trunk.safetensors"),
        (".trunk.safetensors.0123abcd.partial", "trunk.safetensors"),
        (".00000256-0123456789abcdef.keys.4711.partial", "00000256-0123456789abcdef.keys"),
        ("..flashmoe.0123abcd.partial", ".flashmoe"),
        ("photo.partial", None),
        (".photo", None),
        (".partial", None),
    ],
)
def test_temporary_names_say_what_becomes_of_them(name, final):
    assert final_name(name) == final


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
