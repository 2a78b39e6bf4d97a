"""Which expert computes which token: every choice of the router exactly once, whatever arrives first."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flashmoe.models.moe import Assignment
from flashmoe.ops.weights import ExpertWork


@st.composite
def routings(draw):
    """ids [T, K], distinct within a token."""
    experts = draw(st.integers(1, 12))
    top_k = draw(st.integers(1, experts))
    seeds = draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=9))
    return np.stack([np.random.default_rng(s).permutation(experts)[:top_k] for s in seeds]).astype(np.int32)


def entries(work: ExpertWork) -> set[tuple[int, int, int]]:
    """(slot, row, output) of everything the work computes."""
    spans = [range(work.starts[i], work.starts[i + 1]) for i in range(len(work.slots))]
    return {
        (int(slot), int(work.rows[j]), int(work.outputs[j]))
        for slot, span in zip(work.slots, spans, strict=True)
        for j in span
    }


@given(routings())
def test_every_choice_is_computed_once_by_its_expert_for_its_token(ids):
    assignment = Assignment.of(ids)
    assert assignment.experts.tolist() == sorted(set(ids.reshape(-1).tolist()))
    top_k = ids.shape[1]
    work = assignment.work(assignment.experts)
    assert entries(work) == {(int(e), i // top_k, i) for i, e in enumerate(ids.reshape(-1))}
    assert len(work.outputs) == ids.size


@given(routings(), st.randoms(use_true_random=False))
def test_parts_in_any_order_are_the_whole(ids, random):
    assignment = Assignment.of(ids)
    which = list(range(len(assignment.experts)))
    random.shuffle(which)
    cut = random.randint(0, len(which))
    parts = [np.array(part, dtype=np.intp) for part in (which[:cut], which[cut:]) if part]
    found = [entries(assignment.part(part, assignment.experts[part])) for part in parts]
    assert set().union(*found) == entries(assignment.work(assignment.experts))
    assert sum(map(len, found)) == ids.size


def test_arrays_are_of_the_dtype_that_backends_take():
    for ids in (np.array([[3, 1]], np.int32), np.array([[3, 1], [1, 0]], np.int32)):
        assignment = Assignment.of(ids)
        for work in (assignment.work(assignment.experts), assignment.part(np.array([1]), assignment.experts[1:2])):
            assert {a.dtype for a in (work.slots, work.starts, work.rows, work.outputs)} == {np.dtype(np.int32)}
