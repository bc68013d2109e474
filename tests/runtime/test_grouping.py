"""The rule by which sequences share runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm_runtime.grouping import MOST_PADDING, MOST_TOGETHER, plan_groups

SIZES = st.integers(1, 2).flatmap(
    lambda axes: st.lists(st.tuples(*[st.integers(1, 60)] * axes), min_size=1, max_size=60)
)


@given(SIZES, st.booleans(), st.none() | st.integers(1, 20))
def test_groups_are_a_partition_within_the_limits(
    sizes: list[tuple[int, ...]], pad: bool, limit: int | None
) -> None:
    array = np.array(sizes, dtype=np.int64)
    groups = plan_groups(array, pad=pad, limit=limit, together=False)
    assert sorted(i for group in groups for i in group.tolist()) == list(range(len(sizes)))
    for group in groups:
        assert len(group) <= (limit or MOST_TOGETHER)
        members = array[group]
        run = np.prod(members.max(axis=0)) * len(group)
        assert run <= (1 + MOST_PADDING) * np.prod(members, axis=1).sum()
        if not pad:
            assert (members == members[0]).all()


@given(SIZES)
def test_together_is_one_group(sizes: list[tuple[int, ...]]) -> None:
    array = np.array(sizes, dtype=np.int64)
    assert len(plan_groups(array, pad=True, limit=None, together=True)) == 1


def test_cost_follows_the_lengths() -> None:
    sizes = np.array([[5], [500], [5], [6]])
    groups = plan_groups(sizes, pad=True, limit=None, together=False)
    assert [group.tolist() for group in groups] == [[0, 2, 3], [1]]


@pytest.mark.parametrize("pad", [True, False])
def test_order_is_kept_among_equals(pad: bool) -> None:
    groups = plan_groups(np.full((20, 1), 7), pad=pad, limit=None, together=False)
    assert [group.tolist() for group in groups] == [list(range(16)), list(range(16, 20))]
