"""Strings that end a text before them, found in a stream.

Invariant: what comes out, joined, is the text up to the first of the strings; nothing that may yet be the beginning of
one comes out. Knows text only.
"""

from collections.abc import Sequence


class StopStrings:
    """found: the string that ended the text, if one did."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop, self._held = tuple(stop), ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """What of the text so far is certain; nothing after a stop string."""
        if self.found is not None:
            return ""
        held = self._held + text
        places = [(place, s) for s in self._stop if (place := held.find(s)) >= 0]
        if places:
            place, self.found = min(places)
            self._held = ""
            return held[:place]
        safe = len(held) - possible_beginning(held, self._stop)
        self._held = held[safe:]
        return held[:safe]

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def possible_beginning(text: str, marks: Sequence[str]) -> int:
    """How many characters at the end of `text` could be the beginning of one of the marks."""
    return max((n for m in marks for n in range(1, min(len(m), len(text) + 1)) if text.endswith(m[:n])), default=0)
