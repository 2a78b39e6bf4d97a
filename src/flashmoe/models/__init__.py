"""The model family: one file per model_type, and the decoder they share, written in `ops` alone."""

from collections.abc import Mapping
from typing import Any

from flashmoe.errors import FormatError
from flashmoe.models import qwen3_5_moe, qwen3_moe, qwen3_next
from flashmoe.models.architecture import Architecture

__all__ = ["architecture"]

_ARCHITECTURES = {
    "qwen3_5_moe": qwen3_5_moe.architecture,
    "qwen3_5_moe_text": qwen3_5_moe.architecture,
    "qwen3_next": qwen3_next.architecture,
    "qwen3_moe": qwen3_moe.architecture,
}


def architecture(config: Mapping[str, Any]) -> Architecture:
    """What a parsed config.json describes.

    Raises FormatError naming the key that is missing, of the wrong type, or asks for something not supported.
    """
    model_type = config.get("model_type")
    known = ", ".join(sorted(_ARCHITECTURES))
    if not isinstance(model_type, str):
        raise FormatError(f"config.json: model_type is missing; it must be one of {known}.")
    if model_type not in _ARCHITECTURES:
        raise FormatError(f"config.json: model_type {model_type!r:.60} is not supported; known are {known}.")
    return _ARCHITECTURES[model_type](config)
