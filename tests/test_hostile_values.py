"""Whatever stands in a model's JSON files, it works or is refused in a sentence: no other exception, no hang, and no
memory beyond what the files account for.

Every key of a tiny model's files gets every nasty value in turn, with all checksums made right again, so that the
readers behind them are what is asked.
"""

import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import flashmoe
from checkpoints import CONFIGS, random_weights, write_hf
from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.engine.engine import Engine
from flashmoe.engine.sampling import read_defaults
from flashmoe.errors import FlashMoeError
from flashmoe.files.checksum import checksum
from flashmoe.measure.sizes import packed_sizes
from flashmoe.pack.info import info
from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe
from flashmoe.pack.verify import verify
from flashmoe.text_engine import TextEngine
from packs import reseal
from random_checkpoint import write_text_files

pytestmark = pytest.mark.slow

DEEP: Any = "x"
for _ in range(60):
    DEEP = [DEEP]
NASTY: list[Any] = [
    *(None, True, 0, 1, -1, 64, 4096, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**300, 0.5, -1.5, 1e308, 5e-324),
    *("", "x", "\x1b[2J\u202e", "\udc80", "0" * 16, "a" * 5000, [], [[]], [0], [2**31], ["x"], {}, {"a": 1}, DEEP),
]
RAW = ["NaN", "1e999", "9" * 401, "9" * 5000, "[" * 100_000 + "]" * 100_000, '{"a":1,"a":2}', ""]
"""What json.dumps would not write."""
MLX = {"group_size": 64, "bits": 4, "mode": "affine", "model.norm": {"group_size": 64, "bits": 8}}
ALLOWED = 1 << 30
"""Bytes of address space that one trial may add. A size that is believed asks for far more."""


def raw_mark(text: str) -> str:
    return f"raw mark {RAW.index(text)}"


def keys(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all values; of a list the first alone stands for the rest."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, child in value.items():
            yield from keys(child, (*path, key))
    elif isinstance(value, list) and value:
        yield from keys(value[0], (*path, 0))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> str:
    document = json.loads(json.dumps(document))
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = raw_mark(value) if value in RAW[:-1] else value
    text = json.dumps(document)
    for raw in RAW[:-1]:
        text = text.replace(json.dumps(raw_mark(raw)), raw)
    return text


def named(document: Any, path: tuple[Any, ...]) -> Iterator[str]:
    """The document with a nasty name in the place of a key."""
    if not isinstance(path[-1], str):
        return
    for name in ("\x1b[2J", "../x", "a" * 300, ""):
        copy = json.loads(json.dumps(document))
        parent = copy
        for key in path[:-1]:
            parent = parent[key]
        parent[name] = parent.pop(path[-1])
        yield json.dumps(copy)


@contextmanager
def bounded() -> Iterator[None]:
    """Less than ALLOWED more memory, and an end: the alarm is for hangs alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])

    def hangs(_signal: int, _frame: object) -> None:
        raise AssertionError("It did not come to an end.")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(120)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ALLOWED, hard))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(action: Callable[[], object]) -> str:
    """`works`, `refused`, or what is wrong with how it ended."""
    try:
        with bounded():
            action()
    except FlashMoeError as error:
        said = str(error)
        if not said.endswith((".", ")")) or "\x1b" in said or len(said) > 2000:
            return f"a bad sentence: {said!r:.200}"
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error!s:.200}"
    return "works"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("hostile")
    (base / "text").mkdir()
    write_text_files(base / "text")
    sizes = {"num_hidden_layers": 2, "full_attention_interval": 2, "num_experts": 2, "num_experts_per_tok": 1}
    text = json.loads((base / "text" / "config.json").read_text())
    same = {key: text[key] for key in ("vocab_size", "eos_token_id")}
    config = {**CONFIGS["qwen3_next"], **sizes, **same, "norm_topk_prob": True}
    source = write_hf(base / "hf", config, random_weights(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(base / "text" / name, source / name)
    (source / "chat_template.jinja").write_text("{{ messages[0].content }}{{ eos_token }}")  # compiled in no time
    return source


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Path:
    pack(checkpoint, checkpoint.parent / "packed", Recipe())
    return checkpoint.parent / "packed"


def use(directory: Path) -> None:
    """What the commands do with a packed model."""
    with flashmoe.load(directory, backend="cpu", threads=1, memory="64MB") as engine:
        engine.generate("Hello", max_tokens=2, seed=1)


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Engine]:
    with flashmoe.load(model, backend="cpu", threads=1, memory="64MB") as loaded:
        yield loaded.engine


def use_texts(directory: Path, engine: Engine) -> None:
    """`use`, with the weights loaded once for all trials."""
    engine.defaults = read_defaults(directory / "generation_config.json")
    TextEngine(directory, engine, Tokenizer.from_dir(directory)).generate("Hello", max_tokens=2, seed=1)


def describe(directory: Path) -> None:
    str(info(directory, 10**9))
    packed_sizes(directory)
    verify(directory)


def trials(document: Any) -> Iterator[tuple[str, str]]:
    """What is changed, and the text of the file then."""
    for path in keys(document):
        for value in [*NASTY, *RAW]:
            yield f"{path} = {value!r:.40}", changed(document, path, value)
        for number, text in enumerate(named(document, path)):
            yield f"{path} renamed, {number}", text


def seal_text(path: Path) -> None:
    """Make the manifest's own checksum right, where the text still has one."""
    text = path.read_bytes()
    before, mark, after = text.partition(b'"identity": "')
    if mark:
        digits = checksum(before + mark + b"0" * 16 + after[16:]).encode()
        path.write_bytes(before + mark + digits + after[16:])


@pytest.mark.parametrize("name", ["flashmoe.json", "config.json"])
def test_a_packed_models_values(model: Path, tmp_path: Path, name: str) -> None:
    directory = Path(shutil.copytree(model, tmp_path / "packed"))
    found: dict[str, list[str]] = {}
    for change, text in trials(json.loads((directory / name).read_text())):
        (directory / name).write_text(text)
        if name == "flashmoe.json":
            seal_text(directory / name)
        else:
            reseal(directory)
        for action in (use, describe):
            found.setdefault(outcome(lambda action=action: action(directory)), []).append(change)
    assert set(found) == {"works", "refused"}, found


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_values_of_the_files_beside_it(model: Path, engine: Engine, tmp_path: Path, name: str) -> None:
    directory = Path(shutil.copytree(model, tmp_path / "packed"))
    found: dict[str, list[str]] = {}
    for change, text in trials(json.loads((directory / name).read_text())):
        (directory / name).write_text(text)
        found.setdefault(outcome(lambda: use_texts(directory, engine)), []).append(change)
    assert set(found) == {"works", "refused"}, found


def test_a_checkpoints_values(checkpoint: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(checkpoint, tmp_path / "hf"))
    found: dict[str, list[str]] = {}
    document = json.loads((source / "config.json").read_text())
    for change, text in trials({**document, "quantization": MLX}):
        (source / "config.json").write_text(text)
        found.setdefault(outcome(lambda: pack(source, tmp_path / "out", Recipe())), []).append(change)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert set(found) == {"works", "refused"}, found
