"""The word `demo`: the small trained model that ships with Flash-MoE, packed.

Invariant: nothing is written, so an installation that nobody may write to is enough. Knows where the model lies, not
what is done with it.
"""

from pathlib import Path

from flashmoe.errors import FlashMoeError
from flashmoe.pack.manifest import NAME
from flashmoe.pack.names import STATE

WORD = "demo"
MODEL = Path(__file__).with_name("model")


def model_directory(name: str | Path) -> Path:
    """The directory of the packed model that a user means by `name`: the demo model's for the word `demo`, else itself.

    A packed model in a directory `demo` of the working directory, finished or not, goes before the word; a Path is
    never the word. Raises FlashMoeError where the demo model is not installed.
    """
    directory = Path(name)
    if name != WORD or (directory / NAME).exists() or (directory / STATE).exists():
        return directory
    if not (MODEL / NAME).is_file():
        raise FlashMoeError(
            f"This installation of Flash-MoE lacks the demo model: there is none in {MODEL}. Install it again, or name "
            "the directory of a packed model."
        )
    return MODEL


def model_name(directory: Path) -> str:
    """What a user calls the model in `directory`: the word for the demo model, else the directory's own name."""
    resolved = directory.resolve()
    return WORD if resolved == MODEL.resolve() else resolved.name
