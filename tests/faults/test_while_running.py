"""Files and limits that change under a running engine: the right logits, or an error after which it is as new."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from faults.conftest import CONTEXT
from flashmoe.engine.engine import Engine
from flashmoe.engine.loader import load_engine
from flashmoe.errors import FlashMoeError
from flashmoe.pack.manifest import Manifest
from flashmoe.settings import Settings
from oracle import some_tokens

TOKENS = some_tokens(40)


@pytest.fixture
def settings(few_experts: int) -> Settings:
    return Settings(memory=few_experts, context=CONTEXT, threads=1)


@pytest.fixture
def engine(model: Path, settings: Settings) -> Iterator[Engine]:
    with load_engine(model, settings) as engine:
        assert engine.plan.slots < engine.plan.experts
        yield engine


@pytest.fixture
def expected(speaking_model: Path) -> np.ndarray:
    with load_engine(speaking_model, Settings(context=CONTEXT)) as resident:
        return resident.logits(TOKENS)


def expert_files(model: Path) -> list[Path]:
    return [layer.path for layer in Manifest.read(model).layers]


def test_a_file_cut_short_is_an_error_until_it_is_whole_again(
    engine: Engine, model: Path, expected: np.ndarray
) -> None:
    np.testing.assert_array_equal(engine.logits(TOKENS), expected)
    file = expert_files(model)[2]
    whole = file.read_bytes()
    os.truncate(file, 4096)
    for _ in range(3):
        with pytest.raises(FlashMoeError, match=r"Expert \d+ of layer 2 could not be read .* the file ended after"):
            engine.logits(TOKENS)
    with file.open("r+b") as out:
        out.write(whole)
    np.testing.assert_array_equal(engine.logits(TOKENS), expected)


def test_deleted_files_serve_those_who_have_them_open(engine: Engine, model: Path, expected: np.ndarray) -> None:
    for file in expert_files(model):
        file.unlink()
    np.testing.assert_array_equal(engine.logits(TOKENS), expected)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not list descriptors and threads")
def test_failures_leave_no_descriptor_thread_or_mapping(model: Path, settings: Settings) -> None:
    broken, missing = expert_files(model)[2], expert_files(model)[3]
    whole = broken.read_bytes()
    rounds = 8

    def fail_in_every_way() -> None:
        with load_engine(model, settings) as engine:
            os.truncate(broken, 4096)
            with pytest.raises(FlashMoeError, match="could not be read"):
                engine.logits(TOKENS)
        with pytest.raises(FlashMoeError, match="is truncated"):
            load_engine(model, settings)
        broken.write_bytes(whole)
        away = missing.rename(missing.with_suffix(".away"))
        with pytest.raises(FlashMoeError):
            load_engine(model, settings)
        away.rename(missing)

    def held() -> tuple[int, int, int]:
        maps = Path("/proc/self/maps").read_text().count("\n")
        return len([*Path("/proc/self/fd").iterdir()]), len([*Path("/proc/self/task").iterdir()]), maps

    for _ in range(2):
        fail_in_every_way()
    before = held()
    for _ in range(rounds):
        fail_in_every_way()
    after = held()
    assert after[:2] == before[:2]
    assert after[2] - before[2] < rounds  # the allocator may map another piece; a leak would be one a round
