"""The generation loop on the reference backend."""

import numpy as np
import pytest

from flashmoe.engine.generation import generate
from flashmoe.engine.loader import load_engine
from flashmoe.engine.sampling import Sampling
from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.settings import Settings
from oracle import VOCAB, some_tokens

PROMPT = some_tokens(12)
NEVER = frozenset()


@pytest.fixture(scope="module")
def engine(tiny_packed):
    with load_engine(tiny_packed("qwen3_next"), Settings(backend="reference", context=64, chunk_tokens=5)) as engine:
        yield engine


def test_greedy_tokens_are_the_argmax_of_the_logits(engine):
    tokens = list(generate(engine, PROMPT, max_tokens=6, stop_ids=NEVER))
    logits = engine.logits([*PROMPT, *tokens])
    assert tokens == logits[len(PROMPT) - 1 : -1].argmax(axis=-1).tolist()


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(engine):
    tokens = list(generate(engine, PROMPT, max_tokens=6, stop_ids=NEVER))
    generation = generate(engine, PROMPT, max_tokens=6, stop_ids=frozenset([tokens[3]]))
    assert list(generation) == tokens[: tokens.index(tokens[3])]
    assert generation.finish_reason == "stop"


def test_the_limit_ends_the_answer(engine):
    generation = generate(engine, PROMPT, max_tokens=3, stop_ids=NEVER)
    assert len(list(generation)) == 3
    assert generation.finish_reason == "length"


def test_without_a_limit_the_context_is_filled(engine):
    generation = generate(engine, PROMPT, stop_ids=NEVER)
    assert len(list(generation)) == 64 - len(PROMPT)
    assert generation.finish_reason == "length"


def test_a_cancelled_answer_says_so(engine):
    generation = generate(engine, PROMPT, max_tokens=9, stop_ids=NEVER)
    tokens = []
    for token in generation:
        tokens.append(token)
        if len(tokens) == 2:
            generation.cancel()
    assert len(tokens) == 2
    assert generation.finish_reason == "cancelled"


def test_the_same_seed_gives_the_same_answer_and_another_does_not(engine):
    def answer(seed):
        return list(generate(engine, PROMPT, Sampling(temperature=1.0, seed=seed), max_tokens=12, stop_ids=NEVER))

    assert answer(3) == answer(3) != answer(4)


def test_statistics_count_what_happened(engine):
    generation = generate(engine, PROMPT, max_tokens=4, stop_ids=NEVER)
    list(generation)
    s = generation.statistics
    assert (s.prompt_tokens, s.generated_tokens, s.steps) == (12, 4, 3)
    c = engine.config
    single = 3 * c.layers * c.top_k
    assert single < s.hits + s.misses <= single + len(PROMPT) * c.layers * c.top_k
    assert s.bytes_read == s.misses * engine.plan.slot_bytes
    assert s.generation_rate > 0


@pytest.mark.parametrize("max_tokens", [53, None])
def test_what_does_not_fit_the_context_is_refused_before_anything_runs(engine, max_tokens):
    prompt = PROMPT if max_tokens else some_tokens(64)
    with pytest.raises(CapacityError, match="65 tokens do not fit the context of 64"):
        generate(engine, prompt, max_tokens=max_tokens)


@pytest.mark.parametrize("max_tokens", [0, -1, 2.5])
def test_max_tokens_must_be_a_positive_number(engine, max_tokens):
    with pytest.raises(FlashMoeError, match=f"max_tokens must be .* not {max_tokens}"):
        generate(engine, PROMPT, max_tokens=max_tokens)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([], "at least one"), ([1.5], "at least one"), ([VOCAB], f"{VOCAB} is not in"), ([3, -1], "-1 is not in")],
)
def test_tokens_that_are_none_are_refused(engine, tokens, message):
    with pytest.raises(FlashMoeError, match=message):
        engine.logits(np.array(tokens))
