"""Fairness, explanation and robustness: figures that a person can count, and what the gates make of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import fairlearn.metrics
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines import document
from mlops_pipelines.evaluation import agreement, evaluate
from mlops_pipelines.evaluation_page import as_markdown
from mlops_pipelines.evaluation_report import EvaluationReport, TrainedOn
from mlops_pipelines.explanation import by_group, heaviest, ranked, stability
from mlops_pipelines.fairness import Fairness, Group, fairness
from mlops_pipelines.gates import judge
from mlops_pipelines.metrics import Estimate, resampled_days
from mlops_pipelines.robustness import Robust, Robustness, robustness
from mlops_pipelines.spec import Decision, Gates
from mlops_pipelines.training import Candidate, fit_candidate
from tests.synthetic_examples import FEATURES, examples, training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlops_pipelines.gates import Verdict


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    return fit_candidate(examples(days=32, rows_per_day=120), FEATURES, training())


@pytest.fixture(scope="module")
def report(candidate: Candidate) -> EvaluationReport:
    decision = Decision.model_validate(
        {"at_least": 0.4, "cost": {"false_positive": 1, "false_negative": 5, "true_positive": -2}}
    )
    gates = Gates.model_validate(
        {"slices": {"by": ["carrier"], "min_rows": 100}, "fairness": {"by": ["carrier"], "min_rows": 100}}
    )
    return evaluate(candidate, None, gates=gates, decision=decision)


def verdict(report: EvaluationReport, **gates: Any) -> Verdict:
    [found] = judge(report, Gates.model_validate(gates))
    return found


# --- at the threshold


def test_what_deciding_means_is_counted(report: EvaluationReport, candidate: Candidate) -> None:
    scores = candidate.twin.predict(candidate.holdout)
    labels, flagged = candidate.holdout["label"].to_numpy() == 1, scores >= 0.4
    decided = report.decided
    assert decided.flagged.value == pytest.approx(flagged.mean())
    assert decided.precision
    assert decided.precision.value == pytest.approx(labels[flagged].mean())
    assert decided.recall
    assert decided.recall.value == pytest.approx(flagged[labels].mean())
    assert decided.false_positive_rate
    assert decided.false_positive_rate.value == pytest.approx(flagged[~labels].mean())
    cost = (flagged & ~labels).sum() + 5 * (~flagged & labels).sum() - 2 * (flagged & labels).sum()
    assert decided.cost
    assert decided.cost.value == pytest.approx(cost / labels.size)
    assert decided.cost.lower is not None


def test_without_anything_flagged_there_is_no_precision(candidate: Candidate) -> None:
    report = evaluate(candidate, None, gates=Gates(), decision=Decision(at_least=0.999))
    assert report.decided.precision is None
    assert report.decided.recall
    assert report.decided.recall.value == 0
    assert report.decided.cost is None


# --- fairness

A, B = ["a"] * 4, ["b"] * 4


def alike(
    values: Sequence[str] | NDArray[np.str_],
    labels: NDArray[np.integer],
    decided: NDArray[np.bool_],
    day_of_row: NDArray[np.intp] | None = None,
) -> Fairness:
    day = np.zeros(len(values), dtype=np.intp) if day_of_row is None else day_of_row
    draws = resampled_days(int(day.max()) + 1, replicates=200, seed=1)
    return fairness("sex", np.array(values), labels, decided, 2, day_of_row=day, draws=draws)


def differences(found: Fairness) -> tuple[float | None, float | None]:
    both = (found.demographic_parity, found.equalized_odds)
    return tuple(one if one is None else one.value for one in both)  # type: ignore[return-value]


def test_differences_between_groups_are_counted() -> None:
    labels = np.array([1, 1, 0, 0, 1, 1, 0, 0])
    decided = np.array([True, True, True, False, True, False, False, False])
    found = alike([*A, *B], labels, decided)
    assert [(group.decided, group.found, group.accused) for group in found.groups] == [
        (0.75, 1.0, 0.5),
        (0.25, 0.5, 0.0),
    ]
    assert differences(found) == (0.5, 0.5)


def test_groups_that_are_too_small_are_listed_and_not_compared() -> None:
    labels = np.array([1, 1, 0, 0, 1])
    found = alike([*A, "c"], labels, np.ones(5, dtype=bool))
    assert [group.note for group in found.groups] == ["", "fewer than 2 rows"]
    assert differences(found) == (None, None)


def test_a_group_without_positives_is_compared_by_what_it_has() -> None:
    labels = np.array([1, 1, 0, 0, 0, 0, 0, 0])
    decided = np.array([True, True, False, False, True, True, True, False])
    found = alike([*A, *B], labels, decided)
    assert [group.found for group in found.groups] == [1.0, None]
    assert differences(found) == (0.25, 0.75)
    alone = alike([*A, *B], np.array([1] * 4 + [0] * 4), decided)
    assert differences(alone) == (0.25, None)


def test_groups_that_are_treated_alike_do_not_differ() -> None:
    labels, decided = np.array([1, 0, 1, 0, 1, 0, 1, 0]), np.array([True, False] * 4)
    found = alike([*A, *B], labels, decided, day_of_row=np.arange(8) // 2 % 2)
    assert found.demographic_parity == Estimate(0, 0, 0)
    assert found.equalized_odds == Estimate(0, 0, 0)


@given(st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_a_difference_is_fairlearns_and_lies_within_its_interval(groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, groups, 400).astype(str)
    labels = rng.integers(0, 2, 400)
    decided = rng.random(400) < 0.2 + 0.1 * values.astype(int)
    found = alike(values, labels, decided, day_of_row=np.arange(400) % 20)
    known = {"y_true": labels, "y_pred": decided, "sensitive_features": values}
    assert differences(found) == (
        fairlearn.metrics.demographic_parity_difference(**known),
        fairlearn.metrics.equalized_odds_difference(**known),
    )
    for one in (found.demographic_parity, found.equalized_odds):
        assert one is not None
        assert one.lower is not None
        assert one.upper is not None
        assert one.lower < one.value < one.upper


def grouped(parity: float | None, odds: float | None, column: str = "sex") -> Fairness:
    found = [None if one is None else Estimate(one, one - 0.02, one + 0.02) for one in (parity, odds)]
    return Fairness(column, (Group("a", 900, 0.5, 0.5, 0.5),), *found)


@pytest.mark.parametrize(
    ("found", "outcome", "said"),
    [
        ((grouped(0.1, 0.05),), "pass", "demographic parity difference by sex is 0.100"),
        ((grouped(0.05, 0.11),), "fail", "equalized odds difference by sex is 0.110"),
        (
            (grouped(0.0, 0.0), grouped(0.3, 0.2, "age")),
            "fail",
            "demographic parity difference by age is 0.300",
        ),
        (
            (grouped(0.0, 0.0), grouped(0.3, 0.2, "age")),
            "fail",
            "Beyond their bounds: demographic parity by age",
        ),
        ((grouped(None, None),), "not_applicable", "no two groups"),
        ((), "not_applicable", "No column is marked as sensitive"),
        (None, "fail", "could not be computed"),
    ],
)
def test_the_difference_furthest_beyond_its_bound_decides(
    report: EvaluationReport, found: tuple[Fairness, ...] | None, outcome: str, said: str
) -> None:
    given = verdict(
        replace(report, fairness=found), fairness={"demographic_parity": 0.1, "equalized_odds": 0.1}
    )
    assert (given.outcome, said in given.sentence) == (outcome, True), given.sentence
    assert (given.interval is None) == (given.figure is None)


def test_only_so_many_rows_may_lie_in_groups_that_are_too_small(report: EvaluationReport) -> None:
    groups = (Group("a", 900, 0.5, 0.5, 0.5), Group("b", 400, 0.5, 0.5, 0.5, "fewer than 500 rows"))
    found = replace(report, fairness=(Fairness("sex", groups, None, None),))
    given = verdict(found, fairness={"too_small": 0.2})
    assert (given.outcome, "31% of the rows lie in groups by sex" in given.sentence) == ("fail", True)
    assert verdict(found, fairness={"too_small": 0.4}).outcome == "not_applicable"


def test_a_measure_without_a_bound_does_not_decide(report: EvaluationReport) -> None:
    unequal = replace(report, fairness=(grouped(0.5, 0.05),))
    assert verdict(unequal, fairness={"demographic_parity": None}).outcome == "pass"


def test_sensitive_columns_are_looked_at_where_none_is_named(candidate: Candidate) -> None:
    gates = Gates.model_validate({"fairness": {"min_rows": 100}})
    found = evaluate(candidate, None, gates=gates, sensitive=["carrier"]).fairness
    assert found
    assert [one.column for one in found] == ["carrier"]


# --- explanation


def test_features_are_ranked_by_what_they_say() -> None:
    said = np.array([[1.0, -3.0, 0.0], [-1.0, 1.0, 0.0]])
    assert ranked(said, ["a", "b", "c"]) == {"b": 2.0, "a": 1.0, "c": 0.0}
    [first, second] = by_group(said, ["a", "b", "c"], "carrier", np.array(["x", "y"]), min_rows=1)
    assert (first.value, first.importance["b"], second.importance["b"]) == ("x", 3.0, 1.0)
    assert by_group(said, ["a", "b", "c"], "carrier", np.array(["x", "y"]), min_rows=2) == ()


def test_the_heaviest_feature_is_named_with_its_share() -> None:
    assert heaviest({"a": 3.0, "b": 1.0}) == ("a", 0.75)
    assert heaviest({"a": 0.0}) is None


def test_a_leak_is_stopped(report: EvaluationReport) -> None:
    leaking = replace(report, importance={"arr_time": 8.0, "wind": 2.0})
    found = verdict(leaking, leak={"at_most": 0.5})
    assert (found.outcome, found.figure) == ("fail", 0.8)
    assert "arr_time carries 80%" in found.sentence
    assert verdict(leaking, leak={"at_most": 0.8}).outcome == "pass"
    assert verdict(replace(report, importance={"a": 0.0}), leak={}).outcome == "fail"


def test_the_ranking_is_held_against_the_champions() -> None:
    ours = {"a": 4.0, "b": 3.0, "c": 2.0, "new": 1.0}
    same = stability(ours, {"a": 40.0, "b": 30.0, "c": 20.0}, "7")
    assert (same.features, same.correlation, same.moved) == (3, pytest.approx(1.0), ())
    turned = stability(ours, {"a": 1.0, "b": 2.0, "c": 3.0}, "7")
    assert turned.correlation == pytest.approx(-1.0)
    assert turned.moved[0] in (("a", 3, 1), ("c", 1, 3))
    assert stability({"a": 1.0}, {"a": 1.0}, "7").correlation is None


# --- robustness


def test_scores_move_more_the_more_is_missing(candidate: Candidate) -> None:
    found = robustness(candidate.twin, candidate.holdout, seed=3)
    changes = {one.name: one.mean_change for one in found.disturbed}
    assert changes["10% of the values missing"] < changes["30% of the values missing"]
    assert all(change > 0 for change in changes.values())
    again = robustness(candidate.twin, candidate.holdout, seed=3)
    assert again == found


def test_a_column_without_values_can_be_disturbed(candidate: Candidate) -> None:
    holdout = candidate.holdout
    place = holdout.schema.get_field_index("wind")
    empty = holdout.set_column(place, "wind", pa.nulls(holdout.num_rows, pa.float64()))
    found = robustness(candidate.twin, empty, seed=3)
    assert all(np.isfinite(one.mean_change) for one in found.disturbed)


# --- data and size

SIGNED = TrainedOn("0123456789abcdef", None, "2024-01-31", "2024-01-31", 0.97)


@pytest.mark.parametrize(
    ("data", "outcome", "said"),
    [
        (SIGNED, "pass", "97.0% of its events"),
        (replace(SIGNED, fault="the part 2024-01-03 is gone"), "fail", "the part 2024-01-03 is gone"),
        (replace(SIGNED, last_day="2024-02-01"), "fail", "reaches to 2024-02-01"),
        (replace(SIGNED, labelled=0.4), "fail", "40.0%"),
        (replace(SIGNED, labelled=None), "fail", "could not be computed"),
        (None, "fail", "could not be computed"),
    ],
)
def test_only_what_was_signed_and_has_matured_is_learned_from(
    report: EvaluationReport, data: TrainedOn | None, outcome: str, said: str
) -> None:
    found = verdict(replace(report, data=data), data={"labelled": 0.5})
    assert (found.outcome, said in found.sentence) == (outcome, True), found.sentence


def test_a_model_that_is_too_large_is_stopped(report: EvaluationReport) -> None:
    assert verdict(replace(report, model_bytes=2001), size={"at_most": "2KB"}).outcome == "fail"
    assert verdict(replace(report, model_bytes=2000), size={"at_most": "2KB"}).outcome == "pass"


# --- to read


def test_all_of_it_can_be_read(report: EvaluationReport) -> None:
    text = as_markdown(report)
    for said in (
        "A decision costs",
        "demographic parity difference",
        "what weighs most",
        "as they are",
        "read in",
    ):
        assert said in text
    assert EvaluationReport.from_json(report.to_json()) == report


def test_a_page_stands_alone_and_obeys_nothing_that_stands_in_it() -> None:
    page = document.page(
        "<Title>",
        "# Report\n\n| a |\n| --- |\n| <script>alert(1)</script> |\n",
        {"curve": b"png"},
        {"Evidently": '<p>"whole"</p>'},
    )
    assert "<title>&lt;Title&gt;</title>" in page
    assert "<script>alert" not in page
    assert "<td>&lt;script&gt;" in page
    assert 'src="data:image/png;base64,' in page
    assert 'srcdoc="&lt;p&gt;&quot;whole&quot;&lt;/p&gt;"' in page
    assert "http" not in page


def disturbed(report: EvaluationReport, **figures: float | None) -> EvaluationReport:
    """With a ROC AUC of 0.8 as the inputs are, and these figures where they are a little worse."""
    every = tuple(Robust(name, 0.1, 0.2, figure, name != "all") for name, figure in figures.items())
    return replace(report, robustness=Robustness(100, "roc_auc", 0.8, every))


def test_the_worst_of_what_is_common_decides(report: EvaluationReport) -> None:
    found = verdict(disturbed(report, missing=0.77, noise=0.7, all=0.5), robustness={"drop": 0.05})
    assert found.outcome == "fail"
    assert found.figure == pytest.approx(0.1)
    assert "With noise, roc_auc falls by 0.1000 from 0.8000, on " in found.sentence
    fine = verdict(disturbed(report, missing=0.77, noise=0.8, all=0.5), robustness={"drop": 0.05})
    assert (fine.outcome, fine.figure) == ("pass", pytest.approx(0.03))
    assert verdict(disturbed(report, missing=None, noise=0.8), robustness={}).outcome == "fail"


# --- refit and twin


def test_a_refit_that_scores_otherwise_than_its_twin_is_stopped(report: EvaluationReport) -> None:
    other = replace(report, agreement=replace(report.agreement, concordance=0.69))
    assert verdict(other, agreement={"at_least": 0.7}).outcome == "fail"
    assert verdict(other, agreement={"at_least": 0.69}).outcome == "pass"
    constant = replace(report, agreement=replace(report.agreement, concordance=None))
    assert verdict(constant, agreement={}).outcome == "fail"
    alone = replace(constant, twin_hash=constant.model_hash)
    assert verdict(alone, agreement={}).outcome == "not_applicable"


@given(scores=st.lists(st.floats(0, 1), min_size=2, max_size=20), shift=st.floats(-1, 1))
def test_concordance_falls_with_a_shift_that_correlation_does_not_see(
    scores: list[float], shift: float
) -> None:
    ours = np.array(scores)
    same, moved = agreement(ours, ours), agreement(ours, ours + shift)
    if np.ptp(ours) > 1e-3:
        assert same.concordance == pytest.approx(1.0)
        assert moved.correlation == pytest.approx(1.0)
        variance = ours.var()
        assert moved.concordance == pytest.approx(2 * variance / (2 * variance + shift**2))
    assert moved.mean_absolute_difference == pytest.approx(abs(shift))
