"""The quantiser against MLX itself."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from flashmoe._native import dequantise, quantise

mx = pytest.importorskip("mlx.core", reason="mlx is the oracle for its own format")

Bits = NDArray[np.uint16]


def bfloat16(values: NDArray[np.float32]) -> Bits:
    return values.astype(ml_dtypes.bfloat16).view(np.uint16)


def assert_as_mlx(weights: Bits, bits: int) -> None:
    """Codes, scales, biases and what they decode to."""
    mlx = mx.quantize(mx.array(weights).view(mx.bfloat16), group_size=64, bits=bits)
    ours = quantise(weights, bits)
    for theirs, mine in zip((mlx[0], mlx[1].view(mx.uint16), mlx[2].view(mx.uint16)), ours, strict=True):
        np.testing.assert_array_equal(np.array(theirs), mine)
    wide = [part.astype(mx.float32) for part in mlx[1:]]
    decoded = mx.dequantize(mlx[0], *wide, group_size=64, bits=bits)
    np.testing.assert_array_equal(np.array(decoded), dequantise(*ours))


def ordinary(exponent: int) -> bool:
    """Below 2^120: a group's range must stay inside float32."""
    return exponent < 247


finite = st.integers(0, 0xFFFF).filter(lambda word: ordinary((word & 0x7F80) >> 7))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scale", [1e-40, 1e-7, 1e-3, 1.0, 1e30])
def test_gaussian_weights_become_what_mlx_makes_of_them(bits: int, scale: float) -> None:
    random = np.random.default_rng(0)
    weights = (random.standard_normal((32, 256)) * scale).astype(np.float32)
    weights[random.random(weights.shape) < 0.05] = 0.0
    weights[random.random(weights.shape) < 0.05] = -0.0
    weights[0] = abs(weights[0])
    weights[1] = -abs(weights[1])
    assert_as_mlx(bfloat16(weights), bits)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("constant", [0.0, -0.0, 1.0, -2.5, 1e-40, 1e-30, 1e32, 3e38, -3e38])
def test_constant_groups_become_what_mlx_makes_of_them(bits: int, constant: float) -> None:
    assert_as_mlx(bfloat16(np.full((1, 64), constant, dtype=np.float32)), bits)


@given(arrays(np.uint16, (2, 128), elements=finite), st.sampled_from([2, 4, 8]))
@settings(max_examples=150)
def test_any_finite_bits_become_what_mlx_makes_of_them(weights: Bits, bits: int) -> None:
    assert_as_mlx(weights, bits)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_float32_weights_are_quantised_as_they_are_and_only_stored_as_bfloat16(bits: int) -> None:
    weights = np.random.default_rng(1).standard_normal((16, 128)).astype(np.float32)
    codes, scales, biases = mx.quantize(mx.array(weights), group_size=64, bits=bits)
    ours = quantise(weights, bits)
    np.testing.assert_array_equal(np.array(codes), ours[0])
    np.testing.assert_array_equal(bfloat16(np.array(scales)), ours[1])
    np.testing.assert_array_equal(bfloat16(np.array(biases)), ours[2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused_with_its_place(bad: float) -> None:
    weights = np.ones((3, 256), dtype=np.float32)
    weights[1, 130] = bad
    for values in (weights, bfloat16(weights)):
        with pytest.raises(ValueError, match=r"row 1 holds .* columns 128 to 191"):
            quantise(values, 4)


def test_a_range_beyond_the_format_is_refused() -> None:
    weights = np.array([[3e38, -3e38] * 32], dtype=np.float32)
    with pytest.raises(ValueError, match="range beyond bfloat16"):
        quantise(weights, 4)


@pytest.mark.parametrize(
    ("shape", "bits", "sentence"),
    [((1, 63), 4, "multiple of 64"), ((1, 64), 3, "2, 4 or 8"), ((1, 64), 0, "2, 4 or 8")],
)
def test_shapes_and_bits_that_make_no_sense_are_refused(shape: tuple[int, int], bits: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        quantise(np.zeros(shape, dtype=np.float32), bits)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    codes, scales, biases = quantise(np.zeros((2, 128), dtype=np.float32), 4)
    with pytest.raises(ValueError, match="same rows"):
        dequantise(codes, scales[:1], biases)
    with pytest.raises(ValueError, match="groups of 64"):
        dequantise(codes[:, :9].copy(), scales, biases)


def test_read_only_and_empty_arrays_are_welcome() -> None:
    weights = np.random.default_rng(2).standard_normal((4, 64)).astype(np.float32)
    expected = quantise(weights, 4)
    weights.flags.writeable = False
    np.testing.assert_array_equal(quantise(weights, 4)[0], expected[0])
    assert quantise(weights[:0], 4)[0].shape == (0, 8)
