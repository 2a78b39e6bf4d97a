"""The text files beside a model (tokenizer.json, tokenizer_config.json, ...), read with errors that name them.

Knows files, not what is in them.
"""

from pathlib import Path
from typing import Any

from flashmoe.errors import FlashMoeError, FormatError
from flashmoe.files import opening
from flashmoe.files.jsonfile import read_object


def read_text(path: Path) -> str:
    """The file as UTF-8; FlashMoeError when it cannot be read, FormatError when it is not text."""
    try:
        return opening.read_text(path)
    except OSError as error:
        raise FlashMoeError(
            f"{path} cannot be read ({error.strerror}); copy it from the model's checkpoint or pack the model again."
        ) from error
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path} is not UTF-8 text (byte {error.start}); copy it again from the model's checkpoint."
        ) from error


def read_object_if_present(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty when there is no such file; FormatError when it holds anything else."""
    return read_object(path) if path.exists() else {}


def token_text(value: Any) -> str | None:
    """A special token of tokenizer_config.json: a string, or an object with its text under `content`; else None."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
