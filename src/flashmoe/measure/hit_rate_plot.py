"""Hit-rate curves as a picture, where matplotlib is installed. Knows points, not how they came about."""

from collections.abc import Sequence
from pathlib import Path

from flashmoe.errors import FlashMoeError
from flashmoe.measure.plot import require_matplotlib
from flashmoe.measure.simulation import BELADY, Point

_SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raise FlashMoeError if the picture cannot be drawn, before anybody waits for what it shall show."""
    if path.suffix.lower() not in _SUFFIXES:
        raise FlashMoeError(f"{path} must end in {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}.")
    if not path.absolute().parent.is_dir():
        raise FlashMoeError(f"{path} cannot be written: there is no directory {path.parent}.")
    require_matplotlib()


def draw_hit_rates(points: Sequence[Point], title: str, path: Path) -> None:
    """One curve a policy: hit rate over the share of experts in memory. Raises OSError if it cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(point.policy for point in points):
        curve = sorted((100 * p.share, 100 * p.hit_rate) for p in points if p.policy == name)
        style = "--" if name == BELADY else "o-"
        axes.plot([x for x, _ in curve], [y for _, y in curve], style, label=name)
    axes.set(title=title, xlabel="experts in memory (%)", ylabel="hits (%)", ylim=(0, 100), xlim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
