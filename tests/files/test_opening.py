"""Only regular files are opened, nothing waits, and what is read whole has a bound."""

from pathlib import Path

import pytest

from flashmoe.errors import FormatError
from flashmoe.files.checksum import file_checksum
from flashmoe.files.jsonfile import read_object
from flashmoe.files.opening import MAX_TEXT_BYTES, open_regular, opened, read_bytes, read_text
from flashmoe.files.safetensors import read_header
from strange_files import KINDS, put, run

_READ = """
import sys
from pathlib import Path
from flashmoe.errors import FlashMoeError
from flashmoe.files.checksum import file_checksum
from flashmoe.files.jsonfile import read_object
from flashmoe.files.safetensors import read_header
for read in (file_checksum, read_object, read_header):
    try:
        read(Path(sys.argv[1]))
    except FlashMoeError as error:
        print(error)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_named_by_every_reader(tmp_path, kind):
    put(kind, tmp_path / "file")
    said = run(_READ, tmp_path / "file").splitlines()
    assert said == [f"{tmp_path / 'file'} cannot be read: it is {kind}, not a regular file."] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_not_written_to(tmp_path, kind):
    put(kind, tmp_path / "file")
    code = (
        "import os, sys; from pathlib import Path; from flashmoe.files.opening import open_regular\n"
        "try: open_regular(Path(sys.argv[1]), os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        "except OSError as error: print(error.strerror)"
    )
    assert run(code, tmp_path / "file") == f"it is {kind}, not a regular file\n"


def test_a_link_to_a_regular_file_is_read_unless_links_are_not_wanted(tmp_path):
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    with opened(tmp_path / "link") as file:
        assert file.read() == b"text"
    with pytest.raises(OSError, match="it is a symbolic link"):
        open_regular(tmp_path / "link", links=False)


def test_a_file_of_more_than_the_bound_is_refused_unread(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, and such a file may have 4"):
        read_bytes(path, 4)


def test_text_is_utf8_with_every_end_of_a_line_the_same(tmp_path):
    (tmp_path / "file").write_bytes("é\r\nb\rc\n".encode())
    assert read_text(tmp_path / "file") == "é\nb\nc\n"
    with pytest.raises(OSError, match="such a file may have 3"):
        read_text(tmp_path / "file", 3)


def test_a_file_that_says_nothing_of_its_size_is_bounded_too():
    """As those of /proc do."""
    with pytest.raises(OSError, match="such a file may have 10"):
        read_bytes(Path("/proc/self/status"), 10)


def test_ten_gigabytes_of_json_are_refused_in_no_time_and_no_memory(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(10**10)
    with pytest.raises(FormatError, match=rf"it has {10**10} bytes, and such a file may have {MAX_TEXT_BYTES}"):
        read_object(tmp_path / "config.json")


def test_no_descriptor_is_left_open(tmp_path):
    put("a directory", tmp_path / "folder")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for read in (file_checksum, read_object, read_header):
        with pytest.raises(FormatError):
            read(tmp_path / "folder")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
