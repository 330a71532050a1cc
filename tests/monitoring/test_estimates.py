"""What a day's labels will show, said before they are known."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.monitoring.estimates import (
    Estimate,
    estimate,
    expected_by_day,
    expected_losses,
    outcomes_by_day,
)

DECIDED = datetime(2024, 3, 1, tzinfo=UTC)
shares = st.floats(0, 1)
gaps = st.lists(st.floats(-0.5, 0.5), min_size=10, max_size=80)


@given(shares)
def test_a_probability_expects_its_entropy(share: float) -> None:
    (loss,) = expected_losses(np.array([share]))
    by_hand = -sum(p * math.log(p) for p in (share, 1 - share) if p > 1e-15)
    assert loss == pytest.approx(by_hand, abs=1e-12)


@given(shares)
def test_two_classes_expect_what_a_probability_does(share: float) -> None:
    of_classes = expected_losses(np.array([[share, 1 - share]]))
    assert of_classes == pytest.approx(expected_losses(np.array([share])), abs=1e-12)


def test_scores_that_mean_what_they_say_lose_what_they_expect() -> None:
    rng = np.random.default_rng(1)
    scores = rng.beta(2, 5, 200_000)
    labels = rng.random(200_000) < scores
    losses = -np.where(labels, np.log(scores), np.log1p(-scores))
    assert losses.mean() == pytest.approx(expected_losses(scores).mean(), abs=0.004)


def test_without_enough_matured_days_there_is_no_interval() -> None:
    assert estimate(0.4, [0.1] * 9) == Estimate(0.4, None, None, 9)
    assert estimate(0.4, [0.1] * 9).covers(0.4) is None


@given(st.floats(0.1, 2), gaps)
def test_an_estimate_lies_in_its_interval_and_no_loss_is_negative(expected: float, gaps: list[float]) -> None:
    found = estimate(expected, gaps)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high
    assert found.days == min(len(gaps), 60)


@given(gaps)
def test_only_the_last_sixty_days_count(gaps: list[float]) -> None:
    assert estimate(0.4, [9.0] * 60 + gaps[-60:] + [0.0] * (60 - len(gaps[-60:]))) == estimate(
        0.4, gaps[-60:] + [0.0] * (60 - len(gaps[-60:]))
    )


def test_what_scores_keep_missing_is_added() -> None:
    assert estimate(0.4, [0.05, 0.07] * 10).value == pytest.approx(0.46)


def test_intervals_hold_as_often_as_they_say_from_ten_days_on() -> None:
    rng = np.random.default_rng(2)
    for days in (10, 20, 60):
        inside = [
            estimate(1.0, drawn[:-1].tolist()).covers(1.0 + drawn[-1])
            for drawn in rng.normal(0.02, 0.05, (2000, days + 1))
        ]
        assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def log(scores: list[float], labels: list[int], days: list[str]) -> pa.Table:
    """Scored rows, the last decided first."""
    rows = len(scores)
    return pa.table(
        {
            "day": days,
            "event_id": [f"e{n}" for n in range(rows)],
            "decided_at": pa.array([DECIDED - timedelta(hours=n) for n in range(rows)]),
            "score": scores,
            "label": pa.array(labels, pa.int8()),
        }
    )


def test_outcomes_come_by_day_in_the_order_of_decision() -> None:
    scored = log([0.5, 0.9, 0.2], [1, 0, 0], ["2024-03-02", "2024-03-01", "2024-03-01"])
    found = outcomes_by_day(scored, "binary")
    assert sorted(found) == ["2024-03-01", "2024-03-02"]
    lost = [-math.log(0.8), -math.log(0.1)]
    first, second = found["2024-03-01"], found["2024-03-02"]
    assert first.surprises + expected_losses(np.array([0.2, 0.9])) == pytest.approx(lost)
    assert (first.came.tolist(), first.shares.tolist()) == ([0, 0], [0.2, 0.9])
    assert second.surprises == pytest.approx([0.0], abs=1e-12)


def test_what_scores_expect_is_told_by_day() -> None:
    found = expected_by_day(log([0.5, 0.9, 0.1], [1, 0, 0], ["2024-03-02"] + ["2024-03-01"] * 2), "binary")
    assert found["2024-03-02"].loss == pytest.approx(math.log(2))
    assert found["2024-03-01"].rate == pytest.approx(0.5)


def test_numbers_expect_nothing_of_themselves() -> None:
    scored = log([3.0], [1], ["2024-03-01"])
    assert expected_by_day(scored, "number") == {}
    assert outcomes_by_day(scored, "number") == {}


def test_classes_surprise_by_the_one_that_came() -> None:
    scored = pa.table(
        {
            "day": ["2024-03-01"] * 2,
            "event_id": ["a", "b"],
            "decided_at": pa.array([DECIDED, DECIDED]),
            "probabilities": ['{"x": 0.5, "y": 0.5}', '{"x": 0.9, "y": 0.1}'],
            "label": ["x", "y"],
        }
    )
    (found,) = outcomes_by_day(scored, "category").values()
    expected = expected_losses(np.array([[0.5, 0.5], [0.9, 0.1]]))
    assert found.surprises == pytest.approx(np.array([-math.log(0.5), -math.log(0.1)]) - expected)
    assert (found.came.tolist(), found.shares.tolist()) == ([1, 0], [0.5, 0.9])
    assert expected_by_day(scored, "category")["2024-03-01"].rate == pytest.approx(0.7)
