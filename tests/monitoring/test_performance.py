from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.monitoring.performance import (
    FIGURES,
    DayMaturity,
    DaySums,
    Drop,
    maturity,
    performance_by_day,
    performance_of,
    prequential,
    prequential_rows,
    quality_drop,
    scored_labels,
)
from mlops_pipelines.outcomes import Outcome, logged
from mlops_pipelines.spec import PerformanceTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

T0 = datetime(2024, 3, 1, tzinfo=UTC)
TRIGGER = PerformanceTrigger(drop=0.03)
US = pa.timestamp("us", tz="UTC")


def at(hours: float) -> datetime:
    return T0 + timedelta(hours=hours)


# Figures


@pytest.mark.proof
@given(st.data())
def test_figures_equal_scikit_learn(data: st.DataObject) -> None:
    from sklearn import metrics

    rows = data.draw(st.integers(2, 80))
    score = st.integers(0, 20).map(lambda i: i / 20)
    scores = np.array(data.draw(st.lists(score, min_size=rows, max_size=rows)))
    labels = np.array(data.draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows)), dtype=np.int8)
    labels[:2] = (0, 1)
    found = performance_of(scores, labels)
    base = np.full(rows, labels.mean())
    log_loss = metrics.log_loss(labels, scores, labels=[0, 1])
    brier = metrics.brier_score_loss(labels, scores)
    expected = {
        "log_loss": log_loss,
        "log_loss_skill": 1 - log_loss / metrics.log_loss(labels, base),
        "brier": brier,
        "brier_skill": 1 - brier / metrics.brier_score_loss(labels, base),
        "roc_auc": metrics.roc_auc_score(labels, scores),
        "average_precision": metrics.average_precision_score(labels, scores),
    }
    assert dict(found.figures) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert (found.rows, found.positives, dict(found.reasons)) == (rows, labels.sum(), {})
    assert found.prevalence == pytest.approx(labels.mean())


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_leaves_out_what_needs_two_and_says_why(label: int) -> None:
    found = performance_of(np.array([0.2, 0.4]), np.array([label, label], dtype=np.int8))
    assert found.figures["log_loss"] is not None
    for name in ("log_loss_skill", "brier_skill", "roc_auc"):
        assert found.figures[name] is None
        assert found.reasons[name] == f"all 2 labels are {label}"


def test_no_rows_leave_out_every_figure_and_say_why() -> None:
    found = performance_of(np.array([]), np.array([], dtype=np.int8))
    assert (found.rows, found.prevalence, dict(found.figures)) == (0, None, dict.fromkeys(FIGURES))
    assert set(found.reasons.values()) == {"no scored event has a label yet"}


def test_prequential_has_the_four_figures() -> None:
    found = prequential(np.array([0.1, 0.9, 0.4, 0.6]), np.array([0, 1, 1, 0], dtype=np.int8))
    assert found == pytest.approx(
        {"average_precision": 5 / 6, "roc_auc": 0.75, "log_loss": 0.5108256, "rows": 4}, abs=1e-6
    )
    assert prequential(np.array([]), np.array([], dtype=np.int8)) == {
        "average_precision": None,
        "roc_auc": None,
        "log_loss": None,
        "rows": 0,
    }


# Which labels and which scores count


def labels_of(*rows: tuple[str, int, float, float]) -> pa.Table:
    """Labels from (event, label, hour it came about, hour it became known)."""
    return pa.table(
        {
            "event_id": [row[0] for row in rows],
            "label": pa.array([row[1] for row in rows], pa.int8()),
            "label_time": pa.array([at(row[2]) for row in rows], US),
            "known_at": pa.array([at(row[3]) for row in rows], US),
        }
    )


def predictions_of(*rows: tuple[str, float, str, float]) -> pa.Table:
    """Predictions from (event, hour of the decision, model version, score)."""
    return pa.table(
        {
            "day": [at(row[1]).date().isoformat() for row in rows],
            "event_id": [row[0] for row in rows],
            "decided_at": pa.array([at(row[1]) for row in rows], US),
            "model_version": [row[2] for row in rows],
            "score": [row[3] for row in rows],
        }
    )


def test_the_label_is_the_last_one_known_and_an_unknown_one_is_not_used() -> None:
    labels = labels_of(("a", 0, 2, 3), ("a", 1, 2, 9), ("a", 0, 2, 30), ("b", 1, 2, 30), ("x", 1, 2, 3))
    predictions = predictions_of(("b", 0, "1", 0.5), ("a", 1, "1", 0.4), ("c", 1, "1", 0.3))
    scored = scored_labels(predictions, labels, at(10))
    assert scored.select(["event_id", "score", "label", "label_known_at"]).to_pylist() == [
        {"event_id": "a", "score": 0.4, "label": 1, "label_known_at": at(3)}
    ]


def test_equal_knowledge_times_are_ordered_by_label_time_then_label() -> None:
    labels = labels_of(("a", 1, 2, 9), ("a", 0, 5, 9), ("b", 1, 2, 9), ("b", 0, 2, 9))
    predictions = predictions_of(("a", 0, "1", 0.5), ("b", 0, "1", 0.5))
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        assert scored_labels(predictions, labels.take(order), at(10))["label"].to_pylist() == [0, 1]


def test_no_labels_leave_no_rows() -> None:
    scored = scored_labels(predictions_of(("a", 0, "1", 0.5)), labels_of(("a", 1, 2, 30)), at(10))
    assert scored.num_rows == 0


@dataclass(frozen=True)
class Promotion:
    at: datetime
    mlflow_version: str


def test_only_scores_of_the_champion_of_then_given_before_the_label_count() -> None:
    promotions = [Promotion(at(10), "1"), Promotion(at(20), "2"), Promotion(at(30), "1")]
    rows = {
        "before any champion": (5.0, "1", False),
        "at the moment of promotion": (10.0, "1", False),
        "by the champion": (11.0, "1", True),
        "by the next one too early": (19.0, "2", False),
        "at the moment of succession": (20.0, "1", True),
        "by the one before": (25.0, "1", False),
        "by the champion put back": (31.0, "1", True),
    }
    predictions = predictions_of(*((name, hour, version, 0.5) for name, (hour, version, _) in rows.items()))
    labels = labels_of(*((name, 1, 40.0, 40.0) for name in rows))
    kept = prequential_rows(scored_labels(predictions, labels, at(50)), promotions)
    assert kept["event_id"].to_pylist() == [name for name, (_, _, counts) in rows.items() if counts]


def test_a_score_given_when_the_label_was_known_does_not_count() -> None:
    predictions = predictions_of(("early", 5, "1", 0.5), ("late", 12, "1", 0.5), ("same", 11, "1", 0.5))
    labels = labels_of(("early", 1, 9, 9), ("late", 1, 11, 11), ("late", 0, 11, 14), ("same", 1, 11, 11))
    scored = scored_labels(predictions, labels, at(50))
    assert prequential_rows(scored, [Promotion(at(0), "1")])["event_id"].to_pylist() == ["early"]
    assert prequential_rows(scored, []).num_rows == 0


# Maturity


def test_maturity_counts_known_and_overdue_labels_by_day() -> None:
    events = pa.table(
        {
            "day": ["2024-03-02", "2024-03-01", "2024-03-01", "2024-03-01"],
            "event_id": ["d", "a", "b", "c"],
            "event_time": pa.array([at(30), at(1), at(2), at(23)], US),
        }
    )
    labels = labels_of(("a", 1, 3, 3), ("a", 0, 3, 4), ("b", 1, 60, 60))
    days = maturity(events, labels, at(40), timedelta(hours=36))
    assert days == [DayMaturity("2024-03-01", 3, 1, 1), DayMaturity("2024-03-02", 1, 0, 0)]
    assert [(day.share, day.matured) for day in days] == [(pytest.approx(2 / 3), False), (0.0, False)]
    later = maturity(events, labels, at(66), timedelta(hours=36))
    assert later == [DayMaturity("2024-03-01", 3, 2, 1), DayMaturity("2024-03-02", 1, 0, 1)]
    assert all(day.matured for day in later)


@given(
    st.lists(st.tuples(st.integers(0, 72), st.none() | st.integers(0, 90)), max_size=20), st.integers(0, 200)
)
def test_maturity_never_falls_as_time_passes(events: list[tuple[int, int | None]], hour: int) -> None:
    table = pa.table(
        {
            "day": pa.array([at(e).date().isoformat() for e, _ in events], pa.string()),
            "event_id": pa.array([str(i) for i in range(len(events))], pa.string()),
            "event_time": pa.array([at(e) for e, _ in events], US),
        }
    )
    labels = labels_of(*((str(i), 1, e + k, e + k) for i, (e, k) in enumerate(events) if k is not None))
    now = {one.day: one for one in maturity(table, labels, at(hour), timedelta(hours=36))}
    later = {one.day: one for one in maturity(table, labels, at(hour + 7), timedelta(hours=36))}
    assert sum(one.events for one in now.values()) == len(events)
    assert all(0 <= one.share <= later[day].share <= 1 for day, one in now.items())
    if hour >= 72 + 36:
        assert all(one.matured for one in now.values())


def test_each_day_has_its_own_figures_and_a_day_without_labels_has_none() -> None:
    scored = pa.table(
        {
            "day": ["2024-03-02", "2024-03-01", "2024-03-01", "2024-03-09"],
            "score": [0.3, 0.2, 0.9, 0.5],
            "label": pa.array([0, 0, 1, 1], pa.int8()),
        }
    )
    maturities = [DayMaturity(f"2024-03-0{day}", 2, 1, 1) for day in (1, 2, 3)]
    days = performance_by_day(scored, maturities)
    assert [(day.day, day.performance.rows) for day in days] == [
        ("2024-03-01", 2),
        ("2024-03-02", 1),
        ("2024-03-03", 0),
    ]
    assert days[0].performance.figures["roc_auc"] == 1.0
    first = days[0].sums
    assert (first.rows, first.positives, first.matured) == (2, 1, True)
    assert first.log_loss == pytest.approx(-np.log(0.8) - np.log(0.9))
    assert first.brier == pytest.approx(0.04 + 0.01)
    assert days[2].sums == DaySums("2024-03-03", 0, 0, 0.0, 0.0, True)


# The drop


def days_of(skills: list[float], *, rows: int = 500, rate: float = 0.2) -> list[DaySums]:
    """Matured days whose skills are as given, in either metric."""
    surprise, variance = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate), rate * (1 - rate)
    return [
        DaySums(
            (date(2024, 3, 1) + timedelta(days=i)).isoformat(),
            rows,
            round(rows * rate),
            rows * (1 - skill) * surprise,
            rows * (1 - skill) * variance,
            True,
        )
        for i, skill in enumerate(skills)
    ]


@pytest.mark.parametrize("metric", ["log_loss_skill", "brier_skill"])
def test_a_sure_drop_beyond_the_bound_is_found(metric: str) -> None:
    trigger = PerformanceTrigger.model_validate({"metric": metric, "drop": 0.03})
    drop = quality_drop(days_of([0.05, 0.06] * 7), 0.15, trigger)
    assert isinstance(drop, Drop)
    assert drop.value == pytest.approx(0.055)
    assert drop.value < drop.upper < 0.12
    assert (drop.metric, drop.days, drop.rows, drop.bound) == (metric, 14, 7000, 0.03)
    assert (drop.since, drop.until) == ("2024-03-01", "2024-03-14")
    assert drop.sentence.startswith(f"{metric} is 0.055, at most 0.0")


def test_a_drop_that_is_borne_or_unsure_is_none() -> None:
    assert quality_drop(days_of([0.13] * 14), 0.15, TRIGGER) is None
    assert quality_drop(days_of([-0.1, 0.3] * 7), 0.15, TRIGGER) is None
    assert quality_drop(days_of([0.2] * 14), 0.15, TRIGGER) is None
    assert quality_drop([], 0.15, TRIGGER) is None


def test_half_of_the_days_must_have_matured() -> None:
    days = days_of([0.02, 0.03] * 7)
    open_days = [replace(day, matured=False) for day in days]
    assert quality_drop(open_days[:8] + days[8:], 0.15, TRIGGER) is None
    assert quality_drop(open_days[:7] + days[7:], 0.15, TRIGGER) is not None


def test_days_before_the_window_and_days_without_rows_do_not_count() -> None:
    bad, good = days_of([0.0, 0.01] * 10), days_of([0.2] * 20)
    assert quality_drop(bad[:6] + good[6:], 0.15, TRIGGER) is None
    empty = [replace(day, rows=0, positives=0, log_loss=0.0, brier=0.0) for day in bad]
    assert quality_drop(empty[:13] + bad[13:], 0.15, TRIGGER) is not None
    assert quality_drop(empty[:14] + bad[14:], 0.15, TRIGGER) is None


def test_a_sure_drop_of_the_skill_of_numbers_is_found() -> None:
    trigger = PerformanceTrigger.model_validate({"metric": "r2", "drop": 0.1})

    def day(number: int, skill: float) -> DaySums:
        when = (date(2024, 3, 1) + timedelta(days=number)).isoformat()
        return DaySums(when, 100, 0, 0.0, 0.0, True, mse=100 * (1 - skill) * 4, base_mse=400.0)

    found = quality_drop([day(number, 0.3 + 0.01 * (number % 2)) for number in range(14)], 0.6, trigger)
    assert found
    assert found.value == pytest.approx(0.305)
    assert quality_drop([day(number, 0.55) for number in range(14)], 0.6, trigger) is None


@pytest.mark.parametrize("metric", ["log_loss_skill", "brier_skill"])
def test_skill_of_categories_over_days_is_that_of_all_their_rows(metric: str) -> None:
    from mlops_pipelines.category_metrics import measure

    rng = np.random.default_rng(3)
    labels, day = rng.integers(0, 3, 700), np.repeat(np.arange(14), 50)
    scores = rng.dirichlet([1, 1, 1], 700)
    scored = pa.table(
        {
            "day": [(date(2024, 3, 1) + timedelta(days=int(one))).isoformat() for one in day],
            "label": [("a", "b", "c")[one] for one in labels],
            "probabilities": logged(Outcome("category", ("a", "b", "c")), scores)["probabilities"],
        }
    )
    maturities = [DayMaturity(one, 50, 50, 0) for one in sorted(set(scored["day"].to_pylist()))]
    days = performance_by_day(scored, maturities, Outcome("category"))
    trigger = PerformanceTrigger.model_validate({"metric": metric, "drop": 0.1})
    found = quality_drop([one.sums for one in days], 0.5, trigger)
    assert found
    whole = measure(labels, scores, np.zeros(700, np.intp), np.ones((1, 1)))
    assert found.value == pytest.approx(whole[metric][0])


def test_labels_of_one_class_prove_no_drop() -> None:
    days = [replace(day, positives=0) for day in days_of([0.0, 0.01] * 7)]
    assert quality_drop(days, 0.15, TRIGGER) is None


@given(st.permutations(range(14)), st.lists(st.floats(-0.3, 0.3), min_size=14, max_size=14))
def test_the_order_of_the_days_does_not_matter(order: list[int], skills: list[float]) -> None:
    days = days_of(skills)
    assert quality_drop([days[i] for i in order], 0.2, TRIGGER) == quality_drop(days, 0.2, TRIGGER)


@pytest.mark.proof
def test_days_that_share_their_luck_rarely_make_a_drop_of_nothing(
    full: bool, sample_size: Callable[[str, int], None]
) -> None:
    rng, fortnights = np.random.default_rng(4), 10_000 if full else 300
    sample_size("fortnights at the bound", fortnights)
    at_the_bound = 0.15 - TRIGGER.drop
    fired = sum(
        quality_drop(days_of(rng.normal(at_the_bound, 0.08, 14).tolist()), 0.15, TRIGGER) is not None
        for _ in range(fortnights)
    )
    # One in twenty is what the interval promises.
    assert fired <= fortnights * (0.06 if full else 0.08)


def test_a_fall_of_skill_that_the_scores_expect_is_a_season_and_no_drop() -> None:
    fallen = days_of([0.05, 0.06] * 7)
    assert quality_drop([replace(day, surprise=0.05 * day.rows) for day in fallen], 0.15, TRIGGER)
    expected = [replace(day, surprise=(0.02 - 0.04 * (n % 2)) * day.rows) for n, day in enumerate(fallen)]
    assert quality_drop(expected, 0.15, TRIGGER) is None
    unknown = [replace(expected[0], surprise=None), *expected[1:]]
    assert quality_drop(unknown, 0.15, TRIGGER)


@given(st.lists(st.floats(0.001, 0.999), min_size=30, max_size=60), st.integers(0, 2**32 - 1))
def test_surprise_is_the_loss_beyond_what_the_scores_expect(shares: list[float], seed: int) -> None:
    scores = np.array(shares)
    labels = (np.random.default_rng(seed).random(len(scores)) < scores).astype(np.int64)
    found = performance_of(scores, labels)
    entropy = -(scores * np.log(scores) + (1 - scores) * np.log1p(-scores)).mean()
    assert found.surprise == pytest.approx(found.figures["log_loss"] - entropy, abs=1e-9)
