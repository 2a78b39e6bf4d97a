"""States that are forked, cut, written out and read in again go on as if nothing had happened."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import Floats, attended, attention_weights, delta_net_weights, handle_of, normal, state_values

from flashmoe.ops.cpu import CpuOps
from flashmoe.ops.interface import KV_BLOCK, Handle, KeyValueState, Ops
from flashmoe.ops.reference import ReferenceOps

BACKENDS = {
    "cpu": partial(CpuOps, 2),
    "reference": ReferenceOps,
    "cpu, 8 bits": partial(CpuOps, 2, kv_bits=8),
    "reference, 8 bits": partial(ReferenceOps, 8),
}
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25)
backends = pytest.mark.parametrize("ops", BACKENDS.values(), ids=BACKENDS, indirect=True)


@pytest.fixture(scope="module")
def ops(request: pytest.FixtureRequest) -> Ops:
    """Made here, since pytest keeps its parameters to the end of the process, when nanobind calls them leaked."""
    return request.param()


HIDDEN = 8


class Branch:
    """A cache, and every token that ever went into it: attention on the cache must equal attention from scratch."""

    def __init__(self, ops: Ops, layer: Handle, cache: KeyValueState, fresh: KeyValueState, past: Floats) -> None:
        self.ops, self.layer, self.cache, self.fresh, self.past = ops, layer, cache, fresh, past

    def grow(self, rng: np.random.Generator, tokens: int) -> None:
        new = normal(rng, tokens, HIDDEN)
        got = attended(self.ops, self.layer, new, self.cache)
        self.past = np.concatenate([self.past, new])
        expected = attended(self.ops, self.layer, self.past, self.fresh.fork(0))
        assert np.array_equal(got, expected[-tokens:])

    def fork(self, length: int) -> "Branch":
        return Branch(self.ops, self.layer, self.cache.fork(length), self.fresh, self.past[:length])

    def written_and_read(self, cut: int) -> "Branch":
        length = self.cache.length
        rows = np.empty((length, self.cache.row_bytes), np.uint8)
        self.cache.read(0, cut, rows[:cut])
        self.cache.read(cut, length, rows[cut:])
        copy = self.fresh.fork(0)
        copy.append(rows[:cut])
        copy.append(rows[cut:])
        return Branch(self.ops, self.layer, copy, self.fresh, self.past)


@backends
@quick
@given(data=st.data(), seed=seeds, heads=st.integers(1, 2), dim=st.sampled_from([1, 3, 16, 20, 70]))
def test_any_tree_of_forks_attends_as_each_branch_alone(
    ops: Ops, data: st.DataObject, seed: int, heads: int, dim: int
) -> None:
    rng = np.random.default_rng(seed)
    layer, fresh = handle_of(ops, attention_weights(rng, HIDDEN, 2 * heads, heads, dim)), ops.kv_cache(heads, dim)
    branches = [Branch(ops, layer, fresh.fork(0), fresh, np.empty((0, HIDDEN), np.float32))]
    branches[0].grow(rng, data.draw(st.integers(1, 150)))
    for _ in range(data.draw(st.integers(1, 6))):
        branch = data.draw(st.sampled_from(branches))
        length = branch.cache.length
        match data.draw(st.sampled_from(["grow", "fork", "write"])):
            case "grow":
                branch.grow(rng, data.draw(st.integers(1, 70)))
            case "fork":
                branches.append(branch.fork(data.draw(st.integers(1, length))))
            case "write":
                branches.append(branch.written_and_read(data.draw(st.integers(0, length))))
    for branch in branches:
        branch.grow(rng, 1)


@backends
def test_forks_share_all_blocks_until_one_writes_into_the_last(ops: Ops) -> None:
    rng = np.random.default_rng(0)
    layer, x = handle_of(ops, attention_weights(rng, HIDDEN, 2, 2, 8)), normal(rng, 150, HIDDEN)
    cache = ops.kv_cache(2, 8)
    attended(ops, layer, x, cache)
    fork = cache.fork(150)
    assert fork.blocks == cache.blocks
    assert len(fork.blocks) == 3
    assert cache.fork(128).blocks == cache.fork(65).blocks == cache.blocks[:2]
    attended(ops, layer, x[:1], fork)
    assert fork.blocks[:2] == cache.blocks[:2]
    assert (fork.length, cache.length) == (151, 150)


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize("dim", [1, 20, 64, 70, 256])
def test_the_plan_knows_what_a_block_takes(bits: int, dim: int) -> None:
    for ops in (CpuOps(1, kv_bits=bits), ReferenceOps(bits)):
        assert ops.kv_cache(2, dim).block_bytes == KV_BLOCK * ops.kv_bytes(2, dim)


def test_eight_bits_take_little_more_than_half_of_sixteen() -> None:
    assert CpuOps(1).kv_bytes(2, 256) == 2048
    assert CpuOps(1, kv_bits=8).kv_bytes(2, 256) == 1024 + 2 * 2 * 4 * 4


def test_a_cpu_fork_copies_the_block_it_writes_into_and_no_other() -> None:
    ops = CpuOps(1)
    rng = np.random.default_rng(0)
    layer, x = handle_of(ops, attention_weights(rng, HIDDEN, 1, 1, 8)), normal(rng, 100, HIDDEN)
    cache = ops.kv_cache(1, 8)
    attended(ops, layer, x, cache)
    fork, whole = cache.fork(100), cache.fork(64)
    attended(ops, layer, x[:1], fork)
    attended(ops, layer, x[:1], whole)
    before = cache.blocks
    attended(ops, layer, x[:1], cache)
    assert cache.blocks == before
    for other in (fork, whole):
        assert other.blocks[0] == cache.blocks[0]
        assert other.blocks[1] != cache.blocks[1]
    assert cache.block_bytes >= 64 * cache.row_bytes


@backends
def test_a_forked_delta_state_goes_on_alone(ops: Ops) -> None:
    rng = np.random.default_rng(1)
    layer = handle_of(ops, delta_net_weights(rng, HIDDEN, 1, 2, 8, 8, 4))
    state = ops.delta_state(32, 4, 2, 8, 8)

    def run(on: Handle, seed: int) -> Floats:
        x = normal(np.random.default_rng(seed), 5, HIDDEN)
        ops.delta_net(x, layer, [5], [on])
        return x

    run(state, 0)
    fork = state.fork()
    copy = ops.delta_state(32, 4, 2, 8, 8)
    copy.write(state_values(state))
    run(state, 1)
    expected = run(fork.fork(), 2)
    assert np.array_equal(run(fork, 2), expected)
    assert np.array_equal(run(copy, 2), expected)


@backends
@quick
@given(seed=seeds, heads=st.integers(1, 3), key_dim=st.integers(1, 20), value_dim=st.integers(1, 140))
def test_a_delta_state_gives_back_the_rows_it_was_given(
    ops: Ops, seed: int, heads: int, key_dim: int, value_dim: int
) -> None:
    state, first = (ops.delta_state(5, 4, heads, key_dim, value_dim) for _ in range(2))
    values = normal(np.random.default_rng(seed), 3 * 5 + heads * key_dim * value_dim)
    assert state.nbytes == values.nbytes
    state.write(values)
    assert np.array_equal(state_values(state), values)
    assert np.array_equal(state_values(state.fork()), values)
    assert not state_values(first).any()


@pytest.mark.parametrize("size", [0, 78, 80])
def test_a_delta_state_takes_no_other_number_of_values(size: int) -> None:
    state = CpuOps(1).delta_state(5, 4, 1, 8, 8)
    for action in (state.read, state.write):
        with pytest.raises(ValueError, match=rf"values has shape \[{size}\], expected \[79\]"):
            action(np.empty(size, np.float32))


Wrong = Callable[[KeyValueState], object]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda cache: cache.fork(4), "longer than its cache"),
        (lambda cache: cache.fork(-1), "longer than its cache"),
        (lambda cache: cache.read(2, 4, np.empty((2, cache.row_bytes), np.uint8)), "no such tokens"),
        (lambda cache: cache.read(0, 2, np.empty((3, cache.row_bytes), np.uint8)), "rows has shape"),
        (lambda cache: cache.append(np.empty((1, cache.row_bytes + 1), np.uint8)), "rows has shape"),
    ],
)
def test_the_native_cache_checks_what_it_is_given(wrong: Wrong, sentence: str) -> None:
    ops = CpuOps(1)
    cache = ops.kv_cache(1, 8)
    cache.append(np.zeros((3, cache.row_bytes), np.uint8))
    with pytest.raises(ValueError, match=sentence):
        wrong(cache)
