"""Run Mixture-of-Experts language models larger than memory, streaming experts from the SSD.

import flashmoe
with flashmoe.load("DIR", memory="4GiB") as engine:
    for piece in engine.stream("Why is the sky blue?", max_tokens=200):
        print(piece.text, end="", flush=True)
"""

from typing import TYPE_CHECKING, Any

from flashmoe.errors import CapacityError, FlashMoeError, FormatError
from flashmoe.settings import Settings

if TYPE_CHECKING:
    from flashmoe.text_engine import Answer, Piece, TextEngine, load

__all__ = ["Answer", "CapacityError", "FlashMoeError", "FormatError", "Piece", "Settings", "TextEngine", "load"]


def __getattr__(name: str) -> Any:
    """The engine is imported when it is asked for: what needs errors or test sets alone starts without native code."""
    if name in __all__:
        from flashmoe import text_engine

        return getattr(text_engine, name)
    raise AttributeError(f"module 'flashmoe' has no attribute {name!r}")
