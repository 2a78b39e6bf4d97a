"""The ways to round experts that the quality ladder compares (benchmarks/quality/rounding.py)."""

import numpy as np
import pytest

from flashmoe._native import dequantise, quantise
from quality.calibration import damped, inner_moments, moments
from quality.rounding import Rounded, compensated, high_plane, nearest, searched


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.random.default_rng(3).standard_t(4, (2, 24, 128)).astype(np.float32) * 0.05


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    """Correlated, as activations are."""
    random = np.random.default_rng(4)
    return (random.normal(size=(400, 128)) @ random.normal(size=(128, 128)) * 0.2).astype(np.float32)


def squared_error(rounded: Rounded, w: np.ndarray) -> float:
    return float(((rounded.values() - w) ** 2).sum())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_nearest_is_what_the_packer_writes(bits, weights):
    found = nearest(weights, bits)
    for expert, w in enumerate(weights):
        matrix = found.matrix(expert, bits)
        for own, packed in zip((matrix.codes, matrix.scales, matrix.biases), quantise(w, bits), strict=True):
            np.testing.assert_array_equal(own, packed)


def test_two_bit_codes_fit_into_a_record_of_four(weights):
    found = nearest(weights, 2)
    wide = found.matrix(1, 4)
    np.testing.assert_array_equal(dequantise(wide.codes, wide.scales, wide.biases), found.values()[1])


def test_the_upper_plane_is_within_half_its_step_of_the_fine_values(weights):
    fine = nearest(weights, 4)
    coarse = high_plane(fine)
    step = np.abs(coarse.scales).repeat(64, axis=-1)
    assert coarse.codes.max() <= 3
    assert (np.abs(coarse.values() - fine.values()) <= 0.4 * step).all()


def test_a_search_errs_less_than_the_extremes(weights):
    assert squared_error(searched(weights, 2), weights) < 0.8 * squared_error(nearest(weights, 2), weights)


def test_a_weighted_search_errs_less_where_it_matters(weights, inputs):
    importance = np.tile((inputs**2).mean(axis=0) ** 2, (2, 1)).astype(np.float32)

    def weighted(rounded: Rounded) -> float:
        return float((importance[:, None] * (rounded.values() - weights) ** 2).sum())

    assert weighted(searched(weights, 2, importance)) < weighted(searched(weights, 2))


@pytest.mark.parametrize("search", [False, True])
def test_compensation_errs_less_in_the_output_than_rounding_alone(search, weights, inputs):
    hessian = damped(np.array([inputs.T @ inputs / len(inputs)] * 2, np.float64))

    def output_error(rounded: Rounded) -> float:
        return float((((rounded.values() - weights) @ inputs.T) ** 2).sum())

    alone = searched(weights, 2) if search else nearest(weights, 2)
    assert output_error(compensated(weights, 2, hessian, search=search)) < 0.7 * output_error(alone)


def test_moments_are_those_of_an_experts_own_tokens_leaning_on_the_layers(inputs):
    ids = np.arange(400)[:, None] % 4
    found = moments(inputs, ids, 4)
    own = inputs[::4].astype(np.float64)
    everything = inputs.astype(np.float64).T @ inputs / 400
    expected = damped(((own.T @ own + 64 * everything) / (100 + 64))[None])[0]
    np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=1e-4)


def test_inner_moments_are_of_what_the_down_projections_are_given(inputs):
    random = np.random.default_rng(5)
    gate, up = (random.normal(size=(1, 32, 128)).astype(np.float32) * 0.1 for _ in range(2))
    g = inputs @ gate[0].T
    inner = g / (1 + np.exp(-g)) * (inputs @ up[0].T)
    expected = damped((inner.T @ inner / len(inputs))[None].astype(np.float64))
    np.testing.assert_allclose(
        inner_moments(inputs, np.zeros((400, 1), np.int32), gate, up), expected, rtol=1e-3, atol=1e-3
    )
