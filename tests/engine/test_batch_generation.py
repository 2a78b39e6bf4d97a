"""Many prompts at once give what each gives alone."""

from dataclasses import replace

import pytest

from flashmoe.engine.batch_generation import generate_batch
from flashmoe.engine.generation import generate
from flashmoe.engine.loader import load_engine
from flashmoe.engine.sampling import Sampling
from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.settings import Settings
from oracle import TINY, VOCAB, some_tokens

PROMPTS = [some_tokens(length, seed=length) for length in (9, 23, 1, 14, 5)]
SETTINGS = Settings(backend="cpu", threads=1, context=64, sequences=3)
NEVER = frozenset()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=5)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", TINY)
def test_an_answer_is_the_same_alone_and_among_others(name, sampling, tiny_packed):
    with load_engine(tiny_packed(name), SETTINGS) as engine:
        assert engine.limits.sequences == 3
        alone = [list(generate(engine, p, sampling, max_tokens=12, stop_ids=NEVER)) for p in PROMPTS]
        # Tokens that end some answers early, so that others take their places.
        stops = frozenset({alone[0][3], alone[3][0]})
        expected = []
        for prompt in PROMPTS:
            generation = generate(engine, prompt, sampling, max_tokens=12, stop_ids=stops)
            expected.append((list(generation), generation.finish_reason))
        got = {
            c.index: (c.token_ids, c.finish_reason)
            for c in generate_batch(engine, PROMPTS, sampling, max_tokens=12, stop_ids=stops)
        }
    assert [got[i] for i in range(len(PROMPTS))] == expected
    assert {reason for _, reason in expected} == {"stop", "length"}


def test_a_smaller_arena_and_one_sequence_at_a_time_change_nothing(tiny_packed):
    packed = tiny_packed("many_experts")

    def answers(settings):
        with load_engine(packed, settings) as engine:
            return sorted(
                (c.index, c.token_ids)
                for c in generate_batch(engine, PROMPTS, Sampling(), max_tokens=6, stop_ids=NEVER)
            ), engine.plan

    expected, plan = answers(SETTINGS)
    fewest = min(2 * 4, plan.experts)
    memory = plan.total - (plan.slots - fewest) * plan.slot_bytes
    assert answers(replace(SETTINGS, sequences=1))[0] == expected
    assert answers(replace(SETTINGS, memory=memory))[0] == expected


def test_the_plan_holds_every_sequence_and_takes_no_more_than_fit(tiny_packed):
    packed = tiny_packed("qwen3_next")
    with load_engine(packed, replace(SETTINGS, sequences=1)) as engine:
        one = engine.plan
    with load_engine(packed, SETTINGS) as engine:
        assert engine.plan.state == 3 * one.state
    with load_engine(packed, replace(SETTINGS, sequences=1000, memory=one.total + 4 * 2 * one.state)) as engine:
        assert 1 <= engine.limits.sequences < 1000
        assert engine.plan.state == engine.limits.sequences * one.state
        assert engine.plan.total <= one.total + 4 * 2 * one.state


def test_what_cannot_run_is_refused_before_anything_runs(tiny_packed):
    with load_engine(tiny_packed("qwen3_next"), SETTINGS) as engine:
        with pytest.raises(CapacityError, match="do not fit the context of 64"):
            generate_batch(engine, PROMPTS, max_tokens=60)
        with pytest.raises(FlashMoeError, match=f"Token id {VOCAB}"):
            generate_batch(engine, [*PROMPTS, [VOCAB]], max_tokens=1)
        assert list(generate_batch(engine, [], max_tokens=1)) == []
