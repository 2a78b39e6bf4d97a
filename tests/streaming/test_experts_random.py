"""Random sequences of fetches, leases and damage against a plain model of what must hold."""

import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from numpy.typing import NDArray
from record_files import PAGE, ids, make_model, record, wait_for_all, write_layer

from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.streaming.experts import ExpertStore
from flashmoe.streaming.lease import Lease
from flashmoe.streaming.policy import POLICIES, LeastRecentlyUsed

EXPERTS = (12, 12, 9)
RECORD_BYTES = (PAGE, 3 * PAGE, 2 * PAGE)
layers = st.integers(0, len(EXPERTS) - 1)
experts = st.lists(st.integers(0, min(EXPERTS) - 1), max_size=7, unique=True)


class PlainCache:
    """Least recently used, written for reading: (layer, expert) in the order of their last use."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.used: OrderedDict[tuple[int, int], None] = OrderedDict()

    def fetch(self, layer: int, experts: Iterable[int]) -> int:
        """Touch them in order and return how many were missing."""
        wanted = [(layer, expert) for expert in experts]
        missing = [key for key in wanted if key not in self.used]
        evictable = [key for key in self.used if key not in wanted]
        for key in evictable[: max(0, len(self.used) + len(missing) - self.slots)]:
            del self.used[key]
        for key in wanted:
            self.used[key] = None
            self.used.move_to_end(key)
        return len(missing)


@given(st.integers(7, 20), st.lists(st.tuples(layers, experts), max_size=40))
@settings(max_examples=60)
def test_hits_are_those_of_a_plain_lru_cache(slots: int, fetches: list[tuple[int, list[int]]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        files = make_model(Path(directory), EXPERTS, RECORD_BYTES)
        plain = PlainCache(slots)
        with ExpertStore(files, slots, policy=LeastRecentlyUsed) as store:
            for layer, wanted in fetches:
                before = store.stats.misses
                with store.fetch(layer, ids(*wanted)) as lease:
                    wait_for_all(lease)
                assert store.stats.misses - before == plain.fetch(layer, wanted)


class OpenLease:
    """A lease and what has come out of it."""

    def __init__(self, lease: Lease, layer: int, experts: list[int]) -> None:
        self.lease = lease
        self.layer = layer
        self.experts = experts
        self.groups: Iterator[NDArray[np.intp]] = iter(lease.groups())
        self.ready: list[int] = []


class StoreMachine(RuleBasedStateMachine):
    """Leases advanced and closed in any order, guesses between them, while files are cut short and mended."""

    SLOTS = 9
    leases: Bundle[OpenLease] = Bundle("leases")

    @initialize(direct=st.booleans(), threads=st.integers(1, 4), policy=st.sampled_from(sorted(POLICIES)))
    def start(self, direct: bool, threads: int, policy: str) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.files = make_model(Path(self.directory.name), EXPERTS, RECORD_BYTES)
        self.store = ExpertStore(self.files, self.SLOTS, direct=direct, threads=threads, policy=POLICIES[policy])
        self.open: list[OpenLease] = []
        self.damaged = False

    @rule(target=leases, layer=layers, experts=experts)
    def fetch(self, layer: int, experts: list[int]) -> object:
        held = {(lease.layer, expert) for lease in self.open for expert in lease.experts}
        # A failed read frees its expert's slot only with its lease, so that after damage the count is a lower bound.
        needed = len(held | {(layer, expert) for expert in experts})
        try:
            lease = OpenLease(self.store.fetch(layer, ids(*experts)), layer, experts)
        except CapacityError:
            assert needed > self.store.max_lease or self.damaged
            return multiple()
        assert needed <= self.store.max_lease
        self.open.append(lease)
        return lease

    @rule(layer=layers, experts=st.lists(st.integers(0, min(EXPERTS) - 1), unique=True))
    def prefetch(self, layer: int, experts: list[int]) -> None:
        self.store.prefetch(layer, ids(*experts))

    @rule(layer=layers, experts=experts)
    def withdraw(self, layer: int, experts: list[int]) -> None:
        self.store.withdraw(layer, ids(*experts))

    @rule(count=st.integers(1, 3))
    @precondition(lambda self: self.store.max_lease > self.SLOTS // 2)
    def shrink(self, count: int) -> None:
        before = self.store.max_lease
        self.store.shrink(count)
        assert before - count <= self.store.max_lease <= before

    @rule(lease=leases)
    def advance(self, lease: OpenLease) -> None:
        try:
            group = next(lease.groups, None)
        except FlashMoeError:
            assert self.damaged
            return
        if group is None:
            assert sorted(lease.ready) == list(range(len(lease.experts))) or self.damaged
        else:
            assert not set(lease.ready) & set(group.tolist())
            lease.ready += group.tolist()

    @rule(lease=consumes(leases))
    def close(self, lease: OpenLease) -> None:
        self.open.remove(lease)
        lease.lease.__exit__(None, None, None)

    @rule(layer=layers, experts=st.integers(0, 8))
    def cut(self, layer: int, experts: int) -> None:
        file = self.files[layer]
        os.truncate(file.path, min(file.path.stat().st_size, file.data_offset + experts * file.record_bytes))
        self.damaged = True

    @rule(layer=layers)
    def mend(self, layer: int) -> None:
        write_layer(self.files[layer], layer)

    @invariant()
    def what_came_out_of_a_lease_stays_right(self) -> None:
        for lease in getattr(self, "open", []):
            for index in lease.ready:
                size = self.files[lease.layer].record_bytes
                slot = self.store.arena.array[lease.lease.slots[index], :size]
                np.testing.assert_array_equal(slot, record(lease.layer, lease.experts[index], size))

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        with self.directory, self.store:
            for lease in self.open:
                lease.lease.__exit__(None, None, None)
            for layer, file in enumerate(self.files):
                write_layer(file, layer)
            with self.store.fetch(0, np.arange(self.store.max_lease, dtype=np.int32)) as lease:  # no slot is lost
                wait_for_all(lease)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=80, stateful_step_count=30)
