"""Recording what was routed where: exact, in order, without a trace in the answers."""

import numpy as np
import pytest

from engine.watch import Watch
from flashmoe.engine.batch_generation import generate_batch
from flashmoe.engine.generation import generate
from flashmoe.engine.loader import load_engine
from flashmoe.engine.routing_trace import RoutingRecorder, RoutingTrace
from flashmoe.engine.sampling import Sampling
from flashmoe.errors import FlashMoeError, FormatError
from flashmoe.settings import Settings
from oracle import some_tokens

NEVER = frozenset()
SETTINGS = Settings(backend="reference", context=64, chunk_tokens=5, sequences=2)


@pytest.fixture(scope="module")
def recorded(tiny_packed):
    """A trace of three prompts, two at a time, and their answers."""
    with load_engine(tiny_packed("qwen3_next"), SETTINGS) as engine:
        recorder = RoutingRecorder(engine.config)
        engine.observers.append(recorder)
        prompts = [some_tokens(n, seed=n) for n in (7, 3, 6)]
        done = {c.index: c.token_ids for c in generate_batch(engine, prompts, Sampling(), max_tokens=4, stop_ids=NEVER)}
        return recorder.trace(), [[*p.tolist(), *done[i][:-1]] for i, p in enumerate(prompts)], engine.config


def test_every_token_is_there_once_with_its_sequence_and_position(recorded):
    trace, sequences, config = recorded
    assert trace.ids.shape == (sum(map(len, sequences)), config.layers, config.top_k)
    for number, tokens in enumerate(sequences):
        rows = trace.sequence == number
        assert trace.position[rows].tolist() == list(range(len(tokens)))
        assert trace.token[rows].tolist() == tokens
    assert (np.diff(trace.step) >= 0).all()
    assert np.bincount(trace.step).max() == SETTINGS.chunk_tokens


def test_the_ids_are_the_routers_by_falling_weight(recorded, tiny_packed):
    trace, sequences, config = recorded
    with load_engine(tiny_packed("qwen3_next"), SETTINGS) as engine:
        watch = Watch()
        engine.observers.append(watch)
        state = engine.new_sequence()
        for token in sequences[1]:
            engine.forward([(state, np.array([token], np.int32))])
    assert all((np.diff(weights, axis=1) <= 0).all() for _, _, _, weights in watch.seen)
    one_by_one = np.array([ids for _, _, ids, _ in watch.seen]).reshape(len(sequences[1]), config.layers, config.top_k)
    np.testing.assert_array_equal(trace.ids[trace.sequence == 1], one_by_one)


def test_mean_weights_fall_with_the_rank_and_are_those_of_all_tokens(recorded):
    trace, _, config = recorded
    assert trace.mean_weights.shape == (config.layers, config.top_k)
    assert (np.diff(trace.mean_weights, axis=1) <= 0).all()
    np.testing.assert_allclose(trace.mean_weights.sum(axis=1), 1, rtol=1e-5)


def test_recording_changes_no_answer(tiny_packed):
    with load_engine(tiny_packed("qwen3_next"), SETTINGS) as engine:
        expected = list(generate(engine, some_tokens(9), Sampling(), max_tokens=8, stop_ids=NEVER))
        engine.observers.append(RoutingRecorder(engine.config))
        assert list(generate(engine, some_tokens(9), Sampling(), max_tokens=8, stop_ids=NEVER)) == expected


def test_a_forward_that_was_broken_off_leaves_nothing(tiny_packed):
    with load_engine(tiny_packed("qwen3_next"), SETTINGS) as engine:
        recorder = RoutingRecorder(engine.config)
        engine.observers += [recorder, Watch(interrupt_at=2)]
        with pytest.raises(KeyboardInterrupt):
            engine.logits(some_tokens(4))
        assert len(recorder.trace().ids) == 0
        engine.observers.pop()
        engine.logits(some_tokens(4))
        assert len(recorder.trace().ids) == 4


def test_a_saved_trace_is_read_back(recorded, tmp_path):
    trace, _, _ = recorded
    trace.save(tmp_path / "trace.npz")
    back = RoutingTrace.read(tmp_path / "trace.npz")
    assert back.experts == trace.experts
    for name in ("sequence", "position", "token", "step", "ids", "mean_weights"):
        np.testing.assert_array_equal(getattr(back, name), getattr(trace, name))


def test_what_is_no_trace_is_a_sentence(recorded, tmp_path):
    trace, _, _ = recorded
    path = tmp_path / "trace.npz"
    with pytest.raises(FormatError, match="cannot be read"):
        RoutingTrace.read(path)
    for content in (b"", b"no zip", b"PK\x03\x04 cut"):
        path.write_bytes(content)
        with pytest.raises(FormatError, match="is not a routing trace"):
            RoutingTrace.read(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(FormatError, match="is not a routing trace"):
        RoutingTrace.read(path)
    np.savez(path, format=9)
    with pytest.raises(FormatError, match="format 9"):
        RoutingTrace.read(path)
    np.savez(path, format=1, experts=4)
    with pytest.raises(FormatError, match="is not a routing trace"):
        RoutingTrace.read(path)
    RoutingTrace(
        2, *(getattr(trace, n) for n in ("sequence", "position", "token", "step", "ids", "mean_weights"))
    ).save(path)
    with pytest.raises(FormatError, match="damaged"):
        RoutingTrace.read(path)
    with pytest.raises(FlashMoeError, match="cannot be written"):
        trace.save(tmp_path / "absent" / "trace.npz")
