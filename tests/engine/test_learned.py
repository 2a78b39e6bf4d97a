"""The file of learned uses: read back as it was written, and ignored when anything is wrong with it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flashmoe.engine.learned import NAME, LearnedUses, decode, encode

MODEL = "0123456789abcdef"
uses = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(0, 2**20, width=32))


@given(uses)
def test_counts_come_back_as_they_were(counts):
    np.testing.assert_array_equal(decode(encode(counts, MODEL), MODEL, *counts.shape), counts)


@given(uses, st.data())
def test_a_damaged_file_is_ignored(counts, data):
    good = encode(counts, MODEL)
    bad = bytearray(good)
    place = data.draw(st.integers(0, len(good) - 1))
    bad[place] ^= data.draw(st.integers(1, 255))
    cut = good[: data.draw(st.integers(0, len(good) - 1))]
    for damaged in (bytes(bad), cut, good + b"\0", good + good):
        assert decode(damaged, MODEL, *counts.shape) is None


@given(st.binary(max_size=300), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=200)
def test_any_bytes_are_read_without_complaint(data, layers, experts):
    assert decode(data, MODEL, layers, experts) is None


@given(uses)
def test_a_file_of_another_model_is_ignored(counts):
    layers, experts = counts.shape
    data = encode(counts, MODEL)
    assert decode(data, "f" * 16, layers, experts) is None
    for shape in [(layers + 1, experts), (experts + 9, layers)]:
        assert decode(data, MODEL, *shape) is None


def test_counts_that_are_no_counts_are_ignored():
    for bad in (-1.0, np.inf, np.nan):
        assert decode(encode(np.array([[1, bad]], np.float32), MODEL), MODEL, 1, 2) is None


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "flashmoe.json").write_text("{}")
    return tmp_path


def test_runs_add_up_and_shares_are_of_a_layer(directory: Path) -> None:
    for _ in range(2):
        LearnedUses(directory, 2, 2).add(np.array([[3, 1], [0, 0]]))
    found = LearnedUses(directory, 2, 2)
    assert found.before is not None
    assert found.shares is not None
    np.testing.assert_allclose(found.before, [[6, 2], [0, 0]], rtol=1e-3)
    np.testing.assert_allclose(found.shares, [[0.75, 0.25], [0, 0]], rtol=1e-3)


def test_a_run_that_used_nothing_writes_nothing(directory: Path) -> None:
    LearnedUses(directory, 1, 2).add(np.zeros((1, 2), dtype=np.int64))
    assert not (directory / NAME).exists()


@pytest.mark.parametrize("content", [b"a photograph", b"", bytes(1000)])
def test_a_file_of_somebody_else_under_this_name_stays(directory: Path, content: bytes) -> None:
    (directory / NAME).write_bytes(content)
    found = LearnedUses(directory, 1, 2)
    assert found.before is None
    found.add(np.ones((1, 2), dtype=np.int64))
    assert (directory / NAME).read_bytes() == content


def test_a_place_that_cannot_be_written_is_no_error(directory: Path) -> None:
    found = LearnedUses(directory, 1, 2)
    (directory / NAME).mkdir()  # holds for root too, who may write to read-only directories
    (directory / NAME / "x").touch()
    found.add(np.ones((1, 2), dtype=np.int64))
    assert LearnedUses(directory, 1, 2).before is None
    assert sorted(path.name for path in directory.iterdir()) == [NAME, "flashmoe.json"]
