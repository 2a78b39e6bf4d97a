"""Any mix of prompt chunks and single tokens, in blocks and parts of any size: each sequence gets the bits it gets
alone."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashmoe.engine.loader import load_engine
from flashmoe.models import decoder
from flashmoe.settings import Settings
from oracle import TINY, some_tokens

SETTINGS = Settings(backend="cpu", threads=2, context=128)
LENGTHS = (40, 23, 64, 9)
SEQUENCES = [some_tokens(length, seed=length) for length in LENGTHS]


@pytest.fixture(scope="module")
def loaded(tiny_packed):
    """An engine of so many slots (None: all experts), and what it gives for each sequence alone, at once."""
    engines = []

    @cache
    def get(name, slots=None):
        packed, chosen = tiny_packed(name), SETTINGS
        if slots is not None:
            plan = get(name)[0].plan
            chosen = replace(chosen, chunk_tokens=64, memory=plan.total + (slots - plan.slots) * plan.slot_bytes)
        engine = load_engine(packed, replace(chosen, chunk_tokens=64))
        engines.append(engine)
        assert slots in (None, engine.plan.slots)
        alone = get(name)[1] if slots else [forward(engine, [(engine.new_sequence(), t)]) for t in SEQUENCES]
        return engine, alone

    yield get
    for engine in engines:
        engine.close()


def forward(engine, parts) -> np.ndarray:
    return np.asarray(engine.forward(parts))


def random_mix(seed):
    """Forwards: how many tokens of which sequences go together; one, a few, or all that are left."""
    random, left = np.random.default_rng(seed), dict(enumerate(LENGTHS))
    while left:
        mix = {n: min(rest, int(random.choice([1, 1, 7, rest]))) for n, rest in left.items() if random.random() < 0.7}
        left = {n: rest - mix.get(n, 0) for n, rest in left.items() if rest > mix.get(n, 0)}
        if mix:
            yield mix


@pytest.mark.parametrize("slots", [None, 8, 20, 40])
@pytest.mark.parametrize("name", TINY)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 16, 512]), st.sampled_from([3, 32, 10000]))
@settings(max_examples=6)
def test_a_sequence_gets_the_same_bits_in_any_mix(name, slots, loaded, seed, block, entries):
    engine, alone = loaded(name, slots)
    states, begins = [engine.new_sequence() for _ in LENGTHS], [0] * len(LENGTHS)
    found = [[] for _ in LENGTHS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "BLOCK", block)
        for layer in engine.decoder.layers:
            patch.setattr(layer.moe, "entries", entries)
        for together in random_mix(seed):
            parts = [(states[n], SEQUENCES[n][begins[n] : begins[n] + count]) for n, count in together.items()]
            rows = np.split(forward(engine, parts), np.cumsum([len(tokens) for _, tokens in parts])[:-1])
            for n, own in zip(together, rows, strict=True):
                found[n].append(own)
                begins[n] += len(own)
    for rows, expected in zip(found, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(rows), expected)


class WithoutPrefetch:
    """A store that reads nothing before it is asked for."""

    def __init__(self, store):
        self.store = store

    def __getattr__(self, name):
        return getattr(self.store, name)

    def prefetch(self, layer, experts):
        pass


@pytest.mark.parametrize("chunk", [1, 16, 64])
@pytest.mark.parametrize("slots", [8, 20, 40])
def test_reading_ahead_changes_no_bit(chunk, slots, loaded):
    engine, alone = loaded("qwen3_5_moe_text", slots)
    tokens, store = SEQUENCES[2], engine.store
    try:
        for source in (store, WithoutPrefetch(store)):
            engine.store, state = source, engine.new_sequence()
            rows = [forward(engine, [(state, tokens[i : i + chunk])]) for i in range(0, len(tokens), chunk)]
            np.testing.assert_array_equal(np.concatenate(rows), alone[2])
    finally:
        engine.store = store
    assert chunk == 1 or store.stats.prefetch_used > 0
