"""What comes over HTTP is what the engine says, token for token, also among others."""

from concurrent.futures import ThreadPoolExecutor

import pytest

import flashmoe

SAMPLED = {"temperature": 1.2, "top_p": 0.9, "seed": 11, "max_tokens": 24}
PROMPTS = ["Hello", "Count the ships.", "Der Regen", "雨从西边来", "x" * 200, "def mean(values):"]


@pytest.fixture(scope="module")
def alone(speaking_model):
    """The answers, each given alone."""
    with flashmoe.load(speaking_model, threads=1, context=1024) as engine:
        raw = [engine.generate(p, raw=True, **SAMPLED) for p in PROMPTS]
        chats = [engine.generate(p, enable_thinking=False, **SAMPLED) for p in PROMPTS]
    return raw, chats


def test_completions_together_are_the_engines_answers_alone(speaking, alone):
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda p: speaking.openai.completions.create(model="small", prompt=p, **SAMPLED), PROMPTS)
        )
    assert [a.choices[0].text for a in answers] == [a.text for a in alone[0]]
    assert [a.usage.completion_tokens for a in answers] == [len(a.token_ids) for a in alone[0]]
    assert [a.choices[0].finish_reason for a in answers] == [a.finish_reason for a in alone[0]]


def test_token_ids_are_those_of_the_engine(speaking, alone):
    answer = speaking.openai.completions.create(model="small", prompt=PROMPTS[0], logprobs=0, **SAMPLED)
    tokenizer = speaking.service.text.tokenizer
    told = answer.choices[0].logprobs.tokens
    assert told == [tokenizer.token_bytes(i).decode("utf-8", "replace") for i in alone[0][0].token_ids]


@pytest.mark.parametrize("stream", [False, True])
def test_chats_together_are_the_engines_answers_alone(speaking, alone, stream):
    def ask(prompt):
        extra = {"chat_template_kwargs": {"enable_thinking": False}}
        answer = speaking.chat(prompt, stream=stream, extra_body=extra, **SAMPLED)
        if not stream:
            return answer.choices[0].message.content
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, PROMPTS)) == [a.text.strip() for a in alone[1]]


def test_n_choices_have_seeds_that_follow_each_other(speaking):
    both = speaking.chat(n=2, temperature=1.5, seed=3, max_tokens=12).choices
    single = [speaking.chat(temperature=1.5, seed=3 + i, max_tokens=12).choices[0] for i in (0, 1)]
    assert [c.message for c in both] == [c.message for c in single]
    assert both[0].message != both[1].message
