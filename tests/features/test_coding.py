"""Keys and times as whole numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from mlops_pipelines.features.coding import count_up_to, places_of
from mlops_pipelines.features.facts import NEVER

PAIRS = st.lists(st.tuples(st.integers(-1, 3), st.integers(-5, 5) | st.sampled_from([-NEVER, NEVER])))


@given(left=PAIRS, right=PAIRS.filter(len))
@example(left=[(1, 5)], right=[(0, 5), (1, -5)])
@example(left=[(3, -NEVER), (-1, NEVER)], right=[(3, NEVER)])
def test_places_are_in_the_order_of_their_codes_and_moments(
    left: list[tuple[int, int]], right: list[tuple[int, int]]
) -> None:
    codes, moments = (
        [np.array([pair[part] for pair in pairs], dtype=np.int64) for pairs in (left, right)]
        for part in (0, 1)
    )

    placed = np.concatenate(places_of(codes, moments)).tolist()

    pairs = left + right
    for a, first in zip(pairs, placed, strict=True):
        for b, second in zip(pairs, placed, strict=True):
            assert (a < b, a == b) == (first < second, first == second)


@given(places=st.lists(st.integers(0, 9)), ends=st.lists(st.integers(-1, 10)))
def test_places_are_counted_up_to_each_end_in_any_order(places: list[int], ends: list[int]) -> None:
    counts = count_up_to(np.array(sorted(places), dtype=np.int64), np.array(ends, dtype=np.int64))

    assert counts.tolist() == [sum(place <= end for place in places) for end in ends]
