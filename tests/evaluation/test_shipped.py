"""The test set and the text that come with Flash-MoE."""

import json

from flashmoe.demo import CASES, TEXT
from flashmoe.evaluation.cases import read_cases
from flashmoe.evaluation.perplexity import documents
from training import heldout, testset


def test_the_shipped_cases_are_the_generated_ones_and_read_strictly():
    assert [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()] == testset.cases("test")
    kinds = {case.kind for case in read_cases(CASES)}
    assert kinds == {"calls", "json", "text", "exact"}


def test_the_shipped_text_is_the_generated_one():
    text = TEXT.read_text(encoding="utf-8")
    assert text == heldout.text("validation", 80)
    assert len(documents(text)) == 80
