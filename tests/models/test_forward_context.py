"""A forward in pieces: every token, every product of a token and an expert exactly once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flashmoe.models import architecture
from flashmoe.models.batch import Batch, Span
from flashmoe.models.moe import Assignment, cut
from flashmoe.models.readahead import ReadAhead
from flashmoe.ops.weights import ExpertWork
from models.test_moe import entries, routings
from oracle import CONFIGS


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 50))
def test_blocks_hold_every_token_of_every_sequence_in_order(lengths, limit):
    ends = np.cumsum(lengths).tolist()
    spans = tuple(Span(e - n, e, [name]) for name, (n, e) in enumerate(zip(lengths, ends, strict=True)))
    tokens = np.arange(ends[-1], dtype=np.int32)
    seen = {name: [] for name in range(len(lengths))}
    for block in Batch(tokens, tokens, spans).blocks(limit):
        own = tokens[block.own]
        assert len(own) <= limit
        assert [s.begin for s in block.spans] == [0, *(s.end for s in block.spans[:-1])]
        assert block.spans[-1].end == len(own)
        for s in block.spans:
            seen[s.states[0]] += own[s.begin : s.end].tolist()
    assert seen == {name: list(range(s.begin, s.end)) for name, s in enumerate(spans)}


@given(routings(), st.integers(1, 20))
def test_work_that_is_cut_is_the_same_work(ids, most):
    assignment = Assignment.of(ids)
    work = assignment.work(assignment.experts)
    pieces: list[ExpertWork] = list(cut(work, most))
    assert all(len(p.rows) <= most and p.starts[0] == 0 and p.starts[-1] == len(p.rows) for p in pieces)
    assert all((np.diff(p.starts) > 0).all() and p.starts.dtype == np.int32 for p in pieces)
    assert set().union(*(entries(p) for p in pieces)) == entries(work)
    assert sum(len(p.rows) for p in pieces) == ids.size


class Source:
    """Hears what is expected."""

    def __init__(self, max_lease):
        self.max_lease, self.heard = max_lease, []

    def prefetch(self, layer, experts):
        self.heard.append(("prefetch", layer, experts.tolist()))

    def withdraw(self, layer, keep=None):
        self.heard.append(("withdraw", layer, None if keep is None else keep.tolist()))


def walk(ahead, layer, experts):
    experts = np.array(experts, dtype=np.int32)
    parts = []
    for part in ahead.parts(layer, experts):
        ahead.go_on(layer, experts[part.stop :])
        parts.append(experts[part].tolist())
    return parts


def config(layers=2):
    return architecture({**CONFIGS["qwen3_moe"], "num_hidden_layers": layers}).config


def test_a_layer_is_read_while_the_one_before_computes_if_nearly_all_of_it_will_be_needed():
    source = Source(max_lease=64)
    with ReadAhead(source, config(), tokens=100) as ahead:
        assert walk(ahead, 0, range(16)) == [list(range(16))]
        assert walk(ahead, 1, range(15)) == [list(range(15))]
    everything = list(range(16))
    assert source.heard == [
        ("prefetch", 0, everything),
        ("withdraw", 0, everything),
        ("prefetch", 1, everything),
        ("withdraw", 1, list(range(15))),
    ]


def test_nothing_is_read_on_suspicion_for_a_few_tokens_or_where_few_experts_were_needed():
    source = Source(max_lease=64)
    with ReadAhead(source, config(), tokens=2) as ahead:
        walk(ahead, 0, range(8))
        walk(ahead, 1, range(8))
    assert source.heard == []
    with ReadAhead(source, config(), tokens=100) as ahead:
        walk(ahead, 0, range(15))
        walk(ahead, 1, range(15))
    assert source.heard == [("prefetch", 0, list(range(16))), ("withdraw", 0, list(range(15)))]


def test_where_a_layer_does_not_fit_twice_its_next_part_is_read_while_one_computes():
    source = Source(max_lease=10)
    with ReadAhead(source, config(1), tokens=2) as ahead:
        assert walk(ahead, 0, range(12)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    assert source.heard == [("prefetch", 0, list(range(5, 12))), ("prefetch", 0, [10, 11])]


def test_what_was_expected_when_a_forward_is_broken_off_is_taken_back():
    source = Source(max_lease=64)
    experts = np.arange(16, dtype=np.int32)
    with ReadAhead(source, config(), tokens=100) as ahead:
        part = next(ahead.parts(0, experts))
        ahead.go_on(0, experts[part.stop :])
    assert source.heard[-2:] == [("withdraw", 0, None), ("withdraw", 1, None)]
