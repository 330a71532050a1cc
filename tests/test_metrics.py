from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from mlops_pipelines.metrics import METRICS, calibration_bins, estimates, interval, measure, resampled_days

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DAYS = 4
ROWS = st.lists(
    # Few distinct scores, so that ties are common.
    st.tuples(st.integers(0, 1), st.integers(1, 9), st.integers(0, DAYS - 1)),
    min_size=1,
    max_size=60,
)


def arrays(
    rows: list[tuple[int, int, int]],
) -> tuple[NDArray[np.int8], NDArray[np.float64], NDArray[np.intp]]:
    labels, tenths, days = zip(*rows, strict=True)
    return np.array(labels, np.int8), np.array(tenths) / 10, np.array(days, np.intp)


@given(rows=ROWS, weight=st.lists(st.integers(0, 3), min_size=DAYS, max_size=DAYS))
def test_every_weighting_of_days_agrees_with_scikit_learn(
    rows: list[tuple[int, int, int]], weight: list[int]
) -> None:
    labels, scores, day = arrays(rows)
    ours = {k: v[0] for k, v in measure(labels, scores, day, np.array([weight], np.float64)).items()}
    # Drawing a day twice is having its rows twice.
    times = np.array(weight)[day]
    drawn, drawn_scores = np.repeat(labels, times), np.repeat(scores, times)
    if drawn.size == 0:
        assert all(np.isnan(value) for value in ours.values())
        return
    assert ours["log_loss"] == pytest.approx(log_loss(drawn, drawn_scores, labels=[0, 1]))
    assert ours["brier"] == pytest.approx(brier_score_loss(drawn, drawn_scores, pos_label=1))
    rate = drawn.mean()
    if rate in {0.0, 1.0}:
        assert np.isnan([ours["log_loss_skill"], ours["brier_skill"], ours["roc_auc"]]).all()
        return
    base = np.full(drawn.size, rate)
    assert ours["log_loss_skill"] == pytest.approx(1 - log_loss(drawn, drawn_scores) / log_loss(drawn, base))
    assert ours["brier_skill"] == pytest.approx(
        1 - brier_score_loss(drawn, drawn_scores) / brier_score_loss(drawn, base)
    )
    assert ours["roc_auc"] == pytest.approx(roc_auc_score(drawn, drawn_scores))
    assert ours["average_precision"] == pytest.approx(average_precision_score(drawn, drawn_scores))


def test_calibration_error_is_the_weighted_gap_of_ten_equal_bins() -> None:
    rng = np.random.default_rng(1)
    scores = rng.permutation(np.linspace(0.05, 0.95, 500))
    labels = (rng.random(500) < scores**2).astype(np.int8)
    ranked = np.argsort(scores)
    gaps = [abs(scores[part].mean() - labels[part].mean()) for part in np.split(ranked, 10)]
    ones = np.ones((1, 1))
    ours = measure(labels, scores, np.zeros(500, np.intp), ones)["expected_calibration_error"][0]
    assert ours == pytest.approx(np.mean(gaps))


def test_equal_scores_share_a_calibration_bin() -> None:
    bins = calibration_bins(np.array([0.2] * 7 + [0.5, 0.6, 0.7]))
    assert len(set(bins[:7])) == 1
    assert np.all(np.diff(bins) >= 0)


def test_a_figure_that_is_undefined_has_no_estimate() -> None:
    labels, scores, day = np.zeros(20, np.int8), np.full(20, 0.3), np.repeat([0, 1], 10)
    found = estimates(labels, scores, day, resampled_days(2, replicates=20, seed=1))
    undefined = {"log_loss_skill", "brier_skill", "roc_auc", "average_precision"}
    assert {name for name, figure in found.items() if figure is None} == undefined


def test_only_what_is_asked_for_is_measured() -> None:
    labels, scores, day = arrays([(0, 3, 0), (1, 6, 1)])
    found = estimates(labels, scores, day, resampled_days(2, replicates=20, seed=1), ("roc_auc",))
    assert list(found) == ["roc_auc"]
    assert list(measure(labels, scores, day, np.ones((1, 2)))) == list(METRICS)


def test_one_day_has_a_figure_but_no_interval() -> None:
    labels, scores, day = arrays([(0, 3, 0), (1, 6, 0), (0, 7, 0)])
    figure = estimates(labels, scores, day, resampled_days(1, replicates=20, seed=1))["roc_auc"]
    assert figure is not None
    assert (figure.value, figure.lower, figure.upper) == (0.5, None, None)


def test_same_seed_draws_the_same_days() -> None:
    draws = resampled_days(9, replicates=50, seed=7)
    assert np.array_equal(draws, resampled_days(9, replicates=50, seed=7))
    assert not np.array_equal(draws, resampled_days(9, replicates=50, seed=8))
    assert np.all(draws.sum(axis=1) == 9)


@pytest.mark.proof
@pytest.mark.parametrize("days", [5, 7, 28])
def test_one_sided_bounds_are_exceeded_as_rarely_as_they_say(
    days: int, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    """A mean over days that differ by more than their rows: the case the blocks are there for."""
    trials = 4000 if full else 400
    rng = np.random.default_rng(days)
    misses = 0
    for trial in range(trials):
        means = rng.normal(0, 1, days)
        bounds = interval(
            resampled_days(days, replicates=500, seed=trial) @ means / days, days, confidence=0.9
        )
        assert bounds is not None
        misses += bounds[1] < 0
    sample_size("intervals", trials)
    # Binomial noise of the count, four standard deviations, around the one in ten.
    assert misses / trials == pytest.approx(0.1, abs=0.01 + 4 * (0.09 / trials) ** 0.5)
