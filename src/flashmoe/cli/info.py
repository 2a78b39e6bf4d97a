"""`flashmoe info DIR`."""

import json
from pathlib import Path

import click

from flashmoe.cli.model_directory import MODEL_DIRECTORY
from flashmoe.pack.info import info
from flashmoe.settings import parse_bytes
from flashmoe.streaming.memory import available_memory


@click.command("info")
@click.argument("directory", metavar="DIR", type=MODEL_DIRECTORY)
@click.option("--memory", metavar="SIZE", help="Reckon with this much instead of what is available: 48G, 16GiB.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(directory: Path, memory: str | None, as_json: bool) -> None:
    """Say what the packed model DIR is: sizes, precision, bytes a token touches, and what fits in memory."""
    found = info(directory, parse_bytes(memory) if memory else available_memory())
    click.echo(json.dumps(found.as_json(), indent=1) if as_json else str(found))
