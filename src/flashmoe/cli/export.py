"""`flashmoe export DIR OUT`."""

from pathlib import Path

import click

from flashmoe.cli.model_directory import MODEL_DIRECTORY
from flashmoe.cli.printing import say
from flashmoe.cli.progress import progress_bar
from flashmoe.pack.export import DTYPES, export
from flashmoe.settings import format_bytes


@click.command("export")
@click.argument("directory", metavar="DIR", type=MODEL_DIRECTORY)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="float32", show_default=True)
def command(directory: Path, out: Path, dtype: str) -> None:
    """Write the weights of the packed model DIR, dequantised, as a Hugging Face checkpoint in OUT.

    In float32 they are exactly the weights the packed model computes with.
    """
    with progress_bar("Exporting") as (report, _):
        total = export(directory, out, dtype, report)
    say(f"{out}: {format_bytes(total)} in {dtype}.", err=True)
