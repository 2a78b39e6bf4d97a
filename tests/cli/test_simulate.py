"""`flashmoe simulate`: a table, JSON and a picture of the same points, and a sentence for what cannot be done."""

import json
import re
import sys

import numpy as np
import pytest

from flashmoe.cli.main import run
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


def test_what_is_no_trace_is_one_sentence(tmp_path, capfd):
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    for path in (tmp_path / "none.npz", tmp_path / "other.npz"):
        assert run(["simulate", str(path)]) == 1
        assert str(path) in capfd.readouterr().err
