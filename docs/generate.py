"""The pages of docs/ that are made from the program: commands.md from the commands, python.md from the docstrings.

    python docs/generate.py

Invariant: the pages depend on the installed package alone, so a test compares them with what is committed. Knows no
prose of its own but the pages' first lines.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

import flashmoe
from flashmoe.cli.main import COMMANDS, group

HERE = Path(__file__).parent
PUBLIC = ("load", "TextEngine", "Piece", "Answer", "Settings", "FlashMoeError", "FormatError", "CapacityError")


def commands() -> str:
    """Every command with its arguments and options, as `--help` shows them."""
    parts = ["# Command reference", _made_from("the commands themselves, as `flashmoe COMMAND --help` shows them")]
    context = click.Context(group, info_name="flashmoe", **group.context_settings)
    for name, summary in COMMANDS.items():
        command = group.get_command(context, name)
        assert command is not None
        parts += [f"## flashmoe {name}", *_command(command, click.Context(command, context, name), summary)]
    return _page(parts)


def _command(command: click.Command, context: click.Context, summary: str) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield inspect.cleandoc(command.help or summary).replace("\b\n", "")
    yield f"```sh\nflashmoe {context.info_name} {usage}\n```"
    rows = [record for p in command.get_params(context) if (record := p.get_help_record(context))]
    if rows:
        yield "\n".join(["| option | |", "|---|---|", *(f"| `{_cell(name)}` | {_cell(text)} |" for name, text in rows)])


def python() -> str:
    """The public names of the package, with signatures and docstrings."""
    parts = ["# Python API", _made_from("the docstrings of the package")]
    for name in PUBLIC:
        thing = getattr(flashmoe, name)
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
        assert isinstance(tree, ast.FunctionDef | ast.ClassDef)
        parts += [f"## flashmoe.{name}", *_described(name, tree)]
        for member in tree.body if isinstance(tree, ast.ClassDef) else ():
            if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                parts += [f"### {name}.{member.name}", *_described(f"{name}.{member.name}", member)]
    return _page(parts)


def _described(name: str, tree: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    """The call as it is written in the source, so that it does not depend on how other packages print their types."""
    fields = [ast.unparse(line) for line in tree.body if isinstance(line, ast.AnnAssign)]
    if isinstance(tree, ast.ClassDef):
        call = f"({_folded(fields)})" if fields else ""
    elif {ast.unparse(mark) for mark in tree.decorator_list} & {"property", "cached_property"}:
        call = f" -> {ast.unparse(tree.returns)}" if tree.returns else ""
    else:
        tree.args.args = [argument for argument in tree.args.args if argument.arg not in ("self", "cls")]
        call = f"({_folded(_arguments(tree.args))})" + (f" -> {ast.unparse(tree.returns)}" if tree.returns else "")
    yield f"```python\n{name}{call}\n```"
    yield ast.get_docstring(tree) or ""


def _arguments(a: ast.arguments) -> list[str]:
    """Each with its annotation and default."""
    first = [None] * (len(a.args) - len(a.defaults)) + list(a.defaults)
    parts = [_argument(*pair) for pair in zip(a.args, first, strict=True)]
    parts += [f"*{ast.unparse(a.vararg)}"] if a.vararg else ["*"] if a.kwonlyargs else []
    parts += [_argument(*pair) for pair in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    return parts + ([f"**{ast.unparse(a.kwarg)}"] if a.kwarg else [])


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default else "")


def _folded(parts: list[str]) -> str:
    """On one line where it is short."""
    line = ", ".join(parts)
    return line if len(line) <= 80 else "".join(f"\n    {part}," for part in parts) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _made_from(what: str) -> str:
    return f"`python docs/generate.py` makes this page from {what}."


def _page(parts: list[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


PAGES = {"commands.md": commands, "python.md": python}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (HERE / page).write_text(make(), encoding="utf-8")
