"""The argument DIR of the commands that take a packed model: a directory, or the word `demo`."""

import shlex
from pathlib import Path
from typing import Any

import click

from flashmoe.demo.directory import model_directory
from flashmoe.errors import FlashMoeError
from flashmoe.pack.manifest import NAME


class ModelDirectory(click.ParamType[Path]):
    """Gives the directory. A checkpoint is refused, with the command that packs it."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ARG002
        directory = model_directory(value)
        if not (directory / NAME).exists() and _is_checkpoint(directory):
            out = f"{directory.resolve().name}-packed"
            raise FlashMoeError(
                f"{directory} is a checkpoint, not a packed model. Pack it once with `flashmoe pack "
                f"{shlex.quote(str(directory))} {shlex.quote(out)}`, and name {out} here."
            )
        return directory


MODEL_DIRECTORY = ModelDirectory()


def _is_checkpoint(directory: Path) -> bool:
    return (directory / "config.json").is_file() and any(directory.glob("*.safetensors"))
