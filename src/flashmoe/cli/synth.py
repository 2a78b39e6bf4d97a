"""`flashmoe synth OUT`."""

from pathlib import Path

import click

from flashmoe.cli.printing import say
from flashmoe.cli.progress import progress_bar
from flashmoe.pack.shapes import SHAPES
from flashmoe.pack.synth import Choices, synth
from flashmoe.settings import format_bytes


@click.command("synth")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--like", type=click.Choice(list(SHAPES)), required=True, help="Whose shapes.")
@click.option("--layers", type=click.IntRange(1), help="The first so many layers alone [default: all]")
@click.option("--bits", type=click.Choice(["4", "2", "8"]), default="4", show_default=True, help="Bits of experts.")
@click.option("--trunk-bits", type=click.Choice(["4", "8"]), default="4", show_default=True, help="Bits of the rest.")
@click.option("--skew", is_flag=True, help="Make some experts popular: Gini 0.2 to 0.5 by layer, as in real models.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def command(out: Path, like: str, layers: int | None, bits: str, trunk_bits: str, skew: bool, seed: int) -> None:
    """Write a packed model of true layer shapes with random weights to OUT, for benchmarks.

    It runs as any packed model does, and says nothing that makes sense.
    """
    choices = Choices(like, layers, int(bits), int(trunk_bits), skew, seed)
    with progress_bar("Writing") as (report, _):
        manifest = synth(choices, out, report)
    total = manifest.expert_bytes + manifest.trunk.bytes
    say(f"{out}: {format_bytes(total)}, of which experts {format_bytes(manifest.expert_bytes)}.", err=True)
