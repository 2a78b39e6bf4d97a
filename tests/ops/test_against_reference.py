"""Each native operation computes the formula: compared with NumPy (ops/reference), tolerances of float32 sums."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import (
    Floats,
    affine,
    assert_close,
    dense,
    expert_arena,
    expert_layout,
    expert_work,
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
EIGHT = CpuOps(2, kv_bits=8), ReferenceOps(8)
SUM = 2e-6  # float32 sums in another order
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)


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
def test_norms_and_gates(seed: int, rows: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, rows, width) * 3, normal(rng, width)
    assert_close(CPU.rms_norm(x, weight, 1e-6), TRUTH.rms_norm(x, weight, 1e-6), SUM)
    heads, gate = normal(rng, rows, 3, width), normal(rng, rows, 3, 2 * width)[:, :, width:] * 20
    assert_close(CPU.sigmoid_gate(heads, gate), TRUTH.sigmoid_gate(heads, gate), SUM)
    z = normal(rng, rows, 3 * width) * 20
    assert_close(CPU.gated_rms_norm(heads, z, weight, 1e-6), TRUTH.gated_rms_norm(heads, z, weight, 1e-6), 2 * SUM)
    half = width // 2 if seed % 2 else width // 4
    cos, sin = normal(rng, rows, half), normal(rng, rows, half)
    expected = TRUTH.norm_rope(heads, weight, 1e-6, cos, sin)
    assert_close(CPU.norm_rope(heads, weight, 1e-6, cos, sin), expected, SUM)


@pytest.mark.parametrize(("cpu", "truth_ops"), [(CPU, TRUTH), EIGHT], ids=["16 bits", "8 bits"])
@quick
@given(
    seed=seeds,
    steps=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    kv_heads=st.integers(1, 3),
    shared=st.integers(1, 9),
    dim=st.integers(1, 70),
)
def test_attention(
    cpu: CpuOps, truth_ops: ReferenceOps, seed: int, steps: list[int], kv_heads: int, shared: int, dim: int
) -> None:
    rng = np.random.default_rng(seed)
    cache, truth = cpu.kv_cache(kv_heads, dim), truth_ops.kv_cache(kv_heads, dim)
    for tokens in steps:
        q = normal(rng, tokens, kv_heads * shared, 2 * dim)[:, :, :dim]  # as the gate leaves it: with strides
        k, v = (normal(rng, tokens, kv_heads, dim).astype(np.float16).astype(np.float32) for _ in "kv")
        expected = truth_ops.attention(q, k, v, truth, dim**-0.5)
        assert_close(cpu.attention(q, k, v, cache, dim**-0.5), expected, 4 * SUM)
    assert cache.length == sum(steps)


@quick
@given(seed=seeds, tokens=st.integers(1, 70), heads=st.integers(1, 3), dim=st.integers(1, 200))
def test_a_cache_of_eight_bits_holds_the_codes_and_scales_of_the_reference(
    seed: int, tokens: int, heads: int, dim: int
) -> None:
    rng = np.random.default_rng(seed)
    cpu, reference = EIGHT
    k, v = normal(rng, tokens, heads, dim) * 10, normal(rng, tokens, heads, dim)
    k[0], v[:, 0, 0] = 0, 1e30
    cache, truth = cpu.kv_cache(heads, dim), reference.kv_cache(heads, dim)
    cpu.attention(k, k, v, cache, 1.0)
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
    CPU.attention(k, k, k, cache, 0.0)
    rows = np.empty((70, cache.row_bytes), np.uint8)
    cache.read(0, 70, rows)
    expected = np.array([65504, -65504, 0.5] * 2, np.float16)
    assert np.array_equal(rows.view(np.float16), expected[None].repeat(70, axis=0))


@quick
@given(seed=seeds, tokens=st.integers(1, 9), channels=st.integers(1, 200), kernel=st.integers(1, 6))
def test_convolution(seed: int, tokens: int, channels: int, kernel: int) -> None:
    rng = np.random.default_rng(seed)
    weight = normal(rng, channels, kernel)
    state, truth = CPU.delta_state(channels, kernel, 1, 1, 1), TRUTH.delta_state(channels, kernel, 1, 1, 1)
    for _ in range(2):
        x = normal(rng, tokens, channels + 5)[:, 5:]
        expected = TRUTH.causal_conv_silu(x, weight, truth)
        assert_close(CPU.causal_conv_silu(x, weight, state), expected, 2 * SUM)
    assert np.array_equal(state_values(state), state_values(truth))


@quick
@given(
    seed=seeds,
    tokens=st.integers(1, 6),
    key_heads=st.integers(1, 2),
    shared=st.integers(1, 3),
    key_dim=st.integers(1, 40),
    value_dim=st.integers(1, 140),
)
def test_gated_delta_rule(seed: int, tokens: int, key_heads: int, shared: int, key_dim: int, value_dim: int) -> None:
    rng = np.random.default_rng(seed)
    heads = key_heads * shared
    state, truth = (ops.delta_state(1, 1, heads, key_dim, value_dim) for ops in (CPU, TRUTH))
    a_log, dt_bias = normal(rng, heads), normal(rng, heads)
    for _ in range(2):
        qkv = normal(rng, tokens, 2 * key_heads * key_dim + heads * value_dim)
        a, b = normal(rng, tokens, heads) * 5, normal(rng, tokens, heads)
        expected = TRUTH.gated_delta_rule(qkv, a, b, a_log, dt_bias, key_heads, truth)
        result = CPU.gated_delta_rule(qkv, a, b, a_log, dt_bias, key_heads, state)
        assert_close(result, expected, 10 * SUM)
    assert_close(state_values(state), state_values(truth), 10 * SUM)


@quick
@given(seed=seeds, tokens=st.integers(1, 5), experts=st.integers(1, 70), renormalise=st.booleans())
def test_route(seed: int, tokens: int, experts: int, renormalise: bool) -> None:
    rng = np.random.default_rng(seed)
    router, x, top_k = affine(rng, experts, 64, 8), normal(rng, tokens, 64) / 8, min(experts, 8)
    ids, weights = CPU.route(x, CPU.matrix(router, exact=True), top_k, renormalise)
    expected_ids, expected = TRUTH.route(x, router, top_k, renormalise)
    assert_close(weights, expected, 1e-5)
    # Experts that all but tie may change places, at the edge of the top k too.
    every, p = TRUTH.route(x, router, experts, False)
    by_expert = np.take_along_axis(p, np.argsort(every, axis=-1), axis=-1)
    assert_close(np.take_along_axis(by_expert, ids, -1), np.take_along_axis(by_expert, expected_ids, -1), 1e-5)


def test_route_gives_the_lower_id_first_among_equals() -> None:
    router, x = dense(np.random.default_rng(4), 40, 8, half=False), np.zeros((1, 8), np.float32)
    ids, weights = CPU.route(x, CPU.matrix(router), 5, True)
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


def test_gated_mlp() -> None:
    rng = np.random.default_rng(6)
    weights = affine(rng, 128, 192, 4), affine(rng, 128, 192, 4), affine(rng, 192, 128, 8)
    x = normal(rng, 5, 192)
    assert_close(CPU.gated_mlp(x, *(CPU.matrix(m) for m in weights)), mlp_of_rounded(x, *weights), EDGE)
    exact = [CPU.matrix(m, exact=True) for m in weights]
    assert_close(CPU.gated_mlp(x, *exact), TRUTH.gated_mlp(x, *weights), 5 * SUM)


def test_combine_sums_ranks_and_the_shared_expert() -> None:
    rng = np.random.default_rng(7)
    outputs, weights = normal(rng, 3, 4, 50), normal(rng, 3, 4)
    shared, gate = normal(rng, 3, 50), normal(rng, 3, 1)
    assert_close(CPU.combine(outputs, weights, shared, gate), TRUTH.combine(outputs, weights, shared, gate), SUM)
    assert_close(CPU.combine(outputs, weights, None, None), TRUTH.combine(outputs, weights, None, None), SUM)
