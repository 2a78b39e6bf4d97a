"""Reads the data folder: words, phrasings, small talk, everyday tools. Knows their file format, not their use."""

from functools import cache
from pathlib import Path

_DATA = Path(__file__).with_name("data")


@cache
def sections(name: str) -> dict[str, list[str]]:
    """The lines of each `[section]` of a file, without comments and blank lines."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (_DATA / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]") and not line.startswith("[{"):
            lines = found.setdefault(line[1:-1], [])
        elif line.strip() and not line.startswith("#"):
            lines.append(line)
    return found


def words(section: str) -> list[str]:
    """The words of a section of words.txt."""
    return " ".join(sections("words.txt")[section]).split()


def phrases(section: str) -> tuple[str, ...]:
    """The phrasings of a section of phrases.txt; `()` is the empty one."""
    return tuple("" if line == "()" else line for line in sections("phrases.txt")[section])


@cache
def talk() -> tuple[tuple[tuple[str, ...], str], ...]:
    """(ways to say it, the answer) of smalltalk.txt."""
    blocks = (_DATA / "smalltalk.txt").read_text(encoding="utf-8").split("\n\n")[1:]
    pairs = [block.replace("\n", " ").split(" => ") for block in blocks]
    return tuple((tuple(ways.strip().split(" | ")), reply.strip()) for ways, reply in pairs)
