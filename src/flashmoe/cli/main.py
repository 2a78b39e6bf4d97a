"""The command group: subcommands are imported when they are called, and errors become one line.

Invariant: bad input ends with a sentence on stderr and exit code 1 (2 where a command is used wrongly), Ctrl-C with
130. A reader of the output that goes away, as `head` does, ends the command quietly with 141.
"""

import errno
import importlib
import io
import os
import sys

import click

from flashmoe.cli.printing import printable, say
from flashmoe.cli.standard_streams import open_closed_streams
from flashmoe.errors import FlashMoeError

COMMANDS = {
    "pack": "Pack a checkpoint for streaming.",
    "verify": "Check every byte of a packed model.",
    "info": "Say what a packed model is and what fits in memory.",
    "export": "Write a packed model's weights as a Hugging Face checkpoint.",
    "synth": "Write a packed model of true shapes with random weights.",
    "run": "Generate text from a prompt.",
    "chat": "Talk with a model in the terminal.",
    "serve": "Serve a packed model over OpenAI's and Anthropic's HTTP interfaces.",
    "eval": "Measure how good a packed model's answers are.",
    "bench": "Measure how fast a packed model runs.",
    "simulate": "Replay recorded routing against cache policies and sizes.",
    "plan": "Predict a model's speed on this machine or another.",
    "doctor": "Measure what this machine can do: disk, memory, processors, limits.",
}
_BROKEN_PIPE = 141  # 128 + SIGPIPE, as the shell counts programs that it ended


class _Lazy(click.Group):
    """Imports flashmoe.cli.NAME and takes its `command` when NAME is called, so that each starts quickly."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"flashmoe.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="flashmoe")
def group() -> None:
    """Run Mixture-of-Experts language models larger than memory, streaming experts from the SSD."""


def main() -> None:
    """Entry point of the `flashmoe` command."""
    open_closed_streams()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of `flashmoe ARGUMENTS`."""
    try:
        # Not click's `main`, which answers a broken pipe itself, as if something had failed.
        with group.make_context("flashmoe", arguments) as context:
            group.invoke(context)
        sys.stdout.flush()
    except FlashMoeError as error:
        _complain(str(error))
        return 1
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(usage)
        say(usage.getvalue().removesuffix("\n"), err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo(err=True)
        return 130
    except BrokenPipeError:
        _abandon_output()
        return _BROKEN_PIPE
    except OSError as error:
        _abandon_output()
        where = f" ({error.filename})" if error.filename else ""
        reason = "Standard output is closed" if error.errno == errno.EBADF else error.strerror or error
        _complain(f"{reason}{where}.")
        return 1
    except MemoryError:
        _complain("The system refused memory; give the run less to hold by --memory.")
        return 1
    except click.exceptions.Exit as stop:
        return stop.exit_code
    return 0


def _complain(sentence: str) -> None:
    click.echo(f"flashmoe: {printable(sentence, keep='')}", err=True)


def _abandon_output() -> None:
    """The interpreter would flush stdout again at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
