"""The same bits from every instruction set, with any number of threads, and however the tokens are cut."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import (
    ISAS,
    Floats,
    affine,
    attended,
    attention_weights,
    delta_net_weights,
    expert_arena,
    expert_layout,
    expert_work,
    handle_of,
    matrices,
    normal,
    same_bits,
    state_values,
)

from flashmoe.ops.cpu import CpuOps

SETUPS = {
    bits: [*(CpuOps(1, isa, kv_bits=bits) for isa in ISAS), CpuOps(2, kv_bits=bits), CpuOps(3, kv_bits=bits)]
    for bits in (16, 8)
}
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=15)
Run = Callable[[CpuOps], list[Floats]]


def assert_same_everywhere(run: Run, kv_bits: int = 16) -> None:
    first, *others = SETUPS[kv_bits]
    expected = run(first)
    for ops in others:
        for a, b in zip(expected, run(ops), strict=True):
            assert same_bits(a, b), ops.device


def pieces(tokens: int, size: int) -> Iterator[slice]:
    for start in range(0, tokens, size):
        yield slice(start, start + size)


@quick
@given(seed=seeds, tokens=st.integers(1, 70), out=st.integers(1, 70), groups=st.integers(1, 40))
def test_linears(seed: int, tokens: int, out: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    x, kinds = normal(rng, tokens, groups * 64), matrices(rng, out, groups * 64)
    ids = rng.integers(0, out, 3).astype(np.int32)

    def run(ops: CpuOps) -> list[Floats]:
        handles = [ops.matrix(m, exact=e) for m, e in kinds]
        whole = ops.linears(x, handles)
        for t in {0, tokens // 2, tokens - 1}:
            for matrix, row in zip(whole, ops.linears(x[t : t + 1], handles), strict=True):
                assert same_bits(matrix[t : t + 1], row)
        return whole + [ops.embed(h, ids) for h in handles]

    assert_same_everywhere(run)


@quick
@given(seed=seeds, rows=st.integers(1, 5), width=st.integers(1, 150))
def test_row_operations(seed: int, rows: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, rows, width) * 50, normal(rng, width)
    outputs, ranks, share = normal(rng, 2 * rows, width) * 50, normal(rng, rows, 2), normal(rng, rows, 1) * 20

    def run(ops: CpuOps) -> list[Floats]:
        summed = x.copy()
        ops.combine(summed, outputs, ranks, x, share)
        return [ops.rms_norm(x, weight, 1e-6), summed]

    assert_same_everywhere(run)


@quick
@given(seed=seeds, rows=st.integers(1, 5), experts=st.integers(1, 150))
def test_route(seed: int, rows: int, experts: int) -> None:
    rng = np.random.default_rng(seed)
    x, norm, router = normal(rng, rows, 64), normal(rng, 64), matrices(rng, experts, 64)[-1][0]

    def run(ops: CpuOps) -> list[Floats]:
        y, ids, weights = ops.route(x, norm, 1e-6, ops.matrix(router), min(8, experts), True)
        return [y, ids.astype(np.float32), weights]

    assert_same_everywhere(run)


def test_rows_that_are_routed_in_blocks_are_routed_as_alone() -> None:
    rng = np.random.default_rng(0)
    x, norm, router = normal(rng, 300, 64), normal(rng, 64), matrices(rng, 20, 64)[-1][0]

    def run(ops: CpuOps) -> list[Floats]:
        handle = ops.matrix(router)
        whole = ops.route(x, norm, 1e-6, handle, 4, True)
        for t in (0, 127, 128, 299):
            for rows, row in zip(whole, ops.route(x[t : t + 1], norm, 1e-6, handle, 4, True), strict=True):
                assert np.array_equal(rows[t : t + 1], row)
        y, ids, weights = whole
        return [y, ids.astype(np.float32), weights]

    assert_same_everywhere(run)


@pytest.mark.parametrize("tokens", [1, 5, 70])
def test_shared_expert(tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    weights = [affine(rng, 128, 192, 4), affine(rng, 128, 192, 4), affine(rng, 192, 128, 4), affine(rng, 1, 192, 8)]
    y = normal(rng, tokens, 192)

    def run(ops: CpuOps) -> list[Floats]:
        handles = [ops.matrix(m, exact=i == 3) for i, m in enumerate(weights)]
        whole = ops.shared_expert(y, *handles)
        last = ops.shared_expert(y[-1:], *handles)
        assert all(same_bits(a[-1:], b) for a, b in zip(whole, last, strict=True))
        return list(whole)

    assert_same_everywhere(run)


@pytest.mark.parametrize("kv_bits", [16, 8])
@quick
@given(
    seed=seeds,
    tokens=st.integers(1, 150),
    cut=st.integers(1, 70),
    kv_heads=st.integers(1, 2),
    shared=st.integers(1, 5),
    dim=st.integers(1, 40) | st.sampled_from([64, 100, 128]),
)
def test_attention(kv_bits: int, seed: int, tokens: int, cut: int, kv_heads: int, shared: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    x = normal(rng, tokens, 32)
    weights = attention_weights(rng, 32, kv_heads * shared, kv_heads, dim, gated=seed % 2 == 0)

    def run(ops: CpuOps) -> list[Floats]:
        handle = handle_of(ops, weights)
        whole = attended(ops, handle, x, ops.kv_cache(kv_heads, dim), dim // 2)
        cache = ops.kv_cache(kv_heads, dim)
        parts = [attended(ops, handle, x[p], cache, dim // 2) for p in pieces(tokens, cut)]
        assert same_bits(whole, np.concatenate(parts))
        return [whole]

    assert_same_everywhere(run, kv_bits)


@pytest.mark.parametrize("kv_bits", [16, 8])
@pytest.mark.parametrize("before", [500, 1023, 1500])
def test_long_attention_does_not_depend_on_who_takes_which_keys(kv_bits: int, before: int) -> None:
    """Single tokens share their keys out among threads, chunks their tokens."""
    rng = np.random.default_rng(before)
    tokens, kv_heads, dim = before + 40, 2, 24
    x, weights = normal(rng, tokens, 32), attention_weights(rng, 32, 6, kv_heads, dim)

    def run(ops: CpuOps) -> list[Floats]:
        handle, cache = handle_of(ops, weights), ops.kv_cache(kv_heads, dim)
        attended(ops, handle, x[:before], cache)
        singly = [attended(ops, handle, x[p], cache) for p in pieces(tokens, 1) if p.start >= before]
        whole = attended(ops, handle, x, ops.kv_cache(kv_heads, dim))
        assert same_bits(whole[before:], np.concatenate(singly))
        return [whole]

    assert_same_everywhere(run, kv_bits)


@quick
@given(seed=seeds, lengths=st.lists(st.integers(1, 9), min_size=2, max_size=3))
def test_sequences_of_a_batch_do_not_notice_each_other(seed: int, lengths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    ends = np.cumsum(lengths).tolist()
    x, turn = normal(rng, ends[-1], 32), np.zeros((ends[-1], 0), np.float32)
    attention, delta = attention_weights(rng, 32, 4, 2, 16), delta_net_weights(rng, 32, 1, 2, 8, 24, 4)

    def run(ops: CpuOps) -> list[Floats]:
        full, linear = handle_of(ops, attention), handle_of(ops, delta)

        def through(ends: list[int], x: Floats) -> Floats:
            out = x.copy()
            ops.full_attention(out, full, ends, [ops.kv_cache(2, 16) for _ in ends], turn[: len(x)], turn[: len(x)])
            ops.delta_net(out, linear, ends, [ops.delta_state(64, 4, 2, 8, 24) for _ in ends])
            return out

        together = through(ends, x)
        alone = [through([n], x[end - n : end]) for n, end in zip(lengths, ends, strict=True)]
        assert same_bits(together, np.concatenate(alone))
        return [together]

    assert_same_everywhere(run)


@quick
@given(
    seed=seeds,
    tokens=st.integers(1, 20),
    cut=st.integers(1, 9),
    key_dim=st.integers(1, 40),
    value_dim=st.integers(1, 140),
    kernel=st.integers(1, 5),
)
def test_gated_delta_net(seed: int, tokens: int, cut: int, key_dim: int, value_dim: int, kernel: int) -> None:
    rng = np.random.default_rng(seed)
    x, weights = normal(rng, tokens, 32), delta_net_weights(rng, 32, 1, 2, key_dim, value_dim, kernel)

    def through(ops: CpuOps, size: int) -> list[Floats]:
        handle = handle_of(ops, weights)
        state, out = ops.delta_state(len(weights.conv), kernel, 2, key_dim, value_dim), x.copy()
        for p in pieces(tokens, size):
            ops.delta_net(out[p], handle, [len(out[p])], [state])
        return [out, state_values(state)]

    def run(ops: CpuOps) -> list[Floats]:
        whole = through(ops, tokens)
        for a, b in zip(whole, through(ops, cut), strict=True):
            assert same_bits(a, b)
        return whole

    assert_same_everywhere(run)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("tokens", [3, 50, 130])
def test_experts(bits: int, tokens: int) -> None:
    rng = np.random.default_rng(bits)
    layout = expert_layout(320, 192, {"gate": bits, "up": bits, "down": bits})
    arena, work, x = expert_arena(rng, 5, layout), expert_work(rng, tokens, 3, 5), normal(rng, tokens, 320)

    def run(ops: CpuOps) -> list[Floats]:
        handle, whole, alone = ops.layout(layout), ops.empty(3 * tokens, 320), ops.empty(3 * tokens, 320)
        ops.experts(x, arena, handle, work, whole)
        for i in range(len(work.slots)):  # expert by expert, as they come from the disk
            entries = slice(work.starts[i], work.starts[i + 1])
            starts = np.array([0, entries.stop - entries.start], np.int32)
            one = type(work)(work.slots[i : i + 1], starts, work.rows[entries], work.outputs[entries])
            ops.experts(x, arena, handle, one, alone)
        assert same_bits(whole, alone)
        return [whole]

    assert_same_everywhere(run)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_not_finite_spoils_its_own_row_only(value: float) -> None:
    rng = np.random.default_rng(8)
    x, kinds = normal(rng, 3, 128), matrices(rng, 20, 128)
    spoilt = x.copy()
    spoilt[1, 5] = value
    for ops in SETUPS[16]:
        handles = [ops.matrix(m, exact=e) for m, e in kinds]
        for clean, result in zip(ops.linears(x, handles), ops.linears(spoilt, handles), strict=True):
            assert same_bits(clean[[0, 2]], result[[0, 2]])
            assert np.isfinite(value) or not np.isfinite(result[1]).any()
        _, ids, _ = ops.route(spoilt, np.ones(128, np.float32), 1e-6, handles[-1], 4, True)
        assert all(len(set(row)) == 4 and min(row) >= 0 and max(row) < 20 for row in ids.tolist())
        weights = attention_weights(np.random.default_rng(9), 128, 2, 1, 16)
        whole, hurt = (attended(ops, handle_of(ops, weights), rows, ops.kv_cache(1, 16)) for rows in (x, spoilt))
        assert same_bits(whole[:1], hurt[:1])  # those before it do not see it
