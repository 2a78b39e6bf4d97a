"""Where a decoded token's time goes: the spans of a timed engine, summed by layer and part.

Invariant: the parts and Python add up to the wall time. Knows spans, not what made them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from flashmoe.measure.timing import FETCH, HEAD, OF_A_LAYER, Span

PYTHON, SAMPLING = "python", "sampling"


@dataclass(frozen=True)
class Pipeline:
    """Mean seconds a token. layers: for each, the parts of timing.OF_A_LAYER and what Python took between them.

    sampling: from logits to the next token's embedding. between: Python outside layers and sampling.
    """

    tokens: int
    layers: tuple[dict[str, float], ...]
    head: float
    sampling: float
    between: float

    @property
    def totals(self) -> dict[str, float]:
        """All layers together, then the rest; the parts of a token."""
        sums = {part: sum(layer[part] for layer in self.layers) for part in OF_A_LAYER}
        python = sum(layer[PYTHON] for layer in self.layers) + self.between
        return {**sums, HEAD: self.head, SAMPLING: self.sampling, PYTHON: python}

    @property
    def seconds(self) -> float:
        return sum(self.totals.values())

    @property
    def python_share(self) -> float:
        """Python proper: between the parts, in `fetch` (bookkeeping) and in sampling."""
        totals = self.totals
        return (totals[PYTHON] + totals[FETCH] + totals[SAMPLING]) / self.seconds

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"totals": self.totals, "seconds": self.seconds, "python_share": self.python_share}

    def table(self) -> list[str]:
        """Milliseconds by layer, and in all."""
        columns = [*OF_A_LAYER, PYTHON]
        lines = ["  layer   " + "".join(f"{name:>9}" for name in columns)]
        lines += [
            f"  {number:<8}" + "".join(f"{layer[name] * 1e3:9.3f}" for name in columns)
            for number, layer in enumerate(self.layers)
        ]
        totals = self.totals
        lines.append("  all     " + "".join(f"{sum(x[name] for x in self.layers) * 1e3:9.3f}" for name in columns))
        lines.append("  share   " + "".join(f"{totals[name] / self.seconds:9.1%}" for name in columns))
        lines.append(
            f"  embedding and head {self.head * 1e3:.3f} ms, sampling {self.sampling * 1e3:.3f} ms, "
            f"together {self.seconds * 1e3:.3f} ms a token; Python, sampling and bookkeeping {self.python_share:.1%}"
        )
        return lines


def tokens_of(spans: Sequence[Span]) -> list[list[Span]]:
    """The spans of each forward, which begins with `embed`."""
    forwards: list[list[Span]] = []
    for span in spans:
        if span.name == "embed":
            forwards.append([])
        forwards[-1].append(span)
    return forwards


def pipeline(spans: Sequence[Span], layers: int) -> Pipeline:
    """Of the forwards of single tokens in `spans`, the last of which only marks the end of the one before.

    Give at least two.
    """
    sums = [dict.fromkeys((*OF_A_LAYER, PYTHON), 0.0) for _ in range(layers)]
    head = sampling = between = 0.0
    forwards = tokens_of(spans)
    for forward, following in pairwise(forwards):
        end = following[0].begin
        sampling += end - forward[-1].end
        in_head = sum(span.end - span.begin for span in forward if span.layer < 0)
        head += in_head
        inside = 0.0
        for number, layer in enumerate(sums):
            own = [span for span in forward if span.layer == number]
            for span in own:
                layer[span.part] += span.end - span.begin
            length = own[-1].end - own[0].begin
            layer[PYTHON] += length - sum(span.end - span.begin for span in own)
            inside += length
        between += forward[-1].end - forward[0].begin - in_head - inside
    count = len(forwards) - 1
    mean = tuple({part: seconds / count for part, seconds in layer.items()} for layer in sums)
    return Pipeline(count, mean, head / count, sampling / count, between / count)
