"""States that several threads use at a time: a sentence for whoever would race, and no wrong byte."""

import threading
from collections.abc import Callable

import numpy as np

from flashmoe._native import DeltaState, KvCache

HEADS, DIM, TOKENS = 2, 64, 100_000


def at_once(*bodies: Callable[[], object]) -> list[BaseException]:
    """Runs them together; the errors that are no refusal of a state in use."""
    errors: list[BaseException] = []
    begin = threading.Barrier(len(bodies))

    def work(body: Callable[[], object]) -> None:
        begin.wait()
        for _ in range(2000):
            try:
                body()
            except RuntimeError as error:
                if "in use by another thread" not in str(error):
                    errors.append(error)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_a_cache_used_from_five_threads_keeps_what_was_appended() -> None:
    cache = KvCache(HEADS, DIM)
    row = np.arange(cache.row_bytes, dtype=np.uint32).astype(np.uint8)
    rows = np.tile(row, (100, 1))

    def look() -> None:
        length = cache.length
        first = max(0, length - 100)
        got = np.empty((length - first, cache.row_bytes), np.uint8)
        cache.read(first, length, got)
        assert (got == row).all()

    def fork() -> None:
        branch = cache.fork(cache.length)
        branch.append(rows[:3])
        assert len(branch.blocks) == -(-branch.length // 64)

    def grow() -> None:
        if cache.length < TOKENS:
            cache.append(rows)

    assert at_once(grow, grow, look, fork, lambda: cache.blocks) == []
    look()


def test_a_recurrent_state_used_from_five_threads_is_never_half_of_one() -> None:
    state = DeltaState(256, 4, 4, 64, 64)
    one, two = (np.full(state.nbytes // 4, value, np.float32) for value in (1, 2))
    state.write(one)

    def look() -> None:
        got = np.empty_like(one)
        state.read(got)
        assert (got == got[0]).all()

    def fork() -> None:
        got = np.empty_like(one)
        state.fork().read(got)
        assert (got == got[0]).all()

    assert at_once(lambda: state.write(one), lambda: state.write(two), look, look, fork) == []


def test_many_may_look_at_once() -> None:
    cache = KvCache(HEADS, DIM)
    cache.append(np.zeros((400, cache.row_bytes), np.uint8))
    refused = []

    def look() -> None:
        try:
            cache.read(0, 400, np.empty((400, cache.row_bytes), np.uint8))
        except RuntimeError as error:
            refused.append(error)

    assert at_once(look, look, look, lambda: cache.fork(400)) == []
    assert refused == []
