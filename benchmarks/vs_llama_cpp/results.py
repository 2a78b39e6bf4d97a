"""Runs to rows: medians, spans, ratios to the best row of the peer, and the share of the roofline.

The second half of a run's tokens counts: by then caches are as warm as they get. Knows figures, not how they came.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

OURS = "Flash-MoE"


@dataclass(frozen=True)
class Run:
    """seconds: of each token; None if a signal ended it. disk: bytes a second that `doctor` measured just before
    (streamed), memory: likewise (in memory); more: what only our runs tell."""

    case: str
    row: str
    seconds: tuple[float, ...] | None
    disk: float | None = None
    memory: float | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def token(self) -> float:
        """Mean seconds a token of the second half."""
        assert self.seconds is not None
        counted = self.seconds[len(self.seconds) // 2 :]
        return sum(counted) / len(counted)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def rows(runs: Sequence[Run], case: str) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.case == case:
            found.setdefault(run.row, []).append(run)
    return found


def speed(runs: Sequence[Run]) -> float:
    """Median tokens a second; 0 if a signal ended a run."""
    return 0.0 if any(run.seconds is None for run in runs) else median(1 / run.token for run in runs)


def table(runs: Sequence[Run], bytes_a_token: int) -> str:
    """Markdown, a block a case. bytes_a_token: that ours touches."""
    lines: list[str] = []
    for case in dict.fromkeys(run.case for run in runs):
        of_case = rows(runs, case)
        lines += ["", f"**{case}**", "", "| | tokens/s | ms a token | times the peer's best |", "|---|---|---|---|"]
        best = max((speed(each) for row, each in of_case.items() if row != OURS), default=0.0)
        for row, each in of_case.items():
            if not (median_speed := speed(each)):
                lines.append(f"| {row} | ended by a signal | | |")
                continue
            speeds = [1 / run.token for run in each]
            ratio = f"{median_speed / best:.2f}" if row == OURS and best else ""
            lines.append(
                f"| {row} | {median_speed:.3g} ({min(speeds):.3g}-{max(speeds):.3g}) | "
                f"{1e3 / median_speed:.4g} | {ratio} |"
            )
        if speed(of_case.get(OURS, [])):
            lines += ["", *_roofline(of_case[OURS], bytes_a_token, _in_memory(runs))]
    return "\n".join(lines)


def _in_memory(runs: Sequence[Run]) -> float | None:
    """Our median seconds a token with nothing to read."""
    ours = [run.token for run in runs if run.row == OURS and run.memory and run.seconds]
    return median(ours) if ours else None


def _roofline(ours: Sequence[Run], bytes_a_token: int, compute: float | None) -> list[str]:
    token = 1 / speed(ours)
    if ours[0].memory:
        limit = median(bytes_a_token / (run.memory or 1) for run in ours)
        return [
            f"Roofline: {bytes_a_token / 1e9:.2f} GB a token at {bytes_a_token / limit / 1e9:.1f} GB/s, "
            f"{limit * 1e3:.1f} ms: {limit / token:.0%} reached."
        ]
    read = median(run.more["bytes"] for run in ours)
    disk = median(run.more["bytes"] / (run.disk or 1) for run in ours)
    native, stall = (median(run.more[name] for run in ours) for name in ("native", "stall"))
    slots, hits = (median(run.more[name] for run in ours) for name in ("slots", "hit_rate"))
    limit = max(disk, compute or native)
    return [
        f"{slots:.1%} of the experts in memory, {hits:.1%} hits; {read / 1e6:.0f} MB read a token. Roofline: "
        f"max(disk {disk * 1e3:.0f} ms at {read / disk / 1e9:.2f} GB/s, compute {(compute or native) * 1e3:.0f} ms): "
        f"{limit / token:.0%} reached. Of a token {native * 1e3:.0f} ms computed and {stall * 1e3:.0f} ms waited."
    ]
