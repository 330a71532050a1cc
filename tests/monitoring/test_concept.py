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
    JudgedDay,
    alarms,
    block_means,
    calm_surprise,
    judged_day,
    ongoing,
    out_of_control,
    slope_gap,
    standing_out,
)
from mlops_pipelines.monitoring.estimates import Outcomes, expected_losses

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


Watched = list[tuple[float, ...]]


def days(rng: np.random.Generator, count: int, *, level: float = 0.0) -> Watched:
    """Days of which one figure is watched."""
    return [(one,) for one in rng.normal(0, 0.03, count) + level]


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
    assert out_of_control([(0.0,), (0.01,)] * 10 + [(9.0,)] * 2) == []


def test_less_surprise_is_no_alarm() -> None:
    rng = np.random.default_rng(5)
    assert out_of_control(days(rng, 60) + days(rng, 10, level=-1.0)) == []


def test_a_figure_that_never_differs_says_nothing() -> None:
    stream = days(np.random.default_rng(3), 60) + [(1.0,)] * 3
    assert out_of_control([(*one, 0.5) for one in stream]) == out_of_control(stream) == [60, 61, 62]
    assert out_of_control([(0.5,)] * 60) == []


def test_what_moves_two_figures_is_seen_sooner_than_by_one() -> None:
    rng, one_alone, together = np.random.default_rng(9), 0, 0
    for _ in range(100):
        one, other = (days(rng, 60) + days(rng, 3, level=0.06) for _ in range(2))
        one_alone += bool(standing_out(one))
        together += bool(standing_out([(*a, *b) for a, b in zip(one, other, strict=True)]))
    assert together > 85
    assert one_alone < 65


def of_scores(rng: np.random.Generator, shares: Any, *, weather: float = 0.0, flipped: float = 0.0) -> Any:
    """Outcomes that come about as often as the scores say, but for a block's weather (deviation of its
    log-odds) and for those that are flipped."""
    shares = np.clip(shares, 1e-9, 1 - 1e-9)
    blocks = np.array_split(np.arange(len(shares)), max(1, round(len(shares) / BLOCK_ROWS)))
    level = np.concatenate([np.full(len(block), rng.normal(0, weather)) for block in blocks])
    came = rng.random(len(shares)) < 1 / (1 + np.exp(-(np.log(shares / (1 - shares)) + level)))
    return (came ^ (rng.random(len(shares)) < flipped)).astype(float)


def scores_of(rng: np.random.Generator, level: float, rows: int = 900) -> Any:
    return 1 / (1 + np.exp(-(level + rng.normal(0, 0.8, rows))))


@pytest.mark.parametrize("weather", [0.0, 1.0])
def test_while_scores_mean_what_they_say_there_is_no_slope_gap_whatever_the_weather(weather: float) -> None:
    rng = np.random.default_rng(11)
    drawn = [scores_of(rng, level) for level in rng.uniform(-2.5, 0, 400)]
    gaps = [slope_gap(of_scores(rng, shares, weather=weather), shares) for shares in drawn]
    assert np.mean(gaps) == pytest.approx(0, abs=0.3)
    assert np.std(gaps) == pytest.approx(1, abs=0.15)


def test_flipped_outcomes_follow_their_scores_less() -> None:
    rng = np.random.default_rng(12)
    drawn = [scores_of(rng, -1.2) for _ in range(100)]
    gaps = [slope_gap(of_scores(rng, shares, weather=0.5, flipped=0.1), shares) for shares in drawn]
    assert np.mean(gaps) > 1.5


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=200))
def test_the_slope_gap_is_a_number_of_any_rows(rows: list[tuple[float, bool]]) -> None:
    gap = slope_gap(np.array([came for _, came in rows], dtype=float), np.array([share for share, _ in rows]))
    assert np.isfinite(gap)


@pytest.mark.parametrize("rows", [1, 10, 500])
def test_scores_that_are_all_the_same_leave_no_slope(rows: int) -> None:
    assert slope_gap(np.ones(rows), np.full(rows, 0.3)) == 0


def judged(rng: np.random.Generator, first: int, count: int, *, level: float = 0.0) -> list[JudgedDay]:
    """Days from one on whose calm parts, and whose blocks, are at a level."""
    calm = days(rng, count, level=level)
    return [
        JudgedDay(f"day {n:03}", "model", rng.normal(4 * level, 0.1, 20).tolist(), one, 0.0)
        for n, (one,) in enumerate(calm, start=first)
    ]


@pytest.mark.parametrize("detector", ["process_control", "page_hinkley"])
def test_what_is_over_does_not_go_on(detector: Any) -> None:
    rng = np.random.default_rng(13)
    stream = judged(rng, 0, 60) + judged(rng, 60, 3, level=0.5)
    during, carried = ongoing(stream, [detector])
    assert [one.detector for one in during] == [detector]
    assert carried
    assert set(carried) <= {one.day for one in stream[60:]}
    assert ongoing(stream + judged(rng, 63, 20), [detector]) == ([], [])


def test_a_base_rate_that_scores_follow_is_no_surprise() -> None:
    rng, watched = np.random.default_rng(6), []
    for day in range(120):
        scores = scores_of(rng, -1.9 + 1.2 * (day > 60))  # 13 % of the events, then 33 %
        came = of_scores(rng, scores)
        losses = -np.where(came, np.log(scores), np.log1p(-scores))
        outcomes = Outcomes(losses - expected_losses(scores), came, scores)
        watched.append(judged_day(f"day {day}", "", outcomes).watched)
    assert not [day for day in out_of_control(watched) if day > 60]


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
    assert out_of_control(stream) == [62, 63, 64, 65]
