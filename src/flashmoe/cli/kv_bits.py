"""The option --kv-bits of the commands that take --context."""

import click

from flashmoe.settings import KV_BITS

KV_BITS_OPTION = click.option(
    "--kv-bits",
    type=click.Choice(KV_BITS),
    default=16,
    show_default=True,
    help="Of each number in the caches of keys and values. 8 halves them, and changes the answers slightly.",
)
