"""Progress bars with time left, on stderr. Know two numbers, done and total, and the time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from flashmoe.cli.printing import console, printable

Report = Callable[[int, int], None]
_PATIENCE = 1.0
"""Seconds before a bar is worth looking at."""


@contextmanager
def progress_bar(what: str) -> Iterator[tuple[Report, Callable[[str], None]]]:
    """`report(done, total)` in bytes, and `say(sentence)` to print above the bar. The first report is the start: no
    bar is shown before it, and what it counts as done (by an earlier run) has no part in the speed."""
    on = console(stderr=True, soft_wrap=True)
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=on, speed_estimate_period=60)
    task = bar.add_task(what, total=None)

    def report(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield report, lambda sentence: on.print(printable(sentence), highlight=False, markup=False)
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def count_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """`report(done)` of `total` things; the bar goes away at the end."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


class _TokenRate(ProgressColumn):
    """`41.3 tokens/s`"""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} tokens/s" if task.speed else "")


@contextmanager
def prompt_bar() -> Iterator[Report]:
    """`report(done, total)` in tokens of a prompt; at (total, total) the bar goes away. Nothing is shown unless stderr
    is a terminal, nor for a prompt that takes less than a second."""
    columns = (TextColumn("Reading the prompt"), BarColumn(), MofNCompleteColumn(), _TokenRate(), TimeRemainingColumn())
    bar = Progress(*columns, console=console(stderr=True), transient=True, speed_estimate_period=60)
    task, begin = bar.add_task("", total=None), perf_counter()

    def stop() -> None:
        if bar.live.is_started:
            bar.stop()

    def report(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        if done == total:
            stop()
        elif not bar.live.is_started and bar.console.is_terminal and perf_counter() - begin > _PATIENCE:
            bar.start()

    try:
        yield report
    finally:
        stop()
