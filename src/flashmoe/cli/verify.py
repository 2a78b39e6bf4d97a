"""`flashmoe verify DIR`."""

from pathlib import Path

import click

from flashmoe.cli.model_directory import MODEL_DIRECTORY
from flashmoe.cli.printing import say
from flashmoe.cli.progress import progress_bar
from flashmoe.errors import FormatError
from flashmoe.pack.verify import verify
from flashmoe.settings import format_bytes


@click.command("verify")
@click.argument("directory", metavar="DIR", type=MODEL_DIRECTORY)
def command(directory: Path) -> None:
    """Check every byte of the packed model DIR against its checksums, and name what is wrong."""
    with progress_bar("Verifying") as (report, _):
        manifest, problems = verify(directory, report)
    for problem in problems:
        say(str(problem))
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise FormatError(f"{directory} has {count}. Remove it and pack the model again.")
    say(f"{directory} is whole: {format_bytes(manifest.trunk.bytes + manifest.expert_bytes)} checked.")
    if not manifest.has_identity:
        say(
            "It was packed by an early version: layers that were reordered together with their checksums would not be "
            "seen. Pack it again to have that checked too."
        )
