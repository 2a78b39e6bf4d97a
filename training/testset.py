"""The fixed validation and test sets: JSON lines anyone can run, with no need of this package or of torch.

python -m training.testset test FILE
"""

import json
import sys
from pathlib import Path

from training import mix
from training.case import Json

COUNTS = {
    "tool_single": 100,
    "tool_parallel": 60,
    "tool_none": 40,
    "tool_answer": 30,
    "json_record": 60,
    "json_array": 40,
    "table": 30,
    "paragraph": 30,
    "system": 30,
    "arithmetic": 30,
    "talk": 20,
    "story": 10,
}


def cases(split: str, share: float = 1.0) -> list[dict[str, Json]]:
    """The split's cases, always the same; `share` below 1 takes the first part of each family."""
    return [
        mix.case(split, number, family).as_test(f"{split}-{family}-{number:03}")
        for family, count in COUNTS.items()
        for number in range(max(1, round(count * share)))
    ]


def write(split: str, path: Path) -> int:
    """Writes the split as JSON lines; returns how many."""
    lines = [json.dumps(case, ensure_ascii=False) for case in cases(split)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


if __name__ == "__main__":
    print(write(sys.argv[1], Path(sys.argv[2])))
