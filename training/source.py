"""Where every random choice of the data comes from, and what keeps the three splits apart.

A `Source` draws words, numbers and phrasings that belong to its split alone, and notes what it drew. A word, a value
or a composed phrasing belongs to a split by a checksum of its text; a phrasing of a plain list by its place there. So
no test word, value or phrasing can occur in training, whatever the seed. Numbers below 100 and function words are
common to all splits. Knows no task and no template language.
"""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar
from zlib import crc32

from training import words

T = TypeVar("T")

SPLITS = ("train", "validation", "test")


def owner(text: str) -> str:
    """The split that may use this word, value or phrasing: 80 % train, 10 % validation, 10 % test."""
    part = crc32(text.lower().encode()) % 20
    return "test" if part < 2 else "validation" if part < 4 else "train"


def _by_owner(entries: Sequence[str]) -> dict[str, list[str]]:
    """Entries by split. A short list could leave a split empty: then its neighbours by checksum are moved there."""
    shares = {"test": max(2, len(entries) // 10), "validation": max(2, len(entries) // 10)}
    order = sorted(entries, key=lambda entry: crc32(entry.encode()))
    parted = {"test": order[: shares["test"]]}
    parted["validation"] = order[shares["test"] : shares["test"] + shares["validation"]]
    parted["train"] = order[shares["test"] + shares["validation"] :]
    return parted


_LISTS = {name: _by_owner(entries) for name, entries in words.LISTS.items()}

_LISTED = frozenset(entry.lower() for entries in words.LISTS.values() for entry in entries)
_STARTS = sorted(entry[:2] for entry in _LISTED)


def _chains() -> dict[str, list[str]]:
    """What follows two letters in the listed words; "" is a word's end."""
    following: dict[str, list[str]] = {}
    for word in sorted(_LISTED):
        for index in range(len(word) - 1):
            following.setdefault(word[index : index + 2], []).append(word[index + 2 : index + 3])
    return following


_FOLLOWING = _chains()


class Source:
    """Random choices of one split, drawn from one seed.

    `used` holds (category, item) for everything that must not occur in another split.
    """

    def __init__(self, split: str, seed: int | str) -> None:
        assert split in SPLITS
        self.split = split
        self.rng = random.Random(f"{split}:{seed}")
        self.used: set[tuple[str, str]] = set()

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, options: Sequence[T]) -> T:
        """Any of the options: for choices that splits share."""
        return options[int(self.rng.random() * len(options))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different ones, in random order."""
        return self.rng.sample(options, count)

    def template(self, name: str, options: Sequence[T]) -> T:
        """One phrasing of this split: the last option is the test's, the one before it the validation's."""
        count = len(options)
        assert count >= 4, f"{name} has too few phrasings to hold any out"
        index = {"test": count - 1, "validation": count - 2}.get(self.split, int(self.rng.random() * (count - 2)))
        self.used.add((f"template {name}", str(index)))
        return options[index]

    def frame(self, name: str, *parts: Sequence[str]) -> str:
        """One phrasing put together from parts, joined by spaces where they are not empty.

        The combination as a whole belongs to one split: the parts are common language.
        """
        return self.owned(lambda: " ".join(part for part in map(self.pick, parts) if part), f"template {name}")

    def listed(self, name: str) -> str:
        """A word of a list in words.py that belongs to this split."""
        word = self.pick(_LISTS[name][self.split])
        self.used.add((name, word))
        return word

    def owned(self, draw: Callable[[], str], category: str = "value") -> str:
        """Draws until the text belongs to this split."""
        for _ in range(10_000):
            text = draw()
            if owner(text) == self.split:
                self.used.add((category, text.lower()))
                return text
        raise AssertionError(f"{category}: the {self.split} split owns none of these")

    def made_up(self, syllables: int = 0) -> str:
        """A word nobody knows, lower case: syllables or a word-like chain of letters.

        Copying is only learnt for tokens that occur: chains reach those that syllables never do.
        """
        if self.chance(0.6):
            return self.owned(lambda: self._syllables(syllables or self.pick((2, 2, 2, 3))), "word")
        return self.owned(self._chain, "word")

    def _chain(self) -> str:
        """Each letter drawn as it follows the two before it in the lists' words; never a listed word."""
        while True:
            text = self.pick(_STARTS)
            while len(text) < 11 and (letter := self.pick(_FOLLOWING[text[-2:]])):
                text += letter
            if len(text) > 2 and text not in _LISTED:
                return text

    def _syllables(self, count: int) -> str:
        text = "".join(self.pick(words.ONSETS) + self.pick(words.NUCLEI) for _ in range(count))
        return text + self.pick(words.CODAS)

    def number(self, low: int, high: int) -> int:
        """A whole number in [low, high]; from 100 up only those of this split."""
        while True:
            value = self.rng.randint(low, high)
            if abs(value) < 100:
                return value
            if owner(str(value)) == self.split:
                self.used.add(("number", str(value)))
                return value
