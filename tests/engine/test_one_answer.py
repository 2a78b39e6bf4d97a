"""On one backend, logits do not depend on how the work was cut (docs/design.md, principle 2): bit for bit."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from engine.measure import Distance, step_by_step
from flashmoe.engine.engine import Engine
from flashmoe.engine.generation import generate
from flashmoe.engine.loader import load_engine
from flashmoe.engine.sampling import Sampling
from flashmoe.settings import Settings
from oracle import TINY, some_tokens

TOKENS = some_tokens(70)
WHOLE = Settings(backend="cpu", threads=1, chunk_tokens=len(TOKENS), context=128)
EIGHT = replace(WHOLE, kv_bits=8)


def smallest_memory(engine: Engine) -> int:
    """The least memory that this engine's plan would have accepted."""
    plan = engine.plan
    fewest = min(2 * engine.config.top_k, plan.experts)
    return plan.total - (plan.slots - fewest) * plan.slot_bytes


@pytest.fixture(scope="module")
def resident(tiny_packed):
    """Logits with everything in memory, one chunk, one thread."""

    @cache
    def get(name: str) -> np.ndarray:
        with load_engine(tiny_packed(name), WHOLE) as engine:
            assert engine.plan.slots == engine.plan.experts
            return engine.logits(TOKENS)

    return get


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_the_chunk_size_does_not_matter(name, chunk, tiny_packed, resident):
    with load_engine(tiny_packed(name), replace(WHOLE, chunk_tokens=chunk)) as engine:
        np.testing.assert_array_equal(engine.logits(TOKENS), resident(name))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_does_not_matter(name, threads, tiny_packed, resident):
    with load_engine(tiny_packed(name), replace(WHOLE, threads=threads)) as engine:
        np.testing.assert_array_equal(engine.logits(TOKENS), resident(name))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_smallest_arena_gives_the_same_logits_as_the_largest(name, threads, tiny_packed, resident):
    settings = replace(WHOLE, chunk_tokens=7, threads=threads)
    with load_engine(tiny_packed(name), settings) as engine:
        memory = smallest_memory(engine)
    with load_engine(tiny_packed(name), replace(settings, memory=memory)) as engine:
        assert engine.plan.slots == min(2 * engine.config.top_k, engine.plan.experts) < engine.plan.experts
        np.testing.assert_array_equal(engine.logits(TOKENS), resident(name))
        assert engine.store.stats.misses > engine.plan.experts


@pytest.mark.parametrize("name", TINY)
def test_keys_and_values_of_eight_bits_are_the_same_however_the_work_was_cut(name, tiny_packed, resident):
    with load_engine(tiny_packed(name), EIGHT) as engine:
        whole = engine.logits(TOKENS)
        np.testing.assert_array_equal(step_by_step(engine, TOKENS, 30), whole)
        memory = smallest_memory(engine)
    with load_engine(tiny_packed(name), replace(EIGHT, chunk_tokens=7, threads=2)) as engine:
        np.testing.assert_array_equal(engine.logits(TOKENS), whole)
    with load_engine(tiny_packed(name), replace(EIGHT, memory=memory)) as engine:
        np.testing.assert_array_equal(engine.logits(TOKENS), whole)
    assert not np.array_equal(whole, resident(name))
    assert Distance.between(whole, resident(name)).kl < 1e-2


@pytest.mark.parametrize("name", TINY)
def test_prefill_and_single_steps_agree(name, tiny_packed, resident):
    with load_engine(tiny_packed(name), WHOLE) as engine:
        np.testing.assert_array_equal(step_by_step(engine, TOKENS, 30), resident(name))


@pytest.mark.parametrize(("backend", "bits"), [("cpu", 16), ("cpu", 8), ("reference", 16), ("reference", 8)])
@pytest.mark.parametrize("name", TINY)
def test_a_sequence_does_not_notice_what_shares_its_batch(name, backend, bits, tiny_packed):
    with load_engine(tiny_packed(name), replace(WHOLE, backend=backend, kv_bits=bits)) as engine:
        others = [some_tokens(length, seed=length) for length in (9, 17, 1)]
        alone = [np.asarray(engine.forward([(engine.new_sequence(), t)])) for t in others]
        states = [engine.new_sequence() for _ in others]
        halves = [(t[: len(t) // 2], t[len(t) // 2 :]) for t in others]
        first = [(state, half[0]) for state, half in zip(states, halves, strict=True) if len(half[0])]
        second = [(state, half[1]) for state, half in zip(states, halves, strict=True)]
        together = np.asarray(engine.forward(first)), np.asarray(engine.forward(second))
        begin = [0, 0]
        for t, expected in zip(others, alone, strict=True):
            cut = len(t) // 2
            got = together[0][begin[0] : begin[0] + cut], together[1][begin[1] : begin[1] + len(t) - cut]
            np.testing.assert_array_equal(np.concatenate(got), expected)
            begin = [begin[0] + cut, begin[1] + len(t) - cut]


def test_a_model_four_times_its_memory_generates_what_it_generates_resident(tiny_packed):
    packed = tiny_packed("many_experts")
    size = sum(path.stat().st_size for path in packed.rglob("*.safetensors"))
    settings = Settings(backend="cpu", context=64, chunk_tokens=8)
    sampling = Sampling(temperature=1.0, seed=7)
    answers = []
    for memory in (None, size // 4):
        with load_engine(packed, replace(settings, memory=memory)) as engine:
            assert memory is None or engine.plan.total <= memory
            answers.append(list(generate(engine, TOKENS[:20], sampling, max_tokens=30, stop_ids=frozenset())))
    assert answers[0] == answers[1]
    assert len(answers[0]) == 30
