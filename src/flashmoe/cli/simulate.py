"""`flashmoe simulate TRACE`: hit rates as a table, one JSON object or a picture. Policies and sizes are measure's."""

from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from flashmoe.cli.printing import console, printable, show_json
from flashmoe.cli.progress import count_bar
from flashmoe.demo import TRACE
from flashmoe.engine.routing_trace import RoutingTrace
from flashmoe.errors import FlashMoeError
from flashmoe.measure.hit_rate_plot import check_plot, draw_hit_rates
from flashmoe.measure.simulation import BELADY, Point, simulate
from flashmoe.streaming.policy import POLICIES

_NAMES = [*POLICIES, BELADY]


@click.command("simulate")
@click.argument("trace", metavar="TRACE", type=click.Path(path_type=Path))
@click.option("--cached", metavar="PERCENTS", default="5,10,25,50,75", show_default=True, help="How many experts fit.")
@click.option("--policy", "policies", type=click.Choice(_NAMES), multiple=True, help="One or more [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--plot", metavar="FILE.png", type=click.Path(path_type=Path), help="Draw the curves.")
def command(trace: Path, cached: str, policies: tuple[str, ...], as_json: bool, plot: Path | None) -> None:
    """Replay the routing recorded in TRACE (run --record-routing), or the demo model's own for the word `demo`, against
    cache policies, from an empty cache.

    A hit rate is the part of the experts fetched that were in memory; a prompt chunk fetches an expert once. belady
    knows the future: no policy does better.
    """
    shares = parse_percents(cached)
    if plot:
        check_plot(plot)
    if trace == Path("demo") and not trace.exists():
        trace = TRACE
    recorded = RoutingTrace.read(trace)
    names = list(dict.fromkeys(policies)) or _NAMES
    with count_bar("Simulating", len(names) * len(shares)) as progress:
        points = simulate(recorded, shares, names, progress)
    tokens, layers, top_k = recorded.ids.shape
    if plot:
        draw_hit_rates(points, f"{tokens} tokens, {layers} layers, {top_k} of {recorded.experts} experts", plot)
    if as_json:
        sizes = {"tokens": tokens, "layers": layers, "experts": recorded.experts, "experts_per_token": top_k}
        result = {"trace": str(trace), **sizes, "points": [point.as_json() for point in points]}
        show_json(result)
    else:
        _print_table(points, names, f"{trace}: {tokens} tokens, {layers} layers, {top_k} of {recorded.experts} experts")


def parse_percents(text: str) -> list[float]:
    """`10,25,50` as rising shares of one."""
    try:
        percents = {float(part) for part in text.split(",")}
    except ValueError:
        percents = set()
    if not percents or not all(0 < percent <= 100 for percent in percents):
        raise FlashMoeError(f"{text!r} are not percentages above 0 and up to 100; write them like 10,25,50.")
    return sorted(percent / 100 for percent in percents)


def _print_table(points: list[Point], names: list[str], title: str) -> None:
    table = Table(title=Text(printable(title)), title_justify="left")
    for heading in ("cached", "experts", *names):
        table.add_column(heading, justify="right")
    rates = {(point.policy, point.share): f"{point.hit_rate:.1%}" for point in points}
    for share, slots in sorted({(point.share, point.slots) for point in points}):
        table.add_row(f"{share * 100:g}%", str(slots), *(rates[name, share] for name in names))
    console(soft_wrap=True).print(table)
