"""Conversations that reuse what was computed before: the same bits as computing everything anew."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.watch import Watch
from flashmoe.engine.engine import Engine
from flashmoe.engine.generation import generate
from flashmoe.engine.loader import load_engine
from flashmoe.engine.sampling import Sampling
from flashmoe.engine.session import SessionCache, prefix_checkpoints
from flashmoe.engine.state import SequenceState
from flashmoe.errors import FlashMoeError
from flashmoe.settings import Settings
from oracle import TINY, some_tokens

SETTINGS = Settings(backend="cpu", threads=1, context=256, chunk_tokens=8, snapshots=50_000_000)
HYBRID, ATTENTION = "qwen3_next", "qwen3_moe"


@pytest.fixture(scope="module")
def engines(tiny_packed):
    """Engines by name and backend, kept while the module's tests run."""
    made: dict[tuple[str, str], Engine] = {}

    def get(name: str, backend: str = "cpu") -> Engine:
        if (name, backend) not in made:
            made[name, backend] = load_engine(tiny_packed(name), replace(SETTINGS, backend=backend))
        return made[name, backend]

    yield get
    for engine in made.values():
        engine.close()


def anew(engine: Engine, tokens: np.ndarray) -> np.ndarray:
    """Logits after `tokens`, computed from the first."""
    return engine.prefill(engine.new_sequence(), tokens)


def filled(engine: Engine, cache: SessionCache, tokens: np.ndarray) -> SequenceState:
    """The state after `tokens`, saved."""
    state = engine.new_sequence()
    engine.prefill(state, tokens)
    cache.save(tokens, state)
    return state


prefixes = st.lists(
    st.tuples(st.floats(0, 1), st.integers(1, 40), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=5
)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", [HYBRID, ATTENTION])
@settings(max_examples=12)
@given(turns=prefixes, budget=st.sampled_from([0, 150_000, 400_000, 50_000_000]))
def test_a_session_gives_the_logits_of_computing_anew_whatever_was_kept_cut_or_added(
    name, backend, engines, turns, budget
):
    engine = engines(name, backend)
    cache = SessionCache(engine.new_sequence, budget)
    session, tokens = engine.session(cache), np.empty(0, np.int32)
    for kept, added, seed, steps in turns:
        tokens = np.concatenate([tokens[: int(kept * len(tokens))], some_tokens(added, seed)])
        np.testing.assert_array_equal(session.prefill(tokens), anew(engine, tokens))
        for token in some_tokens(steps, seed + 9):
            tokens = np.append(tokens, token)
            np.testing.assert_array_equal(session.step(int(token)), anew(engine, tokens))
        np.testing.assert_array_equal(session.tokens, tokens)
        session.save()
        assert cache.memory.bytes <= budget


@pytest.mark.parametrize("name", TINY)
def test_continuations_of_one_snapshot_do_not_disturb_each_other(name, engines):
    engine = engines(name)
    cache, tokens = engine.session_cache(), some_tokens(70)
    filled(engine, cache, tokens)
    branches = [np.concatenate([tokens, some_tokens(9, seed)]) for seed in (5, 6, 7)]
    states = [cache.take(branch) for branch in branches]
    assert [state.length for state in states] == [70] * 3
    for end in range(71, 80):
        for state, branch in zip(states, branches, strict=True):
            np.testing.assert_array_equal(engine.prefill(state, branch[end - 1 : end]), anew(engine, branch[:end]))
    assert cache.take(branches[0]).length == 70


def test_the_longest_saved_prefix_is_taken_and_at_least_one_token_left(engines):
    engine = engines(HYBRID)
    cache, tokens = engine.session_cache(), some_tokens(60)
    assert cache.take(tokens).length == 0
    for length in (10, 40, 25):
        filled(engine, cache, tokens[:length])
    for length, reused in [(60, 40), (41, 40), (40, 25), (25, 10), (10, 0), (1, 0)]:
        assert cache.take(tokens[:length]).length == reused
    other = tokens.copy()
    other[20] += 1
    assert cache.take(other).length == 10


def test_without_recurrent_layers_any_common_beginning_is_reused(engines):
    engine = engines(ATTENTION)
    cache, tokens = engine.session_cache(), some_tokens(130)
    filled(engine, cache, tokens)
    for length, reused in [(130, 129), (131, 130), (64, 63), (2, 1)]:
        state = cache.take(some_tokens(length))
        assert state.length == reused
    other = tokens.copy()
    other[77] += 1
    state = cache.take(other)
    assert state.length == 77
    np.testing.assert_array_equal(engine.prefill(state, other[77:]), anew(engine, other))
    filled(engine, cache, some_tokens(140))
    assert len(cache.memory) == 1, "a longer state of the same tokens serves for the shorter one too"


def test_the_least_recently_used_is_let_go_when_the_budget_is_full(engines):
    engine = engines(HYBRID)
    prompts = [some_tokens(20, seed) for seed in range(4)]
    probe = engine.session_cache()
    filled(engine, probe, prompts[0])
    cache = SessionCache(engine.new_sequence, 3 * probe.memory.bytes)
    for prompt in prompts[:3]:
        filled(engine, cache, prompt)
    assert cache.memory.bytes == cache.memory.budget
    assert cache.take(np.append(prompts[0], 1)).length == 20
    filled(engine, cache, prompts[3])
    assert [cache.take(np.append(p, 1)).length for p in prompts] == [20, 0, 20, 20]
    filled(engine, cache, prompts[3])
    assert len(cache.memory) == 3


def test_shared_blocks_count_once(engines):
    engine = engines(HYBRID)
    cache, tokens = engine.session_cache(), some_tokens(200)
    state = engine.new_sequence()
    engine.prefill(state, tokens[:128])
    cache.save(tokens[:128], state)
    first = cache.memory.bytes
    engine.prefill(state, tokens[128:129])
    cache.save(tokens[:129], state)
    blocks = sum(c.block_bytes for c in state.caches)
    own = sum(mixer.nbytes for mixer in state.recurrent) + 4 * 129
    assert cache.memory.bytes == first + own + blocks
    assert first == own - 4 + 2 * blocks


def test_a_snapshot_larger_than_the_budget_leaves_the_others_alone(engines):
    engine = engines(HYBRID)
    cache = engine.session_cache()
    filled(engine, cache, some_tokens(20))
    cache = SessionCache(engine.new_sequence, cache.memory.bytes)
    filled(engine, cache, some_tokens(20))
    filled(engine, cache, some_tokens(200, seed=3))
    assert cache.take(some_tokens(21)).length == 20


@pytest.mark.parametrize("name", TINY)
def test_a_broken_state_is_neither_saved_nor_continued_and_the_session_begins_anew(name, engines):
    engine = engines(name)
    cache, tokens = engine.session_cache(), some_tokens(30)
    session = engine.session(cache)
    session.prefill(tokens)
    engine.observers.append(watch := Watch(interrupt_at=2))
    longer = np.append(tokens, some_tokens(5, seed=3))
    with pytest.raises(KeyboardInterrupt):
        session.prefill(longer)
    engine.observers.remove(watch)
    with pytest.raises(FlashMoeError, match="broken off inside a forward"):
        cache.save(session.tokens, session.state)
    with pytest.raises(FlashMoeError, match="broken off inside a forward"):
        engine.forward([(session.state, tokens[:1])])
    np.testing.assert_array_equal(session.prefill(longer), anew(engine, longer))


def test_progress_counts_what_was_spared_and_may_end_a_prefill_between_chunks(engines):
    engine = engines(HYBRID)
    session, tokens, told = engine.session(), some_tokens(60), []
    session.prefill(tokens[:20])
    session.prefill(tokens, progress=lambda *counts: told.append(counts))
    assert told == sorted(told)
    assert told[0][0] >= 20
    assert told[-1] == (60, 60)

    def end_at(done: int, _: int) -> None:
        if done == 16:
            raise KeyboardInterrupt

    session = engine.session()
    with pytest.raises(KeyboardInterrupt):
        session.prefill(tokens, progress=end_at)
    np.testing.assert_array_equal(session.tokens, tokens[: session.state.length])
    np.testing.assert_array_equal(session.prefill(tokens), anew(engine, tokens))


def test_long_prompts_are_saved_at_ends_of_chunks_and_before_the_answer_is_opened(engines):
    assert prefix_checkpoints(0, 12_000, 1024) == [4096, 8192]
    assert prefix_checkpoints(100, 12_000, 3000) == [6100]
    assert prefix_checkpoints(0, 20_000, 8192) == [8192, 16384]
    assert prefix_checkpoints(5, 4000, 1) == []
    engine = engines(HYBRID)
    cache, tokens = engine.session_cache(), some_tokens(30)
    engine.session(cache).prefill(tokens)
    assert cache.take(tokens).length == 29, "a second try costs one token"
    engine.session(cache).prefill(some_tokens(30, seed=8), prefix_checkpoint=25)
    assert cache.take(np.append(some_tokens(30, seed=8)[:26], 1)).length == 25


@pytest.mark.parametrize("kept", [0, 50_000_000])
@pytest.mark.parametrize("name", [HYBRID, ATTENTION])
def test_answers_of_a_conversation_are_those_of_each_prompt_alone(name, kept, engines):
    engine = engines(name)
    session, tokens = engine.session(SessionCache(engine.new_sequence, kept)), some_tokens(30)
    for turn in range(3):
        sampling = Sampling(temperature=1.0, seed=turn)
        told: list[int] = []
        alike = {"max_tokens": 7, "stop_ids": frozenset()}
        report = lambda done, _, told=told: told.append(done)  # noqa: E731
        found = list(generate(engine, tokens, sampling, **alike, progress=report, session=session))
        assert found == list(generate(engine, tokens, sampling, **alike))
        assert turn == 0 or told[0] >= len(tokens) - 11, "what came before is spared"
        tokens = np.concatenate([tokens, found, some_tokens(10, turn)]).astype(np.int32)


def test_the_plan_holds_what_snapshots_may_take(tiny_packed):
    settings = replace(SETTINGS, memory=10_000_000)
    plans = {}
    for snapshots in (0, 100_000, None):
        with load_engine(tiny_packed(HYBRID), replace(settings, snapshots=snapshots)) as engine:
            assert engine.session_cache().memory.budget == engine.limits.snapshots
            assert engine.plan.total <= 10_000_000
            plans[snapshots] = engine.plan.state, engine.limits.snapshots
    assert plans[100_000] == (plans[0][0] + 100_000, 100_000)
    assert plans[None][0] == plans[0][0] + plans[None][1]
    assert plans[None][1] > 100_000
