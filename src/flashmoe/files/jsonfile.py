"""JSON that others wrote: read strictly, with errors that name the file and the key.

Invariant: whatever the bytes are, the outcome is a value of the asked type or a FormatError. A value is bounded: every
number fits a double, and nothing is nested deeper than MAX_DEPTH. Knows no file's meaning.
"""

import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from flashmoe.errors import FormatError
from flashmoe.files.opening import read_bytes

MAX_DEPTH = 100
"""Lists and objects inside each other. Python's own recursion, in repr and in json, gives out some ten times deeper."""
_MAX_DIGITS = 308
"""Of a whole number: so many always fit a double."""


def _whole_number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _fraction(digits: str) -> float:
    value = float(digits)
    if not isfinite(value):
        raise ValueError(f"the number {digits:.40} is too large")
    return value


def _is_too_deep(value: Any) -> bool:
    """Level by level, so that the depth asked about is not the depth of this program's own calls."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def parse_value(text: bytes, where: str) -> Any:
    """The JSON value in UTF-8 `text`. Duplicate keys, NaN, lone surrogates, numbers beyond a double and absurd nesting
    are errors."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key occurs twice")
        return result

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        decoded = text.decode("utf-8")
        value = json.loads(
            decoded,
            object_pairs_hook=unique,
            parse_constant=no_constant,
            parse_int=_whole_number,
            parse_float=_fraction,
        )
        if text.count(b"[") + text.count(b"{") > MAX_DEPTH and _is_too_deep([value]):
            raise RecursionError
        if "\\u" in decoded:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise FormatError(f"{where} is not valid JSON: {reason}.") from None
    return value


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object in UTF-8 `text`, as strict as `parse_value`."""
    value = parse_value(text, where)
    if not isinstance(value, dict):
        raise FormatError(f"{where} must be a JSON object, not {type(value).__name__}.")
    return value


def read_json(path: Path) -> bytes:
    """The bytes of a file that is to hold JSON. Raises FormatError when it is absent, unreadable or too large."""
    try:
        text = read_bytes(path)
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist.") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}.") from None
    return text


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object a file holds. Raises FormatError when the file is absent, unreadable or something else."""
    return parse_object(read_json(path), str(path))


@dataclass(frozen=True)
class Fields:
    """A JSON object whose keys are required and typed; `where` names it in errors."""

    values: dict[str, Any]
    where: str

    def _get(self, key: str, kind: type, article: str) -> Any:
        if key not in self.values:
            raise FormatError(f"{self.where} lacks the key {key!r:.60}.")
        value = self.values[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise FormatError(f"{self.where}: {key!r:.60} must be {article}, not {value!r:.60}.")
        return value

    def integer(self, key: str, least: int = 0) -> int:
        value: int = self._get(key, int, "a whole number")
        if not least <= value < 2**63:
            raise FormatError(f"{self.where}: {key!r:.60} must be from {least} to 2^63 - 1, not {value!r:.60}.")
        return value

    def text(self, key: str) -> str:
        value: str = self._get(key, str, "a string")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        value: dict[str, Any] = self._get(key, dict, "an object")
        return value

    def strings(self, key: str) -> dict[str, str]:
        """An object whose values are strings."""
        value = self.mapping(key)
        inner = Fields(value, f"{self.where}, {key!r}")
        return {name: inner.text(name) for name in value}

    def integers(self, key: str) -> tuple[int, ...]:
        value = self._get(key, list, "a list")
        if not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 2**63 for v in value):
            raise FormatError(f"{self.where}: {key!r} must be a list of whole numbers.")
        return tuple(value)

    def objects(self, key: str) -> list["Fields"]:
        value = self._get(key, list, "a list")
        inside = [f"{self.where}, {key}[{i}]" for i in range(len(value))]
        if wrong := [w for w, v in zip(inside, value, strict=True) if not isinstance(v, dict)]:
            raise FormatError(f"{wrong[0]} must be an object.")
        return [Fields(v, w) for w, v in zip(inside, value, strict=True)]
