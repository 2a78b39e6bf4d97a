"""Each cache policy against a plain model of itself, and all of them against what a policy must never do."""

from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_policies import BONUS, HALF_LIFE, PlainLfru, PlainLfu, PlainLru, PlainS3Fifo, fewest_misses

from flashmoe.streaming.belady import Belady
from flashmoe.streaming.policy import POLICIES, LeastFrequentlyUsed, LeastFrequentRecentlyUsed, LeastRecentlyUsed
from flashmoe.streaming.s3fifo import S3Fifo
from flashmoe.streaming.slot_ranking import SlotRanking

LAYERS, EXPERTS = 3, 4
KEYS = LAYERS * EXPERTS
SLOTS = st.sampled_from([4, 6, 12, 30])  # 30: S3-FIFO's small queue then holds more than one
keys = st.lists(st.integers(0, KEYS - 1), min_size=1, max_size=4, unique=True)
keys_of_a_layer = st.tuples(
    st.integers(0, LAYERS - 1), st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=4, unique=True)
).map(lambda drawn: [drawn[0] * EXPERTS + expert for expert in drawn[1]])
many_keys = st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True)


@dataclass
class Use:
    """A fetch of these keys, by so many tokens each, while some of the other slots are pinned."""

    keys: list[int]
    uses: list[int] | None
    pins: list[int]


@dataclass
class Drop:
    """The slot that holds this key, if one does, turns out to hold nothing."""

    key: int


def steps(keys: st.SearchStrategy[list[int]]) -> st.SearchStrategy[list[Use | Drop]]:
    def use(wanted: list[int]) -> st.SearchStrategy[Use]:
        counts = st.lists(st.integers(1, 5), min_size=len(wanted), max_size=len(wanted))
        return st.builds(Use, st.just(wanted), st.none() | counts, st.lists(st.integers(0, 29), max_size=3))

    return st.lists(keys.flatmap(use) | st.builds(Drop, st.integers(0, KEYS - 1)), max_size=40)


@dataclass
class Cache:
    """What a store does with a policy. `choose` sees every choice of victims: (pinned slots, count) -> slots."""

    slots: int
    policy: Any
    choose: Any
    follower: Any = None
    where: dict[int, int] = field(default_factory=dict)
    misses: int = 0

    def run(self, step: Use | Drop) -> None:
        if isinstance(step, Drop):
            if step.key in self.where:
                self.tell("forget", self.where.pop(step.key))
            return
        missing = [key for key in step.keys if key not in self.where]
        hits = {self.where[key] for key in step.keys if key in self.where}
        others = [slot for slot in dict.fromkeys(p % self.slots for p in step.pins) if slot not in hits]
        pinned = hits | set(others[: max(0, self.slots - len(step.keys))])
        for key, slot in zip(missing, self.choose(pinned, len(missing)), strict=True):
            self.where = {k: s for k, s in self.where.items() if s != slot}
            self.where[key] = slot
            self.tell("admit", slot, key)
        self.misses += len(missing)
        self.tell("touch", [self.where[key] for key in step.keys], step.uses)

    def tell(self, what: str, *arguments: Any) -> None:
        for policy in (self.policy, self.follower):
            if policy is not None:
                getattr(policy, what)(*arguments)


def victims(policy: Any, slots: int, pinned: set[int], count: int) -> list[int]:
    pins = np.zeros(slots, dtype=np.int32)
    pins[list(pinned)] = 1
    chosen: list[int] = policy.victims(pins, count)
    return chosen


@pytest.mark.parametrize(("made", "plain"), [(LeastRecentlyUsed, PlainLru), (S3Fifo, PlainS3Fifo)])
@given(slots=SLOTS, steps=steps(many_keys))
def test_victims_are_those_of_a_plain_model(made, plain, slots, steps):
    policy, model = made(slots, 1, 100), plain(slots, 1, 100)

    def choose(pinned: set[int], count: int) -> list[int]:
        chosen = victims(policy, slots, pinned, count)
        assert chosen == model.victims(pinned, count)
        return chosen

    cache = Cache(slots, policy, choose, model)
    for step in steps:
        cache.run(step)


@pytest.mark.parametrize("largest_weight", [LeastFrequentlyUsed._LARGEST_WEIGHT, 1.5])
@pytest.mark.parametrize("layers", [LAYERS, 1])
@pytest.mark.parametrize(
    ("made", "plain"),
    [
        (partial(LeastFrequentlyUsed, half_life=HALF_LIFE), PlainLfu),
        (partial(LeastFrequentRecentlyUsed, half_life=HALF_LIFE, bonus=BONUS), PlainLfru),
    ],
)
@given(slots=SLOTS, steps=steps(keys_of_a_layer))
def test_no_score_by_definition_is_lower_than_a_victims(made, plain, layers, largest_weight, slots, steps):
    experts = KEYS // layers
    policy, model = made(slots, layers, experts), plain(slots, layers, experts)
    policy._LARGEST_WEIGHT = largest_weight  # a small one scales the scores down often

    def choose(pinned: set[int], count: int) -> list[int]:
        chosen = victims(policy, slots, pinned, count)
        left = [slot for slot in range(slots) if slot not in pinned and slot not in chosen]
        order = [model.rank(slot) for slot in chosen] + [min(map(model.rank, left), default=np.inf)]
        assert all(low <= high + 1e-9 for low, high in pairwise(order))
        return chosen

    cache = Cache(slots, policy, choose, model)
    for step in steps:
        cache.run(step)


@given(slots=st.integers(3, 5), fetches=st.lists(keys.map(lambda k: k[:3]), min_size=1, max_size=10))
@settings(max_examples=60)
def test_nothing_beats_belady_and_belady_beats_nothing_possible(slots, fetches):
    belady = Belady(slots, [key for keys in fetches for key in keys])
    cache = Cache(slots, belady, lambda pinned, count: victims(belady, slots, pinned, count))
    for wanted in fetches:
        cache.run(Use(wanted, None, []))
    assert cache.misses == fewest_misses(slots, fetches)


@pytest.mark.parametrize("name", [*POLICIES, "belady"])
@given(slots=SLOTS, steps=steps(many_keys))
def test_victims_are_distinct_and_never_pinned(name, slots, steps):
    used = [key for step in steps if isinstance(step, Use) for key in step.keys]
    policy = Belady(slots, used) if name == "belady" else POLICIES[name](slots, 1, 100)

    def choose(pinned: set[int], count: int) -> list[int]:
        chosen = victims(policy, slots, pinned, count)
        assert len(set(chosen)) == count
        assert not set(chosen) & pinned
        empty = set(range(slots)) - set(cache.where.values()) - pinned
        assert len(empty & set(chosen)) == min(count, len(empty))
        return chosen

    cache = Cache(slots, policy, choose)
    for step in steps:
        cache.run(step)
    holding = set(cache.where.values())
    pinned = holding if len(holding) < slots else set()
    free = slots - len(pinned)
    assert len(set(victims(policy, slots, pinned, free))) == free  # no slot was lost


@pytest.mark.parametrize("name", POLICIES)
def test_asking_for_victims_and_not_taking_them_loses_no_slot(name):
    policy = POLICIES[name](6, 1, KEYS)
    for slot in victims(policy, 6, set(), 6):
        policy.admit(slot, slot)
    policy.touch(list(range(6)))
    for _ in range(3):
        assert sorted(victims(policy, 6, {2}, 5)) == [0, 1, 3, 4, 5]


def test_whether_a_scan_of_keys_used_once_leaves_alone_what_is_used_often():
    """What least recently used cannot do, nor lfru after so long a scan: its bonus outweighs few uses."""
    often, scan = list(range(10)), [[key] for key in range(10, 90)]
    kept = {}
    for name in POLICIES:
        policy = POLICIES[name](20, 1, 100)
        cache = Cache(20, policy, lambda pinned, count, policy=policy: victims(policy, 20, pinned, count))
        for wanted in [*([often] * 4), *scan]:
            cache.run(Use(wanted, None, []))
        kept[name] = len(set(often) & set(cache.where))
    assert kept == {"lru": 0, "lfu": 10, "lfru": 0, "s3fifo": 10}


def test_a_prompt_through_more_experts_than_fit_leaves_what_is_used_often_in_every_layer():
    layers, experts, slots = 4, 60, 60
    policy = LeastFrequentRecentlyUsed(slots, layers, experts)
    cache = Cache(slots, policy, lambda pinned, count: victims(policy, slots, pinned, count))
    often = {layer * experts + expert for layer in range(layers) for expert in range(10)}
    for _ in range(40):
        for layer in range(layers):
            cache.run(Use([layer * experts + expert for expert in range(10)], None, []))
    for _ in range(3):
        for layer in range(layers):
            assert often <= set(cache.where)
            for begin in range(0, experts, 20):
                keys = [layer * experts + expert for expert in range(begin, begin + 20)]
                cache.run(Use(keys, [90 if key in often else 30 for key in keys], []))


def test_a_use_by_many_tokens_counts_as_many_uses():
    policy = LeastFrequentlyUsed(2, 1, KEYS)
    for slot in (0, 1):
        policy.admit(slot, slot)
    policy.touch([0, 1], [50, 1])
    for _ in range(10):
        policy.touch([1])
    assert victims(policy, 2, set(), 1) == [1]


def test_a_pass_of_many_tokens_makes_no_layer_look_younger_than_another():
    policy = LeastFrequentlyUsed(4, 2, 2, half_life=1.0)
    for slot in range(4):
        policy.admit(slot, slot)
    policy.touch([0, 1], [900, 100])
    policy.touch([2, 3], [899, 101])
    assert victims(policy, 4, set(), 4) == [1, 3, 2, 0]


def test_old_uses_lose_against_new_ones():
    policy = LeastFrequentlyUsed(2, 1, KEYS, half_life=1.0)
    for slot in (0, 1):
        policy.admit(slot, slot)
    policy.touch([0], [10])
    for _ in range(5 * KEYS):
        policy.touch([1])
    assert victims(policy, 2, set(), 1) == [0]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.booleans()), max_size=60))
def test_a_ranking_is_sorting_however_ranks_went(changes):
    ranking = SlotRanking(5)
    for slot, rank, ask in changes:
        if rank > ranking.ranks[slot]:
            ranking.ranks[slot] = rank
        else:
            ranking.lower(slot, rank)
        if ask:
            order = sorted(range(5), key=lambda slot: (ranking.ranks[slot], slot))
            assert ranking.lowest(np.zeros(5, dtype=np.int32), 5) == order
