"""Losses beyond what scores expect: what raises an alarm, and what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import drift

from mlops_pipelines.monitoring.concept import (
    BLOCK_ROWS,
    CALM,
    alarms,
    block_means,
    calm_surprise,
    out_of_control,
)
from mlops_pipelines.monitoring.estimates import expected_losses

if TYPE_CHECKING:
    from collections.abc import Callable

surprises = st.lists(st.floats(-1, 5), min_size=1, max_size=400)


@given(surprises)
def test_blocks_hold_every_row_once(values: list[float]) -> None:
    blocks = block_means(np.array(values))
    assert len(blocks) == max(1, round(len(values) / BLOCK_ROWS))
    sizes = [len(part) for part in np.array_split(np.array(values), len(blocks))]
    assert np.average(blocks, weights=sizes) == pytest.approx(np.mean(values), abs=1e-9)


def test_no_rows_are_no_blocks() -> None:
    assert block_means(np.array([])) == []


@given(st.lists(st.floats(-1, 5), min_size=1, max_size=40))
def test_the_calm_part_surprises_no_more_than_the_day(blocks: list[float]) -> None:
    assert min(blocks) - 1e-9 <= calm_surprise(blocks) <= np.mean(blocks) + 1e-9


def test_a_storm_of_some_hours_leaves_the_calm_part_alone() -> None:
    calm = [0.0] * 20
    storm = [0.0] * 12 + [2.0] * int((1 - CALM) * 20)
    assert calm_surprise(storm) == calm_surprise(calm) == 0


def days(rng: np.random.Generator, count: int, *, level: float = 0.0) -> list[float]:
    return (rng.normal(0, 0.03, count) + level).tolist()


def test_a_shift_of_two_and_a_half_deviations_is_seen_within_three_days() -> None:
    rng = np.random.default_rng(3)
    seen = [
        any(day >= 60 for day in out_of_control(days(rng, 60) + days(rng, 3, level=0.075)))
        for _ in range(200)
    ]
    assert np.mean(seen) > 0.8


@pytest.mark.proof
def test_a_process_in_control_seldom_alarms(full: bool, sample_size: Callable[[str, int], None]) -> None:
    rng, years = np.random.default_rng(4), 100 if full else 5
    found = sum(len(out_of_control(days(rng, 365))) for _ in range(years))
    sample_size("days in control", years * 365)
    sample_size("alarms among them", found)
    assert found <= 0.005 * years * 365


def test_the_first_days_tell_nothing() -> None:
    assert out_of_control([0.0, 0.01] * 10 + [9.0] * 2) == []


def test_less_surprise_is_no_alarm() -> None:
    rng = np.random.default_rng(5)
    assert out_of_control(days(rng, 60) + days(rng, 10, level=-1.0)) == []


def test_a_base_rate_that_scores_follow_is_no_surprise() -> None:
    rng, calm = np.random.default_rng(6), []
    for day in range(120):
        level = -1.9 + 1.2 * (day > 60)  # 13 % of the events, then 33 %
        scores = 1 / (1 + np.exp(-(level + rng.normal(0, 0.8, 900))))
        labels = rng.random(900) < scores
        losses = -np.where(labels, np.log(scores), np.log1p(-scores))
        calm.append(calm_surprise(block_means(losses - expected_losses(scores))))
    assert out_of_control(calm) == []


def seeded() -> list[float]:
    """A stream that changes at 500 and at 900."""
    rng = np.random.default_rng(7)
    return rng.normal(np.repeat([0.0, 0.25, -0.1], [500, 400, 300]), 0.15).tolist()


RIVERS: dict[str, Callable[[], Any]] = {
    "adwin": drift.ADWIN,
    "page_hinkley": lambda: drift.PageHinkley(threshold=5.0, mode="up"),
    "kswin": lambda: drift.KSWIN(seed=17),
}


@pytest.mark.parametrize(
    ("detector", "expected"), [("adwin", [575, 959]), ("page_hinkley", [517]), ("kswin", [514, 883])]
)
def test_alarms_come_at_these_places_and_at_those_of_river(detector: Any, expected: list[int]) -> None:
    watcher, theirs = RIVERS[detector](), []
    for place, value in enumerate(seeded()):
        watcher.update(value)
        if watcher.drift_detected:
            theirs.append(place)
    assert alarms(detector, seeded()) == theirs == expected


def test_the_process_control_alarms_at_these_days() -> None:
    rng = np.random.default_rng(8)
    stream = days(rng, 60) + days(rng, 6, level=0.09)
    assert alarms("process_control", stream) == [62, 63, 64, 65]
