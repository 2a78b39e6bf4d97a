"""Cache policies written for reading alone: each looks at everything it was ever told."""

from collections.abc import Sequence
from itertools import combinations

HALF_LIFE = 3.0
BONUS = 5.0


class PlainLru:
    """The slot used longest ago."""

    def __init__(self, slots: int, layers: int, experts: int) -> None:  # noqa: ARG002
        self.history: list[list[int]] = [[] for _ in range(slots)]
        self.clock = 0

    def rank(self, slot: int) -> float:
        return max(self.history[slot], default=-1)

    def victims(self, pinned: set[int], count: int) -> list[int]:
        free = [slot for slot in range(len(self.history)) if slot not in pinned]
        return sorted(free, key=lambda slot: (self.rank(slot), slot))[:count]

    def admit(self, slot: int, key: int) -> None:
        pass

    def touch(self, slots: Sequence[int], uses: Sequence[int] | None) -> None:  # noqa: ARG002
        for slot in slots:
            self.clock += 1
            self.history[slot].append(self.clock)

    def forget(self, slot: int) -> None:
        self.history[slot] = []


class PlainLfu(PlainLru):
    """The slot whose key has the smallest sum of uses, each halved for every HALF_LIFE * experts uses that passes after
    its own have brought to a layer on average. A pass begins where the layer falls. Uses by many tokens count for no
    more than HALF_LIFE a key on average."""

    def __init__(self, slots: int, layers: int, experts: int) -> None:
        super().__init__(slots, layers, experts)
        self.layers, self.experts = layers, experts
        self.keys: list[int | None] = [None] * slots
        self.passes: list[list[tuple[int, float]]] = [[]]  # of key and count
        self.last: dict[int, int] = {}  # the pass of the last use of a key that says when it came
        self.layer = 0

    def rank(self, slot: int) -> float:
        if self.keys[slot] is None:
            return -1.0
        score = 0.0
        for number, uses in enumerate(self.passes):
            later = sum(count for following in self.passes[number:-1] for _, count in following) / self.layers
            weight = 2.0 ** (-later / (HALF_LIFE * self.experts))
            score += weight * sum(count for key, count in uses if key == self.keys[slot])
        return score

    def admit(self, slot: int, key: int) -> None:
        self.keys[slot] = key

    def touch(self, slots: Sequence[int], uses: Sequence[int] | None) -> None:
        keys = [self.keys[slot] for slot in slots]
        layer = keys[0] // self.experts
        if layer < self.layer or self.layers == 1:
            self.passes.append([])
        self.layer = layer
        counts = uses or [1] * len(keys)
        counted = min(1.0, HALF_LIFE * len(keys) / sum(counts)) if uses else 1.0
        self.passes[-1] += [(key, count * counted) for key, count in zip(keys, counts, strict=True)]
        if not uses or sum(uses) <= 2 * len(keys):
            self.last |= dict.fromkeys(keys, len(self.passes) - 1)

    def forget(self, slot: int) -> None:
        self.keys[slot] = None


class PlainLfru(PlainLfu):
    """PlainLfu, and BONUS uses more at the time of the key's last use, of those that give it."""

    def rank(self, slot: int) -> float:
        score = super().rank(slot)
        if (number := self.last.get(self.keys[slot])) is None:
            return score
        later = sum(count for following in self.passes[number:-1] for _, count in following) / self.layers
        return score + BONUS * 2.0 ** (-later / (HALF_LIFE * self.experts))


class PlainS3Fifo:
    """Lists, the head first: entries are [slot, key, uses after the first]."""

    def __init__(self, slots: int, layers: int, experts: int) -> None:  # noqa: ARG002
        self.slots = slots
        self.empty = list(range(slots))
        self.small: list[list[int]] = []
        self.main: list[list[int]] = []
        self.gone: list[int] = []

    def victims(self, pinned: set[int], count: int) -> list[int]:
        found = [slot for slot in self.empty if slot not in pinned][:count]
        while len(found) < count:
            slot, key, _ = self.evict(pinned)
            self.gone = [*(k for k in self.gone if k != key), key][-self.slots :]
            self.empty.append(slot)
            found.append(slot)
        return found

    def evict(self, pinned: set[int]) -> list[int]:
        small_is_full = len(self.small) >= max(1, self.slots // 10)
        while True:
            if small_is_full and (entry := self.from_small(pinned)):
                return entry
            if any(slot not in pinned for slot, _, _ in self.main):
                return self.from_main(pinned)
            small_is_full = True

    def from_small(self, pinned: set[int]) -> list[int] | None:
        for entry in list(self.small):  # once around
            self.small.remove(entry)
            if entry[0] in pinned:
                self.small.append(entry)
            elif entry[2] >= 2:
                self.main.append([entry[0], entry[1], 0])
            else:
                return entry
        return None

    def from_main(self, pinned: set[int]) -> list[int]:
        while True:
            entry = self.main.pop(0)
            if entry[0] not in pinned and entry[2] == 0:
                return entry
            self.main.append([entry[0], entry[1], entry[2] - (entry[0] not in pinned)])

    def admit(self, slot: int, key: int) -> None:
        self.forget(slot)
        self.empty.remove(slot)
        (self.main if key in self.gone else self.small).append([slot, key, -1])
        self.gone = [k for k in self.gone if k != key]

    def touch(self, slots: Sequence[int], uses: Sequence[int] | None) -> None:
        for slot, count in zip(slots, uses or [1] * len(slots), strict=True):
            (entry,) = (e for e in [*self.small, *self.main] if e[0] == slot)
            entry[2] = min(3, entry[2] + count)

    def forget(self, slot: int) -> None:
        self.empty = [*(s for s in self.empty if s != slot), slot]
        self.small = [e for e in self.small if e[0] != slot]
        self.main = [e for e in self.main if e[0] != slot]


def fewest_misses(slots: int, fetches: Sequence[Sequence[int]]) -> int:
    """By trying every choice: the least number of misses when the keys of a fetch must be in memory together."""
    states = {frozenset[int](): 0}  # what may be in memory, after how many misses at least
    for keys in map(frozenset, fetches):
        following: dict[frozenset[int], int] = {}
        for held, misses in states.items():
            for kept in subsets(held - keys, slots - len(keys)):
                after = kept | keys
                cost = misses + len(keys - held)
                following[after] = min(cost, following.get(after, cost))
        states = following
    return min(states.values())


def subsets(items: frozenset[int], most: int) -> list[frozenset[int]]:
    """All subsets with as many elements as fit: giving up more than one must helps nobody."""
    return [frozenset(chosen) for chosen in combinations(sorted(items), min(most, len(items)))]
