"""`flashmoe plan DIR` and `flashmoe plan --like NAME`."""

import re
from pathlib import Path

import click

from flashmoe.cli.model_directory import MODEL_DIRECTORY
from flashmoe.cli.printing import show
from flashmoe.cli.shared_options import ENGINE, SharingCommand
from flashmoe.engine.sampling import Sampling, read_defaults
from flashmoe.errors import FlashMoeError
from flashmoe.measure.disk import Rate
from flashmoe.measure.prediction import Description, predict
from flashmoe.measure.sizes import packed_sizes, published_sizes
from flashmoe.pack.shapes import SHAPES
from flashmoe.settings import Settings, parse_bytes

_PLANNED = ENGINE.only("memory", "threads", "context", "kv_bits", "experts_per_token", "foresight")


@click.command("plan", cls=SharingCommand, groups=(_PLANNED,))
@click.argument("directory", metavar="[DIR]", required=False, type=MODEL_DIRECTORY)
@click.option("--like", type=click.Choice(list(SHAPES)), help="A published model, packed at 4 bits, instead of DIR.")
@click.option(
    "--disk",
    metavar="RATE",
    help="What the disk reads: 7GB/s, or by reads in flight: 3GB/s@1,7GB/s@8 [this and the next: default as measured]",
)
@click.option("--bandwidth", metavar="RATE", help="What is read from memory by all cores: 80GB/s.")
@click.option("--operations", metavar="RATE", help="Of 4-bit products with many rows: 400G, a second.")
@click.option("--hit-rate", type=float, help="Share of experts found in memory [default: the share that fits]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    directory: Path | None,
    like: str | None,
    disk: str | None,
    bandwidth: str | None,
    operations: str | None,
    hit_rate: float | None,
    as_json: bool,
    settings: Settings,
) -> None:
    """Predict tokens a second of the packed model in DIR, and spell out the roofline.

    For this machine, which is probed, or for one described by the options.
    """
    if (directory is None) == (like is None):
        raise FlashMoeError("Name either a packed model's directory or, with --like, a published model.")
    description = Description(
        memory=settings.memory,
        disk=None if disk is None else _by_depth(disk),
        bandwidth=_rate(bandwidth),
        operations=_rate(operations),
        hit_rate=hit_rate,
    )
    if like is not None:
        model = published_sizes(like, settings.experts_per_token)
    else:
        assert directory is not None
        model = packed_sizes(directory, settings.experts_per_token)
    defaults = read_defaults(directory / "generation_config.json") if directory else {}
    sampling = Sampling.from_generation_config(defaults) if defaults else None
    prediction = predict(model, description, directory or Path(), settings, sampling)
    show(prediction, as_json=as_json)


def _by_depth(text: str) -> tuple[Rate, ...]:
    """`3GB/s@1,7GB/s@8`; a rate without @ is that of one read in flight, and of more if none is given for them."""
    rates = []
    for part in text.split(","):
        rate, _, depth = part.partition("@")
        if depth and (not depth.isdecimal() or int(depth) < 1):
            raise FlashMoeError(f"{part!r} is no rate at a number of reads in flight; write it like 7GB/s@8.")
        rates.append(Rate(int(depth or 1), float(_rate(rate) or 0)))
    return tuple(sorted(rates, key=lambda rate: rate.depth))


def _rate(text: str | None) -> float | None:
    """`7GB/s` or `7G` as 7e9."""
    return None if text is None else float(parse_bytes(re.sub(r"/s\s*$", "", text)))
