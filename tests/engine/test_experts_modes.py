"""Who keeps the experts, what is guessed about them, what is learnt and when memory runs out: speed, never answers."""

import logging
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from engine.measure import step_by_step
from flashmoe.engine import learned
from flashmoe.engine.batch import make_batch
from flashmoe.engine.learned import LearnedUses
from flashmoe.engine.loader import foresees, load_engine
from flashmoe.engine.shrinking import Shrinking
from flashmoe.errors import FlashMoeError
from flashmoe.settings import Settings
from flashmoe.streaming.cgroups import Headroom
from flashmoe.streaming.memory import MemoryPlan
from flashmoe.streaming.pressure import PressureWatch, Strain
from oracle import some_tokens

TOKENS = some_tokens(60)
MODEL = "many_experts"
WHOLE = Settings(backend="cpu", threads=1, chunk_tokens=7, context=64, learn=False)


@pytest.fixture(scope="module")
def resident(tiny_packed):
    with load_engine(tiny_packed(MODEL), WHOLE) as engine:
        assert engine.plan.slots == engine.plan.experts
        return engine.logits(TOKENS)


def with_experts(packed, share: float, **choices) -> Settings:
    """Settings whose arena holds that share of the experts."""
    with load_engine(packed, WHOLE) as engine:
        plan = engine.plan
    return replace(WHOLE, memory=plan.total - int(plan.arena * (1 - share)), **choices)


@pytest.mark.parametrize(
    "choices",
    [
        {"cache": "os"},
        {"cache": "os", "overlap": False},
        {"overlap": False},
        {"foresight": True},
        {"foresight": True, "overlap": False},
        {"learn": True},
    ],
    ids=str,
)
def test_logits_are_those_of_experts_in_memory(choices, tiny_packed, resident):
    settings = with_experts(tiny_packed(MODEL), 0.4, **choices)
    for _ in range(2):
        with load_engine(tiny_packed(MODEL), settings) as engine:
            np.testing.assert_array_equal(engine.logits(TOKENS), resident)
            np.testing.assert_array_equal(step_by_step(engine, TOKENS, 20), resident)


def test_experts_left_to_the_page_cache_are_read_for_every_use(tiny_packed):
    with load_engine(tiny_packed(MODEL), replace(WHOLE, cache="os")) as engine:
        step_by_step(engine, TOKENS, 1)
        stats, config = engine.store.stats, engine.config
        assert (stats.hits, stats.misses) == (0, len(TOKENS) * config.layers * config.top_k)
        assert engine.plan.slots == 2 * config.top_k
        assert "buffered reads" in engine.summary
        assert "experts left to the page cache" in engine.summary


def test_foresight_reads_ahead_and_counts_what_came_of_it(tiny_packed):
    settings = with_experts(tiny_packed(MODEL), 0.5, foresight=True)
    with load_engine(tiny_packed(MODEL), settings) as engine:
        step_by_step(engine, TOKENS, 20)
        stats, foresight = engine.store.stats, engine.foresight
        assert 0 < stats.prefetch_used <= stats.prefetched
        guesses = (len(TOKENS) - 20) * (engine.config.layers - 1)
        assert all(0 < count <= guesses for count in foresight.ranks[1])
        with engine.store.fetch(0, np.arange(8, dtype=np.int32)):
            assert np.count_nonzero(engine.store._slots.pins > 0) == 8  # no guess was forgotten


def test_sequences_that_decode_together_are_guessed_for_together(tiny_packed):
    sequences = [some_tokens(30, seed) for seed in range(3)]
    with load_engine(tiny_packed(MODEL), WHOLE) as engine:
        expected = [engine.logits(tokens) for tokens in sequences]
    with load_engine(tiny_packed(MODEL), with_experts(tiny_packed(MODEL), 0.5, foresight=True)) as engine:
        states = [engine.new_sequence() for _ in sequences]
        found = []
        for step in zip(*(np.split(tokens, len(tokens)) for tokens in sequences), strict=True):
            x = engine.forward(list(zip(states, step, strict=True)))
            found.append(np.asarray(engine.decoder.logits(x)))
        np.testing.assert_array_equal(np.stack(found, axis=1), expected)
        stats, ranks = engine.store.stats, engine.foresight.ranks
        assert 0 < stats.prefetch_used <= stats.prefetched
        # Each token's guesses count, and they prove right more often than by chance.
        assert ranks[1].max() == 3 * 30 * (engine.config.layers - 1)
        assert ranks[0][0] > 0.5 * ranks[1][0]


class LandsInTwo:
    """A source whose leases give all experts but one first, as if that one were being read."""

    def __init__(self, store):
        self.store, self.max_lease = store, store.max_lease

    @contextmanager
    def fetch(self, layer, experts, uses=None):
        with self.store.fetch(layer, experts, uses) as lease:
            everything = np.arange(len(experts))
            yield SimpleNamespace(slots=lease.slots, groups=lambda: [everything[:-1], everything[-1:]])


def test_a_guess_is_made_on_all_that_is_known_of_a_layer(tiny_packed):
    with load_engine(tiny_packed(MODEL), WHOLE) as engine:
        known = {}

        def forward(source):
            batch = make_batch([(engine.new_sequence(), TOKENS[:1])])
            return engine.decoder.forward(
                batch, source, prefetch_callback=lambda layer, x: known.update({layer: x().copy()})
            )

        last = engine.config.layers - 1
        forward(engine.store)
        given = dict(known)  # nothing is being read: the guess need not wait for the experts
        result = forward(LandsInTwo(engine.store))
        assert sorted(known) == list(range(last + 1))
        missing = np.linalg.norm(result - known[last])
        assert 0 < missing < 0.7 * np.linalg.norm(result - given[last])


def test_foresight_that_is_wrong_stops_but_for_a_try_in_a_while(tiny_packed, resident):
    settings = with_experts(tiny_packed(MODEL), 0.5, foresight=True)
    with load_engine(tiny_packed(MODEL), settings) as engine:
        foresight, asked = engine.foresight, []
        prefetch, learn = engine.store.prefetch, foresight._learn

        def counted(layer, experts, **how):
            asked.append(len(experts))
            return prefetch(layer, experts, **how)

        engine.store.prefetch = counted
        # None of a layer's experts is what was guessed, as far as it can tell.
        foresight._learn = lambda ids: learn(np.full_like(ids, -1))
        for _ in range(8):
            asked.clear()
            np.testing.assert_array_equal(step_by_step(engine, TOKENS, 20), resident)
        guesses = (len(TOKENS) - 20) * (engine.config.layers - 1)
        assert sum(asked) < 0.3 * guesses * engine.config.top_k
        assert foresight.precision.max() < 0.5


@pytest.mark.parametrize(
    ("foresight", "slots", "record", "expected"),
    [
        (None, 10, 2 << 20, True),
        (None, 10, 28_672, False),
        (None, 20, 2 << 20, False),
        (True, 10, 28_672, True),
        (False, 10, 2 << 20, False),
    ],
)
def test_experts_are_guessed_where_they_are_large_and_do_not_all_fit(foresight, slots, record, expected):
    plan = MemoryPlan(0, 0, 0, 0, slots, record, 20)
    assert foresees(Settings(foresight=foresight), plan) is expected
    assert not foresees(Settings(foresight=foresight, cache="os"), plan)


def test_uses_are_remembered_from_run_to_run_and_seed_the_policy(tiny_packed, tmp_path):
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in tiny_packed(MODEL).iterdir():
        (packed / path.name).symlink_to(path)
    (packed / learned.NAME).unlink(missing_ok=True)
    settings = replace(WHOLE, learn=True)
    for runs in (1, 2):
        with load_engine(packed, settings) as engine:
            engine.logits(TOKENS)
            each = len(TOKENS) * engine.config.top_k
        before = LearnedUses(packed, *engine.store.uses.shape).before
        np.testing.assert_allclose(before.sum(axis=1), runs * each, rtol=1e-2)
    with load_engine(packed, settings) as engine:
        np.testing.assert_allclose(sum(engine.store._slots.policy._scores) > 0, True)


class FakePressure:
    """A machine whose counters are set by hand, an interval after the last time."""

    def __init__(self) -> None:
        self.now, self.strain, self.rooms = 0.0, Strain(0.0, 0), []

    def watch(self) -> PressureWatch:
        return PressureWatch(lambda: self.strain, self.clock, lambda: self.rooms)

    def clock(self) -> float:
        return self.now

    def rise(self, stalled: float = 0.0, faults: int = 0) -> None:
        self.now += PressureWatch.INTERVAL
        self.strain = Strain(self.strain.stalled + stalled, self.strain.faults + faults)


@pytest.mark.parametrize("rise", [{"stalled": 1.0}, {"faults": 1000}], ids=str)
def test_memory_that_runs_short_takes_the_arena_back_once_it_lasts(rise, tiny_packed, resident, caplog):
    pressure = FakePressure()
    with load_engine(tiny_packed(MODEL), WHOLE) as engine:
        store, least = engine.store, 2 * engine.config.top_k
        engine.observers[:] = [Shrinking(store, least, pressure.watch())]
        np.testing.assert_array_equal(engine.logits(TOKENS), resident)
        assert store.max_lease == engine.plan.slots
        assert not caplog.records
        sizes = []
        with caplog.at_level(logging.WARNING):
            for _ in range(100):
                pressure.rise(**rise)
                engine.logits(TOKENS[:1])
                sizes.append(store.max_lease)
        assert sizes[0] == engine.plan.slots  # one interval is no trend
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] == least
        (said,) = caplog.records
        assert "Memory is short" in said.getMessage()
        np.testing.assert_array_equal(engine.logits(TOKENS), resident)
        np.testing.assert_array_equal(store.arena.array[store._slots.retired], 0)


def test_memory_that_is_nearly_gone_takes_the_arena_back_at_once(tiny_packed, resident, caplog):
    pressure = FakePressure()
    with load_engine(tiny_packed(MODEL), WHOLE) as engine:
        store, slots = engine.store, engine.plan.slots
        engine.observers[:] = [Shrinking(store, 4, pressure.watch())]
        engine.logits(TOKENS)
        empty = slots - sum(np.count_nonzero(store.in_memory(layer)) for layer in range(engine.config.layers))
        pressure.rise()
        pressure.rooms = [Headroom(20 << 20, 1 << 30)]
        with caplog.at_level(logging.WARNING):
            engine.logits(TOKENS[:1])
        assert store.max_lease < slots - empty
        assert "Memory is short" in caplog.text
        pressure.rise()
        pressure.rooms = [Headroom(1 << 30, 1 << 30)]
        left = store.max_lease
        np.testing.assert_array_equal(engine.logits(TOKENS), resident)
        assert store.max_lease == left


def test_a_calm_machine_keeps_the_arena(tiny_packed, caplog):
    pressure = FakePressure()
    with load_engine(tiny_packed(MODEL), WHOLE) as engine:
        engine.observers[:] = [Shrinking(engine.store, 4, pressure.watch())]
        for turn in range(20):
            pressure.rise(stalled=0.01, faults=(turn % 2) * 10_000)  # a burst is not pressure
            engine.logits(TOKENS[:1])
        assert engine.store.max_lease == engine.plan.slots
        assert not caplog.records


def test_an_unknown_cache_is_refused():
    with pytest.raises(FlashMoeError, match="no cache 'magic'; choose one of arena, os"):
        Settings(cache="magic")
