"""`flashmoe pack SRC OUT`."""

from pathlib import Path

import click

from flashmoe.cli.printing import say
from flashmoe.cli.progress import progress_bar
from flashmoe.engine.sampling import read_defaults
from flashmoe.pack.packer import Reports, pack
from flashmoe.pack.recipe import Recipe
from flashmoe.settings import format_bytes
from flashmoe.text_engine import check_text_files


@click.command("pack")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--bits", type=click.Choice(["4", "2", "8"]), help="Bits of experts [default: the source's own, else 4]")
@click.option(
    "--trunk-bits",
    type=click.Choice(["4", "8", "16"]),
    help="Bits of everything else; 16 keeps it as it is [default: the source's own, else 4]",
)
@click.option("--delete-source", is_flag=True, help="Delete each shard of SRC as soon as it is packed.")
def command(source: Path, out: Path, bits: str | None, trunk_bits: str | None, delete_source: bool) -> None:
    """Pack the checkpoint in directory SRC (Hugging Face or MLX safetensors) into directory OUT.

    Interrupted, it goes on where it stopped when started again.
    """
    check_text_files(source)
    read_defaults(source / "generation_config.json")
    recipe = Recipe(int(bits) if bits else None, int(trunk_bits) if trunk_bits else None)
    with progress_bar("Packing") as (report, tell):
        manifest = pack(source, out, recipe, delete_source=delete_source, reports=Reports(report, tell))
    total = manifest.expert_bytes + manifest.trunk.bytes
    say(f"{out}: {format_bytes(total)}, of which experts {format_bytes(manifest.expert_bytes)}.", err=True)
