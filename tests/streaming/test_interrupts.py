"""Ctrl-C at any moment inside the store: no slot is lost, no read goes astray, and what is in memory is right."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from record_files import PAGE, assert_holds, ids, make_model, wait_for_all

from flashmoe.streaming import experts, guesses, lease, pending, reader, slots
from flashmoe.streaming.experts import ExpertStore
from flashmoe.streaming.reader import ExpertFile

SLOTS = 8
WATCHED = {module.__file__ for module in (experts, guesses, lease, pending, reader, slots)}


class CtrlC:
    """Raises KeyboardInterrupt before the `moment`-th instruction of the store that runs inside the `with` block."""

    def __init__(self, moment: int) -> None:
        self.left = moment
        self.struck = False

    def __enter__(self) -> "CtrlC":
        sys.settrace(self.trace)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        sys.settrace(None)
        return kind is KeyboardInterrupt

    def trace(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if frame.f_code.co_filename not in WATCHED or frame.f_code.co_name == "__del__":
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and not self.struck:
            self.left -= 1
            if self.left < 0:
                self.struck = True
                raise KeyboardInterrupt
        return self.trace


def use(store: ExpertStore) -> None:
    """Hits, misses, evictions, guesses right and wrong, two leases at once."""
    with store.fetch(0, ids(1, 2, 3)) as first:
        store.prefetch(1, ids(4, 5, 6))
        store.withdraw(1, keep=ids(4))
        with store.fetch(1, ids(4, 7)) as second:
            wait_for_all(second)
        wait_for_all(first)
    with store.fetch(0, ids(3, 2, 9)) as again:
        wait_for_all(again)


def assert_whole(store: ExpertStore, files: list[ExpertFile]) -> None:
    for layer in (1, 0):
        everything = range(3, 3 + SLOTS)
        with store.fetch(layer, ids(*everything)) as lease:  # every slot, so that none is lost
            assert sorted(wait_for_all(lease)) == list(range(SLOTS))
            assert_holds(store, lease, layer, files[layer], everything)
    with store.fetch(0, ids(*range(3, 3 + SLOTS))) as lease:
        assert_holds(store, lease, 0, files[0], range(3, 3 + SLOTS))
    assert not store._slots.pins.any()


def test_an_interrupt_at_any_instruction_costs_no_slot(tmp_path: Path) -> None:
    files = make_model(tmp_path, experts=[16, 16], record_bytes=[2 * PAGE, PAGE])
    struck, moment = True, 0
    with ExpertStore(files, slots=SLOTS) as store:
        while struck:
            with store.fetch(0, ids(0, 1)) as before:
                wait_for_all(before)
            with CtrlC(moment) as interrupt:
                use(store)
            struck = interrupt.struck
            assert_whole(store, files)
            moment += 3  # a prime, so that another count of instructions meets others
    assert moment > 1000


def test_a_lease_that_was_open_during_an_interrupt_still_holds(tmp_path: Path) -> None:
    files = make_model(tmp_path, experts=[16, 16], record_bytes=[2 * PAGE, PAGE])
    for moment in range(0, 400, 7):
        with ExpertStore(files, slots=SLOTS) as store:
            with store.fetch(0, ids(1, 2, 3)) as kept:
                wait_for_all(kept)
                with CtrlC(moment):
                    use(store)
                with store.fetch(1, ids(0, 1, 2, 3, 4)) as lease:
                    wait_for_all(lease)
                    assert len({*lease.slots.tolist(), *kept.slots.tolist()}) == SLOTS
                assert_holds(store, kept, 0, files[0], [1, 2, 3])
            assert_whole(store, files)


def test_a_lease_that_nobody_took_holds_nothing(tmp_path: Path) -> None:
    files = make_model(tmp_path, experts=[16], record_bytes=[PAGE])
    with ExpertStore(files, slots=SLOTS) as store:
        store.fetch(0, np.arange(SLOTS, dtype=np.int32))
        with store.fetch(0, np.arange(SLOTS, 2 * SLOTS, dtype=np.int32)) as lease:
            wait_for_all(lease)
