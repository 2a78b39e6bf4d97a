"""`flashmoe chat DIR`: a conversation in the terminal."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import platformdirs

from flashmoe.cli.model_directory import MODEL_DIRECTORY
from flashmoe.cli.printing import console, printable
from flashmoe.cli.shared_options import ENGINE, KEEPING, SAMPLING, Keeping, SharingCommand
from flashmoe.errors import FlashMoeError
from flashmoe.files.atomic import writing_errors
from flashmoe.files.opening import open_regular
from flashmoe.settings import Settings
from flashmoe.terminal.answering import Choices
from flashmoe.terminal.app import Chat
from flashmoe.terminal.tools import read_tools
from flashmoe.text_engine import load_with


@click.command("chat", cls=SharingCommand, groups=(SAMPLING, ENGINE, KEEPING))
@click.argument("directory", metavar="DIR", type=MODEL_DIRECTORY)
@click.option("--system", help="A system message.")
@click.option(
    "--tools",
    metavar="FILE.py",
    type=click.Path(path_type=Path),
    help="Its public functions become tools; you confirm.",
)
@click.option(
    "--session", metavar="FILE", type=click.Path(path_type=Path), help="Go on with the conversation in it; kept there."
)
@click.option("--no-thinking", is_flag=True, help="Ask the template for answers without thinking.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="The longest answer [default: what the context leaves]")
def command(
    directory: Path,
    system: str | None,
    tools: Path | None,
    session: Path | None,
    no_thinking: bool,
    max_tokens: int | None,
    sampling: dict[str, Any],
    settings: Settings,
    keeping: Keeping,
) -> None:
    """Talk with the packed model in DIR. /help lists what can be typed besides questions."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise FlashMoeError("chat needs a terminal; for one answer without one there is `flashmoe run DIR -p TEXT`.")
    functions = read_tools(tools) if tools else []
    choices = Choices(max_tokens, False if no_thinking else None, sampling)
    screen = console()
    # A share of the memory for states of the conversation, so that a turn computes what is new alone.
    with load_with(directory, replace(settings, snapshots=None)) as engine:
        # Only of a conversation that is to be kept are the states kept too.
        cache = engine.engine.session_cache(keeping.directory if session else None, keeping.disk)
        chat = Chat(
            engine, screen, choices, system=system, tools=functions, session=session, cache=cache, history=_history()
        )
        screen.print(printable(engine.engine.summary), style="dim", highlight=False, markup=False)
        chat.run()
        cache.flush()


def _history() -> Path:
    """Where the lines typed are kept from one chat to the next."""
    directory = platformdirs.user_state_path("flashmoe", appauthor=False)
    with writing_errors(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(open_regular(directory / "chat-history", os.O_RDWR | os.O_CREAT, 0o600))
    return directory / "chat-history"
