"""What precision costs in quality: the demo model at every precision, beside bfloat16 through transformers.

    python benchmarks/quality_ladder.py CHECKPOINT --text FILE --calibration FILE --cases FILE --work DIR
    python benchmarks/quality_ladder.py --table      # writes the table of docs/measurements/quality.md anew

Figures go to benchmarks/quality_ladder.json rung by rung; a rung that is there is not measured again. The main rungs
come first and are asked every case, the others SIDE_CASES of them, evenly spread. KL is from the oracle's
distributions, token by token. Needs the `test` extra.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from flashmoe.chat.tool_calls import thinking_is_open
from flashmoe.evaluation.answering import Answered, Score, answer_cases
from flashmoe.evaluation.cases import Case, read_cases, spread
from flashmoe.evaluation.divergence import DivergenceSum
from flashmoe.evaluation.perplexity import Perplexity, documents, foreseen, surprise, windows
from flashmoe.evaluation.score import judge
from flashmoe.pack.info import info
from flashmoe.pack.recipe import Recipe
from flashmoe.settings import Settings
from flashmoe.text_engine import TextEngine, load
from quality.table import write_table
from quality.variants import Ladder, Rung, rungs, token_bytes

if TYPE_CHECKING:
    from quality.oracle import Oracle

RESULTS = Path(__file__).with_suffix(".json")
ORACLE = "bfloat16, transformers"
MAX_TOKENS = 420
WINDOW = 1024
WINDOWS = 48
"""Of the text, evenly spread."""
SIDE_CASES = 120
SEQUENCES = 16
CONTEXT = 4096


class Bench:
    """Measures rungs; the oracle's logits are computed once and kept in memory."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.cases: list[Case] = spread(read_cases(options.cases), options.limit)
        self.side_cases = spread(self.cases, SIDE_CASES)
        with load(self._precise(), context=CONTEXT) as engine:
            tokenizer = engine.tokenizer
            self.prompts = [
                engine.render(c.messages, c.tools, {"enable_thinking": c.enable_thinking}) for c in self.cases
            ]
            self.prompt_ids = [tokenizer.encode_prompt(prompt) for prompt in self.prompts]
            self.ends = tokenizer.eos_ids
            self.tokenizer = tokenizer
            self.top_k = engine.engine.own_top_k
        self.text = spread(self._sequences(options.text), WINDOWS)
        self.ladder = Ladder(options.checkpoint, options.work, self._sequences(options.calibration), self.settings())
        self._oracle: Oracle | None = None
        self._logits: list[np.ndarray] = []

    def settings(self, **more: Any) -> Settings:
        return Settings(context=CONTEXT, sequences=SEQUENCES, threads=self.options.threads, **more)

    def _precise(self) -> Path:
        return Ladder(self.options.checkpoint, self.options.work, [], self.settings()).recipe(Recipe(8, 16))

    def _sequences(self, path: Path) -> list[list[int]]:
        parts = documents(path.read_text(encoding="utf-8"))
        return [window for part in parts for window in windows(self.tokenizer.encode(part), WINDOW)]

    @property
    def oracle(self) -> "Oracle":
        if self._oracle is None:
            from quality.oracle import Oracle  # needs torch and transformers; a table and most rungs do not

            self._oracle = Oracle(self.options.checkpoint, self.options.threads)
        return self._oracle

    def oracle_logits(self) -> list[np.ndarray]:
        if not self._logits:
            self._logits = [self.oracle.logits(sequence[:-1]) for sequence in self.text]
        return self._logits

    def measure_oracle(self) -> dict[str, Any]:
        nats = sum(
            float(surprise(x, np.array(s[1:])).sum()) for x, s in zip(self.oracle_logits(), self.text, strict=True)
        )
        found = Perplexity(sum(len(s) - 1 for s in self.text), self._bytes(), nats)
        score = Score()
        for index, tokens in self.oracle.answers(self.prompt_ids, MAX_TOKENS, self.ends):
            case, text = self.cases[index], self.tokenizer.decode(tokens)
            verdict = judge(text, case, thinking_open=thinking_is_open(self.prompts[index].text))
            score.add(Answered(case, text, len(tokens), len(tokens) < MAX_TOKENS, verdict))
        return {"text": found.as_json(), "cases": self._counts(score, self.cases), "token_bytes": self._oracle_bytes()}

    def _bytes(self) -> int:
        return sum(len(self.tokenizer.token_bytes(i)) for s in self.text for i in s[1:])

    def _oracle_bytes(self) -> int:
        """bfloat16 bytes of what a token touches: all but experts not chosen and the other rows of the embedding."""
        model = self.oracle.model
        config = model.config
        total = 0
        for name, weight in model.named_parameters():
            share = config.num_experts_per_tok / config.num_experts if ".experts." in name else 1.0
            total += round(2 * weight.numel() * (1 / config.vocab_size if "embed_tokens" in name else share))
        return total

    def measure(self, rung: Rung) -> dict[str, Any]:
        directory = rung.make()
        trunk = info(directory, 0).token_trunk_bytes
        with load(directory, **vars(self.settings(experts_per_token=rung.top_k))) as engine:
            text, against = self._measure_text(engine)
            score, cases = Score(), self.cases if rung.main else self.side_cases
            for answered in answer_cases(engine, cases, MAX_TOKENS):
                score.add(answered)
            size = token_bytes(self.ladder, rung, engine, trunk)
        return {"text": text, "against": against, "cases": self._counts(score, cases), "token_bytes": size}

    def _measure_text(self, engine: TextEngine) -> tuple[dict[str, Any], dict[str, Any]]:
        total, nats = DivergenceSum(), 0.0
        for sequence, precise in zip(self.text, self.oracle_logits(), strict=True):
            begin = 0
            for targets, logits in foreseen(engine.engine, sequence):
                total.add(precise[begin : begin + len(logits)], logits)
                nats += float(surprise(logits, targets).sum())
                begin += len(logits)
        return Perplexity(total.tokens, self._bytes(), nats).as_json(), total.result().as_json()

    def _counts(self, score: Score, asked: list[Case]) -> dict[str, Any]:
        """right: for each case asked, by id."""
        counts = score.as_json()
        wrong = {w["id"] for w in counts.pop("wrong")}
        return {**counts, "right": {case.id: case.id not in wrong for case in asked}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    for name in ("--text", "--calibration", "--cases", "--work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="at most so many cases")
    parser.add_argument("--only", help="rungs whose name holds this")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        measure_all(options)
    write_table(json.loads(options.results.read_text(encoding="utf-8")))


def measure_all(options: argparse.Namespace) -> None:
    """Every rung that is not among the results, each written as it is done."""
    results: dict[str, Any] = json.loads(options.results.read_text()) if options.results.exists() else {}
    bench = Bench(options)
    ordered = sorted(rungs(bench.ladder, bench.top_k), key=lambda rung: not rung.main)
    todo: Sequence[tuple[str, Rung | None]] = [(ORACLE, None), *((rung.name, rung) for rung in ordered)]
    for name, rung in todo:
        if name in results or (options.only and options.only not in name):
            continue
        started = perf_counter()
        found = bench.measure(rung) if rung else bench.measure_oracle()
        results[name] = {"group": rung.group if rung else "oracle", **found}
        options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {perf_counter() - started:.0f} s, {found['text']}", flush=True)


if __name__ == "__main__":
    main()
