"""Asking a test set: every case once, the same answers as one at a time, counted by kind and family."""

import pytest

from flashmoe.errors import FlashMoeError
from flashmoe.evaluation.answering import Answered, Score, answer_cases
from flashmoe.evaluation.cases import Case
from flashmoe.evaluation.score import Verdict

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def case(identifier, content, kind="exact", expected="x", tools=None, family="talk"):
    return Case(identifier, family, False, [{"role": "user", "content": content}], tools, kind, expected)


CASES = [case(str(i), text) for i, text in enumerate(["Hi", "Why is the sky blue?", "One more", "And another one"])]


def test_answers_are_those_of_each_case_alone(spoken):
    answered = {a.case.id: a for a in answer_cases(spoken, CASES, 8)}
    for c in CASES:
        alone = spoken.generate(c.messages, temperature=0, max_tokens=8, enable_thinking=False)
        assert answered[c.id].text == spoken.tokenizer.decode(alone.token_ids)
        assert answered[c.id].complete == (alone.finish_reason == "stop")
        assert answered[c.id].tokens == len(alone.token_ids)


def test_what_a_model_says_is_right_where_it_is_expected(spoken):
    said = next(answer_cases(spoken, CASES[:1], 8)).text
    (answered,) = answer_cases(spoken, [case("0", "Hi", expected=said.strip())], 8)
    assert answered.verdict == Verdict(True, True, True)


def test_a_conversation_the_template_refuses_is_a_sentence(spoken):
    bad = Case("x", "talk", False, [{"role": "oracle", "content": "?"}], None, "exact", "x")
    with pytest.raises(FlashMoeError):
        list(answer_cases(spoken, [bad], 8))


def test_counts_are_by_kind_and_family_and_wrong_answers_are_kept():
    score = Score()
    calls, value = case("b", "?", "calls", [], [TOOL], "tools"), case("a", "?", "json", [1])
    for c, verdict in [
        (calls, Verdict(True, True, True)),
        (calls, Verdict(True, True, False)),
        (value, Verdict(True, False, False)),
    ]:
        score.add(Answered(c, "text", 5, True, verdict))
    found = score.as_json()
    assert found["tool_calls"]["named"]["count"] == found["tool_calls"]["named"]["of"] == 2
    assert (
        found["tool_calls"]["right"]["count"],
        found["json"]["valid"]["count"],
        found["json"]["right"]["count"],
    ) == (
        1,
        1,
        0,
    )
    assert found["families"]["tools"]["right"]["share"] == 0.5
    assert found["all"]["right"]["of"] == 3
    assert [w["id"] for w in found["wrong"]] == ["a", "b"]
    assert found["generated_tokens"] == 15
