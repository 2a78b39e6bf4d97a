"""`flashmoe chat DIR`: a conversation in the terminal."""

import os
import sys
from pathlib import Path
from typing import Any

import click
import platformdirs
from rich.console import Console

from flashmoe.cli.kv_bits import KV_BITS_OPTION
from flashmoe.cli.model_directory import MODEL_DIRECTORY
from flashmoe.cli.saved_states import default_sessions
from flashmoe.engine.sampling import Sampling
from flashmoe.errors import FlashMoeError
from flashmoe.files.atomic import writing_errors
from flashmoe.files.opening import open_regular
from flashmoe.settings import BACKENDS
from flashmoe.terminal.answering import Choices
from flashmoe.terminal.app import Chat
from flashmoe.terminal.tools import read_tools
from flashmoe.text_engine import load

_SETTINGS = ("memory", "threads", "backend", "experts_per_token", "context", "kv_bits")


@click.command("chat")
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
@click.option("--memory", help="Memory for everything, like 4GiB [default: what the machine leaves]")
@click.option("--threads", type=int, help="Compute threads [default: one a core, one less on 8 or more]")
@click.option("--backend", type=click.Choice(BACKENDS), default="cpu", show_default=True)
@click.option("--context", type=int, help="Tokens the conversation may grow to [default: 32768, or what fits]")
@KV_BITS_OPTION
@click.option("--experts-per-token", type=int, help="Instead of the model's own number. Changes the answers.")
@click.option("--temperature", type=float, help="0 is greedy [this and the next: default as the checkpoint says]")
@click.option("--top-k", type=int)
@click.option("--top-p", type=float)
@click.option("--seed", type=int, help="Makes sampling repeatable.")
def command(
    directory: Path,
    system: str | None,
    tools: Path | None,
    session: Path | None,
    no_thinking: bool,
    max_tokens: int | None,
    **options: Any,
) -> None:
    """Talk with the packed model in DIR. /help lists what can be typed besides questions."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise FlashMoeError("chat needs a terminal; for one answer without one there is `flashmoe run DIR -p TEXT`.")
    settings = {name: options.pop(name) for name in _SETTINGS}
    Sampling.from_generation_config({}, **options)  # wrong values are known before gigabytes are read
    functions = read_tools(tools) if tools else []
    choices = Choices(max_tokens, False if no_thinking else None, options)
    console = Console()
    # A share of the memory for states of the conversation, so that a turn computes what is new alone.
    given = {name: value for name, value in settings.items() if value is not None}
    with load(directory, snapshots=None, **given) as engine:
        # Only of a conversation that is to be kept are the states kept too.
        cache = engine.engine.session_cache(default_sessions() if session else None)
        chat = Chat(
            engine, console, choices, system=system, tools=functions, session=session, cache=cache, history=_history()
        )
        console.print(engine.engine.summary, style="dim", highlight=False)
        chat.run()
        cache.flush()


def _history() -> Path:
    """Where the lines typed are kept from one chat to the next."""
    directory = platformdirs.user_state_path("flashmoe", appauthor=False)
    with writing_errors(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(open_regular(directory / "chat-history", os.O_RDWR | os.O_CREAT, 0o600))
    return directory / "chat-history"
