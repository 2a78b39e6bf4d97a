"""The generated part of docs/measurements/quality.md: a table a group of rungs, between markers.

Knows results as JSON.
"""

from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "measurements" / "quality.md"
BEGIN, END = "<!-- made by benchmarks/quality_ladder.py -->", "<!-- end of what it made -->"
GROUPS = {
    "bits": "Bits of experts and trunk",
    "parts": "Parts of the trunk",
    "top-k": "Fewer experts a token",
    "rounding": "Experts rounded with more care",
}
HEADINGS = (
    "",
    "bytes a token",
    "perplexity",
    "KL, nats",
    "same top-1",
    "tool calls right",
    "well formed",
    "JSON valid",
    "JSON right",
    "lost / gained",
)


def write_table(results: dict[str, Any]) -> None:
    """Replace what lies between the markers of the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(text[:before] + "\n\n" + tables(results) + "\n" + text[after:], encoding="utf-8")


def tables(results: dict[str, Any]) -> str:
    """One table for each group; the oracle and the default pack head every one."""
    first = [name for name, r in results.items() if r["group"] == "oracle"]
    truth = results[first[0]]["cases"]["right"] if first else {}
    lines = []
    for group, title in GROUPS.items():
        names = first + [name for name, r in results.items() if r["group"] == group]
        lines += [f"### {title}", "", _row(HEADINGS), _row(["---"] + ["---:"] * (len(HEADINGS) - 1))]
        lines += [_row(_cells(name, results[name], truth)) for name in names]
        lines.append("")
    return "\n".join(lines)


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(name: str, result: dict[str, Any], truth: dict[str, bool]) -> list[str]:
    cases = result["cases"]
    right, was = cases["right"], {identifier: truth.get(identifier, False) for identifier in cases["right"]}
    against = result.get("against")
    return [
        name,
        f"{result['token_bytes'] / 1e6:.2f} MB",
        f"{result['text']['perplexity']:.4f}",
        f"{against['kl_nats']:.5f}" if against else "0",
        f"{against['top1_agreement']['share']:.2%}" if against else "",
        _share(cases["tool_calls"]["right"], interval=True),
        _share(cases["tool_calls"]["valid"]),
        _share(cases["json"]["valid"], interval=True),
        _share(cases["json"]["right"]),
        f"{sum(was[i] and not right[i] for i in right)} / {sum(right[i] and not was[i] for i in right)}"
        if against
        else "",
    ]


def _share(share: dict[str, Any], *, interval: bool = False) -> str:
    low, high = share["interval"]
    return f"{share['count']}/{share['of']}" + (f" ({low:.0%}-{high:.0%})" if interval else "")
