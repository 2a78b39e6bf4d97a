"""Asks a model every case of a test set, greedily and several at a time, and counts what it got right.

Knows cases and a text engine; how an answer is judged is `score`'s matter.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flashmoe.chat.tool_calls import thinking_is_open
from flashmoe.engine.batch_generation import generate_batch
from flashmoe.engine.sampling import Sampling
from flashmoe.evaluation.cases import Case, Json
from flashmoe.evaluation.score import Verdict, judge
from flashmoe.evaluation.share import Share
from flashmoe.text_engine import TextEngine


@dataclass(frozen=True)
class Answered:
    """A case with what the model said. complete: the model ended its turn itself."""

    case: Case
    text: str
    tokens: int
    complete: bool
    verdict: Verdict


def answer_cases(engine: TextEngine, cases: Sequence[Case], max_tokens: int) -> Iterator[Answered]:
    """Answers as they end, in no particular order. An answer cut at max_tokens is judged as it stands.

    Raises FlashMoeError if a case cannot be put into the model's template or does not fit its context.
    """
    prompts = [engine.render(case.messages, case.tools, {"enable_thinking": case.enable_thinking}) for case in cases]
    completions = generate_batch(
        engine.engine,
        [engine.tokenizer.encode_prompt(prompt) for prompt in prompts],
        Sampling(),
        max_tokens=max_tokens,
        stop_ids=engine.tokenizer.eos_ids | frozenset(engine.engine.config.eos),
    )
    for done in completions:
        case, text = cases[done.index], engine.tokenizer.decode(done.token_ids)
        verdict = judge(text, case, thinking_open=thinking_is_open(prompts[done.index].text))
        yield Answered(case, text, len(done.token_ids), done.finish_reason == "stop", verdict)


@dataclass
class Counts:
    """How many cases there are, and for how many the verdict says so (score.Verdict)."""

    cases: int = 0
    valid: int = 0
    named: int = 0
    right: int = 0

    def add(self, verdict: Verdict) -> None:
        self.cases += 1
        self.valid += verdict.valid
        self.named += verdict.named
        self.right += verdict.right

    def share(self, what: str) -> Share:
        """Of the cases; what: valid, named or right."""
        return Share(getattr(self, what), self.cases)


@dataclass
class Score:
    """Counts by kind of expectation and by family, and the answers that were wrong."""

    kinds: dict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    families: dict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    total: Counts = field(default_factory=Counts)
    wrong: list[Answered] = field(default_factory=list)
    tokens: int = 0

    def add(self, answered: Answered) -> None:
        for counts in (self.kinds[answered.case.kind], self.families[answered.case.family], self.total):
            counts.add(answered.verdict)
        self.tokens += answered.tokens
        if not answered.verdict.right:
            self.wrong.append(answered)

    def as_json(self) -> dict[str, Json]:
        def shares(counts: Counts, *names: str) -> dict[str, Any]:
            return {name: counts.share(name).as_json() for name in names}

        result: dict[str, Json] = {"cases": self.total.cases, "generated_tokens": self.tokens}
        if "calls" in self.kinds:
            result["tool_calls"] = shares(self.kinds["calls"], "valid", "named", "right")
        if "json" in self.kinds:
            result["json"] = shares(self.kinds["json"], "valid", "right")
        result["all"] = shares(self.total, "valid", "right")
        result["families"] = {f: shares(c, "valid", "right") for f, c in sorted(self.families.items())}
        result["wrong"] = [
            {
                "id": a.case.id,
                "answer": a.text,
                "complete": a.complete,
                "kind": a.case.kind,
                "expected": a.case.expected,
            }
            for a in sorted(self.wrong, key=lambda a: a.case.id)
        ]
        return result
