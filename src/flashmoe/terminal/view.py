"""An answer on the screen while it comes: thinking dimmed and then folded, content as Markdown, block by block.

A block that is done is printed for good and only the last one is drawn anew, so an answer may be longer than the
screen. Knows pieces of turns and a rich console, not where they come from.
"""

import re
from types import TracebackType
from typing import Self

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

from flashmoe.chat.turn_parser import Content, Thinking, TurnEvent

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Those that steer a terminal, and those that turn the direction of text, in which a call could look like another."""
_THINKING_LINES = 6


def harmless(text: str) -> str:
    """Without control characters: what a model or a tool writes must not steer the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def settled(text: str) -> int:
    """How many characters of a Markdown text are whole blocks: up to the last blank line outside a code fence."""
    place = end = 0
    fence = ""
    for line in text.splitlines(keepends=True):
        place += len(line)
        mark = re.match(r" {0,3}(```+|~~~+)", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        if not line.strip() and line.endswith("\n") and not fence:
            end = place
    return end


def markdown(text: str) -> Markdown:
    """Tags of HTML are shown as they are written; rich alone would leave them out."""
    shown = Markdown(harmless(text))
    parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
    shown.parsed = parser.parse(shown.markup)
    return shown


class _LastLines:
    """The end of a renderable, as much as fits, and a footer below it."""

    def __init__(self, content: RenderableType, most: int, footer: str) -> None:
        self._content, self._most, self._footer = content, most, footer

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        footer = self._footer.splitlines()
        lines = console.render_lines(self._content, options, pad=False)
        for line in lines[-max(1, min(self._most, console.height - 2 - len(footer))) :]:
            yield from line
            yield Segment.line()
        yield Text(self._footer, style="reverse")


class AnswerView:
    """Use it in a `with` block; `thinking` and `content` are the texts so far."""

    def __init__(self, console: Console, *, fold: bool) -> None:
        self._console, self._fold = console, fold
        self._live = Live(console=console, transient=True, refresh_per_second=10)
        self.thinking = self.content = ""
        self._printed = 0
        self._folded = False

    def progress(self, done: int, total: int) -> None:
        """So many tokens of the prompt are computed."""
        self._live.update(Text(f"reading the prompt: {done} of {total} tokens" if done < total else "", style="dim"))

    def show(self, event: TurnEvent, footer: str = "") -> None:
        """footer: what stands below while the answer comes."""
        if isinstance(event, Thinking):
            self.thinking += event.text
            self._live.update(_LastLines(self._thought(), _THINKING_LINES if self._fold else 1 << 20, footer))
        elif isinstance(event, Content):
            self._fold_thinking()
            self.content += event.text
            end = self._printed + settled(self.content[self._printed :])
            self._print_until(end)
            self._live.update(_LastLines(markdown(self.content[end:]), 1 << 20, footer))

    def _thought(self) -> Text:
        return Text(harmless(self.thinking), style="dim italic")

    def _fold_thinking(self) -> None:
        if self.thinking and not self._folded:
            self._folded = True
            words = len(self.thinking.split())
            folded = Text(f"▸ thought {words} words (/thinking shows them)", style="dim")
            self._console.print(folded if self._fold else self._thought())

    def _print_until(self, end: int) -> None:
        if self.content[self._printed : end].strip():
            self._console.print(markdown(self.content[self._printed : end]))
        self._printed = end

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.update(Text(""))
        self._live.stop()
        self._fold_thinking()
        self._print_until(len(self.content))
