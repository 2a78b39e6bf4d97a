"""Least recently used, against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashmoe.streaming.policy import LeastRecentlyUsed

SLOTS = 6
slots = st.integers(0, SLOTS - 1)
step = st.one_of(
    st.tuples(st.just("touch"), st.lists(slots, unique=True)), st.tuples(st.just("forget"), slots.map(lambda s: [s]))
)


@given(st.lists(step), st.lists(st.integers(0, 2), min_size=SLOTS, max_size=SLOTS).filter(lambda pins: 0 in pins))
def test_the_victim_is_the_unpinned_slot_used_longest_ago(steps: list[tuple[str, list[int]]], pins: list[int]) -> None:
    policy = LeastRecentlyUsed(SLOTS)
    last_use = dict.fromkeys(range(SLOTS), 0)
    time = 0
    for action, touched in steps:
        if action == "touch":
            policy.touch(np.array(touched, dtype=np.intp))
            for slot in touched:
                time += 1
                last_use[slot] = time
        else:
            policy.forget(touched[0])
            last_use[touched[0]] = 0
    unpinned = [slot for slot in range(SLOTS) if pins[slot] == 0]
    assert policy.victim(np.array(pins, dtype=np.int32)) == min(unpinned, key=lambda slot: (last_use[slot], slot))


@pytest.mark.parametrize("count", [1, SLOTS])
def test_choosing_a_victim_changes_nothing(count: int) -> None:
    policy = LeastRecentlyUsed(SLOTS)
    policy.touch(np.arange(count, dtype=np.intp))
    pins = np.zeros(SLOTS, dtype=np.int32)
    assert policy.victim(pins) == policy.victim(pins)
