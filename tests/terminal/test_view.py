"""An answer on the screen: the same however it comes, complete, and never in command of the terminal."""

import io
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from flashmoe.chat.turn_parser import Content, Thinking
from flashmoe.terminal.view import AnswerView, harmless, settled

MARKDOWN = """# Title

Some *text* with <b>tags</b>.

```python
x = 1

y = 2
```

1. one
2. two

| a | b |
|---|---|
| 1 | 2 |
"""


def shown(*events: Thinking | Content, fold: bool = True) -> str:
    """What stays on a console that is no terminal."""
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    with AnswerView(console, fold=fold) as view:
        for event in events:
            view.show(event)
    return re.sub(r"[ \n]*\n[ \n]*", "\n", console.file.getvalue())


@settings(max_examples=50)
@given(st.lists(st.integers(0, len(MARKDOWN)), max_size=12))
def test_how_the_text_is_cut_does_not_matter(cuts: list[int]):
    places = [0, *sorted(cuts), len(MARKDOWN)]
    pieces = [Content(MARKDOWN[a:b]) for a, b in pairwise(places)]
    assert shown(*pieces) == shown(Content(MARKDOWN))


def test_markdown_is_drawn_and_nothing_is_left_out():
    text = shown(Content(MARKDOWN))
    for part in ("Title", "Some text with <b>tags</b>.", "x = 1", "y = 2", "1 one", "2 two"):
        assert part in text
    assert "```" not in text


def test_thinking_is_folded_unless_asked_for():
    events = (Thinking("I weigh this."), Content("Yes."))
    assert "I weigh this." not in shown(*events)
    assert "thought 3 words" in shown(*events)
    assert shown(*events, fold=False).index("I weigh this.") < shown(*events, fold=False).index("Yes.")


def test_thinking_without_an_answer_is_said():
    assert "thought 3 words" in shown(Thinking("I weigh this."))


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("one\n\ntwo", "one\n\n"),
        ("one\ntwo", ""),
        ("```\nx\n\ny", ""),
        ("```\nx\n\ny\n```\n\nz", "```\nx\n\ny\n```\n\n"),
        ("````\n```\n\nx", ""),
        ("~~~\n```\n\nx\n~~~\n\n", "~~~\n```\n\nx\n~~~\n\n"),
    ],
)
def test_a_block_is_settled_by_a_blank_line_outside_code(text: str, whole: str):
    assert text[: settled(text)] == whole


@given(st.text(st.characters(codec="utf-8")))
def test_what_a_model_writes_holds_no_control_characters(text: str):
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", harmless(text)) is None


def test_a_call_cannot_look_like_another_by_the_direction_of_its_text():
    assert harmless("add(\u202ea=1)") == "add(\N{REPLACEMENT CHARACTER}a=1)"


def test_while_it_comes_thinking_is_dimmed_and_the_footer_stands_below():
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True, color_system="standard")
    with AnswerView(console, fold=True) as view:
        view.show(Thinking("I weigh this."), "2.0 tokens/s")
        view._live.refresh()
        drawn = console.file.getvalue()
        view.show(Content("**Yes**"), "3.0 tokens/s")
        view._live.refresh()
    assert re.search(r"\x1b\[2;3mI weigh this\.", drawn)
    assert drawn.index("weigh") < drawn.index("2.0 tokens/s")
    last = console.file.getvalue()[len(drawn) :]
    assert re.search(r"\x1b\[1mYes", last)
    assert "3.0 tokens/s" in last


def test_escape_sequences_of_the_model_do_not_reach_the_terminal():
    assert "\x1b" not in shown(Thinking("\x1b]0;owned\x07"), Content("\x1b[2J\x9b2J hello"), fold=False)
