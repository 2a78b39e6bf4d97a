"""The word `demo` leads to the packed model that ships, unless a packed model of that name lies here, and nothing is
written to find or to run it."""

import shutil
from pathlib import Path

import pytest

import flashmoe
from flashmoe.cli.main import run
from flashmoe.demo import directory
from flashmoe.demo.directory import MODEL, model_directory, model_name
from flashmoe.errors import FlashMoeError
from flashmoe.pack.manifest import Manifest
from flashmoe.pack.verify import verify


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an empty home."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_it_ships_whole_and_of_today():
    assert model_directory("demo") == MODEL
    assert verify(MODEL)[1] == []
    assert Manifest.read(MODEL).has_identity


def test_its_files_are_of_sizes_that_a_repository_takes():
    files = {path: path.stat().st_size for path in MODEL.rglob("*") if path.is_file()}
    assert sum(files.values()) <= 18_500_000
    assert max(files.values()) <= 4_000_000


def test_running_it_writes_nothing(tmp_path: Path, here: Path):
    before = state(MODEL)
    with flashmoe.load("demo", memory="8MB", context=256) as model:
        assert model.generate("Hello", raw=True, max_tokens=4).token_ids
    assert state(MODEL) == before
    assert list(tmp_path.iterdir()) == [here]
    assert list(here.iterdir()) == []


def test_it_is_called_by_the_word_and_every_other_model_by_its_directory(tmp_path: Path):
    assert model_name(model_directory("demo")) == "demo"
    assert model_name(tmp_path / "demo-of-mine") == "demo-of-mine"
    assert model_name(Path()) == "here"


def test_the_command_line_and_python_both_know_the_word(capfd: pytest.CaptureFixture[str]):
    arguments = ["--raw", "--max-tokens", "8", "--temperature", "0", "--context", "256"]
    assert run(["run", "demo", "-p", "Hello", *arguments]) == 0
    out = capfd.readouterr().out
    with flashmoe.load("demo", context=256) as model:
        assert model.generate("Hello", raw=True, max_tokens=8, temperature=0).text + "\n" == out
    for command in (["info", "demo"], ["verify", "demo"], ["plan", "demo"]):
        assert run(command) == 0


def test_a_packed_model_named_demo_here_goes_before_the_word(speaking_model: Path):
    shutil.copytree(speaking_model, "demo")
    assert model_directory("demo") == Path("demo")
    (Path("demo") / "flashmoe.json").unlink()
    assert model_directory("demo") == MODEL
    (Path("demo") / ".packing").mkdir()
    assert model_directory("demo") == Path("demo")


def test_another_directory_named_demo_is_not_in_the_way():
    Path("demo").mkdir()
    assert model_directory("demo") == MODEL
    assert model_directory("./demo") == model_directory(Path("demo")) == Path("demo")


def test_without_the_model_it_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(directory, "MODEL", tmp_path / "model")
    with pytest.raises(FlashMoeError, match="lacks the demo model"):
        model_directory("demo")
