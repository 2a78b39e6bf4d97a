"""`flashmoe serve DIR`: OpenAI's and Anthropic's HTTP interfaces on a packed model."""

from dataclasses import replace
from pathlib import Path

import click

from flashmoe.cli.model_directory import MODEL_DIRECTORY
from flashmoe.cli.printing import say
from flashmoe.cli.shared_options import ENGINE, KEEPING, Keeping, SharingCommand
from flashmoe.demo.directory import model_name
from flashmoe.errors import FlashMoeError
from flashmoe.files.opening import read_text
from flashmoe.server.run import bind, check_exposure, serve
from flashmoe.settings import Settings
from flashmoe.text_engine import load_with

_MAX_KEY_BYTES = 4096


@click.command("serve", cls=SharingCommand, groups=(ENGINE, KEEPING))
@click.argument("directory", metavar="DIR", type=MODEL_DIRECTORY)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--api-key", metavar="KEY|@FILE", help="What clients must show; @FILE reads it from a file.")
@click.option("--insecure", is_flag=True, help="Let anyone who reaches another address than loopback use the server.")
@click.option("--name", help="What clients call the model [default: the name of DIR]")
@click.option(
    "--sequences", type=int, default=4, show_default=True, help="Answers at a time, fewer where memory is short."
)
def command(
    directory: Path,
    host: str,
    port: int,
    api_key: str | None,
    insecure: bool,
    name: str | None,
    sequences: int,
    settings: Settings,
    keeping: Keeping,
) -> None:
    """Serve the packed model in DIR to OpenAI's and Anthropic's clients."""
    key = _key(api_key)
    check_exposure(host, key, insecure)
    # A share of the memory for saved states, so that what a prompt repeats is not computed again.
    settings = replace(settings, sequences=sequences, snapshots=None)
    with bind(host, port) as listener, load_with(directory, settings) as text:
        served = name or model_name(directory)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"

        def ready() -> None:
            say(text.engine.summary, err=True)
            say(f"{served} at {address}/v1, {text.engine.limits.sequences} answers at a time", err=True)

        serve(text, listener, name=served, key=key, sessions=keeping.directory, disk=keeping.disk, ready=ready)


def _key(given: str | None) -> str | None:
    """The key, from a file where the option says so: what is on a command line everyone on the machine can read."""
    if given is None or not given.startswith("@"):
        key = given
    else:
        try:
            key = read_text(Path(given[1:]), _MAX_KEY_BYTES).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise FlashMoeError(f"The key cannot be read from {given[1:]}: {error}.") from None
    if key is not None and (not key or not key.isascii() or not key.isprintable()):
        raise FlashMoeError("The API key must be printable ASCII and not empty.")
    return key
