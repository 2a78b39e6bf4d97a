"""Each native operation computes the formula: compared with NumPy (ops/reference), tolerances of float32 sums."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_cases import (
    Floats,
    affine,
    assert_close,
    attended,
    attention_weights,
    chosen_attention,
    delta_net_weights,
    dense,
    expert_arena,
    expert_layout,
    expert_work,
    handle_of,
    matrices,
    normal,
    rounded,
    state_values,
)

from flashmoe.ops.cpu import CpuOps
from flashmoe.ops.reference import ReferenceOps
from flashmoe.ops.reference.dequantise import matrix_in_record
from flashmoe.ops.reference.operations import sigmoid
from flashmoe.ops.weights import Matrix

CPU = CpuOps(2)
TRUTH = ReferenceOps()
BOTH = {16: (CPU, TRUTH), 8: (CpuOps(2, kv_bits=8), ReferenceOps(8))}
SUM = 2e-6  # float32 sums in another order
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25)


@quick
@given(seed=seeds, tokens=st.integers(1, 9), out=st.integers(1, 70), groups=st.integers(1, 40))
def test_linears_multiply_with_activations_rounded_once(seed: int, tokens: int, out: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    x = normal(rng, tokens, groups * 64)
    kinds = matrices(rng, out, groups * 64)
    results = CPU.linears(x, [CPU.matrix(m, exact=e) for m, e in kinds])
    for (matrix, exact), result in zip(kinds, results, strict=True):
        takes_int8 = hasattr(matrix, "codes") and not exact
        [expected] = TRUTH.linears(rounded(x) if takes_int8 else x, [matrix])
        assert_close(result, expected, 10 * SUM, size=np.sqrt(x.shape[1]))


@quick
@given(seed=seeds, tokens=st.integers(1, 6), out=st.integers(1, 40), columns=st.integers(1, 200), half=st.booleans())
def test_dense_matrices_may_have_any_width(seed: int, tokens: int, out: int, columns: int, half: bool) -> None:
    rng = np.random.default_rng(seed)
    matrix, x = dense(rng, out, columns, half=half), normal(rng, tokens, columns)
    assert_close(CPU.linears(x, [CPU.matrix(matrix)])[0], TRUTH.linears(x, [matrix])[0], 5 * SUM)
    ids = rng.integers(0, out, tokens).astype(np.int32)
    assert np.array_equal(CPU.embed(CPU.matrix(matrix), ids), TRUTH.embed(matrix, ids))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_embedding_rows_are_dequantised(bits: int) -> None:
    rng = np.random.default_rng(1)
    table, ids = affine(rng, 30, 192, bits), np.array([0, 29, 7, 7], np.int32)
    assert_close(CPU.embed(CPU.matrix(table), ids), TRUTH.embed(table, ids), SUM)


def test_eight_bit_codes_at_their_ends_do_not_saturate() -> None:
    matrix = affine(np.random.default_rng(2), 3, 128, 8)
    matrix.codes[:] = 0xFFFFFFFF
    x = np.full((1, 128), -127, np.float32)
    for isa in CPU._cpu.available_isas():
        ops = CpuOps(1, isa)
        assert_close(ops.linears(x, [ops.matrix(matrix)])[0], TRUTH.linears(x, [matrix])[0], 10 * SUM)


@quick
@given(seed=seeds, rows=st.integers(1, 9), width=st.integers(1, 300))
def test_norm(seed: int, rows: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, rows, width) * 3, normal(rng, width)
    assert_close(CPU.rms_norm(x, weight, 1e-6), TRUTH.rms_norm(x, weight, 1e-6), SUM)


@pytest.mark.parametrize("kv_bits", [16, 8])
@quick
@given(
    seed=seeds,
    steps=st.lists(st.integers(1, 90), min_size=1, max_size=2),
    kv_heads=st.integers(1, 3),
    shared=st.integers(1, 9),
    dim=st.integers(1, 70),
)
def test_attention_over_known_keys_and_values(
    kv_bits: int, seed: int, steps: list[int], kv_heads: int, shared: int, dim: int
) -> None:
    """Of what a cache holds exactly, so that nothing but the order of sums differs."""
    assume(kv_heads * shared * dim <= 1024)
    rng = np.random.default_rng(seed)
    cpu, truth_ops = BOTH[kv_bits]
    cache, truth, tokens = cpu.kv_cache(kv_heads, dim), truth_ops.kv_cache(kv_heads, dim), sum(steps)
    q, signs = normal(rng, tokens, kv_heads * shared, dim), normal(rng, tokens, kv_heads, dim)
    k, v = np.copysign(normal(rng, dim), signs), normal(rng, tokens, kv_heads, dim)
    weights, x = chosen_attention(q, *(a.astype(np.float16).astype(np.float32) for a in (k, v)))
    own, theirs = handle_of(cpu, weights), handle_of(truth_ops, weights)
    done = 0
    for step in steps:
        part = x[done : done + step]
        expected = attended(truth_ops, theirs, part, truth) - part
        # What is taken off again was rounded with the sum, so it counts where the rest is small.
        assert_close(attended(cpu, own, part, cache) - part, expected, 4 * SUM, size=np.abs(part).max())
        done += step
    assert cache.length == tokens


@quick
@given(
    seed=seeds,
    steps=st.lists(st.integers(1, 30), min_size=1, max_size=2),
    kv_heads=st.integers(1, 2),
    shared=st.integers(1, 4),
    dim=st.integers(1, 40),
    gated=st.booleans(),
)
def test_full_attention(seed: int, steps: list[int], kv_heads: int, shared: int, dim: int, gated: bool) -> None:
    rng = np.random.default_rng(seed)
    weights = attention_weights(rng, 48, kv_heads * shared, kv_heads, dim, gated=gated)
    own, theirs = handle_of(CPU, weights), handle_of(TRUTH, weights)
    cache, truth = CPU.kv_cache(kv_heads, dim), TRUTH.kv_cache(kv_heads, dim)
    for tokens in steps:
        x, angles = normal(rng, tokens, 48), normal(rng, tokens, dim // 2 if seed % 2 else dim // 4)
        turn = np.cos(angles), np.sin(angles)
        result, expected = x.copy(), x.copy()
        CPU.full_attention(result, own, [tokens], [cache], *turn)
        TRUTH.full_attention(expected, theirs, [tokens], [truth], *turn)
        assert_close(result, expected, 1e-3)  # keys and values have eleven bits


@quick
@given(seed=seeds, tokens=st.integers(1, 70), heads=st.integers(1, 3), dim=st.integers(1, 200))
def test_a_cache_of_eight_bits_holds_the_codes_and_scales_of_the_reference(
    seed: int, tokens: int, heads: int, dim: int
) -> None:
    rng = np.random.default_rng(seed)
    cpu, reference = BOTH[8]
    k = np.copysign(normal(rng, dim) * 10, normal(rng, tokens, heads, dim))
    v = normal(rng, tokens, heads, dim)
    v[0], v[-1, 0, 0] = 0, 1e30
    cache, truth = cpu.kv_cache(heads, dim), reference.kv_cache(heads, dim)
    weights, x = chosen_attention(k, k, v)
    attended(cpu, handle_of(cpu, weights), x, cache)
    truth.extend(k, v)
    rows = np.empty((tokens, cache.row_bytes), np.uint8)
    cache.read(0, tokens, rows)
    groups = -(-dim // 64)
    parts = rows.reshape(tokens, heads, 2, dim + 4 * groups)
    codes = parts[..., :dim].view(np.int8).astype(np.float32)
    scales = np.ascontiguousarray(parts[..., dim:]).view(np.float32).repeat(64, axis=-1)[..., :dim]
    assert np.array_equal(codes * scales, np.stack([truth.keys, truth.values], axis=2))
    for exact, kept in ((k, truth.keys), (v, truth.values)):
        for begin in range(0, dim, 64):
            group = np.s_[:, :, begin : begin + 64]
            step = np.abs(exact[group]).max(axis=-1, keepdims=True) / 127
            assert (np.abs(exact[group] - kept[group]) <= 0.501 * step).all()


def test_a_cache_saturates_at_the_largest_half() -> None:
    k = np.array([[[1e6, -1e6, 0.5]]], np.float32).repeat(70, axis=0)
    cache = CPU.kv_cache(1, 3)
    weights, x = chosen_attention(k, k, k)
    attended(CPU, handle_of(CPU, weights), x, cache)
    rows = np.empty((70, cache.row_bytes), np.uint8)
    cache.read(0, 70, rows)
    expected = np.array([65504, -65504, 0.5] * 2, np.float16)
    assert np.array_equal(rows.view(np.float16), expected[None].repeat(70, axis=0))


@quick
@given(
    seed=seeds,
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    key_heads=st.integers(1, 2),
    shared=st.integers(1, 3),
    key_dim=st.integers(1, 40),
    value_dim=st.integers(1, 140),
    kernel=st.integers(1, 6),
)
def test_delta_net(
    seed: int, lengths: list[int], key_heads: int, shared: int, key_dim: int, value_dim: int, kernel: int
) -> None:
    rng = np.random.default_rng(seed)
    heads, ends = key_heads * shared, np.cumsum(lengths).tolist()
    weights = delta_net_weights(rng, 48, key_heads, heads, key_dim, value_dim, kernel)
    own, theirs = handle_of(CPU, weights), handle_of(TRUTH, weights)
    shape = len(weights.conv), kernel, heads, key_dim, value_dim
    states, truths = ([ops.delta_state(*shape) for _ in lengths] for ops in (CPU, TRUTH))
    for _ in range(2):
        x = normal(rng, ends[-1], 48)
        result, expected = x.copy(), x.copy()
        CPU.delta_net(result, own, ends, states)
        TRUTH.delta_net(expected, theirs, ends, truths)
        assert_close(result, expected, 50 * SUM)
    for state, truth in zip(states, truths, strict=True):
        assert_close(state_values(state), state_values(truth), 50 * SUM)


@quick
@given(seed=seeds, tokens=st.integers(1, 5), experts=st.integers(1, 70), renormalise=st.booleans())
def test_route(seed: int, tokens: int, experts: int, renormalise: bool) -> None:
    rng = np.random.default_rng(seed)
    router, x, top_k = affine(rng, experts, 64, 8), normal(rng, tokens, 64), min(experts, 8)
    norm = normal(rng, 64) / 8
    y, ids, weights = CPU.route(x, norm, 1e-6, CPU.matrix(router, exact=True), top_k, renormalise)
    expected_y, expected_ids, expected = TRUTH.route(x, norm, 1e-6, router, top_k, renormalise)
    assert_close(y, expected_y, SUM)
    assert_close(weights, expected, 1e-5)
    # Experts that all but tie may change places, at the edge of the top k too.
    _, every, p = TRUTH.route(x, norm, 1e-6, router, experts, False)
    by_expert = np.take_along_axis(p, np.argsort(every, axis=-1), axis=-1)
    assert_close(np.take_along_axis(by_expert, ids, -1), np.take_along_axis(by_expert, expected_ids, -1), 1e-5)


def test_route_gives_the_lower_id_first_among_equals() -> None:
    router, x = dense(np.random.default_rng(4), 40, 8, half=False), np.zeros((1, 8), np.float32)
    _, ids, weights = CPU.route(x, np.ones(8, np.float32), 1e-6, CPU.matrix(router), 5, True)
    assert ids.tolist() == [[0, 1, 2, 3, 4]]
    assert_close(weights, np.full((1, 5), 0.2, np.float32), SUM)


def mlp_of_rounded(x: Floats, gate: Matrix, up: Matrix, down: Matrix) -> Floats:
    """The formula with int8 activations before each matrix."""
    gates, ups = TRUTH.linears(rounded(x), [gate, up])
    return TRUTH.linears(rounded(gates * sigmoid(gates) * ups), [down])[0]


# A hidden value on the edge between two int8 codes may fall to either side: one code of 127 in one of 128 values.
EDGE = 2e-3


@pytest.mark.parametrize("bits", [(4, 4, 4), (2, 2, 2), (8, 4, 8), (4, 8, 2)])
def test_experts_land_in_their_own_rows(bits: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(5)
    layout = expert_layout(192, 128, dict(zip(("gate", "up", "down"), bits, strict=True)))
    arena, work = expert_arena(rng, 6, layout), expert_work(rng, 45, 3, 6)
    x, out = normal(rng, 45, 192), np.zeros((45 * 3, 192), np.float32)
    CPU.experts(x, arena, CPU.layout(layout), work, out)
    expected = np.zeros_like(out)
    for i, slot in enumerate(work.slots):
        entries = slice(work.starts[i], work.starts[i + 1])
        weights = (matrix_in_record(arena[slot], layout, name) for name in ("gate", "up", "down"))
        expected[work.outputs[entries]] = mlp_of_rounded(x[work.rows[entries]], *weights)
    assert_close(out, expected, EDGE)


def test_shared_expert() -> None:
    rng = np.random.default_rng(6)
    weights = affine(rng, 128, 192, 4), affine(rng, 128, 192, 4), affine(rng, 192, 128, 8)
    share, x = affine(rng, 1, 192, 8), normal(rng, 5, 192)
    exact_share = CPU.matrix(share, exact=True)
    out, shares = CPU.shared_expert(x, *(CPU.matrix(m) for m in weights), exact_share)
    assert_close(out, mlp_of_rounded(x, *weights), EDGE)
    expected, expected_shares = TRUTH.shared_expert(x, *weights, share)
    assert_close(shares, expected_shares, 10 * SUM, size=np.sqrt(192))
    out, _ = CPU.shared_expert(x, *(CPU.matrix(m, exact=True) for m in weights), exact_share)
    assert_close(out, expected, 5 * SUM)


def test_combine_sums_ranks_and_the_shared_expert() -> None:
    rng = np.random.default_rng(7)
    x, outputs, weights = normal(rng, 3, 50), normal(rng, 3 * 4, 50), normal(rng, 3, 4)
    for shared, share in ((normal(rng, 3, 50), normal(rng, 3, 1)), (None, None)):
        result, expected = x.copy(), x.copy()
        CPU.combine(result, outputs, weights, shared, share)
        TRUTH.combine(expected, outputs, weights, shared, share)
        assert_close(result, expected, SUM)
