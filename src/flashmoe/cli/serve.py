"""`flashmoe serve DIR`: OpenAI's and Anthropic's HTTP interfaces on a packed model."""

from pathlib import Path
from typing import Any

import click

from flashmoe.cli.kv_bits import KV_BITS_OPTION
from flashmoe.cli.model_directory import MODEL_DIRECTORY
from flashmoe.cli.saved_states import default_sessions
from flashmoe.demo.packed import model_name
from flashmoe.errors import FlashMoeError
from flashmoe.files.opening import read_bytes
from flashmoe.server.run import bind, check_exposure, serve
from flashmoe.settings import BACKENDS, parse_bytes
from flashmoe.text_engine import load

_MAX_KEY_BYTES = 4096


@click.command("serve")
@click.argument("directory", metavar="DIR", type=MODEL_DIRECTORY)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--api-key", metavar="KEY|@FILE", help="What clients must show; @FILE reads it from a file.")
@click.option("--insecure", is_flag=True, help="Let anyone who reaches another address than loopback use the server.")
@click.option("--name", help="What clients call the model [default: the name of DIR]")
@click.option("--memory", help="Memory for everything, like 4GiB [default: what the machine leaves]")
@click.option("--threads", type=int, help="Compute threads [default: one a core, one less on 8 or more]")
@click.option("--backend", type=click.Choice(BACKENDS), default="cpu", show_default=True)
@click.option("--context", type=int, help="Tokens a conversation may grow to [default: 32768, or what fits]")
@KV_BITS_OPTION
@click.option("--experts-per-token", type=int, help="Instead of the model's own number. Changes the answers.")
@click.option(
    "--sequences", type=int, default=4, show_default=True, help="Answers at a time, fewer where memory is short."
)
@click.option(
    "--sessions",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where conversations are kept for the next server [default: in your cache directory]",
)
@click.option("--no-sessions", is_flag=True, help="Keep them in memory alone.")
@click.option("--sessions-disk", default="8GiB", show_default=True, help="What they may take of the disk.")
def command(
    directory: Path,
    host: str,
    port: int,
    api_key: str | None,
    insecure: bool,
    name: str | None,
    sessions: Path | None,
    no_sessions: bool,
    sessions_disk: str,
    **settings: Any,
) -> None:
    """Serve the packed model in DIR to OpenAI's and Anthropic's clients."""
    key = _key(api_key)
    check_exposure(host, key, insecure)
    kept, disk = None if no_sessions else sessions or default_sessions(), parse_bytes(sessions_disk)
    chosen = {name: value for name, value in settings.items() if value is not None}
    # A share of the memory for saved states, so that what a prompt repeats is not computed again.
    with bind(host, port) as listener, load(directory, snapshots=None, **chosen) as text:
        served = name or model_name(directory)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"

        def ready() -> None:
            click.echo(text.engine.summary, err=True)
            click.echo(f"{served} at {address}/v1, {text.engine.limits.sequences} answers at a time", err=True)

        serve(text, listener, name=served, key=key, sessions=kept, disk=disk, ready=ready)


def _key(given: str | None) -> str | None:
    """The key, from a file where the option says so: what is on a command line everyone on the machine can read."""
    if given is None or not given.startswith("@"):
        key = given
    else:
        try:
            key = read_bytes(Path(given[1:]), _MAX_KEY_BYTES).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise FlashMoeError(f"The key cannot be read from {given[1:]}: {error}.") from None
    if key is not None and (not key or not key.isascii() or not key.isprintable()):
        raise FlashMoeError("The API key must be printable ASCII and not empty.")
    return key
