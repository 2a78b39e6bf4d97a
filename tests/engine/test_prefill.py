"""Long prompts: told how far they are, stopped in the middle, and each expert read once a chunk."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from engine.watch import Watch
from flashmoe.engine.engine import Engine
from flashmoe.engine.generation import generate
from flashmoe.engine.loader import load_engine
from flashmoe.errors import FlashMoeError
from flashmoe.settings import Settings
from oracle import some_tokens

TOKENS = some_tokens(70)
SETTINGS = Settings(backend="cpu", threads=1, context=128, chunk_tokens=40)


@pytest.fixture(scope="module")
def engine(tiny_packed):
    with load_engine(tiny_packed("qwen3_next"), SETTINGS) as engine:
        yield engine


def small_arena(packed, slots: int, settings: Settings = SETTINGS) -> Engine:
    with load_engine(packed, settings) as engine:
        memory = engine.plan.total - (engine.plan.slots - slots) * engine.plan.slot_bytes
    engine = load_engine(packed, replace(settings, memory=memory))
    assert engine.plan.slots == slots
    return engine


def test_progress_rises_within_a_chunk_and_ends_with_all_tokens(engine):
    heard = []
    engine.prefill(engine.new_sequence(), TOKENS, lambda done, total: heard.append((done, total)))
    done = [d for d, _ in heard]
    assert {total for _, total in heard} == {len(TOKENS)}
    assert done == sorted(done)
    assert done[-1] == len(TOKENS)
    assert len({d for d in done if d < 40}) >= 2 * engine.config.layers - 1


def test_the_answer_does_not_depend_on_who_listens(engine):
    alone = engine.prefill(engine.new_sequence(), TOKENS)
    heard = engine.prefill(engine.new_sequence(), TOKENS, lambda *_: None)
    np.testing.assert_array_equal(alone, heard)


class StopError(Exception):
    pass


@pytest.mark.parametrize("at", [0, 3, 11])
def test_a_prefill_that_was_broken_off_breaks_its_sequence_and_nothing_else(engine, at):
    expected = engine.prefill(engine.new_sequence(), TOKENS)
    calls = iter(range(1000))

    def stop(done, _):
        if done < len(TOKENS) and next(calls) == at:
            raise StopError

    state = engine.new_sequence()
    with pytest.raises(StopError):
        engine.prefill(state, TOKENS, stop)
    with pytest.raises(FlashMoeError, match="broken off inside a forward; begin a new one"):
        engine.prefill(state, TOKENS)
    np.testing.assert_array_equal(engine.prefill(engine.new_sequence(), TOKENS), expected)


def test_a_prefill_stopped_between_two_chunks_goes_on(engine):
    expected = engine.prefill(engine.new_sequence(), TOKENS)

    def stop(done, _):
        if done == 40:
            raise StopError

    state = engine.new_sequence()
    with pytest.raises(StopError):
        engine.prefill(state, TOKENS, stop)
    if not state.broken:
        np.testing.assert_array_equal(engine.prefill(state, TOKENS[state.length :]), expected)


def test_ctrl_c_inside_a_chunk_leaves_no_reads_and_no_slots_behind(tiny_packed):
    with small_arena(tiny_packed("many_experts"), 40) as engine:
        expected = engine.prefill(engine.new_sequence(), TOKENS)
        engine.observers.append(Watch(interrupt_at=2))
        with pytest.raises(KeyboardInterrupt):
            engine.prefill(engine.new_sequence(), TOKENS)
        engine.observers.clear()
        with engine.store.fetch(0, np.arange(40, dtype=np.int32)) as lease:
            assert sum(len(group) for group in lease.groups()) == 40
        np.testing.assert_array_equal(engine.prefill(engine.new_sequence(), TOKENS), expected)


def test_cancel_from_another_thread_ends_a_prompt_without_a_token(engine):
    at_work, cancelled = threading.Event(), threading.Event()

    def progress(*_):
        at_work.set()
        cancelled.wait()

    generation = generate(engine, TOKENS, max_tokens=5, stop_ids=frozenset(), progress=progress)

    def cancel():
        at_work.wait()
        generation.cancel()
        cancelled.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    assert list(generation) == []
    thread.join()
    assert generation.finish_reason == "cancelled"
    assert generation.statistics.generated_tokens == 0


class Needs(Watch):
    def records(self) -> int:
        return sum(len(np.unique(ids)) for _, _, ids, _ in self.seen)


@pytest.mark.parametrize("slots", [9, 40, 130, 300, 400])
def test_a_chunk_reads_each_expert_it_needs_at_most_once(slots, tiny_packed):
    """128 experts a layer, of which 70 tokens need fewer than all: nothing may be read on suspicion."""
    packed = tiny_packed("many_experts")
    with load_engine(packed, SETTINGS) as engine:
        expected = engine.logits(TOKENS)
    with small_arena(packed, slots) as engine:
        engine.observers.append(needs := Needs())
        np.testing.assert_array_equal(engine.logits(TOKENS), expected)
        assert engine.store.stats.bytes_read <= 1.05 * needs.records() * engine.plan.slot_bytes
