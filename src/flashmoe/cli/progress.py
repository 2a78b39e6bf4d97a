"""Progress bars with time left, on stderr. Know two numbers: done and total."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Report = Callable[[int, int], None]


@contextmanager
def progress_bar(what: str) -> Iterator[tuple[Report, Callable[[str], None]]]:
    """`report(done, total)` in bytes, and `say(sentence)` to print above the bar. The first report is the start: no
    bar is shown before it, and what it counts as done (by an earlier run) has no part in the speed."""
    console = Console(stderr=True, soft_wrap=True)
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, speed_estimate_period=60)
    task = bar.add_task(what, total=None)

    def report(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield report, lambda sentence: console.print(sentence, highlight=False, markup=False)
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def count_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """`report(done)` of `total` things; the bar goes away at the end."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
