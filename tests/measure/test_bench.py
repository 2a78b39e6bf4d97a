"""`flashmoe bench`: a clock that changes nothing, parts that add up to the whole, and a report of both starts."""

import json
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from flashmoe.cli.bench import PROMPTS, _prompts
from flashmoe.cli.main import run
from flashmoe.engine.generation import generate
from flashmoe.engine.loader import load_engine
from flashmoe.engine.sampling import Sampling
from flashmoe.errors import FlashMoeError
from flashmoe.measure import prediction
from flashmoe.measure.bench import COLD, WARM, Spread, bench
from flashmoe.measure.disk import Rate
from flashmoe.measure.pipeline import PYTHON, SAMPLING, pipeline, tokens_of
from flashmoe.measure.plot import plot_pipeline
from flashmoe.measure.sizes import packed_sizes
from flashmoe.measure.timing import COMBINE, EXPERTS, FETCH, HEAD, MIXER, OF_A_LAYER, ROUTER, SHARED, WAIT, Span, timed
from flashmoe.settings import Settings

PROMPT = np.arange(1, 8)


@pytest.fixture
def engine(tiny_packed):
    with load_engine(tiny_packed("qwen3_5_moe_text"), Settings(context=64)) as loaded:
        yield loaded


@pytest.fixture
def known_machine(monkeypatch):
    """A machine that need not be probed."""
    monkeypatch.setattr(prediction, "_disk", lambda _: (Rate(1, 1e9), Rate(8, 2e9)))
    monkeypatch.setattr(prediction, "_bandwidth", lambda _: 2e10)
    monkeypatch.setattr(prediction, "_operations", lambda _: 2e11)


def tokens(engine, count=6):
    return list(generate(engine, PROMPT, Sampling(), max_tokens=count, stop_ids=frozenset()))


def test_answers_are_the_same_under_the_clock_and_after_it(engine):
    before = tokens(engine)
    users = [engine, engine.decoder, *(p for layer in engine.decoder.layers for p in (layer.mixer, layer.moe))]
    held = [user.ops for user in users], engine.store
    with timed(engine):
        assert tokens(engine) == before
        assert engine.store is not held[1]
    assert ([user.ops for user in users], engine.store) == held
    assert tokens(engine) == before


def test_the_engine_is_as_it_was_when_a_run_fails(engine):
    store = engine.store
    with pytest.raises(KeyboardInterrupt), timed(engine):
        raise KeyboardInterrupt
    assert engine.store is store


def test_spans_follow_each_other_and_cover_every_layer(engine):
    with timed(engine) as clock:
        tokens(engine, 3)
    assert all(a.end <= b.begin for a, b in pairwise(clock.spans))
    prompt, *decoded = tokens_of(clock.spans)
    assert len(decoded) == 2
    for forward in (prompt, *decoded):
        for layer in range(engine.config.layers):
            parts = [span.part for span in forward if span.layer == layer]
            assert set(parts) == set(OF_A_LAYER)
            assert [part for part, following in pairwise([*parts, ""]) if part != following][:3] == [
                MIXER,
                ROUTER,
                FETCH,
            ]
        assert forward[0].name == "embed"
        assert forward[-1].part == HEAD


def test_the_clock_misses_no_native_call(engine):
    with timed(engine) as clock:
        busy = engine.ops.busy_seconds
        tokens(engine, 3)
        native = engine.ops.busy_seconds - busy
    assert sum(s.end - s.begin for s in clock.spans if s.part not in (FETCH, WAIT)) >= native > 0


def spans_of_a_token(start: float, wait: float) -> list[Span]:
    """Two layers whose parts take a second each but for the wait, with gaps of half a second between parts."""
    found, now = [], start

    def add(part: str, name: str, layer: int, seconds: float = 1.0) -> None:
        nonlocal now
        found.append(Span(part, name, layer, now, now + seconds))
        now += seconds + 0.5

    add(HEAD, "embed", -1)
    for layer in range(2):
        for part in (MIXER, ROUTER, FETCH, SHARED):
            add(part, part, layer)
        add(WAIT, "wait", layer, wait)
        add(EXPERTS, "experts", layer)
        add(COMBINE, "combine", layer)
    add(HEAD, "linears", -1)
    return found


def test_parts_and_python_add_up_to_the_wall_time():
    spans = [*spans_of_a_token(0, 3.0), *spans_of_a_token(100, 1.0), *spans_of_a_token(200, 0.0)]
    found = pipeline(spans, 2)
    assert found.tokens == 2
    assert found.seconds == pytest.approx(100)
    assert found.layers[0] == dict.fromkeys(OF_A_LAYER, 1.0) | {WAIT: 2.0, PYTHON: 3.0}
    assert found.head == 2
    assert found.between == pytest.approx(1.5)
    totals = found.totals
    assert found.python_share == pytest.approx((totals[PYTHON] + totals[FETCH] + totals[SAMPLING]) / 100)
    rows = found.table()
    assert [row.split()[0] for row in rows] == ["layer", "0", "1", "all", "share", "embedding"]


def test_a_spread_is_median_and_span():
    assert Spread.of([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0)


@pytest.mark.usefixtures("known_machine")
def test_every_prompt_runs_warm_and_another_starts_cold_each_time(tiny_packed):
    directory, said = tiny_packed("qwen3_5_moe_text"), []
    prompts = [list(range(first, first + 5)) for first in (1, 20, 40)]
    found = bench(directory, prompts, Settings(context=64), tokens=4, repeats=2, report=said.append)
    assert [(run.start, run.prompt) for run in found.runs] == [
        *[(COLD, 0), (WARM, 1), (WARM, 2), (WARM, 0)],
        *[(COLD, 1), (WARM, 2), (WARM, 0), (WARM, 1)],
    ]
    assert all(run.prefill_rate > 0 and run.decode_rate > 0 for run in found.runs)
    assert found.pipeline.tokens == 4 - 2  # the first comes from the prompt, the last has no successor to end it
    assert found.of(WARM, "hit_rate").low == 1  # it fits, so that nothing is left to read
    assert found.of(COLD, "hit_rate").median == pytest.approx(found.planned[0].cold.hit_rate, abs=0.2)
    assert said[0] == "probing the machine"
    rate = found.of(WARM, "decode_rate").median
    assert found.roofline_share(WARM) == pytest.approx(rate * found.roofline[WARM].decode.limit)


@pytest.mark.usefixtures("known_machine")
def test_what_was_read_is_what_was_missed(tiny_packed):
    directory = tiny_packed("qwen3_5_moe_text")
    memory = load_memory(directory)
    found = bench(directory, [[1, 2, 3]], Settings(memory=memory, context=32), tokens=8, repeats=1, report=str)
    model = packed_sizes(directory)
    for each in found.runs:
        assert each.hit_rate < 1
        assert each.bytes_read == pytest.approx((1 - each.hit_rate) * model.experts)


def load_memory(directory) -> int:
    """A budget that holds few of the experts."""
    with load_engine(directory, Settings(context=32, chunk_tokens=1)) as engine:
        plan = engine.plan
    return plan.total - plan.arena + (2 * engine.config.top_k + 1) * plan.slot_bytes


@pytest.mark.usefixtures("known_machine")
def test_the_command_reports_to_people_and_to_programs(speaking_model, capsys):
    short = ["--tokens", "3", "--prompt-tokens", "6", "--repeats", "1", "--threads", "1"]
    assert run(["bench", str(speaking_model), *short]) == 0
    said = capsys.readouterr()
    for phrase in (
        "prefill tokens/s",
        "cold",
        "warm",
        "roofline, cold: at most",
        "was reached",
        "before each repeat",
        "mixer",
    ):
        assert phrase in said.out
    assert "repeat 1 of 1, cold, prompt 1" in said.err
    assert run(["bench", str(speaking_model), *short, "-p", "Hello", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["start"] for each in found["runs"]] == [COLD, WARM]
    assert found["warm"]["decode_rate"]["median"] > 0
    warm, cold = (found[start]["planned_decode_rate"]["median"] for start in (WARM, COLD))
    assert warm > cold > 0
    assert len(found["pipeline"]["layers"]) == 4


def test_prompts_have_their_length_and_differ():
    characters = SimpleNamespace(encode=lambda text: [ord(c) for c in text])
    made = _prompts(characters, PROMPTS, 2000)
    assert [len(ids) for ids in made] == [2000] * 3
    assert len({tuple(ids[:100]) for ids in made}) == 3
    assert "".join(map(chr, made[1])).startswith(PROMPTS[1] + "\n" + PROMPTS[2])


@pytest.mark.parametrize("wrong", [{"tokens": 2}, {"repeats": 0}])
def test_too_little_to_measure_is_a_sentence(tmp_path, wrong):
    choices = {"tokens": 3, "repeats": 1} | wrong
    with pytest.raises(FlashMoeError, match="at least one prompt"):
        bench(tmp_path, [[1]], Settings(), report=str, **choices)


def test_no_model_is_a_sentence(tmp_path, capsys):
    assert run(["bench", str(tmp_path)]) == 1
    assert "flashmoe: " in capsys.readouterr().err


def test_without_matplotlib_the_command_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["bench", str(tmp_path), "--plot", str(tmp_path / "x.png")]) == 1
    assert "pip install 'flashmoe[plot]'" in capsys.readouterr().err


def test_a_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    found = pipeline([*spans_of_a_token(0, 3.0), *spans_of_a_token(100, 0.0)], 2)
    plot_pipeline(found, "title", tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FlashMoeError, match="cannot be drawn"):
        plot_pipeline(found, "title", tmp_path / "x.nothing")
