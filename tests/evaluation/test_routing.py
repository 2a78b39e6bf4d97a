"""Figures of routing, on traces whose figures are known."""

from dataclasses import replace

import numpy as np
import pytest

from engine.watch import Watch
from flashmoe.engine.loader import load_engine
from flashmoe.engine.routing_trace import RoutingTrace
from flashmoe.evaluation.routing import Foresight, counts, generated, gini, reuse, share_of_top
from flashmoe.settings import Settings
from oracle import some_tokens


def trace(ids, sequence=None, position=None, experts=8):
    ids = np.array(ids, np.uint8)
    rows = len(ids)
    zeros = np.zeros(rows, np.int32)
    return RoutingTrace(
        experts,
        zeros if sequence is None else np.array(sequence, np.int32),
        np.arange(rows, dtype=np.int32) if position is None else np.array(position, np.int32),
        zeros,
        zeros,
        ids,
        np.zeros(ids.shape[1:], np.float32),
    )


def test_counts_are_by_layer_and_expert():
    found = counts(trace([[[0, 1], [7, 2]], [[0, 3], [7, 6]]]))
    assert found[0].tolist() == [2, 1, 0, 1, 0, 0, 0, 0]
    assert found[1].tolist() == [0, 0, 1, 0, 0, 0, 1, 2]


@pytest.mark.parametrize(("picks", "expected"), [([3, 3, 3, 3], 0), ([0, 0, 0, 5], 0.75), ([1, 3], 0.25)])
def test_gini_is_half_the_mean_difference_over_the_mean(picks, expected):
    array = np.array(picks)
    differences = np.abs(array[:, None] - array[None]).mean() / (2 * array.mean())
    assert gini(array) == pytest.approx(expected) == pytest.approx(differences)


def test_the_share_of_the_top_counts_the_most_chosen():
    assert share_of_top(np.array([[1, 5, 2, 1, 1]]), 0.2) == pytest.approx([0.5])


def test_reuse_pairs_neighbours_of_one_sequence_whatever_the_order_of_computation():
    # Sequence 0: {0,1} {1,2} {1,2}: 1 of 2, then 2 of 2. Sequence 1: {4,5} {5,6}, computed in between: 1 of 2.
    ids = [[[0, 1]], [[4, 5]], [[2, 1]], [[5, 6]], [[1, 2]]]
    found = trace(ids, [0, 1, 0, 1, 0], [0, 0, 1, 1, 2])
    assert reuse(found) == pytest.approx([(0.5 + 1 + 0.5) / 3])
    assert reuse(found, 2) == pytest.approx([0.5])


def test_generated_leaves_out_prompt_chunks():
    whole = trace([[[i, i + 1]] for i in range(6)], [0, 0, 1, 0, 1, 0], [0, 1, 0, 2, 1, 3])
    whole = replace(whole, step=np.array([0, 0, 1, 2, 2, 3], np.int32))
    found = generated(whole)
    assert found.sequence.tolist() == [1, 0, 1, 0]
    assert found.ids[:, 0, 0].tolist() == [2, 3, 4, 5]


def test_foresight_compares_the_next_router_on_this_layers_stream_with_what_is_chosen(tiny_packed):
    with load_engine(tiny_packed("qwen3_next"), Settings(backend="reference", context=64)) as engine:
        decoder, c = engine.decoder, engine.config
        foresight = Foresight(decoder, 2 * c.top_k)
        watch = Watch()
        engine.observers += [foresight, watch]
        state = engine.new_sequence()
        for token in some_tokens(20):
            engine.forward([(state, np.array([token], np.int32))])
        engine.observers.remove(watch)
        engine.logits(some_tokens(9))  # a prompt, which does not count
        streams = [np.concatenate([x for i, x, _, _ in watch.seen if i == layer]) for layer in range(c.layers)]
        chosen = [np.concatenate([ids for i, _, ids, _ in watch.seen if i == layer]) for layer in range(c.layers)]
        for layer in range(1, c.layers):
            ahead = decoder.layers[layer]
            _, guess, _ = ahead.moe.route(streams[layer - 1], 2 * c.top_k)
            for few, many in [(1, 1), (c.top_k, c.top_k), (c.top_k, 2 * c.top_k)]:
                found = [len(set(g[:many]) & set(t[:few])) for g, t in zip(guess, chosen[layer], strict=True)]
                assert foresight.recall(few, many)[layer - 1] == pytest.approx(np.mean(found) / few)
