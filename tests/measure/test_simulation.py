"""Simulated misses are the engine's own, and the generated traces have the skew they claim."""

import numpy as np
import pytest

from flashmoe.engine import loader
from flashmoe.engine.generation import generate
from flashmoe.engine.loader import load_engine
from flashmoe.engine.routing_trace import RoutingRecorder
from flashmoe.engine.sampling import Sampling
from flashmoe.errors import FlashMoeError
from flashmoe.evaluation.routing import counts, gini, reuse, share_of_top
from flashmoe.measure.simulation import BELADY, fetches, replay, simulate
from flashmoe.settings import Settings
from flashmoe.streaming.policy import POLICIES
from oracle import some_tokens
from synthetic_routing import synthetic_trace

SMALL = {"layers": 4, "experts": 32, "top_k": 4, "sequences": 3, "prompt": 16, "answer": 40, "chunk": 8}


@pytest.mark.parametrize("name", POLICIES)
def test_misses_are_those_of_an_engine_with_that_policy_and_so_many_slots(name, tiny_packed, monkeypatch):
    monkeypatch.setattr(loader, "LeastFrequentRecentlyUsed", POLICIES[name])
    packed = tiny_packed("many_experts")
    size = sum(path.stat().st_size for path in packed.rglob("*.safetensors"))
    settings = Settings(backend="cpu", context=64, chunk_tokens=8, memory=size // 4, learn=False)
    with load_engine(packed, settings) as engine:
        recorder = RoutingRecorder(engine.config)
        engine.observers.append(recorder)
        list(generate(engine, some_tokens(20), Sampling(), max_tokens=20, stop_ids=frozenset()))
        slots, stats, trace = engine.plan.slots, engine.store.stats, recorder.trace()
    assert slots < engine.plan.experts
    wanted = fetches(trace)
    misses = replay(wanted, slots, POLICIES[name](slots, trace.ids.shape[1], trace.experts))
    assert int(misses.sum()) == stats.misses > 0
    assert sum(len(fetch.keys) for fetch in wanted) == stats.hits + stats.misses


def test_no_policy_beats_belady_and_more_memory_never_hurts_it():
    shares = [0.25, 0.5, 0.75, 1.0]
    points = simulate(synthetic_trace(1, **SMALL), shares, [*POLICIES, BELADY], lambda _: None)
    misses = {(point.policy, point.share): point.misses for point in points}
    for share in shares:
        assert all(misses[name, share] >= misses[BELADY, share] for name in POLICIES)
    assert sorted((misses[BELADY, share] for share in shares), reverse=True) == [misses[BELADY, s] for s in shares]
    used = np.count_nonzero(counts(synthetic_trace(1, **SMALL)))
    assert all(misses[name, 1.0] == used for name in [*POLICIES, BELADY])  # each is read once and stays


def test_a_share_below_what_an_engine_needs_is_refused():
    with pytest.raises(FlashMoeError, match=r"0.01 of 128 experts are fewer than the 8 an engine needs"):
        simulate(synthetic_trace(1, **SMALL), [0.01], ["lru"], lambda _: None)


def test_generated_routing_has_the_skew_and_the_locality_of_large_models():
    trace = synthetic_trace(0, layers=6, experts=512, top_k=10, sequences=4, prompt=64, answer=128)
    picks = counts(trace)
    assert 0.2 < gini(picks).min() < gini(picks).max() < 0.6
    assert 0.3 < share_of_top(picks, 0.2).min() < share_of_top(picks, 0.2).max() < 0.6
    assert 0.2 < reuse(trace).mean() < 0.3
    assert all(len(set(row)) == 10 for row in trace.ids[::50].reshape(-1, 10).tolist())


def test_a_seed_gives_the_same_trace_and_another_one_another():
    first, again, other = (synthetic_trace(seed, **SMALL).ids for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
