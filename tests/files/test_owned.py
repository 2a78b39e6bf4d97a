"""A directory is taken only if nothing in it is anybody else's, and only known names are deleted in one."""

import json
import re
from pathlib import Path

import pytest

from flashmoe.errors import FlashMoeError, FormatError
from flashmoe.files.holes import holes
from flashmoe.files.owned import MARK, Use, claim, make_private, remove_files

USE = Use("pictures", 3, "Pictures are kept", lambda entry: entry.name == "old.png")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("before", ["absent", "empty", "marked", "of an earlier version", "being marked"])
def test_what_is_nobody_elses_is_marked(tmp_path, before):
    home = tmp_path / "a" / "home"
    if before != "absent":
        home.mkdir(parents=True)
    if before == "marked":
        claim(home, USE)
        (home / "photo.jpg").write_text("put there later")
    elif before == "of an earlier version":
        (home / "old.png").write_text("")
    elif before == "being marked":
        (home / f".{MARK}.0123abcd.partial").write_text("")
    kept = names(home) if home.exists() else []
    claim(home, USE)
    assert json.loads((home / MARK).read_text()) == {"kind": "pictures", "format": 3}
    assert set(names(home)) == {MARK, *kept}
    if before == "absent":
        assert home.stat().st_mode & 0o777 == 0o700


def test_what_holds_a_foreign_file_is_refused_by_name_and_left_alone(tmp_path):
    (tmp_path / "old.png").write_text("")
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(FlashMoeError, match=r"holds 'photo\.jpg', which Flash-MoE did not write\. Pictures"):
        claim(tmp_path, USE)
    assert names(tmp_path) == ["old.png", "photo.jpg"]


@pytest.mark.parametrize(
    ("mark", "sentence"),
    [
        ('{"kind": "pictures", "format": 4}', "marked as 'pictures' of format 4, and this is 'pictures' of format 3"),
        ('{"kind": "sounds", "format": 3}', "marked as 'sounds' of format 3"),
        ("{}", "lacks the key 'kind'"),
        ("", "is not valid JSON"),
    ],
)
def test_another_mark_is_a_sentence(tmp_path, mark, sentence):
    (tmp_path / MARK).write_text(mark)
    with pytest.raises(FormatError, match=sentence):
        claim(tmp_path, USE)


def test_a_directory_is_closed_to_others_or_refused(tmp_path):
    home = tmp_path / "home"
    make_private(home)
    assert home.stat().st_mode & 0o777 == 0o700
    home.chmod(0o755)
    make_private(home)
    assert home.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to("home")
    with pytest.raises(OSError, match="it is a link"):
        make_private(tmp_path / "link")


def test_files_are_removed_by_name_and_nothing_else_is(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "outside").mkdir()
    for name in ("a.png", ".a.png.0123abcd.partial", ".a.png.partial", "a.jpg", ".a.jpg.partial"):
        (tmp_path / "home" / name).write_text("")
        (tmp_path / "outside" / name).write_text("")
    (tmp_path / "home" / "b.png").mkdir()
    (tmp_path / "home" / "c.png").symlink_to("../outside/a.png")
    (tmp_path / "link").symlink_to("outside")
    pictures = re.compile(r"[a-z]\.png")
    remove_files(tmp_path / "link", pictures)
    assert len(names(tmp_path / "outside")) == 5
    remove_files(tmp_path / "home", pictures, unfinished_only=True)
    assert names(tmp_path / "home") == [".a.jpg.partial", "a.jpg", "a.png", "b.png", "c.png"]
    remove_files(tmp_path / "home", pictures)
    assert names(tmp_path / "home") == [".a.jpg.partial", "a.jpg", "b.png", "c.png"]
    assert len(names(tmp_path / "outside")) == 5


def test_holes_are_found_where_nothing_was_written(tmp_path):
    block = 1 << 20
    (tmp_path / "whole").write_bytes(bytes(3 * block))
    with (tmp_path / "holed").open("wb") as file:
        file.write(b"x" * block)
        file.seek(2 * block)
        file.write(b"x" * block)
        file.truncate(4 * block)
    if (tmp_path / "holed").stat().st_blocks * 512 > 3 * block:
        pytest.skip("this file system makes no holes")
    assert holes(tmp_path / "whole") == []
    assert holes(tmp_path / "holed") == [(block, 2 * block), (3 * block, 4 * block)]
    (tmp_path / "empty").write_bytes(b"")
    assert holes(tmp_path / "empty") == []
