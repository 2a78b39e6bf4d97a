"""Text to measure perplexity on: whole conversations of a split, answers included, apart from its test cases.

    python -m training.heldout validation 80 FILE

`<|endoftext|>` on a line of its own separates them, as `flashmoe eval` reads it.
"""

import sys
from pathlib import Path

from training import mix, template

FIRST = 1_000_000


def text(split: str, count: int) -> str:
    """So many conversations, always the same."""
    return "<|endoftext|>\n".join(template.document(mix.case(split, FIRST + number)) for number in range(count))


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(text(sys.argv[1], int(sys.argv[2])), encoding="utf-8")
