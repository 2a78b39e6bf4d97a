"""OpenAI's /v1/completions through its own client: several prompts, echoes, scores, and the best of several."""

import numpy as np
import openai
import pytest

import flashmoe
from flashmoe.engine.sampling import log_probabilities
from flashmoe.server import completions
from server.waiting import idle, until

TEXT = "The ship that sails is old."


@pytest.fixture
def complete(speaking):
    return lambda prompt=TEXT, **options: speaking.openai.completions.create(
        **{"model": "small", "prompt": prompt, "max_tokens": 6, "temperature": 0, **options}
    )


@pytest.fixture
def tokenizer(speaking):
    return speaking.service.text.tokenizer


def expected_scores(model, ids):
    """By an engine of its own."""
    with flashmoe.load(model, threads=1) as text:
        logits = text.logits(ids)
    return [float(log_probabilities(row)[token]) for row, token in zip(logits, ids[1:], strict=False)]


def test_an_echo_puts_the_prompt_before_the_answer(complete, tokenizer):
    answer = complete().choices[0].text
    assert complete(echo=True).choices[0].text == TEXT + answer
    assert complete(tokenizer.encode(TEXT), echo=True).choices[0].text == TEXT + answer


def test_several_prompts_are_answered_in_their_order(complete, tokenizer):
    texts = [TEXT, "Hello", "A", "The old ship"]
    alone = [complete(text).choices[0].text for text in texts]
    together = complete(texts)
    assert [choice.text for choice in together.choices] == alone
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    ids = [tokenizer.encode(text) for text in texts]
    assert [choice.text for choice in complete(ids).choices] == alone
    assert together.usage.prompt_tokens == sum(map(len, ids))
    assert together.usage.completion_tokens == sum(complete(text).usage.completion_tokens for text in texts)


def test_choices_of_several_prompts_follow_each_other(complete):
    options = {"temperature": 1, "seed": 5, "n": 2}
    alone = [choice.text for text in (TEXT, "Hello") for choice in complete(text, **options).choices]
    together = complete([TEXT, "Hello"], **options)
    assert [choice.text for choice in together.choices] == alone
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]


def test_an_echo_with_logprobs_scores_the_prompt(complete, tokenizer, speaking_model):
    ids = tokenizer.encode(TEXT)
    found = complete(echo=True, logprobs=2).choices[0]
    scores = found.logprobs
    assert scores.token_logprobs[0] is None
    assert scores.top_logprobs[0] is None
    assert scores.token_logprobs[1 : len(ids)] == expected_scores(speaking_model, ids)
    for token, value, top in zip(scores.tokens, scores.token_logprobs, scores.top_logprobs, strict=True):
        assert value is None or top[token] >= value  # two tokens may look alike
        assert value is None or max(top.values()) >= value
    assert found.text == TEXT + complete().choices[0].text


def test_offsets_say_where_in_the_text_each_token_begins(complete):
    found = complete("Gr\u00fc\u00dfe \U0001f600 <|im_start|>user", echo=True, logprobs=0, max_tokens=0).choices[0]
    tokens, offsets = found.logprobs.tokens, found.logprobs.text_offset
    assert offsets == sorted(offsets)
    for token, offset in zip(tokens, offsets, strict=True):
        assert "\ufffd" in token or found.text.startswith(token, offset)


def test_without_tokens_to_generate_the_prompt_comes_back_scored(complete, tokenizer):
    found = complete(echo=True, logprobs=1, max_tokens=0)
    assert found.choices[0].text == TEXT
    assert found.choices[0].finish_reason == "length"
    assert found.choices[0].logprobs.tokens == [tokenizer.decode([i]) for i in tokenizer.encode(TEXT)]
    assert found.usage.completion_tokens == 0
    nothing = complete(max_tokens=0).choices[0]
    assert (nothing.text, nothing.logprobs) == ("", None)


def test_the_token_that_ends_an_answer_is_scored_and_not_written(complete, speaking):
    end = min(speaking.service.stop_ids)
    found = complete(logit_bias={str(end): 100}, logprobs=1).choices[0]
    assert (found.text, found.finish_reason) == ("", "stop")
    assert len(found.logprobs.tokens) == 1


def test_the_best_of_several_is_the_one_with_the_likeliest_tokens(complete):
    options = {"temperature": 1.5, "seed": 7}
    every = complete(n=6, logprobs=0, **options).choices
    means = [np.mean(choice.logprobs.token_logprobs) for choice in every]
    best = complete(n=2, best_of=6, **options)
    order = sorted(range(6), key=lambda i: -means[i])
    assert [choice.text for choice in best.choices] == [every[i].text for i in order[:2]]
    assert [choice.index for choice in best.choices] == [0, 1]
    assert [choice.logprobs for choice in best.choices] == [None, None]


@pytest.mark.parametrize(
    "options", [{}, {"echo": True, "logprobs": 1}, {"n": 2, "echo": True}, {"max_tokens": 0, "echo": True}]
)
def test_a_stream_says_what_the_whole_says(complete, options):
    prompts = [TEXT, "Hello"]
    whole = complete(prompts, **options)
    chunks = list(complete(prompts, stream=True, stream_options={"include_usage": True}, **options))
    for choice in whole.choices:
        parts = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert parts[-1].finish_reason == choice.finish_reason
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset") if choice.logprobs else ():
            told = [value for part in parts if part.logprobs for value in getattr(part.logprobs, name)]
            assert told == getattr(choice.logprobs, name)
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("prompt", {"prompt": ["x", 1]}),
        ("prompt", {"prompt": [[1], 1]}),
        ("prompt", {"prompt": ["x"] * 65}),
        ("prompt", {"prompt": ["x"] * 20, "n": 4}),
        ("best_of", {"n": 3, "best_of": 2}),
        ("best_of", {"best_of": 2, "stream": True}),
        ("suffix", {"suffix": "x"}),
        ("max_tokens", {"max_tokens": -2}),
    ],
)
def test_what_cannot_be_is_refused_by_name(complete, field, options):
    with pytest.raises(openai.BadRequestError) as error:
        complete(**options)
    assert error.value.param == field


def test_more_scores_than_can_be_held_are_refused_and_nothing_goes_on(complete, speaking, monkeypatch):
    monkeypatch.setattr(completions, "MOST_SCORES", 100)
    assert complete([TEXT] * 2, echo=True, logprobs=1).choices
    with pytest.raises(openai.BadRequestError, match="more than 100 probabilities") as error:
        complete([TEXT] * 8, echo=True, logprobs=3)
    assert error.value.param == "logprobs"
    assert complete([TEXT] * 8, logprobs=3).choices  # not of prompts
    until(lambda: idle(speaking))


@pytest.mark.parametrize("prompt", [[], "", [[]], [""], ["x", ""]])
def test_an_empty_prompt_is_refused(complete, prompt):
    with pytest.raises(openai.BadRequestError, match="at least one token"):
        complete(prompt)
