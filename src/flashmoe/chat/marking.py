"""Text stays text: which control tokens of a rendered conversation the template wrote, and which stood in its data.

A control token (`<|im_end|>`, `<think>`) means something only where the template writes it. So before rendering, each
one inside the data gets a seal after its first character, a character that occurs nowhere in the data: the template
does not find the token there, and whatever it does to the string, the place is not lost. After rendering the seals come
out again, and the places of some of them are seams, over which no token may run (Tokenizer.encode).

What an assistant wrote is the model's own: there only tokens that no answer can hold are made text. Marks like
`<tool_call>` stay the tokens that the model wrote, but the template does not take them apart a second time.
Invariant: data without control tokens is rendered as if nothing had been done. Knows strings, not messages.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_BRACKETED = re.compile(r"\s*(?:<.+>|\[.+\])\s*", re.DOTALL)
_SEALS = [(chr(place), chr(place + 1)) for place in range(0xFDD0, 0xFDF0, 2)]
"""Noncharacters of Unicode: for use inside a program, so that hardly any text holds one, and none holds all."""


def is_control(token: str, special: bool) -> bool:
    """Whether an added token of a tokenizer is one: special, or in brackets, since checkpoints do not call marks like
    <think> special. Words and spaces that were added to a vocabulary are ordinary text."""
    return len(token) > 1 and (special or _BRACKETED.fullmatch(token) is not None)


@dataclass(frozen=True)
class Rendered:
    """A conversation as text. seams: places between two characters, rising, over which no control token runs: what
    reads like one there is text."""

    text: str
    seams: tuple[int, ...] = ()


class ControlTokens:
    """Those of a tokenizer. tokens: each with whether it is special, which means that no decoded answer holds it."""

    def __init__(self, tokens: Mapping[str, bool]) -> None:
        self.tokens = {token: tokens[token] for token in sorted(tokens, key=len, reverse=True)}
        # The template may write the last character, or the first and the last: it puts `>` after an argument's name.
        long = {token: special for token, special in self.tokens.items() if len(token) > 2}
        self.beginnings = {token[:-1]: special for token, special in long.items()}
        self.middles = {token[1:-1]: s for token, s in long.items() if not token[1:-1].isidentifier()}
        first = {token[0] for token in (*self.tokens, *self.middles)} | {seal for pair in _SEALS for seal in pair}
        self.worth_a_look = re.compile("|".join(map(re.escape, first))).search

    def markings(self) -> Iterator["Marking"]:
        """To be tried one after the other, until one does not clash with the data."""
        return (Marking(self, *seals) for seals in _SEALS)


class Marking:
    """One pass over the data of a rendering."""

    def __init__(self, control: ControlTokens, text: str, own: str) -> None:
        self._control, self._text, self._own = control, text, own
        self._beginnings = tuple(control.beginnings)
        self._found = self._met = False

    @property
    def clash(self) -> bool:
        """Whether the data holds a seal of its own."""
        return self._found and self._met

    def mark(self, text: str, own: bool) -> str:
        """The string with its control tokens sealed. own: the model wrote it."""
        if not self._control.worth_a_look(text):
            return text
        tokens, marked = self._control.tokens, text
        if present := [token for token in tokens if token in text]:
            either = "|".join(map(re.escape, present))
            marked = re.sub(either, lambda match: self._sealed(match[0], tokens[match[0]], own), text)
        if marked is text and text in self._control.middles:
            marked = self._sealed(text, self._control.middles[text], own)
        elif marked.endswith(self._beginnings):
            end = next(end for end in self._beginnings if marked.endswith(end))
            marked = marked.removesuffix(end) + self._sealed(end, self._control.beginnings[end], own)
        self._found = self._found or marked is not text
        self._met = self._met or self._text in text or self._own in text
        return marked

    def _sealed(self, token: str, special: bool, own: bool) -> str:
        return token[0] + (self._own if own and not special else self._text) + token[1:]

    def rendered(self, text: str) -> Rendered:
        """What the template made of the sealed data."""
        if not self._found:
            return Rendered(text)
        pieces: list[str] = []
        seams: list[int] = []
        length = 0
        for i, piece in enumerate(re.split(f"([{self._text}{self._own}])", text)):
            if i % 2 == 0:
                pieces.append(piece)
                length += len(piece)
            elif piece == self._text:
                seams.append(length)
        return Rendered("".join(pieces), tuple(seams))
