"""How good a model is: loss by family on packed validation data, and greedy answers judged on the fixed test cases."""

from collections import defaultdict
from typing import Any

import torch
from tokenizers import Tokenizer

from flashmoe.evaluation.cases import Case
from flashmoe.evaluation.score import judge
from training import mix, template, testset
from training.case import Json
from training.generate import greedy
from training.model import losses
from training.packing import Packer

LIMIT = 420


class ValidationLoss:
    """Mean cross entropy of the tokens an assistant writes, by family, on the same packed rows each time."""

    def __init__(self, tokenizer: Tokenizer, device: str, rows: int, length: int) -> None:
        self.batches = {}
        for family in mix.FAMILIES:
            batch = Packer(tokenizer, rows, length, 0, "validation", family).batch(0)
            written = (batch.weights == 1).astype("float32")
            self.batches[family] = tuple(torch.from_numpy(a).to(device) for a in (batch.ids, written, batch.documents))

    @torch.no_grad()
    def __call__(self, model: Any) -> dict[str, float]:
        return {family: round(losses(model, *batch).language.item(), 4) for family, batch in self.batches.items()}


def run(model: Any, tokenizer: Tokenizer, split: str, share: float = 1.0) -> dict[str, Json]:
    """Greedy answers to the split's cases: counts by family, totals, and the answers that were wrong."""
    tests = testset.cases(split, share)
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    prompts = [tokenizer.encode(template.prompt(test), add_special_tokens=False).ids for test in tests]
    answers = [tokenizer.decode(ids, skip_special_tokens=False) for ids in greedy(model, prompts, end, pad, LIMIT)]
    return report(tests, answers)


def report(tests: list[dict[str, Json]], answers: list[str]) -> dict[str, Json]:
    """Counts by family {"cases", "valid", "right"}, the two figures of the bar, and the wrong answers in full."""
    families: dict[str, dict[str, int]] = defaultdict(lambda: {"cases": 0, "valid": 0, "right": 0})
    wrong = []
    for test, answer in zip(tests, answers, strict=True):
        verdict = judge(answer, Case.from_json(test))
        counts = families[test["family"]]
        counts["cases"] += 1
        counts["valid"] += verdict.valid
        counts["right"] += verdict.right
        if not verdict.right:
            asked = test["messages"][-1]["content"]
            wrong.append({"id": test["id"], "asked": asked, "answer": answer, "expect": test["expect"]})
    calls = [counts for family, counts in families.items() if family in ("tool_single", "tool_parallel", "tool_none")]
    texts = [counts for family, counts in families.items() if family.startswith("json")]
    return {
        "tool_calls_right": _share(calls, "right"),
        "json_valid": _share(texts, "valid"),
        "json_right": _share(texts, "right"),
        "families": dict(families),
        "wrong": wrong,
    }


def _share(parts: list[dict[str, int]], what: str) -> float:
    return round(sum(part[what] for part in parts) / max(1, sum(part["cases"] for part in parts)), 4)
