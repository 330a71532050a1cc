from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from mlops_pipelines.category_metrics import base_losses, measure, row_losses
from mlops_pipelines.outcomes import METRICS, Outcome
from mlops_pipelines.scored import Scored

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAYS, CLASSES = 3, 3
# Few distinct scores, so that ties are common; none is 0, so that every logarithm is finite.
TENTHS = st.tuples(*[st.integers(1, 4)] * CLASSES)
ROWS = st.lists(
    st.tuples(st.integers(0, CLASSES - 1), TENTHS, st.integers(0, DAYS - 1)), min_size=1, max_size=50
)
WEIGHTS = st.lists(st.integers(0, 3), min_size=DAYS, max_size=DAYS)


def arrays(
    rows: list[tuple[int, tuple[int, ...], int]],
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]:
    labels, tenths, day = zip(*rows, strict=True)
    scores = np.array(tenths, np.float64)
    return np.array(labels, np.intp), scores / scores.sum(axis=1, keepdims=True), np.array(day, np.intp)


@given(rows=ROWS, weight=WEIGHTS)
def test_every_weighting_of_days_agrees_with_scikit_learn(
    rows: list[tuple[int, tuple[int, ...], int]], weight: list[int]
) -> None:
    labels, scores, day = arrays(rows)
    found = measure(labels, scores, day, np.array([weight], np.float64))
    ours = {name: values[0] for name, values in found.items()}
    times = np.array(weight)[day]
    drawn, said = np.repeat(labels, times), np.repeat(scores, times, axis=0)
    if drawn.size == 0:
        assert all(np.isnan(value) for value in ours.values())
        return
    known = list(range(CLASSES))
    log_loss = sk.log_loss(drawn, said, labels=known)
    brier = np.square(said - np.eye(CLASSES)[drawn]).sum(axis=1).mean()
    assert ours["log_loss"] == pytest.approx(log_loss)
    assert ours["brier"] == pytest.approx(brier)
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(drawn, said.argmax(axis=1)))
    assert ours["macro_f1"] == pytest.approx(
        sk.f1_score(drawn, said.argmax(axis=1), average="macro", zero_division=0)
    )
    there = np.unique(drawn)
    if there.size < 2:
        assert np.isnan([ours["log_loss_skill"], ours["brier_skill"], ours["roc_auc"]]).all()
        return
    shares = np.bincount(drawn, minlength=CLASSES) / drawn.size
    base = np.tile(shares, (drawn.size, 1))
    assert ours["log_loss_skill"] == pytest.approx(1 - log_loss / sk.log_loss(drawn, base, labels=known))
    base_brier = np.square(base - np.eye(CLASSES)[drawn]).sum(axis=1).mean()
    assert ours["brier_skill"] == pytest.approx(1 - brier / base_brier)
    areas = [sk.roc_auc_score(drawn == one, said[:, one]) for one in there]
    assert ours["roc_auc"] == pytest.approx(np.mean(areas))
    if there.size == CLASSES:
        usual = sk.roc_auc_score(drawn, said, multi_class="ovr", average="macro")
        assert ours["roc_auc"] == pytest.approx(usual)


def test_calibration_is_that_of_the_most_likely_class() -> None:
    rng = np.random.default_rng(1)
    scores = rng.dirichlet([2, 2, 2], 4000)
    honest = np.array([rng.choice(3, p=row) for row in scores])
    day, ones = np.zeros(4000, np.intp), np.ones((1, 1))
    name = "expected_calibration_error"
    assert measure(honest, scores, day, ones)[name][0] < 0.05
    sure = np.eye(3)[scores.argmax(axis=1)] * 0.98 + 0.01 * (1 - np.eye(3)[scores.argmax(axis=1)])
    wrong_rows = np.mean(honest != scores.argmax(axis=1))
    assert measure(honest, sure, day, ones)[name][0] == pytest.approx(wrong_rows - 0.02, abs=1e-9)


def test_only_what_is_asked_for_is_measured() -> None:
    labels, scores, day = arrays([(0, (1, 2, 3), 0), (2, (1, 1, 3), 1)])
    assert list(measure(labels, scores, day, np.ones((1, DAYS)))) == list(METRICS["category"])
    assert list(measure(labels, scores, day, np.ones((1, DAYS)), ("accuracy",))) == ["accuracy"]


@given(rows=ROWS)
def test_losses_of_rows_average_to_the_figures(rows: list[tuple[int, tuple[int, ...], int]]) -> None:
    labels, scores, day = arrays(rows)
    found = measure(labels, scores, np.zeros_like(day), np.ones((1, 1)))
    for name, losses in row_losses(labels, scores).items():
        assert found[name][0] == pytest.approx(losses.mean())


def test_giving_each_row_the_shares_of_the_classes_shows_no_skill() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2], np.intp)
    shares = np.bincount(labels) / 6
    found = measure(labels, np.tile(shares, (6, 1)), np.zeros(6, np.intp), np.ones((1, 1)))
    assert found["log_loss"][0] == pytest.approx(base_losses(shares[None, :])["log_loss"][0])
    assert found["brier"][0] == pytest.approx(base_losses(shares[None, :])["brier"][0])
    assert found["log_loss_skill"][0] == pytest.approx(0)
    assert found["brier_skill"][0] == pytest.approx(0)


def scored(labels: list[str], scores: list[list[float]], classes: tuple[str, ...]) -> Scored:
    return Scored.at_once(pa.array(labels), np.array(scores), Outcome("category", classes))


def test_a_class_that_was_never_learned_had_no_chance() -> None:
    found = scored(["a", "b", "new"], [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], ("a", "b"))
    assert found.outcome.classes == ("a", "b", "new")
    assert found.scores[:, 2].tolist() == [0, 0, 0]
    figures = found.figures()
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["log_loss"] == pytest.approx(
        (-np.log(0.9) - np.log(0.8) - np.log(2.220446049250313e-16)) / 3
    )
    assert figures["brier"] == pytest.approx((0.02 + 0.08 + 1.5) / 3)
    # Its scores are all alike: it is told from the others no better than by chance.
    assert figures["roc_auc"] == pytest.approx((1 + 1 + 0.5) / 3)


def test_a_class_that_is_not_among_the_rows_takes_no_part_in_the_means() -> None:
    rows = scored(["a", "b", "a"], [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1]], ("a", "b", "rare"))
    assert rows.figures(("roc_auc", "macro_f1")) == {"roc_auc": 1.0, "macro_f1": 1.0}
