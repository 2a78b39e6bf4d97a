"""The data: splits share nothing that must be held out, the same number gives the same case, answers judge as right."""

import json
from collections import defaultdict

import pytest

from flashmoe.evaluation.cases import Case
from flashmoe.evaluation.score import judge
from training import mix, template, testset
from training.catalogue import EVERYDAY
from training.source import SPLITS, Source, owner

CASES = 60


def _used(split: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for family in mix.FAMILIES:
        for number in range(CASES):
            for category, item in mix.case(split, number, family).used:
                found[category].add(item)
    return found


def test_splits_share_no_tool_word_value_number_or_phrasing() -> None:
    used = {split: _used(split) for split in SPLITS}
    categories = set.union(*(set(found) for found in used.values()))
    assert {"tool", "word", "number", "date", "city", "noun", "sum"} <= categories
    assert sum(category.startswith("template") for category in categories) > 20
    for category in categories:
        for left, right in (("train", "test"), ("train", "validation"), ("validation", "test")):
            assert not used[left][category] & used[right][category], category


def test_a_word_belongs_to_one_split_whatever_its_case() -> None:
    assert owner("Zorvel") == owner("zorvel") == owner("ZORVEL")


def test_made_up_words_never_are_listed_words() -> None:
    from training import words

    listed = {entry.lower() for entries in words.LISTS.values() for entry in entries}
    source = Source("train", "made up")
    chains = {source._chain() for _ in range(1000)}
    assert not listed & chains


@pytest.mark.parametrize("split", SPLITS)
def test_a_case_is_a_function_of_its_number(split: str) -> None:
    for family in mix.FAMILIES:
        assert mix.case(split, 7, family) == mix.case(split, 7, family)
    assert mix.case(split, 8) == mix.case(split, 8)


@pytest.mark.parametrize("family", list(mix.FAMILIES))
def test_a_right_answer_is_judged_valid_and_right(family: str) -> None:
    for number in range(CASES):
        case = mix.case("test", number, family)
        test = json.loads(json.dumps(case.as_test("id")))
        prompt, document = template.prompt(test), template.document(case)
        assert document.startswith(prompt)
        verdict = judge(document[len(prompt) :].removesuffix("<|im_end|>\n"), Case.from_json(test))
        assert verdict.valid
        assert verdict.right


def test_the_fixed_sets_have_the_stated_counts_and_unique_ids() -> None:
    cases = testset.cases("test")
    assert len({case["id"] for case in cases}) == len(cases) == sum(testset.COUNTS.values())
    assert testset.cases("test", 0.1)[0] == cases[0]


def test_no_everyday_tool_is_called_by_a_held_out_noun() -> None:
    held_out = {noun for split in ("validation", "test") for noun in _nouns(split)}
    assert held_out
    assert not held_out & {word for tool in EVERYDAY for word in tool.name.split("_")}


def _nouns(split: str) -> set[str]:
    source = Source(split, "nouns")
    return {source.listed("noun") for _ in range(3000)}
