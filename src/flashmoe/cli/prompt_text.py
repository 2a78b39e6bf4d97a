"""Prompts from the command line, from files and from standard input. Knows text, not what is made of it."""

import os
import sys
from typing import IO, Any

import click

from flashmoe.errors import FlashMoeError

LARGEST = 64 << 20
"""Bytes of a prompt: ten million tokens and more, so whatever is longer is not a prompt."""


class PromptText(click.ParamType[str]):
    """TEXT as it is, @FILE for what is in a file, - for standard input."""

    name = "prompt"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        return "TEXT|@FILE|-"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        if value == "-":
            return from_stdin()
        if value.startswith("@"):
            return _from_file(value[1:])
        return _decoded(os.fsencode(value), "The prompt")


PROMPT = PromptText()


def from_stdin() -> str:
    """All of standard input. Raises FlashMoeError if that is nothing, or no text."""
    text = "" if sys.stdin is None else _read(sys.stdin.buffer, "Standard input")
    if not text:
        raise FlashMoeError("There is no prompt: standard input is empty. Give one with -p TEXT or -p @FILE.")
    return text


def piped() -> bool:
    """Whether standard input is something else than a terminal."""
    return sys.stdin is not None and not sys.stdin.isatty()


def _from_file(name: str) -> str:
    try:
        with open(name, "rb") as file:  # noqa: PTH123
            text = _read(file, name)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FlashMoeError(
            f"The prompt cannot be read from {name or 'a file without a name'}: {reason}. A prompt that itself begins "
            "with @ can come from standard input, with -p -."
        ) from None
    if not text:
        raise FlashMoeError(f"There is no prompt: {name} is empty.")
    return text


def _read(file: IO[bytes], what: str) -> str:
    data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise FlashMoeError(f"{what} holds more than {LARGEST >> 20} MiB, which no model takes as a prompt.")
    # An editor, or echo, ends the last line; whoever typed the prompt would not.
    return _decoded(data.removesuffix(b"\n").removesuffix(b"\r"), what)


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FlashMoeError(f"{what} is not UTF-8 text; convert it first.") from None
