"""How a model routes, on its test set: skew, reuse from token to token, how well a layer foresees the next.

    python benchmarks/routing.py [DIR] [--cases FILE] [--limit N] [--trace FILE]

Saves the trace, one case at a time as one user would ask them, and replaces the generated part of
docs/measurements/routing.md. With
nothing said it is the demo model, 72 cases of its test set, and the trace that ships.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flashmoe.demo import CASES, TRACE
from flashmoe.engine.routing_trace import RoutingRecorder, RoutingTrace
from flashmoe.evaluation.answering import answer_cases
from flashmoe.evaluation.cases import read_cases, spread
from flashmoe.evaluation.routing import Foresight, counts, generated, gini, reuse, share_of_top
from flashmoe.text_engine import load

PAGE = Path(__file__).parents[1] / "docs" / "measurements" / "routing.md"
BEGIN, END = "<!-- made by benchmarks/routing.py -->", "<!-- end of what it made -->"
MAX_TOKENS = 420


PUBLISHED = {
    "Gini": "0.2 to 0.5",
    "picks of the top 20 %": "30 % to 54 %",
    "an expert is picked by the next token": "25 %",
    "next layer: its top 1 among the 1": "92 %",
    "next layer: its top 4 among the 4": "81 % (top 6), 59 % (top 16)",
}
"""Of a 397B model with 10 of 512 experts, as other people report; by how a row begins."""


def over_layers(values: NDArray[np.float64]) -> str:
    """Mean, least and most of figures by layer."""
    return f"{values.mean():.1%} | {values.min():.1%} to {values.max():.1%}"


def rows(trace: RoutingTrace, foresight: Foresight) -> list[str]:
    """Markdown rows: figure, mean over layers, least to most, what is published of a large model."""
    answers, top_k = generated(trace), trace.ids.shape[2]
    lines = []
    for name, part in (("all tokens", trace), ("answers", answers)):
        skew = gini(counts(part))
        lines.append(f"Gini of picks, {name} | {skew.mean():.3f} | {skew.min():.3f} to {skew.max():.3f}")
        lines.append(f"picks of the top 20 % of experts, {name} | {over_layers(share_of_top(counts(part), 0.2))}")
        lines.append(f"an expert is picked by the next token too, {name} | {over_layers(reuse(part))}")
    lines.append(f"the same by the token 10 later, all tokens | {over_layers(reuse(trace, 10))}")
    lines.append(f"the same by chance (K of E) | {top_k / trace.experts:.1%} | ")
    for chosen, foreseen in ((1, 1), (1, top_k), (top_k, top_k), (top_k, 2 * top_k)):
        found = over_layers(foresight.recall(chosen, foreseen))
        lines.append(f"next layer: its top {chosen} among the {foreseen} foreseen, answers | {found}")
    lines += [f"weight of rank {r + 1} | {over_layers(trace.mean_weights[:, r])}" for r in range(top_k)]
    return [f"{line} | {next((v for k, v in PUBLISHED.items() if line.startswith(k)), '')}" for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", default="demo")
    parser.add_argument("--cases", type=Path, default=CASES)
    parser.add_argument("--limit", type=int, default=72)
    parser.add_argument("--trace", type=Path, default=TRACE)
    options = parser.parse_args()
    cases = spread(read_cases(options.cases), options.limit)
    with load(options.directory) as engine:
        config = engine.engine.config
        recorder, foresight = RoutingRecorder(config), Foresight(engine.engine.decoder, 2 * config.top_k)
        engine.engine.observers += [recorder, foresight]
        for _ in answer_cases(engine, cases, MAX_TOKENS):
            pass
    trace = recorder.trace()
    trace.save(options.trace)
    head = (
        f"{len(trace.ids)} tokens of {len(cases)} cases, {len(generated(trace).ids)} of them generated; "
        f"{config.layers} layers of {config.experts} experts, {config.top_k} a token.\n\n"
        "| figure | mean over layers | least to most | published, 397B |\n| --- | ---: | ---: | ---: |\n"
    )
    table = head + "\n".join(f"| {line} |" for line in rows(trace, foresight))
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(f"{text[:before]}\n\n{table}\n\n{text[after:]}", encoding="utf-8")


if __name__ == "__main__":
    main()
