"""What drawing an answer on the page takes: it grows with the answer, whatever is in it and however it is cut. Node
draws here, without a browser, so that what is done can be counted."""

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from server.test_page_text import AS_HTML, HOSTILE, MARKDOWN, texts

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="There is no node here.")
SIZE = 20_000
Draw = Callable[[list[list[str]]], list[dict[str, Any]]]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Draws texts that come in pieces: their HTML, and the work."""
    for name in ("markdown.js", "inline.js", "dom.js"):
        text = files("flashmoe.server").joinpath("page_files", name).read_text()
        (tmp_path / name).write_text(text.replace('"/page/', '"./'))
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copy(Path(__file__).with_name("drawn.mjs"), tmp_path)

    def run(pieces: list[list[str]]) -> list[dict[str, Any]]:
        command = [str(NODE), str(tmp_path / "drawn.mjs")]
        process = subprocess.run(command, input=json.dumps(pieces), capture_output=True, text=True, timeout=500)
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout)

    return run


def cut(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def test_markdown_becomes_html(draw: Draw):
    assert draw([[MARKDOWN]])[0]["html"] == AS_HTML


def test_how_a_text_is_cut_does_not_matter(draw: Draw):
    long_words = ["x " * 9000, "x" * 17_000, "\U0001f600" * 9000, "- a\n" * 5000, "```\n" + "y" * 500 + "\n``` `\n"]
    whole = [MARKDOWN, *HOSTILE, *texts(400), *long_words]
    chance = random.Random(2)
    pieces = [cut(text, chance.choice([1, 1, 3, 7]) if len(text) < 5000 else 501) for text in whole]
    for text, once, often in zip(whole, draw([[text] for text in whole]), draw(pieces), strict=True):
        assert often["html"] == once["html"], text


BOMBS = {
    "brackets": "[",
    "labels": "[a",
    "brackets before a link": "[" * 499 + "](https://%" + "%" * 3000,
    "links": "[a](https://a.example ",
    "fences": "```\n",
    "fences in a row": "`",
    "code": "some code\n",
    "nested lists": "- ",
    "lists": "- a\n  - b\n    - c\n",
    "quotes": "> ",
    "paragraph": "word\n",
    "words": "word ",
    "spaces": " ",
    "emphasis": "*a **b ",
    "underscores": "_a __",
    "strikes": "~~a ",
    "backticks": "`a ``b ",
    "table": "|a|b|\n",
    "table's rule": "|-",
    "address": "https://a.example",
    "dots": ".",
    "hashes": "# ",
    "returns": "\r ",
    "stars": "* ",
}
BEFORE = {"code": "```python\n", "table": "|a|b|\n|-|-|\n", "dots": "https://a.example", "returns": "#  "}
AFTER = {"fences in a row": "x`", "dots": "x", "spaces": "x", "returns": "x\ry", "table's rule": "x"}


def bomb(name: str, size: int) -> str:
    filling = BOMBS[name] * (size // len(BOMBS[name]))
    return BEFORE.get(name, "") + filling + AFTER.get(name, "")


@pytest.mark.parametrize("name", BOMBS)
def test_the_work_of_drawing_grows_with_the_text(draw: Draw, name: str):
    """Twice the text, at most some three times the work."""
    half, whole = draw([cut(bomb(name, size), 50) for size in (SIZE, 2 * SIZE)])
    assert whole["work"] <= 3 * half["work"] + 10_000


def test_long_texts_are_drawn_at_once(draw: Draw):
    """What takes a square of the time, or more, takes hours here."""
    assert all(drawn["work"] < 60_000_000 for drawn in draw([[bomb(name, 1_000_000)] for name in BOMBS]))
