"""Shares and their intervals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashmoe.evaluation.share import Share


@given(st.integers(1, 499), st.integers(1, 500))
def test_a_bound_is_a_share_from_which_the_found_one_is_just_in_reach(count, more):
    share = Share(count, count + more)
    for p in share.interval:
        standard_error = (p * (1 - p) / share.of) ** 0.5
        assert abs(share.value - p) == pytest.approx(1.959964 * standard_error, rel=1e-5)


@given(st.integers(0, 500), st.integers(0, 500))
def test_the_interval_holds_the_share_inside_0_and_1(count, more):
    share = Share(count, count + more)
    low, high = share.interval
    assert 0 <= low <= share.value <= high <= 1


def test_nothing_of_nothing_leaves_everything_open():
    assert Share(0, 0).value == 0
    assert Share(0, 0).interval == (0, 1)
