"""What the commands print: names and errors made safe for a terminal, tables, JSON.

Names of files and values in them are others' text: a control character in one could steer the terminal, and half of a
surrogate pair, which stands for a byte that is not UTF-8, cannot be printed at all.
"""

import json
import os
import sys
from typing import Any, Protocol

import click
from rich.console import Console


def printable(text: str, keep: str = "\n\t") -> str:
    """The text with all that is not a printable character, but for those to `keep`, written as an escape: `\\x1b`."""
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # what Python makes of a byte that is not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def say(text: str, *, err: bool = False) -> None:
    """Print a text, printable."""
    click.echo(printable(text), err=err)


class Figures(Protocol):
    """What a command found: text for people, JSON for programs."""

    def as_json(self) -> dict[str, Any]: ...


def show(found: Figures, *, as_json: bool) -> None:
    """Print the figures."""
    if as_json:
        show_json(found.as_json())
    else:
        say(str(found))


def show_json(value: Any) -> None:
    """Print one JSON object, in ASCII: it can be printed as it is."""
    click.echo(json.dumps(value, indent=1))


def unstyled() -> bool:
    """Whether the user wants no colours (https://no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command group; rich would end the program."""
        raise


def console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """A rich console on stdout, or on stderr, without styles where none are wanted."""
    return _Console(stderr=stderr, soft_wrap=soft_wrap, color_system=None if unstyled() else "auto")


def stdout_is_styled() -> bool:
    """Whether dim and bold reach somebody who wants them."""
    return sys.stdout.isatty() and not unstyled()
