"""Choosing a token, against transformers' logits processors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from flashmoe.engine.sampling import Sampler, Sampling, distribution, largest, penalise
from flashmoe.errors import FlashMoeError

VOCAB = 2000
probabilities = st.sampled_from([0.05, 0.3, 0.5, 0.8, 0.95, 0.999])


def some_logits(seed: int, spread: float = 3.0, vocab: int = VOCAB) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(vocab) * spread).astype(np.float32)


def oracle_distribution(logits: np.ndarray, history: np.ndarray, s: Sampling) -> np.ndarray:
    """Probabilities [vocab] as transformers' generate would draw from, in float64."""
    steps = [RepetitionPenaltyLogitsProcessor(s.repetition_penalty), TemperatureLogitsWarper(s.temperature)]
    if s.top_k:
        steps.append(TopKLogitsWarper(s.top_k))
    if s.top_p < 1:
        steps.append(TopPLogitsWarper(s.top_p))
    if s.min_p:
        steps.append(MinPLogitsWarper(s.min_p))
    ids = torch.from_numpy(history.astype(np.int64))[None]
    scores = LogitsProcessorList(steps)(ids, torch.from_numpy(logits.astype(np.float64))[None])
    return torch.softmax(scores, dim=-1)[0].numpy()


@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 2, 20, VOCAB, 10 * VOCAB]),
    top_p=st.one_of(st.just(1.0), probabilities),
    min_p=st.one_of(st.just(0.0), probabilities),
    repetition=st.sampled_from([1.0, 1.3, 0.7]),
)
@settings(max_examples=60)
def test_the_distribution_is_that_of_transformers(seed, temperature, top_k, top_p, min_p, repetition):
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty=repetition)
    logits, history = some_logits(seed), np.random.default_rng(seed).integers(0, VOCAB, 30)
    assume(not is_at_an_edge(logits, history, sampling))
    seen = np.zeros(VOCAB, bool)
    seen[history] = True
    ids, p = distribution(penalise(logits, seen, np.zeros(VOCAB, np.int32), sampling), sampling)
    expected = oracle_distribution(logits, history, sampling)
    assert set(ids) == set(np.flatnonzero(expected))
    np.testing.assert_allclose(p, expected[ids], rtol=1e-4)


def is_at_an_edge(logits: np.ndarray, history: np.ndarray, s: Sampling) -> bool:
    """Whether a cut falls where the last bits of a probability, or of a sum of them in another order, decide."""
    rising = np.sort(oracle_distribution(logits, history, replace(s, top_p=1.0, min_p=0.0)))
    sums, rest = np.cumsum(rising), 1 - s.top_p
    near_top_p = s.top_p < 1 and bool((np.abs(sums - rest) < 1e-5 * rest).any())
    return near_top_p or bool((np.abs(rising / rising[-1] - s.min_p) < 1e-5 * s.min_p).any())


def test_presence_and_frequency_penalties_are_the_openai_formula():
    logits, counts = some_logits(0), np.zeros(VOCAB, np.int32)
    counts[[3, 5]] = [1, 4]
    got = penalise(logits, counts > 0, counts, Sampling(presence_penalty=0.5, frequency_penalty=0.25))
    np.testing.assert_allclose(got, logits - counts * 0.25 - (counts > 0) * 0.5, rtol=1e-6)


def test_penalties_leave_the_callers_logits_alone():
    logits = some_logits(1)
    before, seen = logits.copy(), np.ones(VOCAB, bool)
    penalise(logits, seen, seen.astype(np.int32), Sampling(presence_penalty=1.0, repetition_penalty=2.0))
    np.testing.assert_array_equal(logits, before)


def test_presence_counts_the_answer_and_repetition_the_prompt_too():
    logits = np.zeros(4, np.float32)
    logits[[1, 2]] = 2.0, 1.9
    prompt = np.array([1], np.int32)
    assert Sampler(Sampling(presence_penalty=1.0), 4, prompt).choose(logits) == 1
    assert Sampler(Sampling(repetition_penalty=1.5), 4, prompt).choose(logits) == 2


@pytest.mark.parametrize("temperature", [0, 5e-324, 1e-46, 1e-38])
def test_temperature_zero_and_what_nearly_is_takes_the_likeliest_and_the_lower_id_on_a_tie(temperature):
    logits = some_logits(2)
    logits[[7, 9]] = 50.0
    assert Sampler(Sampling(temperature), VOCAB, np.zeros(0, np.int32)).choose(logits) == 7


@given(seed=st.integers(0, 2**32 - 1), sampling_seed=st.integers(0, 2**63))
@settings(max_examples=20)
def test_the_same_seed_gives_the_same_tokens(seed, sampling_seed):
    sampling = Sampling(temperature=1.0, top_p=0.9, presence_penalty=0.3, seed=sampling_seed)
    first, second = (Sampler(sampling, VOCAB, np.zeros(0, np.int32)) for _ in range(2))
    rows = [some_logits(seed + i) for i in range(8)]
    assert [first.choose(r) for r in rows] == [second.choose(r) for r in rows]


def test_draws_follow_the_distribution():
    sampling = Sampling(temperature=1.0, top_k=5, seed=11)
    logits = some_logits(3, spread=1.0)
    ids, p = distribution(logits, sampling)
    sampler = Sampler(sampling, VOCAB, np.zeros(0, np.int32))
    drawn = np.array([sampler.choose(logits) for _ in range(4000)])
    assert set(drawn) == set(ids)
    shares = np.array([(drawn == i).mean() for i in ids])
    # Five standard deviations of a share of 4000 draws; the seed is fixed, so this holds always or never.
    assert np.all(np.abs(shares - p) < 5 * np.sqrt(p * (1 - p) / 4000))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 0),
        ("top_p", 1.01),
        ("min_p", -0.1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", float("inf")),
        ("repetition_penalty", 0),
        ("seed", -1),
        ("seed", True),
    ],
)
def test_a_parameter_out_of_range_is_named_with_its_value(name, value):
    with pytest.raises(FlashMoeError, match=f"{name} must be a .* not {value!r}"):
        Sampling(**{name: value})


def test_the_checkpoints_defaults_apply_where_nothing_is_chosen():
    config = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": 2}
    assert Sampling.from_generation_config(config) == Sampling(temperature=0.6, top_k=20, top_p=0.95)
    chosen = Sampling.from_generation_config(config, temperature=0.0, top_k=None, seed=5)
    assert chosen == Sampling(temperature=0.0, top_k=20, top_p=0.95, seed=5)


def test_a_checkpoint_that_does_not_sample_is_greedy_until_told_otherwise():
    assert Sampling.from_generation_config({"temperature": 0.6}).temperature == 0
    assert Sampling.from_generation_config({"temperature": 0.6}, temperature=0.8).temperature == 0.8


def test_logits_that_are_not_numbers_are_an_error_and_not_a_token():
    logits = some_logits(4)
    logits[17] = np.nan
    with pytest.raises(FlashMoeError, match="not numbers"):
        Sampler(Sampling(), VOCAB, np.zeros(0, np.int32)).choose(logits)


@given(st.lists(st.sampled_from([0.0, 1.0, 1.5, 2.0, -3.0]), min_size=1, max_size=400), st.integers(1, 500))
def test_the_largest_are_those_of_a_sort_with_their_ties(values, count):
    values = np.array(values)
    least = np.sort(values)[-min(count, len(values))]
    assert largest(values, count).tolist() == np.flatnonzero(values >= least).tolist()


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.7, 1.5]), st.integers(0, 20))
def test_only_allowed_tokens_are_chosen_and_as_if_there_were_no_others(seed, temperature, top_k):
    logits = some_logits(seed, vocab=200)
    allowed = np.random.default_rng(seed).random(200) < 0.2
    allowed[seed % 200] = True
    sampling = Sampling(temperature=temperature, top_k=top_k, seed=seed)
    masked = Sampler(sampling, 200, np.zeros(0, np.int32))
    token = masked.choose(logits, allowed)
    alone = Sampler(sampling, int(allowed.sum()), np.zeros(0, np.int32))
    assert token == allowed.nonzero()[0][alone.choose(logits[allowed])]


def test_a_bias_is_added_to_the_logits():
    logits = some_logits(1)
    sampler = Sampler(Sampling(), VOCAB, np.zeros(0, np.int32), {5: 100.0, int(logits.argmax()): -100.0})
    assert sampler.choose(logits) == 5
    with pytest.raises(FlashMoeError, match="not in the vocabulary of 2000"):
        Sampler(Sampling(), VOCAB, np.zeros(0, np.int32), {VOCAB: 1.0})
