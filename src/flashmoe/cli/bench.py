"""`flashmoe bench DIR`."""

from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import click

from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.cli.model_directory import MODEL_DIRECTORY
from flashmoe.cli.printing import say, show
from flashmoe.cli.prompt_text import PROMPT
from flashmoe.cli.shared_options import ENGINE, SharingCommand
from flashmoe.measure.bench import bench
from flashmoe.measure.plot import plot_pipeline, require_matplotlib
from flashmoe.settings import Settings

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

_MOST = 1 << 20  # more than any context holds


@click.command("bench", cls=SharingCommand, groups=(ENGINE,))
@click.argument("directory", metavar="DIR", type=MODEL_DIRECTORY)
@click.option("--no-overlap", is_flag=True, help="Read all experts of a layer before computing with any.")
@click.option(
    "--tokens", type=click.IntRange(3, _MOST), default=256, show_default=True, help="To generate in each run."
)
@click.option(
    "--prompt-tokens", type=click.IntRange(1, _MOST), default=256, show_default=True, help="Length of the prompts."
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Each starts cold.")
@click.option(
    "-p",
    "--prompt",
    "texts",
    type=PROMPT,
    multiple=True,
    help="A text instead of the three that come with the program.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path), help="Draw where a token's time goes.")
def command(
    directory: Path,
    no_overlap: bool,
    tokens: int,
    prompt_tokens: int,
    repeats: int,
    texts: tuple[str, ...],
    as_json: bool,
    plot: Path | None,
    settings: Settings,
) -> None:
    """Measure how fast the packed model in DIR runs on this machine, cold and warm, beside the roofline.

    A prose, a code and a facts prompt take turns, each followed by the others until it has its length.
    """
    if plot:
        require_matplotlib()
    report = bench(
        directory,
        _prompts(Tokenizer.from_dir(directory), texts or PROMPTS, prompt_tokens),
        replace(settings, overlap=not no_overlap),
        tokens=tokens,
        repeats=repeats,
        report=lambda step: say(f"{step} ...", err=True),
    )
    show(report, as_json=as_json)
    if plot:
        plot_pipeline(report.pipeline, directory.name, plot)


def _prompts(tokenizer: Tokenizer, texts: tuple[str, ...], length: int) -> list[list[int]]:
    """One prompt a text, of `length` tokens: the text, then those that follow it in the circle."""
    ids = [tokenizer.encode(text + "\n") for text in texts]
    rotated = ([*ids[first:], *ids[:first]] for first in range(len(ids)))
    return [list(islice(cycle(token for part in parts for token in part), length)) for parts in rotated]
