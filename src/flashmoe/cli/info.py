"""`flashmoe info DIR`."""

from pathlib import Path

import click

from flashmoe.cli.model_directory import MODEL_DIRECTORY
from flashmoe.cli.printing import show
from flashmoe.cli.shared_options import SIZE
from flashmoe.pack.info import info
from flashmoe.streaming.memory import available_memory


@click.command("info")
@click.argument("directory", metavar="DIR", type=MODEL_DIRECTORY)
@click.option("--memory", type=SIZE, help="Reckon with this much instead of what is available: 48G, 16GiB.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(directory: Path, memory: int | None, as_json: bool) -> None:
    """Say what the packed model DIR is: sizes, precision, bytes a token touches, and what fits in memory."""
    show(info(directory, available_memory() if memory is None else memory), as_json=as_json)
