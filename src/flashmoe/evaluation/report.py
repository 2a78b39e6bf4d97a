"""Everything `flashmoe eval` found, as data. Knows figures, not how they are shown."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flashmoe.evaluation.answering import Score
from flashmoe.evaluation.divergence import Divergence
from flashmoe.evaluation.perplexity import Perplexity
from flashmoe.evaluation.share import Share


@dataclass
class Report:
    """None: not measured. chosen: the engine's one line. window: tokens of the text that were computed together."""

    directory: str
    window: int
    chosen: str = ""
    text: str | None = None
    perplexity: Perplexity | None = None
    against: str | None = None
    divergence: Divergence | None = None
    cases: str | None = None
    score: Score | None = None
    interrupted: bool = False

    def as_json(self) -> dict[str, Any]:
        result: dict[str, Any] = {"model": self.directory, "chosen": self.chosen}
        if self.perplexity:
            result["text"] = {"file": self.text, "window": self.window, **self.perplexity.as_json()}
        if self.divergence:
            result["against"] = {"model": self.against, **self.divergence.as_json()}
        if self.score:
            result["cases"] = {"file": self.cases, **self.score.as_json()}
        result["interrupted"] = self.interrupted
        return result

    def shares(self) -> Iterator[tuple[str, Share]]:
        """What is counted, in words, the important first."""
        if self.score:
            calls, json = self.score.kinds.get("calls"), self.score.kinds.get("json")
            if calls:
                yield "tool calls: well formed, by schema", calls.share("valid")
                yield "tool calls: the right functions", calls.share("named")
                yield "tool calls: right", calls.share("right")
            if json:
                yield "JSON: valid", json.share("valid")
                yield "JSON: right", json.share("right")
            yield "all cases: right", self.score.total.share("right")
            for family, counts in sorted(self.score.families.items()):
                yield f"  {family}", counts.share("right")
        if self.divergence:
            yield "same most likely token", self.divergence.agreed
