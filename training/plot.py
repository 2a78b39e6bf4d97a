"""python -m training.plot LOG... IMAGE: the loss and validation curves of one run, whose log may be in several files.

Needs matplotlib, which nothing else here does.
"""

import json
import sys
from pathlib import Path
from typing import Any

SHOWN = ("tool_single", "tool_parallel", "json_record", "json_array", "arithmetic", "table")


def read(paths: list[Path]) -> list[dict[str, Any]]:
    """The entries of the logs, in order."""
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def draw(entries: list[dict[str, Any]], image: Path) -> None:
    """Training loss on the left, validation loss of some families on the right, over millions of tokens."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), sharex=True)
    steps = [entry for entry in entries if "loss" in entry]
    left.plot([entry["tokens"] / 1e6 for entry in steps], [entry["loss"] for entry in steps], linewidth=0.8)
    left.set(title="training loss", xlabel="million tokens", yscale="log")
    checks = [entry for entry in entries if "validation" in entry]
    for family in SHOWN:
        places = [entry["tokens"] / 1e6 for entry in checks]
        right.plot(places, [entry["validation"][family] for entry in checks], label=family, linewidth=1)
    right.set(title="validation loss of what the assistant writes", xlabel="million tokens", yscale="log")
    right.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(image, dpi=110)


if __name__ == "__main__":
    draw(read([Path(name) for name in sys.argv[1:-1]]), Path(sys.argv[-1]))
