"""The families of tasks and their shares; a case of any split by its number, always the same."""

import random
from collections.abc import Callable
from itertools import accumulate

from training import arithmetic, calls, extraction, instructions, paragraphs, smalltalk, stories, tables
from training.case import Case
from training.source import Source

Family = Callable[[Source, bool], Case]

# Shares of the training documents. Tool calls and JSON are the bar, so they lead.
FAMILIES: dict[str, tuple[Family, float]] = {
    "tool_single": (calls.single, 0.28),
    "tool_parallel": (calls.parallel, 0.20),
    "tool_none": (calls.none, 0.08),
    "tool_answer": (calls.answer, 0.03),
    "json_record": (extraction.record, 0.10),
    "json_array": (extraction.records, 0.07),
    "table": (tables.lookup, 0.09),
    "paragraph": (paragraphs.questions, 0.05),
    "system": (instructions.follow, 0.05),
    "arithmetic": (arithmetic.sums, 0.03),
    "talk": (smalltalk.talk, 0.01),
    "story": (stories.story, 0.01),
}
_NAMES = list(FAMILIES)
_SHARES = list(accumulate(share for _, share in FAMILIES.values()))


def case(split: str, number: int, family: str | None = None) -> Case:
    """The case with this number, of the given family or of one drawn by its share."""
    if family is None:
        draw = random.Random(f"family:{split}:{number}").random() * _SHARES[-1]
        family = next(name for name, edge in zip(_NAMES, _SHARES, strict=True) if draw < edge)
    s = Source(split, f"{family}:{number}")
    return FAMILIES[family][0](s, s.chance(0.35))
