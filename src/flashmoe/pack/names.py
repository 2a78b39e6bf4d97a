"""What the files of a packed model are called: nothing else is ever deleted in its directory. Knows names alone."""

import re
from pathlib import Path

from flashmoe.files.owned import MARK, remove_files, remove_if_empty
from flashmoe.pack.manifest import NAME
from flashmoe.pack.plan import TRUNK

STATE = ".packing"
"""The directory that remembers an unfinished pack."""
PLAN = "plan.json"
EXPERTS = "experts"
COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
_USES = "expert-uses.bin"
"""Written beside a packed model by a run that learns."""
_LAYER = r"layer-[0-9]{3,}"
LAYER_FILES = re.compile(rf"{_LAYER}\.safetensors")
STATE_FILES = re.compile(rf"(?:plan|trunk|{_LAYER})\.json")
_MARKS = re.compile(re.escape(MARK))
TOP_FILES = re.compile("|".join(map(re.escape, (NAME, TRUNK, _USES, *COPIED))))


def remove_unfinished(directory: Path) -> None:
    """Delete what a pack was writing when it was killed. Raises OSError."""
    remove_files(directory, TOP_FILES, unfinished_only=True)
    remove_files(directory / EXPERTS, LAYER_FILES, unfinished_only=True)
    remove_files(directory / STATE, STATE_FILES, unfinished_only=True)


def remove_state(directory: Path) -> None:
    """Forget an unfinished pack, the mark last. Raises OSError."""
    remove_files(directory / STATE, STATE_FILES)
    remove_files(directory / STATE, _MARKS)
    remove_if_empty(directory / STATE)
