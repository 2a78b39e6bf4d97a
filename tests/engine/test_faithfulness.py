"""Logits against transformers in float32 on exactly the same weights: the exported, dequantised ones.

`python -m pytest tests/engine/test_faithfulness.py -s` prints the rows of docs/measurements/faithfulness.md.
"""

from functools import cache

import numpy as np
import pytest

from engine.measure import Distance, step_by_step
from flashmoe.engine.loader import load_engine
from flashmoe.pack.export import export
from flashmoe.settings import Settings
from oracle import TINY, Oracle, some_tokens

PREFILL, DECODE = 80, 64
TOKENS = some_tokens(PREFILL + DECODE)
CASES = [(name, bits) for name in TINY for bits in (8, 4, 2)]


@pytest.fixture(scope="module")
def oracle_logits(tiny_packed, tmp_path_factory):
    """transformers' logits on the weights of a packed model."""

    @cache
    def get(name: str, bits: int) -> np.ndarray:
        out = tmp_path_factory.mktemp(f"{name}-{bits}") / "exported"
        export(tiny_packed(name, bits), out, "float32")
        return Oracle.load(out).logits(TOKENS, PREFILL)

    return get


def distance(packed, backend: str, expected: np.ndarray, row: str) -> Distance:
    with load_engine(packed, Settings(backend=backend, threads=2)) as engine:
        found = Distance.between(step_by_step(engine, TOKENS, PREFILL), expected)
    figures = f"{found.relative:.1e} | {found.kl:.1e} | {found.largest_kl:.1e} | {found.agreement:.1%}"
    print(f"\n| {row} | {backend} | {figures} |")
    return found


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_the_oracles_logits_are_of_a_scale_that_shows_errors(name, bits, oracle_logits):
    assert 1.5 < oracle_logits(name, bits).std() < 5


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_reference_is_transformers_within_1e_4(name, bits, tiny_packed, oracle_logits):
    found = distance(tiny_packed(name, bits), "reference", oracle_logits(name, bits), f"{name} | {bits}")
    assert found.relative < 1e-4
    assert found.broken == 0


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_cpu_is_transformers_within_the_rounding_of_activations(name, bits, tiny_packed, oracle_logits):
    found = distance(tiny_packed(name, bits), "cpu", oracle_logits(name, bits), f"{name} | {bits}")
    assert found.kl < 1e-3
    assert found.broken == 0
