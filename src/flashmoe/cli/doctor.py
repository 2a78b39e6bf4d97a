"""`flashmoe doctor [DIR]`."""

from pathlib import Path

import click

from flashmoe.cli.printing import say, show
from flashmoe.measure.doctor import examine


@click.command("doctor")
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(directory: Path, as_json: bool) -> None:
    """Measure what this machine can do: the disk that DIR is on, memory, processors and limits.

    If DIR is a packed model its experts are read; else a file of 256 MiB is written there, and is gone afterwards.
    """
    machine = examine(directory, lambda step: say(f"{step} ...", err=True))
    show(machine, as_json=as_json)
