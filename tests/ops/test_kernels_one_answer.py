"""The same bits from every instruction set, with any number of threads, and however the tokens are cut."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import ISAS, Floats, expert_arena, expert_layout, expert_work, matrices, normal, same_bits, state_values

from flashmoe.ops.cpu import CpuOps

SETUPS = [CpuOps(1, isa) for isa in ISAS] + [CpuOps(2), CpuOps(3)]
EIGHT = [CpuOps(1, isa, kv_bits=8) for isa in ISAS] + [CpuOps(2, kv_bits=8), CpuOps(3, kv_bits=8)]
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=15, deadline=None)
Run = Callable[[CpuOps], list[Floats]]


def assert_same_everywhere(run: Run, setups: list[CpuOps] = SETUPS) -> None:
    expected = run(setups[0])
    for ops in setups[1:]:
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
    x, weight = normal(rng, rows, 2, width) * 50, normal(rng, width)
    cos, sin = normal(rng, rows, width // 2), normal(rng, rows, width // 2)
    z, ranks, gate = normal(rng, rows, 2 * width) * 50, normal(rng, rows, 2), normal(rng, rows, 1)

    def run(ops: CpuOps) -> list[Floats]:
        router = ops.matrix(matrices(np.random.default_rng(seed), width, 64)[-1][0])
        ids, weights = ops.route(normal(np.random.default_rng(seed), rows, 64), router, min(8, width), True)
        return [
            ops.rms_norm(x[:, 0], weight, 1e-6),
            ops.norm_rope(x, weight, 1e-6, cos, sin),
            ops.gated_rms_norm(x, z, weight, 1e-6),
            ops.sigmoid_gate(x, x),
            ops.combine(x, ranks, x[:, 1], gate),
            ids.astype(np.float32),
            weights,
        ]

    assert_same_everywhere(run)


@pytest.mark.parametrize("setups", [SETUPS, EIGHT], ids=["16 bits", "8 bits"])
@quick
@given(
    seed=seeds,
    tokens=st.integers(1, 150),
    cut=st.integers(1, 70),
    kv_heads=st.integers(1, 2),
    shared=st.integers(1, 5),
    dim=st.integers(1, 40) | st.sampled_from([64, 100, 128]),
)
def test_attention(
    setups: list[CpuOps], seed: int, tokens: int, cut: int, kv_heads: int, shared: int, dim: int
) -> None:
    rng = np.random.default_rng(seed)
    q, k, v = (normal(rng, tokens, heads, dim) for heads in (kv_heads * shared, kv_heads, kv_heads))

    def run(ops: CpuOps) -> list[Floats]:
        whole = ops.attention(q, k, v, ops.kv_cache(kv_heads, dim), 0.3)
        cache = ops.kv_cache(kv_heads, dim)
        parts = [ops.attention(q[p], k[p], v[p], cache, 0.3) for p in pieces(tokens, cut)]
        assert same_bits(whole, np.concatenate(parts))
        return [whole]

    assert_same_everywhere(run, setups)


@pytest.mark.parametrize("setups", [SETUPS, EIGHT], ids=["16 bits", "8 bits"])
@pytest.mark.parametrize("before", [500, 1023, 1500])
def test_long_attention_does_not_depend_on_who_takes_which_keys(setups: list[CpuOps], before: int) -> None:
    """Single tokens share their keys out among threads, chunks their tokens."""
    rng = np.random.default_rng(before)
    tokens, heads, kv_heads, dim = before + 40, 6, 2, 24
    q, k, v = (normal(rng, tokens, n, dim) for n in (heads, kv_heads, kv_heads))

    def run(ops: CpuOps) -> list[Floats]:
        cache = ops.kv_cache(kv_heads, dim)
        ops.attention(q[:before], k[:before], v[:before], cache, 0.3)
        singly = [ops.attention(q[p], k[p], v[p], cache, 0.3) for p in pieces(tokens, 1) if p.start >= before]
        whole = ops.attention(q, k, v, ops.kv_cache(kv_heads, dim), 0.3)
        assert same_bits(whole[before:], np.concatenate(singly))
        return [whole]

    assert_same_everywhere(run, setups)


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
    width = 2 * key_dim + 2 * value_dim
    x, taps = normal(rng, tokens, width), normal(rng, width, kernel)
    a, b, a_log, dt_bias = normal(rng, tokens, 2), normal(rng, tokens, 2), normal(rng, 2), normal(rng, 2)

    def through(ops: CpuOps, size: int) -> list[Floats]:
        state = ops.delta_state(width, kernel, 2, key_dim, value_dim)
        outs = []
        for p in pieces(tokens, size):
            qkv = ops.causal_conv_silu(x[p], taps, state)
            outs.append(ops.gated_delta_rule(qkv, a[p], b[p], a_log, dt_bias, 1, state))
        return [np.concatenate(outs), state_values(state)]

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
    for ops in SETUPS:
        handles = [ops.matrix(m, exact=e) for m, e in kinds]
        for clean, result in zip(ops.linears(x, handles), ops.linears(spoilt, handles), strict=True):
            assert same_bits(clean[[0, 2]], result[[0, 2]])
            assert np.isfinite(value) or not np.isfinite(result[1]).any()
        ids, _ = ops.route(spoilt, handles[-1], 4, True)
        assert all(len(set(row)) == 4 and min(row) >= 0 and max(row) < 20 for row in ids.tolist())
        assert ops.attention(spoilt[:, None], x[:, None], spoilt[:, None], ops.kv_cache(1, 128), 1.0).shape == (
            3,
            1,
            128,
        )
