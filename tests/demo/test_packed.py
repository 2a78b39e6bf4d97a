"""The word `demo` leads to a whole pack of the checkpoint that ships, whatever the cache holds and whoever asks."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import flashmoe
from flashmoe.cli.main import run
from flashmoe.demo import packed
from flashmoe.demo.packed import model_directory, model_name
from flashmoe.errors import FlashMoeError
from flashmoe.pack.verify import verify


@pytest.fixture
def shipped(speaking_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint in the place of the one that ships, and an empty cache and working directory."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(speaking_checkpoint, checkpoint)
    monkeypatch.setattr(packed, "CHECKPOINT", checkpoint)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return checkpoint


def contents(directory: Path) -> dict[Path, bytes]:
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("shipped")
def test_it_is_packed_once_into_the_users_cache_and_nothing_is_wrong_with_it(tmp_path: Path):
    calls = []
    directory = model_directory("demo", lambda done, total: calls.append((done, total)))
    assert directory.parent == tmp_path / "cache" / "flashmoe"
    assert calls[-1][0] == calls[-1][1] > 0
    assert verify(directory)[1] == []
    calls.clear()
    before = contents(directory)
    assert model_directory("demo", lambda done, total: calls.append((done, total))) == directory
    assert calls == []
    assert contents(directory) == before


@pytest.mark.usefixtures("shipped")
def test_its_pack_is_called_by_the_word_and_every_other_model_by_its_directory(tmp_path: Path):
    assert model_name(model_directory("demo")) == "demo"
    assert model_name(tmp_path / "demo-of-mine") == "demo-of-mine"
    assert model_name(Path()) == "here"


@pytest.mark.usefixtures("shipped")
def test_the_command_line_and_python_both_know_the_word(capfd: pytest.CaptureFixture[str]):
    arguments = ["--raw", "--max-tokens", "8", "--temperature", "0", "--context", "256"]
    assert run(["run", "demo", "-p", "Hello", *arguments]) == 0
    out = capfd.readouterr().out
    with flashmoe.load("demo", context=256) as model:
        assert model.generate("Hello", raw=True, max_tokens=8, temperature=0).text + "\n" == out
    for command in (["info", "demo"], ["verify", "demo"], ["plan", "demo"]):
        assert run(command) == 0


def test_another_checkpoint_is_packed_anew_and_the_old_pack_goes(shipped: Path):
    first = model_directory("demo")
    config = shipped / "generation_config.json"
    config.write_text(config.read_text().replace("1.0", "0.5"))
    second = model_directory("demo")
    assert (second / config.name).read_text() == config.read_text()
    assert not first.exists()


@pytest.mark.usefixtures("shipped")
def test_another_recipe_is_packed_anew(monkeypatch: pytest.MonkeyPatch):
    first = model_directory("demo")
    monkeypatch.setattr(packed, "RECIPE", packed.Recipe(8, 8))
    assert model_directory("demo") != first


def damage_nothing_but_the_end(directory: Path) -> None:
    with (directory / "experts" / "layer-001.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")


def interrupted(directory: Path) -> None:
    """As a pack that was killed leaves it."""
    (directory / "flashmoe.json").unlink()
    (directory / ".packing").mkdir()
    for name in (".flashmoe", "plan.json", "trunk.json", ".layer-001.json.0123abcd.partial"):
        (directory / ".packing" / name).write_text('{"kind": "unfinished pack", "format": 1}')
    (directory / "experts" / ".layer-001.safetensors.0123abcd.partial").touch()


@pytest.mark.usefixtures("shipped")
def test_of_the_cache_nothing_goes_but_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Photos in it, beside packs and in one, and what a link leads to."""
    first = model_directory("demo")
    cache = first.parent
    outside = tmp_path / "outside"
    shutil.copytree(first, outside)
    mine = [cache / "photo.jpg", cache / "demo-of-mine" / "photo.jpg", first / "photo.jpg"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (cache / f"demo-{'0' * 16}").symlink_to(outside)
    before = contents(outside)
    monkeypatch.setattr(packed, "RECIPE", packed.Recipe(8, 8))
    second = model_directory("demo")
    assert verify(second)[1] == []
    assert [path for path in mine if not path.exists()] == []
    assert [path.name for path in first.iterdir()] == ["photo.jpg"]
    assert contents(outside) == before


@pytest.mark.usefixtures("shipped")
def test_a_cache_that_is_somebody_elses_is_refused(tmp_path: Path):
    (tmp_path / "cache" / "flashmoe").mkdir(parents=True)
    (tmp_path / "cache" / "flashmoe" / "photo.jpg").write_text("mine")
    with pytest.raises(FlashMoeError, match=r"holds 'photo\.jpg', which Flash-MoE did not write"):
        model_directory("demo")


@pytest.mark.usefixtures("shipped")
def test_a_cache_of_an_earlier_version_is_used_on():
    directory = model_directory("demo")
    (directory.parent / ".flashmoe").unlink()
    (directory.parent / "sessions").mkdir()
    (directory / "tokenizer.json").unlink()
    assert model_directory("demo") == directory
    assert (directory.parent / ".flashmoe").exists()


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    "damage",
    [
        lambda d: (d / "trunk.safetensors").unlink(),
        lambda d: (d / "flashmoe.json").write_text("{"),
        lambda d: (d / "tokenizer.json").unlink(),
        damage_nothing_but_the_end,
        shutil.rmtree,
        lambda d: (d.rename(d.with_name(f"{d.name}.new")), interrupted(d.with_name(f"{d.name}.new"))),
    ],
    ids=["no trunk", "half a manifest", "no tokenizer", "a wrong byte", "gone", "an interrupted beginning"],
)
def test_a_damaged_cache_mends_itself(damage: Callable[[Path], object]):
    directory = model_directory("demo")
    before = contents(directory)
    damage(directory)
    assert model_directory("demo") == directory
    assert contents(directory) == before
    assert sorted(path.name for path in directory.parent.iterdir()) == [".flashmoe", directory.name, "demo.lock"]


def test_processes_that_ask_at_the_same_time_get_one_pack(shipped: Path):
    code = (
        "import sys; from pathlib import Path; from flashmoe.demo import packed\n"
        "packed.CHECKPOINT = Path(sys.argv[1]); called = []\n"
        "found = packed.model_directory('demo', lambda done, total: called.append(done))\n"
        "assert not packed.verify(found)[1]; print(found, bool(called))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, shipped], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    answers = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len({found for found, _ in answers}) == 1
    assert sorted(made for _, made in answers) == ["False"] * 3 + ["True"]


def test_a_packed_model_named_demo_here_goes_before_the_word(shipped: Path, speaking_model: Path):
    shutil.copytree(speaking_model, "demo")
    assert model_directory("demo") == Path("demo")
    assert not (shipped.parent / "cache").exists()


@pytest.mark.usefixtures("shipped")
def test_another_directory_named_demo_is_not_in_the_way():
    Path("demo").mkdir()
    assert model_directory("demo").is_absolute()
    assert model_directory("./demo") == model_directory(Path("demo")) == Path("demo")


def test_without_the_checkpoint_it_is_a_sentence(shipped: Path):
    shutil.rmtree(shipped)
    with pytest.raises(FlashMoeError, match="lacks the demo model"):
        model_directory("demo")


@pytest.mark.usefixtures("shipped")
def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path: Path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(FlashMoeError, match="cannot be written"):
        model_directory("demo")
