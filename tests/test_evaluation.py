from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.metrics import precision_score, recall_score

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.evaluation import evaluate, importance
from mlops_pipelines.evaluation_page import as_markdown, pictures
from mlops_pipelines.evaluation_report import EvaluationReport
from mlops_pipelines.metrics import METRICS
from mlops_pipelines.spec import Gates
from mlops_pipelines.training import Candidate, Incumbent, fit_candidate, train
from tests.synthetic_examples import FEATURES, examples, training

if TYPE_CHECKING:
    from mlops_pipelines.training import TrainedModel

GATES = Gates.model_validate({"champion": {"min_days": 5}, "slices": {"by": ["carrier"], "min_rows": 200}})


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return examples(days=32, rows_per_day=120)


@pytest.fixture(scope="module")
def candidate(table: pa.Table) -> Candidate:
    return fit_candidate(table, FEATURES, training())


@pytest.fixture(scope="module")
def report(candidate: Candidate) -> EvaluationReport:
    return evaluate(candidate, None, gates=GATES)


def trained_until(table: pa.Table, day: str) -> TrainedModel:
    return train(table.filter(pc.less_equal(table["day"], day)), FEATURES, training())


@pytest.fixture(scope="module")
def stale(table: pa.Table) -> Incumbent:
    """Trained on days before the candidate's holdout."""
    return Incumbent(trained_until(table, "2024-01-20"), trained_until(table, "2024-01-15"), "1")


# The holdout, by the twin


def test_holdout_is_scored_by_the_twin(candidate: Candidate, report: EvaluationReport) -> None:
    labels, scores = candidate.holdout["label"].to_numpy(), candidate.twin.predict(candidate.holdout)
    figure = report.metrics["brier"]
    assert figure is not None
    assert figure.value == pytest.approx(np.mean((labels - scores) ** 2))
    assert (report.model_hash, report.twin_hash) == (candidate.refit.hash, candidate.twin.hash)
    assert (report.rows, report.days) == (960, 8)
    assert (report.first_day, report.last_day) == (candidate.holdout_days[0], candidate.holdout_days[-1])
    assert report.prevalence == labels.mean()
    assert (report.training_rows, report.twin_rows) == (3840, 2880)


def test_intervals_enclose_their_figures(report: EvaluationReport) -> None:
    assert set(report.metrics) == set(METRICS)
    for name, figure in report.metrics.items():
        assert figure is not None
        assert figure.lower is not None
        assert figure.upper is not None
        # Resampling can only add to a calibration error, which is a sum of absolute gaps.
        assert figure.lower < figure.value < figure.upper or name == "expected_calibration_error"


def test_agreement_of_refit_and_twin_is_reported(candidate: Candidate, report: EvaluationReport) -> None:
    refit, twin = (model.predict(candidate.holdout) for model in (candidate.refit, candidate.twin))
    assert report.agreement.mean_absolute_difference == pytest.approx(np.abs(refit - twin).mean())
    assert report.agreement.correlation == pytest.approx(np.corrcoef(refit, twin)[0, 1])


def test_thresholds_say_what_acting_on_them_would_mean(
    candidate: Candidate, report: EvaluationReport
) -> None:
    labels, scores = candidate.holdout["label"].to_numpy(), candidate.twin.predict(candidate.holdout)
    half = report.thresholds[4]
    assert half.score == 0.5
    assert half.precision == pytest.approx(precision_score(labels, scores >= 0.5))
    assert half.recall == pytest.approx(recall_score(labels, scores >= 0.5))
    assert half.false_positive_rate == pytest.approx(np.mean(scores[labels == 0] >= 0.5))
    assert half.flagged == pytest.approx(np.mean(scores >= 0.5))


def test_calibration_bins_hold_all_rows(report: EvaluationReport) -> None:
    assert sum(each.rows for each in report.calibration) == report.rows
    predicted = [each.predicted for each in report.calibration]
    assert predicted == sorted(predicted)


def test_importance_names_what_matters_first(candidate: Candidate, report: EvaluationReport) -> None:
    ranked = list(report.importance)
    assert (ranked[0], ranked[-1]) == ("wind", "noise")
    few = importance(candidate.refit, candidate.holdout, rows=100)
    assert few["wind"] == pytest.approx(report.importance["wind"], rel=0.3)


def test_latency_is_measured(report: EvaluationReport) -> None:
    assert 0 < report.latency.p50_ms <= report.latency.p99_ms
    assert report.latency.clock_ms > 0


def test_evaluating_again_gives_the_same_but_for_the_latency(
    candidate: Candidate, report: EvaluationReport
) -> None:
    again = evaluate(candidate, None, gates=GATES)
    assert replace(again, latency=report.latency) == report
    assert again.content_hash == report.content_hash
    assert evaluate(candidate, None, gates=GATES, seed=3).content_hash != report.content_hash


def test_report_survives_its_json(candidate: Candidate, stale: Incumbent, report: EvaluationReport) -> None:
    for each in (report, evaluate(candidate, stale, gates=GATES)):
        assert EvaluationReport.from_json(each.to_json()) == each


def test_a_holdout_of_one_outcome_leaves_figures_undefined(candidate: Candidate) -> None:
    rows = candidate.holdout.filter(pc.equal(candidate.holdout["label"], 0))
    found = evaluate(replace(candidate, holdout=rows), None, gates=GATES)
    assert found.metrics["roc_auc"] is None
    assert found.metrics["log_loss"] is not None
    assert found.thresholds[0].recall is None
    assert EvaluationReport.from_json(found.to_json()) == found
    assert "undefined" in as_markdown(found)
    assert set(pictures(found)) == {"calibration", "importance"}


# Slices


def test_slices_are_judged_where_they_are_large_enough(candidate: Candidate) -> None:
    sizes = {
        value["values"]: value["counts"] for value in candidate.holdout["carrier"].value_counts().to_pylist()
    }
    bound = sorted(sizes.values())[1]
    gates = Gates.model_validate({"slices": {"by": ["carrier"], "min_rows": bound}})
    found = evaluate(candidate, None, gates=gates).slices
    assert found is not None
    by_value = {each.value: each for each in found.groups}
    assert {name: each.rows for name, each in by_value.items()} == sizes
    small = min(sizes, key=lambda name: sizes[name])
    assert by_value[small].figure is None
    assert by_value[small].note == f"fewer than {bound} rows"
    assert all(each.figure for name, each in by_value.items() if name != small)


def test_a_slice_of_one_outcome_says_so(candidate: Candidate) -> None:
    label = pc.if_else(
        pc.equal(candidate.holdout["carrier"], "AA"), pa.scalar(0, pa.int8()), candidate.holdout["label"]
    )
    at = candidate.holdout.column_names.index("label")
    found = evaluate(
        replace(candidate, holdout=candidate.holdout.set_column(at, "label", label)), None, gates=GATES
    )
    assert found.slices is not None
    assert next(each.note for each in found.slices.groups if each.value == "AA") == "one outcome only"


def test_slices_may_be_cut_by_columns_that_are_no_features(candidate: Candidate) -> None:
    ids = candidate.holdout["event_id"].to_pylist()
    origin = ["JFK" if n % 2 else None for n in range(len(ids))]
    # Of more events than the holdout's, and in another order.
    slicing = pa.table({"event_id": [*ids[::-1], "other"], "origin": [*origin[::-1], "EWR"]})
    gates = Gates.model_validate({"slices": {"by": ["origin"]}})
    found = evaluate(candidate, None, gates=gates, slicing=slicing).slices
    assert found is not None
    assert {(each.value, each.rows) for each in found.groups} == {("JFK", 480), ("missing", 480)}


def test_slices_that_cannot_be_cut_are_an_error(candidate: Candidate) -> None:
    gates = Gates.model_validate({"slices": {"by": ["origin"]}})
    with pytest.raises(TerminalError, match="by origin"):
        evaluate(candidate, None, gates=gates)
    slicing = pa.table({"event_id": ["other"], "origin": ["EWR"]})
    with pytest.raises(TerminalError, match="960 rows of the holdout"):
        evaluate(candidate, None, gates=gates, slicing=slicing)


# Beside the champion


def test_champion_is_compared_on_the_same_rows(candidate: Candidate, stale: Incumbent) -> None:
    found = evaluate(candidate, stale, gates=GATES).comparison
    assert found is not None
    assert (found.version, found.against, found.rows, len(found.days)) == ("1", "refit", 960, 8)
    labels = candidate.holdout["label"].to_numpy()
    for name, model in (("candidate", candidate.twin), ("incumbent", stale.refit)):
        brier = np.mean((labels - model.predict(candidate.holdout)) ** 2)
        assert getattr(found.metrics["brier"], name) == pytest.approx(brier)
        assert sum(getattr(day, name)["brier"] for day in found.days) / 960 == pytest.approx(brier)


def test_champion_sees_only_rows_decided_after_its_own_cutoff(candidate: Candidate, table: pa.Table) -> None:
    """Its cut-off lies within the holdout's third day, and leaves enough days."""
    refit = replace(trained_until(table, "2024-01-20"), cutoff=table["decision_time"][26 * 120 + 60].as_py())
    found = evaluate(candidate, Incumbent(refit, refit, "1"), gates=GATES).comparison
    assert found is not None
    later = pc.sum(pc.greater(candidate.holdout["decision_time"], refit.cutoff)).as_py()
    assert 0 < later < 960
    assert (found.against, found.rows, len(found.days)) == ("refit", later, 6)


def test_twin_stands_for_a_champion_that_has_seen_most_of_the_holdout(
    candidate: Candidate, table: pa.Table
) -> None:
    fresh = Incumbent(trained_until(table, "2024-01-29"), trained_until(table, "2024-01-22"), "7")
    found = evaluate(candidate, fresh, gates=GATES).comparison
    assert found is not None
    assert (found.against, found.rows) == ("twin", 960)
    assert "only 3 days" in found.reason
    brier = np.mean((candidate.holdout["label"].to_numpy() - fresh.twin.predict(candidate.holdout)) ** 2)
    paired = found.metrics["brier"]
    assert paired is not None
    assert paired.incumbent == pytest.approx(brier)


def test_no_row_left_unseen_is_said(candidate: Candidate) -> None:
    future = replace(candidate.refit, cutoff=candidate.refit.cutoff + timedelta(days=9))
    found = evaluate(candidate, Incumbent(future, future, "2"), gates=GATES).comparison
    assert found is not None
    assert (found.rows, found.days, found.reason) == (
        0,
        (),
        "the champion has left 0 days of the holdout unseen (at least 5 are asked for), and its unrefitted "
        "twin no more",
    )


def test_a_champion_of_other_features_is_compared_on_the_same_events_as_it_is_fed_them(
    candidate: Candidate, stale: Incumbent
) -> None:
    same = evaluate(candidate, stale, gates=GATES).comparison
    names = ["gale" if name == "wind" else name for name in candidate.holdout.column_names]
    versions = pa.array(['{"sky": "other"}'] * candidate.holdout.num_rows)
    holdout = candidate.holdout.rename_columns(names)
    holdout = holdout.set_column(names.index("view_versions"), "view_versions", versions)
    features = tuple(replace(f, name="gale") if f.name == "wind" else f for f in FEATURES)
    refit, twin = (
        replace(model, features=features, view_versions='{"sky": "other"}')
        for model in (candidate.refit, candidate.twin)
    )
    other = replace(candidate, refit=refit, twin=twin, holdout=holdout)
    with pytest.raises(TerminalError, match="trained on"):
        evaluate(other, stale, gates=GATES)
    turned = candidate.holdout.take(np.arange(candidate.holdout.num_rows)[::-1])
    assert evaluate(other, replace(stale, vectors=turned), gates=GATES).comparison == same
    with pytest.raises(TerminalError, match="1 events of the holdout have no vector"):
        evaluate(other, replace(stale, vectors=turned.slice(1)), gates=GATES)


def test_report_and_its_pictures_can_be_read(candidate: Candidate, stale: Incumbent) -> None:
    found = evaluate(candidate, stale, gates=GATES)
    text = as_markdown(found)
    for said in ("champion v1", "carrier = ", "log_loss_skill", "wind", "precision", "Compared on 960 rows"):
        assert said in text
    drawn = pictures(found)
    assert set(drawn) == {"precision_recall", "calibration", "importance"}
    assert drawn == pictures(EvaluationReport.from_json(found.to_json()))
