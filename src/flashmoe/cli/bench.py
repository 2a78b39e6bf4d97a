"""`flashmoe bench DIR`."""

import json
from itertools import cycle, islice
from pathlib import Path

import click

from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.cli.foresight import FORESIGHT_OPTION
from flashmoe.cli.kv_bits import KV_BITS_OPTION
from flashmoe.cli.model_directory import MODEL_DIRECTORY
from flashmoe.measure.bench import bench
from flashmoe.measure.plot import plot_pipeline, require_matplotlib
from flashmoe.settings import CACHES, Settings, parse_bytes

PROMPTS = (
    "The keeper of the lighthouse had counted ships for thirty years. He wrote each one into a book: the hour, the "
    "colour of her sails, the way she was heading, and what the wind was doing. On the longest night of the winter, "
    "when snow lay on the rocks, he saw a light where no light ought to be, and he put on his coat and went down.",
    "def merge(left, right):\n    result = []\n    i = j = 0\n    while i < len(left) and j < len(right):\n"
    "        if left[i] <= right[j]:\n            result.append(left[i])\n            i += 1\n        else:\n"
    "            result.append(right[j])\n            j += 1\n    return result + left[i:] + right[j:]\n",
    "1. Photosynthesis turns light into chemical energy: 6 CO2 + 6 H2O -> C6H12O6 + 6 O2. 2. La capitale de la France "
    "est Paris, celle de l'Allemagne est Berlin. 3. If 3x + 7 = 22, then x = 5, because 22 - 7 = 15 and 15 / 3 = 5. "
    "4. In 1687 Newton published the Principia, with three laws of motion and the law of gravity.",
)


@click.command("bench")
@click.argument("directory", metavar="DIR", type=MODEL_DIRECTORY)
@click.option("--memory", metavar="SIZE", help="For everything, like 4GiB [default: what the machine leaves]")
@click.option("--threads", type=int, help="Compute threads [default: one a core, one less on 8 or more]")
@click.option("--experts-per-token", type=int, help="Instead of the model's own number.")
@click.option("--context", type=int, help="Tokens to reserve for [default: as `flashmoe run` does]")
@KV_BITS_OPTION
@click.option("--cache", type=click.Choice(CACHES), default="arena", show_default=True, help="Who keeps the experts.")
@click.option("--no-overlap", is_flag=True, help="Read all experts of a layer before computing with any.")
@FORESIGHT_OPTION
@click.option("--tokens", type=click.IntRange(3), default=256, show_default=True, help="To generate in each run.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=256, show_default=True, help="Length of the prompts.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Each starts cold.")
@click.option("-p", "--prompt", "texts", multiple=True, help="A text instead of the three that come with the program.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path), help="Draw where a token's time goes.")
def command(
    directory: Path,
    memory: str | None,
    threads: int | None,
    experts_per_token: int | None,
    context: int | None,
    kv_bits: int,
    cache: str,
    no_overlap: bool,
    foresight: bool | None,
    tokens: int,
    prompt_tokens: int,
    repeats: int,
    texts: tuple[str, ...],
    as_json: bool,
    plot: Path | None,
) -> None:
    """Measure how fast the packed model in DIR runs on this machine, cold and warm, beside the roofline.

    A prose, a code and a facts prompt take turns, each followed by the others until it has its length.
    """
    if plot:
        require_matplotlib()
    settings = Settings(
        memory=None if memory is None else parse_bytes(memory),
        threads=threads,
        experts_per_token=experts_per_token,
        context=context,
        kv_bits=kv_bits,
        cache=cache,
        overlap=not no_overlap,
        foresight=foresight,
    )
    report = bench(
        directory,
        _prompts(Tokenizer.from_dir(directory), texts or PROMPTS, prompt_tokens),
        settings,
        tokens=tokens,
        repeats=repeats,
        report=lambda step: click.echo(f"{step} ...", err=True),
    )
    click.echo(json.dumps(report.as_json(), indent=1) if as_json else str(report))
    if plot:
        plot_pipeline(report.pipeline, directory.name, plot)


def _prompts(tokenizer: Tokenizer, texts: tuple[str, ...], length: int) -> list[list[int]]:
    """One prompt a text, of `length` tokens: the text, then those that follow it in the circle."""
    ids = [tokenizer.encode(text + "\n") for text in texts]
    rotated = ([*ids[first:], *ids[:first]] for first in range(len(ids)))
    return [list(islice(cycle(token for part in parts for token in part), length)) for parts in rotated]
