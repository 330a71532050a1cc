from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from mlops_pipelines.metrics import resampled_days
from mlops_pipelines.number_metrics import measure, row_losses
from mlops_pipelines.outcomes import METRICS, Outcome
from mlops_pipelines.scored import Scored

DAYS = 4
ROWS = st.lists(
    st.tuples(st.integers(-50, 50), st.integers(-50, 50), st.integers(0, DAYS - 1)), min_size=1, max_size=60
)
WEIGHTS = st.lists(st.integers(0, 3), min_size=DAYS, max_size=DAYS)


@given(rows=ROWS, weight=WEIGHTS, mean=st.integers(-20, 20))
def test_every_weighting_of_days_agrees_with_scikit_learn(
    rows: list[tuple[int, int, int]], weight: list[int], mean: int
) -> None:
    labels, scores, day = (np.array(column) for column in zip(*rows, strict=True))
    labels, scores = labels / 4, scores / 4
    found = measure(labels, scores, day, np.array([weight], np.float64), mean=mean)
    ours = {name: values[0] for name, values in found.items()}
    times = np.array(weight)[day]
    drawn, said = np.repeat(labels, times), np.repeat(scores, times)
    if drawn.size == 0:
        assert all(np.isnan(value) for value in ours.values())
        return
    assert ours["mse"] == pytest.approx(sk.mean_squared_error(drawn, said))
    assert ours["rmse"] == pytest.approx(sk.root_mean_squared_error(drawn, said))
    assert ours["mae"] == pytest.approx(sk.mean_absolute_error(drawn, said))
    base = sk.mean_squared_error(drawn, np.full(drawn.size, float(mean)))
    assert ours["r2"] == pytest.approx(1 - ours["mse"] / base) if base else np.isnan(ours["r2"])


@given(rows=ROWS)
def test_against_the_mean_of_the_rows_themselves_skill_is_the_usual_r2(
    rows: list[tuple[int, int, int]],
) -> None:
    labels, scores, day = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    if np.ptp(labels) == 0:
        return
    found = measure(labels, scores, day.astype(np.intp), np.ones((1, DAYS)), mean=float(labels.mean()))
    assert found["r2"][0] == pytest.approx(sk.r2_score(labels, scores))


def test_losses_of_rows_average_to_the_figures() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.normal(size=50), rng.normal(size=50)
    found = measure(labels, scores, np.zeros(50, np.intp), np.ones((1, 1)), mean=0.0)
    for name, losses in row_losses(labels, scores).items():
        assert found[name][0] == pytest.approx(losses.mean())
    assert list(found) == list(METRICS["number"])


def test_labels_too_large_to_be_squared_leave_the_figures_undefined() -> None:
    scored = Scored(np.array([1e300, -1e300]), np.zeros(2), ["d"], np.zeros(2, np.intp), Outcome("number"))
    assert scored.figures() == {"rmse": None, "mse": None, "mae": 1e300, "r2": None}


def test_intervals_enclose_the_figures_of_days_that_differ() -> None:
    rng = np.random.default_rng(3)
    day = np.repeat(np.arange(12), 40)
    labels = rng.normal(size=480) + rng.normal(0, 1, 12)[day]
    scored = Scored(
        labels, labels + rng.normal(size=480), [str(d) for d in range(12)], day, Outcome("number")
    )
    for figure in scored.estimates(resampled_days(12, replicates=200, seed=1)).values():
        assert figure
        assert figure.lower
        assert figure.upper
        assert figure.lower < figure.value < figure.upper
