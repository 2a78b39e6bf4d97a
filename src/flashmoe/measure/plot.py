"""The pipeline as a picture. matplotlib is an extra, imported when a picture is asked for."""

from pathlib import Path

from flashmoe.errors import FlashMoeError
from flashmoe.measure.pipeline import PYTHON, Pipeline
from flashmoe.measure.timing import OF_A_LAYER


def require_matplotlib() -> None:
    """Raise FlashMoeError, with what to do, if no picture can be drawn: better before the measurement than after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise FlashMoeError("A plot needs matplotlib: pip install 'flashmoe[plot]'.") from error


def plot_pipeline(pipeline: Pipeline, title: str, path: Path) -> None:
    """A bar a layer, stacked from its parts. Raises FlashMoeError if the file's ending is no picture's."""
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    layers = range(len(pipeline.layers))
    bottoms = [0.0] * len(layers)
    for part in (*OF_A_LAYER, PYTHON):
        heights = [layer[part] * 1e3 for layer in pipeline.layers]
        axes.bar(layers, heights, bottom=bottoms, label=part)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    axes.set_xlabel("layer")
    axes.set_ylabel("milliseconds a token")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(
        f"{title}: {pipeline.seconds * 1e3:.3g} ms a token, besides the layers {pipeline.head * 1e3:.2g} ms embedding "
        f"and head, {pipeline.sampling * 1e3:.2g} ms sampling",
        fontsize="medium",
    )
    figure.legend(loc="outside right upper", reverse=True)
    try:
        figure.savefig(path)
    except ValueError as error:
        raise FlashMoeError(f"{path} cannot be drawn: {error}") from error
