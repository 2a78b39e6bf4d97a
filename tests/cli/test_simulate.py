"""`flashmoe simulate`: a table, JSON and a picture of the same points, and a sentence for what cannot be done."""

import io
import json
import os
import re
import sys
import zipfile
from contextlib import suppress
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashmoe.cli.main import run
from flashmoe.engine.routing_trace import RoutingTrace
from flashmoe.errors import FormatError
from synthetic_routing import synthetic_trace

POLICIES = ["lru", "lfu", "lfru", "s3fifo", "belady"]


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.npz"
    synthetic_trace(3, layers=3, experts=32, top_k=4, sequences=2, prompt=8, answer=20, chunk=8).save(path)
    return path


def test_the_table_has_a_row_a_size_and_a_column_a_policy(trace, capfd):
    assert run(["simulate", str(trace), "--cached", "50,25"]) == 0
    out = capfd.readouterr().out
    assert all(name in out for name in POLICIES)
    assert [re.findall(r"[\d.]+%|\b\d+\b", line)[:2] for line in out.splitlines()[-3:-1]] == [
        ["25%", "24"],
        ["50%", "48"],
    ]
    assert len(re.findall(r"\d+\.\d%", out)) == 2 * len(POLICIES)


def test_json_has_every_point(trace, capfd):
    assert run(["simulate", str(trace), "--cached", "50", "--policy", "lru", "--policy", "belady", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["tokens"], found["layers"], found["experts"], found["experts_per_token"]) == (56, 3, 32, 4)
    assert [(point["policy"], point["slots"]) for point in found["points"]] == [("lru", 48), ("belady", 48)]
    for point in found["points"]:
        assert point["hit_rate"] == 1 - point["misses"] / point["uses"]


def test_the_picture_is_a_png(trace, tmp_path, capfd):
    pytest.importorskip("matplotlib")
    assert run(["simulate", str(trace), "--cached", "25,50", "--plot", str(tmp_path / "curves.png")]) == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "lru" in capfd.readouterr().out


def test_without_matplotlib_a_sentence_says_what_to_install(trace, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["simulate", str(trace), "--plot", str(tmp_path / "curves.png")]) == 1
    assert "needs matplotlib: pip install 'flashmoe[plot]'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cached", "ten"], "'ten' are not percentages"),
        (["--cached", "nan"], "'nan' are not percentages"),
        (["--cached", "101"], "'101' are not percentages"),
        (["--cached", "1"], "fewer than the 8 an engine needs"),
        (["--plot", "curves.txt"], "curves.txt must end in .png, .svg or .pdf"),
        (["--plot", "nowhere/curves.png"], "there is no directory nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(trace, options, message, capfd):
    assert run(["simulate", str(trace), *options]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


SPREAD = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=8)


@given(flips=SPREAD, cut=st.none() | st.floats(0, 1, exclude_max=True))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_trace_is_a_sentence_or_the_trace_it_was(trace, tmp_path, flips, cut):
    data = bytearray(trace.read_bytes())
    for place, bit in flips if cut is None else ():
        data[int(place * len(data))] ^= 1 << bit
    (tmp_path / "damaged.npz").write_bytes(data if cut is None else data[: int(cut * len(data))])
    with suppress(FormatError):
        read = RoutingTrace.read(tmp_path / "damaged.npz")
        np.testing.assert_equal(asdict(read), asdict(RoutingTrace.read(trace)))


def rewritten(trace, **changes):
    """The trace with other arrays, each whole in itself."""
    arrays = asdict(RoutingTrace.read(trace))
    np.savez_compressed(trace, **{"format": 1, **arrays, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"experts": 0},
        {"experts": -3},
        {"experts": 10**18},
        {"experts": 2.5e300},
        {"experts": np.zeros(3, int)},
        {"format": "one"},
        {"ids": np.zeros((56, 3, 4), np.uint8)},  # one expert four times
        {"ids": np.zeros((56, 3, 4), object)},
        {"ids": np.zeros((3, 4), np.uint8)},
        {"ids": np.zeros((56, 0, 0), np.uint8)},
        {"ids": np.asfortranarray(np.zeros((56, 3, 4), np.uint8))},
        {"step": np.full(56, -1, np.int32)},
        {"step": np.arange(56, 0, -1, dtype=np.int32)},
        {"step": np.arange(56, dtype=np.int64)},
        {"position": np.full(55, 0, np.int32)},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_arrays_that_cannot_be_a_trace_are_one_sentence(trace, changes, capfd):
    rewritten(trace, **changes)
    assert run(["simulate", str(trace), "--cached", "50"]) == 1
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert re.search("is not a routing trace|is a damaged routing trace", error)


def test_an_array_that_says_to_be_larger_than_it_is_takes_no_memory(trace, capfd):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 3, 4)})
    with zipfile.ZipFile(trace) as file:
        members = {name: file.read(name) for name in file.namelist()} | {"ids.npy": header.getvalue() + b"\0" * 12}
    with zipfile.ZipFile(trace, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    assert run(["simulate", str(trace)]) == 1
    assert "ids has not the bytes that its header says" in capfd.readouterr().err


def test_a_pipe_is_no_trace(tmp_path, capfd):
    os.mkfifo(tmp_path / "pipe.npz")
    assert run(["simulate", str(tmp_path / "pipe.npz")]) == 1
    assert "pipe.npz cannot be read: it is a named pipe, not a regular file." in capfd.readouterr().err


def test_what_is_no_trace_is_one_sentence(tmp_path, capfd):
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    for path in (tmp_path / "none.npz", tmp_path / "other.npz"):
        assert run(["simulate", str(path)]) == 1
        assert str(path) in capfd.readouterr().err
