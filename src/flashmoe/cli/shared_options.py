"""The options that several commands share, each defined once, and what the commands get of them.

Invariant: two commands that take an option of one name take the same object, so neither its form nor its meaning can
drift. Knows what a user may choose, not what a command does with it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from flashmoe.cli.saved_states import default_sessions
from flashmoe.engine.sampling import Sampling
from flashmoe.settings import BACKENDS, CACHES, KV_BITS, Settings, parse_bytes


class Size(click.ParamType[int]):
    """A number of bytes: `4GiB`, `48G`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ARG002
        return parse_bytes(value)


SIZE = Size()


@dataclass(frozen=True)
class Group:
    """Options with what their values make: the command's parameter `parameter`."""

    parameter: str
    options: tuple[click.Option, ...]
    make: Callable[[dict[str, Any]], Any]

    def only(self, *names: str) -> "Group":
        """The options of these names."""
        return replace(self, options=tuple(option for option in self.options if option.name in names))


class SharingCommand(click.Command):
    """A command with groups of shared options after its own."""

    def __init__(self, name: str | None, *, groups: Sequence[Group], **rest: Any) -> None:
        super().__init__(name, **rest)
        self.params += [option for group in groups for option in group.options]
        self._groups = groups

    def invoke(self, ctx: click.Context) -> Any:
        for group in self._groups:
            values = {str(option.name): ctx.params.pop(str(option.name)) for option in group.options}
            ctx.params[group.parameter] = group.make(values)
        return super().invoke(ctx)


def _settings(values: Mapping[str, Any]) -> Settings:
    return Settings(**{name: value for name, value in values.items() if value is not None})


def _sampling(values: dict[str, Any]) -> dict[str, Any]:
    Sampling.from_generation_config({}, **values)  # wrong values are known before gigabytes are read
    return values


@dataclass(frozen=True)
class Keeping:
    """Where states of conversations are kept for later programs, None for nowhere, and how many bytes they may take."""

    directory: Path | None
    disk: int


def _keeping(values: Mapping[str, Any]) -> Keeping:
    directory = None if values["no_sessions"] else values["sessions"] or default_sessions()
    return Keeping(directory, values["sessions_disk"])


ENGINE = Group(
    "settings",
    (
        click.Option(
            ["--memory"],
            type=SIZE,
            help="Memory for everything, like 4GiB [default: what the machine leaves]",
        ),
        click.Option(
            ["--threads"], type=int, metavar="N", help="Compute threads [default: one a core, one less on 8 or more]"
        ),
        click.Option(["--backend"], type=click.Choice(BACKENDS), default="cpu", show_default=True),
        click.Option(
            ["--context"],
            type=int,
            metavar="TOKENS",
            help="Tokens a sequence may grow to [default: 32768, or what fits]",
        ),
        click.Option(
            ["--kv-bits"],
            type=click.Choice(KV_BITS),
            default=16,
            show_default=True,
            help="Of each number in the caches of keys and values. 8 halves them, and changes the answers slightly.",
        ),
        click.Option(
            ["--experts-per-token"],
            type=int,
            metavar="N",
            help="Instead of the model's own number. Changes the answers.",
        ),
        click.Option(
            ["--cache"],
            type=click.Choice(CACHES),
            default="arena",
            show_default=True,
            help="os leaves the experts to the page cache instead of memory of its own.",
        ),
        click.Option(
            ["--foresight/--no-foresight"],
            default=None,
            help="Read ahead what the next layer's router would choose [default: where experts are large]",
        ),
        click.Option(
            ["--learn"], is_flag=True, help="Remember beside the model which experts are used, for the next run."
        ),
        click.Option(["--verify-reads"], is_flag=True, help="Check every record that is read against its checksum."),
    ),
    _settings,
)
"""Of every command that loads a model: how it runs."""

SAMPLING = Group(
    "sampling",
    (
        click.Option(
            ["--temperature"], type=float, help="0 is greedy [this and the next: default as the checkpoint says]"
        ),
        click.Option(["--top-k"], type=int),
        click.Option(["--top-p"], type=float),
        click.Option(["--min-p"], type=float),
        click.Option(["--presence-penalty"], type=float),
        click.Option(["--frequency-penalty"], type=float),
        click.Option(["--repetition-penalty"], type=float),
        click.Option(["--seed"], type=int, help="Makes sampling repeatable."),
    ),
    _sampling,
)
"""How tokens are chosen."""

KEEPING = Group(
    "keeping",
    (
        click.Option(
            ["--sessions"],
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Where states of conversations are kept for later programs [default: in your cache directory]",
        ),
        click.Option(["--no-sessions"], is_flag=True, help="Keep them in memory alone."),
        click.Option(
            ["--sessions-disk"], type=SIZE, default="8GiB", show_default=True, help="What they may take of the disk."
        ),
    ),
    _keeping,
)
"""Of the commands that hold conversations."""
