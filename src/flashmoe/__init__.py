"""Run Mixture-of-Experts language models larger than memory, streaming experts from the SSD.

import flashmoe
with flashmoe.load("DIR", memory="4GiB") as engine:
    for piece in engine.stream("Why is the sky blue?", max_tokens=200):
        print(piece.text, end="", flush=True)
"""

from flashmoe.errors import CapacityError, FlashMoeError, FormatError
from flashmoe.settings import Settings
from flashmoe.text_engine import Answer, Piece, TextEngine, load

__all__ = ["Answer", "CapacityError", "FlashMoeError", "FormatError", "Piece", "Settings", "TextEngine", "load"]
