"""The option --foresight of the commands that measure or predict."""

import click

FORESIGHT_OPTION = click.option(
    "--foresight/--no-foresight",
    default=None,
    help="Read ahead what the next layer's router would choose [default: where experts are large]",
)
