"""Arguments that do not fit are a ValueError with a sentence, before any memory is touched."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from op_cases import (
    affine,
    attention_weights,
    delta_net_weights,
    expert_arena,
    expert_layout,
    handle_of,
    normal,
)

from flashmoe import _native
from flashmoe.ops.cpu import CpuOps
from flashmoe.ops.reference import ReferenceOps
from flashmoe.ops.weights import GROUP, AffineMatrix, ExpertWork, RecordLayout, RecordPart

OPS = CpuOps(1)
RNG = np.random.default_rng(0)
X = normal(RNG, 2, 128)
MATRIX = OPS.matrix(affine(RNG, 8, 128, 4))


def test_a_matrix_refuses_shapes_that_do_not_belong_together() -> None:
    m = affine(RNG, 8, 128, 4)
    with pytest.raises(ValueError, match="2, 4 or 8 bits"):
        _native.Matrix.affine(m.codes[:, :7].copy(), m.scales, m.biases, False)
    with pytest.raises(ValueError, match=r"biases has shape \[7, 2\], expected \[8, 2\]"):
        _native.Matrix.affine(m.codes, m.scales, m.biases[:7], False)
    with pytest.raises(ValueError, match="codes must be contiguous"):
        _native.Matrix.affine(np.repeat(m.codes, 2, axis=0)[::2], m.scales, m.biases, False)
    with pytest.raises(ValueError, match="scales must be uint16"):
        _native.Matrix.affine(m.codes, m.scales.astype(np.float32), m.biases, False)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (X.astype(np.float64), "x must be float32"),
        (X[:, :64], "another width"),
        (X[0], "x must have 2 dimensions, got 1"),
        (np.repeat(X, 2, axis=1)[:, ::2], "contiguous along its last axis"),
        ([[1.0]], "x must be a float32 array"),
    ],
)
def test_inputs_are_checked(x: object, sentence: str) -> None:
    out = np.empty((2, 8), np.float32)
    with pytest.raises(ValueError, match=sentence):
        OPS._cpu.linears(x, [MATRIX], [out])  # type: ignore[arg-type]


def test_outputs_are_checked() -> None:
    with pytest.raises(ValueError, match=r"out has shape \[2, 7\], expected \[2, 8\]"):
        OPS._cpu.linears(X, [MATRIX], [np.empty((2, 7), np.float32)])
    fixed = np.empty((2, 8), np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="out must be a writable float32 array"):
        OPS._cpu.linears(X, [MATRIX], [fixed])
    with pytest.raises(ValueError, match="fewer outputs"):
        OPS._cpu.linears(X, [MATRIX], [])


def test_ids_slots_and_rows_stay_inside() -> None:
    with pytest.raises(ValueError, match="token id 8 is outside the vocabulary of 8"):
        OPS.embed(MATRIX, np.array([8], np.int32))
    with pytest.raises(ValueError, match="top_k"):
        OPS.route(X, np.ones(128, np.float32), 1e-6, MATRIX, 9, True)
    layout = expert_layout(128, 64, {"gate": 4, "up": 4, "down": 4})
    arena, handle, out = expert_arena(RNG, 2, layout), OPS.layout(layout), OPS.empty(2, 128)

    def run(slot: int, stop: int, row: int, output: int) -> None:
        work = ExpertWork(*(np.array(v, np.int32) for v in ([slot], [0, stop], [row], [output])))
        OPS.experts(X, arena, handle, work, out)

    run(1, 1, 1, 1)
    for wrong, sentence in (
        ((2, 1, 1, 1), "slot"),
        ((-1, 1, 1, 1), "slot"),
        ((1, 0, 1, 1), "starts"),
        ((1, 1, 2, 1), "rows"),
        ((1, 1, 1, 2), "outputs"),
    ):
        with pytest.raises(ValueError, match=sentence):
            run(*wrong)
    with pytest.raises(ValueError, match="smaller than a record"):
        OPS.experts(X, arena[:, :4096], handle, ExpertWork(*(np.zeros(n, np.int32) for n in (0, 1, 0, 0))), out)


def test_a_mixer_refuses_weights_that_do_not_belong_together() -> None:
    attention, delta = attention_weights(RNG, 64, 4, 2, 16), delta_net_weights(RNG, 64, 2, 4, 8, 16, 4)
    for weights, sentence in (
        (replace(attention, heads=3), "the heads are not a multiple"),
        (replace(attention, gated=False), "do not fit the heads"),
        (replace(attention, k=attention.output), "different widths|do not fit"),
        (replace(attention, norm=attention.q_norm), r"norm has shape \[16\], expected \[64\]"),
        (replace(delta, key_heads=3), "the value heads are not a multiple"),
        (replace(delta, z=delta.a), "do not fit one another"),
        (replace(delta, gated_norm=delta.a_log), "do not fit"),
        (replace(delta, conv=delta.conv[:5]), r"conv has shape \[5, 4\]"),
    ):
        with pytest.raises(ValueError, match=sentence):
            handle_of(OPS, weights)


def test_a_mixer_refuses_a_batch_that_is_not_its_own() -> None:
    layer, x = handle_of(OPS, delta_net_weights(RNG, 64, 2, 4, 8, 16, 4)), normal(RNG, 3, 64)
    state = OPS.delta_state(96, 4, 4, 8, 16)
    for ends, states, sentence in (
        ([2], [state], "not the whole batch"),
        ([3], [state, state], "more states"),
        ([2, 3], [state], "not the whole batch"),
        ([2, 2, 3], [state] * 3, "do not follow one another"),
        ([4], [state], "do not follow one another"),
        ([3], [OPS.delta_state(96, 3, 4, 8, 16)], "not of this layer's shape"),
    ):
        with pytest.raises(ValueError, match=sentence):
            OPS.delta_net(x, layer, ends, states)
    with pytest.raises(ValueError, match=r"x has shape \[3, 32\], expected \[3, 64\]"):
        OPS.delta_net(x[:, :32], layer, [3], [state])
    with pytest.raises(ValueError, match="x must be contiguous"):
        OPS.delta_net(np.concatenate([x, x], axis=1)[:, :64], layer, [3], [state])
    full, turn = handle_of(OPS, attention_weights(RNG, 64, 4, 2, 16)), np.zeros((3, 9), np.float32)
    with pytest.raises(ValueError, match="more dimensions than a head has"):
        OPS.full_attention(x, full, [3], [OPS.kv_cache(2, 16)], turn, turn)
    with pytest.raises(ValueError, match="not of this layer's shape"):
        OPS.full_attention(x, full, [3], [OPS.kv_cache(2, 8)], turn[:, :8], turn[:, :8])


def test_a_layout_must_lie_within_its_record() -> None:
    good = expert_layout(128, 64, {"gate": 4, "up": 4, "down": 4})
    first = good.parts[0]
    moved = RecordPart(first.name, first.dtype, first.shape, good.record_bytes - 4)
    with pytest.raises(ValueError, match=r"part 'gate.weight' does not lie within the record"):
        OPS.layout(RecordLayout((moved, *good.parts[1:]), good.record_bytes))
    with pytest.raises(ValueError, match=r"no part 'gate.weight'"):
        OPS.layout(RecordLayout(good.parts[1:], good.record_bytes))


def test_states_and_instruction_sets() -> None:
    with pytest.raises(ValueError, match="positive"):
        OPS.kv_cache(0, 4)
    with pytest.raises(ValueError, match="16 taps"):
        OPS.delta_state(4, 17, 1, 1, 1)
    with pytest.raises(ValueError, match=r"not available here; there are: .*portable"):
        CpuOps(1, "abacus")
    with pytest.raises(ValueError, match="threads must be between"):
        CpuOps(0)


def test_the_reference_says_what_a_product_takes_besides_its_matrix():
    rows, columns = 512, 2048
    for bits in (2, 4, 8):
        codes = np.zeros((rows, columns * bits // 32), np.uint32)
        scales = np.zeros((rows, columns // GROUP), np.uint16)
        matrix = AffineMatrix(codes, scales, scales)
        x = np.zeros((1, columns), np.float32)
        tracemalloc.start()
        ReferenceOps().linears(x, [matrix])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert 0.9 < peak / ReferenceOps().product_bytes(rows, columns) <= 1
