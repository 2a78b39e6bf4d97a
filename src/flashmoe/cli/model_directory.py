"""The argument DIR of the commands that take a packed model: a directory, or the word `demo`."""

from pathlib import Path
from typing import Any

import click

from flashmoe.cli.progress import progress_bar
from flashmoe.demo.packed import model_directory


class ModelDirectory(click.ParamType[Path]):
    """Gives the directory; the demo model is packed on the way if it has to be."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ARG002
        with progress_bar("Packing the demo model, once") as (report, _):
            return model_directory(value, report)


MODEL_DIRECTORY = ModelDirectory()
