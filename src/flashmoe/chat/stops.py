"""Strings that end a text before them, found in a stream.

Invariant: what comes out, joined, is the text before the first of the strings that is complete, however the text is
cut into pieces; nothing that may yet be the beginning of one comes out. The time is linear in the text and in the
strings. Knows text only.
"""

from collections import deque
from collections.abc import Sequence
from functools import lru_cache


class _Automaton:
    """Aho and Corasick's, of strings that are not empty. A state is a prefix of one of them; 0 is the empty one.

    ends: of each state, the longest of the strings that its prefix ends with, or None.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._string, self._length, self._shorter = [""], [0], [0]
        self.ends: list[str | None] = [None]
        for string in strings:
            self._add(string)
        self._link()

    def _add(self, string: str) -> None:
        state = 0
        for length, character in enumerate(string, 1):
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._string.append(string)
                self._length.append(length)
                self._shorter.append(0)
                self.ends.append(None)
            state = self._next[state][character]
        self.ends[state] = string

    def _link(self) -> None:
        """To each state the longest shorter one that its prefix ends with, in rising order of length."""
        states = deque(self._next[0].values())
        while states:
            state = states.popleft()
            shorter = self._shorter[state]
            if self.ends[state] is None:
                self.ends[state] = self.ends[shorter]
            for character, longer in self._next[state].items():
                self._shorter[longer] = self.step(shorter, character)
                states.append(longer)

    def step(self, state: int, character: str) -> int:
        """The longest prefix that the text ends with after one more character."""
        while state and character not in self._next[state]:
            state = self._shorter[state]
        return self._next[state].get(character, 0)

    def prefix(self, state: int) -> str:
        return self._string[state][: self._length[state]]

    def without_end(self, state: int, text: str, end: int) -> str:
        """The prefix of a state and a text after it, but for the last `end` characters of both."""
        held = self._length[state]
        size = held + len(text) - end
        return self._string[state][: min(size, held)] + text[: max(size - held, 0)]

    def length(self, state: int) -> int:
        return self._length[state]


@lru_cache(maxsize=8)
def _automaton(strings: tuple[str, ...]) -> _Automaton:
    return _Automaton(strings)


class StopStrings:
    """stop: strings that are not empty. found: the one that ended the text, if one did: the first to be complete; of
    several that end at the same character, the longest."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._automaton = _automaton(tuple(stop))
        self._state = 0  # its prefix is what is held back
        self.found: str | None = None

    def push(self, text: str) -> str:
        """What of the text so far is certain; nothing after a stop string."""
        if self.found is not None:
            return ""
        automaton, before, state = self._automaton, self._state, self._state
        for place, character in enumerate(text, 1):
            state = automaton.step(state, character)
            self.found = automaton.ends[state]
            if self.found is not None:
                self._state = 0
                return automaton.without_end(before, text[:place], len(self.found))
        self._state = state
        return automaton.without_end(before, text, automaton.length(state))

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        held, self._state = self._automaton.prefix(self._state), 0
        return held


def possible_beginning(text: str, marks: Sequence[str]) -> int:
    """How many characters at the end of `text` could be the beginning of one of a few short marks."""
    return max((n for m in marks for n in range(1, min(len(m), len(text) + 1)) if text.endswith(m[:n])), default=0)
