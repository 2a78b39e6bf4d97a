"""Test sets are read strictly: a Case that exists can be asked and judged."""

import json

import pytest

from flashmoe.errors import FormatError
from flashmoe.evaluation.cases import Case, read_cases, spread

GOOD = {
    "id": "one",
    "family": "talk",
    "enable_thinking": False,
    "messages": [{"role": "user", "content": "Hi"}],
    "tools": None,
    "expect": {"kind": "exact", "text": "Hello!"},
}
CALLS = {"kind": "calls", "calls": [{"name": "f", "arguments": {}}]}


def write(path, *cases):
    path.write_text("".join(json.dumps(case) + "\n" for case in cases))
    return path


@pytest.mark.parametrize(
    ("expect", "expected"),
    [
        (GOOD["expect"], "Hello!"),
        ({"kind": "text", "contains": ["a"]}, ["a"]),
        ({"kind": "json", "json": None}, None),
        ({"kind": "calls", "calls": []}, []),
        (CALLS, CALLS["calls"]),
    ],
)
def test_every_kind_of_expectation_is_read(expect, expected, tmp_path):
    (case,) = read_cases(write(tmp_path / "cases.jsonl", {**GOOD, "expect": expect}))
    assert case == Case("one", "talk", False, GOOD["messages"], None, expect["kind"], expected)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"id": 3}, "'id' must be a string"),
        ({"enable_thinking": "no"}, "'enable_thinking' must be true or false"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"content": "Hi"}]}, "each with a role"),
        ({"tools": {}}, "'tools' must be a list"),
        ({"tools": [3]}, r"tools\[0\] must be an object"),
        ({"expect": {"kind": "poem"}}, "no kind 'poem'"),
        ({"expect": {"kind": "exact"}}, "lacks the key 'text'"),
        ({"expect": {"kind": "json"}}, "lacks the key 'json'"),
        ({"expect": {"kind": "text", "contains": []}}, "at least one string"),
        ({"expect": {"kind": "calls", "calls": [{"name": "f"}]}}, "lacks the key 'arguments'"),
    ],
)
def test_a_bad_case_is_a_sentence_with_its_line(change, sentence, tmp_path):
    path = write(tmp_path / "cases.jsonl", GOOD, {**GOOD, "id": "two", **change})
    with pytest.raises(FormatError, match=f"cases.jsonl, line 2.*{sentence}"):
        read_cases(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no cases"),
        ("{}\n{", "line 1: 'enable_thinking' must be"),
        ("[1]", "line 1, must be a JSON object"),
        ("{", "line 1, is not"),
    ],
)
def test_a_bad_file_is_a_sentence(text, sentence, tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_text(text)
    with pytest.raises(FormatError, match=sentence):
        read_cases(path)
    with pytest.raises(FormatError, match="cannot be read"):
        read_cases(tmp_path / "absent.jsonl")
    with pytest.raises(FormatError, match="'one' occurs 2 times"):
        read_cases(write(path, GOOD, GOOD))


def test_a_limit_takes_items_from_everywhere():
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 4) == spread(range(3), None) == [0, 1, 2]
