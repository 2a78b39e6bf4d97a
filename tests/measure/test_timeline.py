"""`flashmoe run --trace`: a timeline that Perfetto can open, of what really happened."""

import json
from collections import defaultdict

import numpy as np
import pytest

from flashmoe.cli.main import run
from flashmoe.engine.generation import generate
from flashmoe.engine.loader import load_engine
from flashmoe.engine.sampling import Sampling
from flashmoe.measure.timeline import recorded, trace
from flashmoe.settings import Settings
from flashmoe.streaming.reader import LoggedRead


def check_structure(found) -> dict[int, list[dict]]:
    """What the format asks of every event, and that those of a lane nest; events by lane name."""
    lanes, events = {}, defaultdict(list)
    for event in found["traceEvents"]:
        assert isinstance(event["name"], str)
        assert event["ph"] in ("X", "M")
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["name"] == "thread_name":
            lanes[event["tid"]] = event["args"]["name"]
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            events[lanes[event["tid"]]].append(event)
    for own in events.values():
        open_ends = []
        for event in sorted(own, key=lambda e: (e["ts"], -e["dur"])):
            while open_ends and open_ends[-1] <= event["ts"] + 0.002:
                open_ends.pop()
            end = event["ts"] + event["dur"]
            assert not open_ends or end <= open_ends[-1] + 0.002  # microseconds, rounded to three places
            open_ends.append(end)
    return events


@pytest.fixture
def engine(tiny_packed):
    with load_engine(tiny_packed("qwen3_5_moe_text"), Settings(context=64)) as loaded:
        yield loaded


def generated(engine, count=3):
    return list(generate(engine, np.arange(1, 6), Sampling(), max_tokens=count, stop_ids=frozenset()))


def test_the_timeline_has_every_forward_layer_and_read(engine, tmp_path):
    with recorded(engine, tmp_path / "out.json"):
        tokens = generated(engine)
    found = json.loads((tmp_path / "out.json").read_text())
    events = check_structure(found)
    compute = [event["name"] for event in events.pop("compute")]
    assert [name for name in compute if name.startswith("forward")] == ["forward 0", "forward 1", "forward 2"]
    assert compute.count("layer 0") == len(tokens)
    assert compute.count("route") == compute.count("combine") == len(tokens) * engine.config.layers
    reads = [event for own in events.values() for event in own]
    stats = engine.store.stats
    assert len(reads) == stats.misses
    assert sum(event["args"]["bytes"] for event in reads) == stats.bytes_read
    read = {(event["args"]["layer"], event["args"]["expert"]) for event in reads}
    assert len(read) == len(reads)  # all fit, so none is read twice
    assert {layer for layer, _ in read} == set(range(engine.config.layers))
    assert found["otherData"] == {"reads_not_kept": 0}


def test_reads_lie_between_what_asked_for_them_and_the_end(engine, tmp_path):
    with recorded(engine, tmp_path / "out.json"):
        generated(engine)
    events = check_structure(json.loads((tmp_path / "out.json").read_text()))
    compute = events.pop("compute")
    fetches = [event for event in compute if event["name"] == "fetch"]
    for event in (event for own in events.values() for event in own):
        layer = event["args"]["layer"]
        assert any(fetch["args"]["layer"] == layer and fetch["ts"] <= event["ts"] for fetch in fetches)
        assert event["ts"] + event["dur"] <= max(e["ts"] + e["dur"] for e in compute) + 0.002  # rounded


def test_recording_changes_no_answer_and_leaves_nothing_on(engine, tmp_path):
    before = generated(engine)
    store = engine.store
    with recorded(engine, tmp_path / "out.json"):
        assert generated(engine) == before
    assert engine.store is store
    assert generated(engine) == before
    assert store.read_log() == ([], 0)


def test_an_interrupted_run_leaves_the_timeline_so_far(engine, tmp_path):
    def interrupted():
        generated(engine, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), recorded(engine, tmp_path / "out.json"):
        interrupted()
    assert check_structure(json.loads((tmp_path / "out.json").read_text()))["compute"]


def test_reads_that_were_not_kept_are_counted():
    read = LoggedRead(2, 5, 4096, 3, True, 10.0, 10.5)
    found = trace([], [read], lost=7)
    assert found["otherData"] == {"reads_not_kept": 7}
    (event,) = check_structure(found)["reader 3"]
    assert (event["ts"], event["dur"]) == (0, 500_000)
    assert event["args"] == {"layer": 2, "expert": 5, "bytes": 4096, "prefetch": True}


def test_nothing_done_is_an_empty_timeline():
    assert check_structure(trace([], [])) == {}


def test_the_command_writes_it_beside_the_text(speaking_model, tmp_path, capfd):
    options = ["-p", "Hello", "--max-tokens", "3", "--context", "512", "--seed", "1"]
    assert run(["run", str(speaking_model), *options]) == 0
    plain = capfd.readouterr().out
    assert run(["run", str(speaking_model), *options, "--trace", str(tmp_path / "out.json")]) == 0
    assert capfd.readouterr().out == plain
    assert check_structure(json.loads((tmp_path / "out.json").read_text()))["compute"]


def test_no_place_for_the_timeline_is_a_sentence_before_the_run(speaking_model, tmp_path, capfd):
    options = ["-p", "Hello", "--max-tokens", "3", "--context", "512", "--trace", str(tmp_path / "no" / "out.json")]
    assert run(["run", str(speaking_model), *options]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "no timeline can be written" in err
