"""The whole loop on labels of each kind: train, judge, promote, score, watch, measure, trace, reproduce."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from assets import learning, monitoring
from assets.stage import Stage
from mlops_pipelines import experiments, retraining, status, triggering, watching
from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.evaluation_page import as_markdown
from mlops_pipelines.home import PipelineHome
from mlops_pipelines.monitoring import reports
from mlops_pipelines.monitoring.reference import SCORE
from mlops_pipelines.outcomes import LOSSES, METRICS
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.retraining import model_of
from mlops_pipelines.spec import Gates, Training
from mlops_pipelines.spec_loading import load_spec
from mlops_pipelines.trace import find_prediction, trace
from mlops_pipelines.trace_page import as_page, as_text
from tests.loop import ask, check_reproduced, copy_of, land, mlops, move, retrain, serve, take_all, varied
from tests.parcels import DAY, PLACES, SKILL, START, advance, new_place, parcels, written

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.evaluation_report import EvaluationReport

KINDS = ("number", "category")
DAYS = [f"2024-01-{day:02d}" for day in range(1, 20)]


@pytest.fixture(scope="module", params=KINDS)
def lived(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PipelineHome:
    """A champion that learned well, one that learned little in its place, and days that both have scored."""
    place = new_place(tmp_path_factory.mktemp(request.param), request.param)
    advance(place, 10)
    first = retrain(place, "good")
    assert first.promotion, first.sentence
    advance(place, 12)
    poor = Training.model_validate({**place.spec.training.model_dump(), "params": {"n_estimators": 1}})
    second = retrain(varied(place, gates=Gates(), training=poor), "poor")
    assert second.promotion, second.sentence
    for day in (14, 16, 18):
        advance(place, day)
        watching.shadow(place)
    reports.report_performance(place, DAYS)
    reports.report_drift(place, DAYS)
    return place


@pytest.fixture
def copied(lived: PipelineHome, tmp_path: Path) -> PipelineHome:
    """A copy of that home, to be changed."""
    return copy_of(lived.home.path, tmp_path / "home", lived.loaded)


def report_of(place: PipelineHome, sequence: int) -> EvaluationReport:
    promotion = place.ledger.promotions(place.name)[sequence - 1]
    return retraining.report_of(place, place.ledger.retrain(promotion.retrain_id))


def kind_of(place: PipelineHome) -> str:
    return place.spec.labels.kind


# Scores


def test_predictions_are_traced_and_made_again_bit_for_bit(lived: PipelineHome) -> None:
    check_reproduced(lived)


def test_the_log_has_the_scores_of_the_model_bit_for_bit(lived: PipelineHome) -> None:
    champion = lived.ledger.promotions(lived.name)[0]
    rows = lived.lake.read("predictions").filter(
        pc.equal(lived.lake.read("predictions")["model_hash"], champion.model_hash)
    )
    examples = lived.lake.read(lived.features.examples)
    examples = examples.take(pc.index_in(rows["event_id"], examples["event_id"].combine_chunks()))
    model = model_of(lived, champion).refit
    scores = model.predict(examples)
    if kind_of(lived) == "number":
        assert not {"decision", "threshold", "predicted"} & {*rows.column_names}
        assert np.array_equal(rows["score"].to_numpy(), scores)
        assert model.outcome.mean == pytest.approx(100 + 30 * 0.25, abs=8)
        return
    assert model.outcome.classes == PLACES
    found = [json.loads(text) for text in rows["probabilities"].to_pylist()]
    assert np.array_equal([[one[name] for name in PLACES] for one in found], scores)
    assert rows["predicted"].to_pylist() == [PLACES[code] for code in scores.argmax(axis=1)]
    assert np.array_equal(rows["score"].to_numpy(), scores.max(axis=1))


def test_one_row_is_scored_as_among_others(lived: PipelineHome) -> None:
    model = model_of(lived, lived.ledger.promotions(lived.name)[0]).refit
    examples = lived.lake.read(lived.features.examples, days=DAYS[11:12])
    whole = model.predict(examples)
    alone = [model.predict_one(row) for row in examples.to_pylist()]
    assert np.array_equal(np.array(alone), whole)


def test_a_trace_says_what_was_predicted(lived: PipelineHome) -> None:
    name = lived.lake.read("predictions", columns=["prediction_id"])["prediction_id"][0].as_py()
    found = trace(find_prediction([lived], name))
    text = as_text(found, 200)
    assert "predicted " in text
    assert "decided yes" not in text
    assert "predicted " in as_page(found)
    if kind_of(lived) == "category":
        assert all(place in text for place in PLACES)
        assert sum(found["prediction"]["probabilities"].values()) == pytest.approx(1)


def test_predictions_and_status_are_told(lived: PipelineHome) -> None:
    told = mlops(lived, "predictions", lived.name, "--limit", "3")
    assert told.exit_code == 0, told.output
    assert ("predicted" in told.output) == (kind_of(lived) == "category")
    figures = status.status_of(lived)["prequential"]
    assert figures["rows"] > 300
    names = {"number": {"rmse", "mae"}, "category": {"accuracy", "roc_auc", "log_loss"}}[kind_of(lived)]
    assert names < {*figures}
    assert all(figures[name] is not None for name in names)
    assert mlops(lived, "status", lived.name).exit_code == 0


# Judging


def test_every_declared_gate_has_a_verdict_with_its_figure(lived: PipelineHome) -> None:
    first = lived.ledger.promotions(lived.name)[0]
    verdicts = {one.gate: one for one in lived.ledger.verdicts(first.retrain_id)}
    assert [*verdicts] == retraining.declared_gates(lived.spec.gates)
    assert verdicts["champion"].outcome == "not_applicable"
    against = {"number": "against the mean of the training set", "category": "against the base rates"}
    assert against[kind_of(lived)] in verdicts["champion"].sentence
    others = {name: one for name, one in verdicts.items() if name != "champion"}
    assert {one.outcome for one in others.values()} == {"pass"}
    assert all(one.figure is not None for one in others.values())
    assert verdicts["skill"].sentence.startswith(SKILL[kind_of(lived)])


def test_a_report_has_the_figures_of_its_kind_and_no_others(lived: PipelineHome) -> None:
    report = report_of(lived, 1)
    assert (report.kind, [*report.metrics]) == (kind_of(lived), [*METRICS[report.kind]])
    assert all(report.metrics.values())
    assert (report.prevalence, report.thresholds, report.decided, report.fairness) == (None, (), None, None)
    assert sum(one.rows for one in report.calibration) == report.rows
    assert type(report).from_json(report.to_json()) == report
    text = as_markdown(report)
    if report.kind == "number":
        assert report.spread
        assert report.spread.low < report.spread.mean < report.spread.high
        assert report.robustness.metric == "r2"
        assert "mean of those that were learned from" in text
    else:
        assert [one.value for one in report.classes] == [*PLACES]
        assert sum(one.rows for one in report.classes) == report.rows
        assert sum(one.predicted for one in report.classes) == report.rows
        assert "| door |" in text
    assert next(iter(report.importance)) == "weight"


def test_candidate_and_champion_are_compared_on_the_same_rows(lived: PipelineHome) -> None:
    comparison = report_of(lived, 2).comparison
    assert comparison
    assert comparison.rows > 0
    for name in LOSSES[lived.spec.labels.kind]:
        paired = comparison.metrics[name]
        assert paired
        assert paired.difference.value > 0
        assert paired.difference.value == pytest.approx(paired.candidate - paired.incumbent)
        assert sum(day.candidate[name] for day in comparison.days) == pytest.approx(
            paired.candidate * comparison.rows
        )


def test_page_and_card_say_what_is_predicted(lived: PipelineHome) -> None:
    first = lived.ledger.promotions(lived.name)[0]
    retrain_of = lived.ledger.retrain(first.retrain_id)
    card = lived.home.registry.card(lived.name, first.mlflow_version)
    folder = lived.home.path / "mlflow"
    [page] = [path for path in folder.rglob("report.html") if str(retrain_of.mlflow_run_id) in str(path)]
    pictures = {path.name for path in page.parent.glob("*.png")}
    text = page.read_text()
    if kind_of(lived) == "number":
        assert "regression; the score is a number" in card
        assert "Evidently&#x27;s regression report" in text
        assert pictures == {"calibration.png", "importance.png"}
    else:
        assert "multiclass classification" in card
        assert "never seen" not in card
        assert "Evidently&#x27;s classification report" in text
        assert pictures == {"calibration.png", "classes.png", "importance.png"}


def test_the_graph_of_each_kind_runs(copied: PipelineHome) -> None:
    stage = Stage(copied.loaded)
    wanted = ("model", "evaluation_report")
    learned = [asset for asset in learning.build(stage) if asset.key.path[-1] in wanted]
    monitored = [
        asset
        for asset in monitoring.build(stage)
        if asset.key.path[-1] in ("drift_report", "performance_report", "feedback_report")
    ]
    resources = {"home": HomeResource(path=str(copied.home.path))}
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(learned, instance=instance, resources=resources)
        days = dg.materialize(monitored, instance=instance, resources=resources, partition_key=DAYS[11])
    assert done.success
    assert days.success
    checks = {check.check_name for check in done.get_asset_check_evaluations()}
    assert checks == {f"gate_{gate}" for gate in retraining.declared_gates(copied.spec.gates)}
    metadata = done.asset_materializations_for_node(f"{copied.name}__evaluation_report")[0].metadata
    assert all(name in metadata for name in METRICS[copied.spec.labels.kind])
    assert "prevalence" not in metadata


# Watching


def test_a_champion_that_proves_worse_is_rolled_back(copied: PipelineHome) -> None:
    good, bad = copied.ledger.promotions(copied.name)
    found = watching.watch_over(copied)
    assert found
    assert found.worse, found.sentence
    assert found.rolled_back
    assert found.rolled_back.mlflow_version == good.mlflow_version == bad.previous
    assert copied.home.registry.alias(copied.name, "champion") == good.mlflow_version
    check_reproduced(copied)


def test_each_day_of_scores_is_measured(lived: PipelineHome) -> None:
    good, _ = lived.ledger.promotions(lived.name)
    rows = lived.lake.read("performance_report").to_pylist()
    [day] = [row for row in rows if row["day"] == DAYS[10] and row["model_hash"] == good.model_hash]
    scored = lived.lake.read("predictions", days=[DAYS[10]])
    labels = lived.lake.read("labels", days=[DAYS[10]])
    labels = labels.take(pc.index_in(scored["event_id"], labels["event_id"].combine_chunks()))["label"]
    assert (day["labelled"], day["matured"]) == (scored.num_rows, True)
    if kind_of(lived) == "number":
        errors = scored["score"].to_numpy() - labels.to_numpy()
        mean = model_of(lived, good).refit.outcome.mean
        assert day["mae"] == pytest.approx(np.abs(errors).mean())
        assert day["r2"] == pytest.approx(
            1 - np.square(errors).mean() / np.square(labels.to_numpy() - mean).mean()
        )
    else:
        right = pc.equal(scored["predicted"], labels).to_numpy()
        assert day["accuracy"] == pytest.approx(right.mean())
        assert json.loads(day["counts"]) == {
            one["values"]: one["counts"] for one in pc.value_counts(labels).to_pylist()
        }


def test_drift_has_a_row_of_the_predictions(lived: PipelineHome) -> None:
    rows = lived.lake.read("drift_report").to_pylist()
    assert {row["day"] for row in rows if row["feature"] == SCORE} == {*DAYS[10:18]}
    assert all(row["psi"] >= 0 for row in rows if row["feature"] == SCORE)


@pytest.mark.parametrize("kind", KINDS)
def test_quality_that_falls_asks_for_a_retrain(kind: str, tmp_path: Path) -> None:
    place = new_place(tmp_path, kind, promotion={})
    advance(place, 10)
    assert retrain(place, "first").promotion
    for day in (12, 14, 16):
        advance(place, day, upside_down=True)
    reports.report_performance(place, DAYS)
    [told] = triggering.append(place, place.clock.now(), "performance")
    assert f"{SKILL[kind]} is -" in told


# Training by hand


def test_experiments_search_train_and_compare(copied: PipelineHome) -> None:
    tune = {"space": {"num_leaves": {"low": 3, "high": 7}}, "trials": 2, "folds": 1}
    training = Training.model_validate({**copied.spec.training.model_dump(), "tune": tune})
    dataset = copied.home.datasets.latest(copied.name)
    assert dataset
    made = experiments.train_from(varied(copied, training=training), dataset, tune=True)
    assert made.tuning.split(" with a ")[1].startswith(LOSSES[copied.spec.labels.kind][0].replace("_", " "))
    told = mlops(copied, "compare", copied.name, made.version, "champion")
    assert told.exit_code == 0, told.output
    assert all(name in told.output for name in METRICS[copied.spec.labels.kind])


def test_a_datasheet_says_what_the_labels_are(lived: PipelineHome) -> None:
    from mlops_pipelines.datasheet import datasheet

    version = lived.home.datasets.latest(lived.name)
    assert version
    sheet = datasheet(lived.home.datasets.version(lived.name, version).manifest)
    said = {"number": "Labels: numbers from", "category": "Classes: neighbour"}
    assert said[kind_of(lived)] in sheet


# Bad input


def test_a_label_that_is_no_finite_number_is_rejected_by_name(tmp_path: Path) -> None:
    place = new_place(tmp_path, "number")
    events, labels = parcels(0)
    minutes = labels["minutes"].to_pylist()
    minutes[3], minutes[7] = float("nan"), float("inf")
    place_of = labels.column_names.index("minutes")
    land(place, "events", "events", events)
    land(place, "labels", "labels", labels.set_column(place_of, "minutes", pa.array(minutes, pa.float64())))
    take_all(place)
    rejected = place.lake.read("quarantine").to_pylist()
    assert sorted(row["file_row"] for row in rejected) == [3, 7]
    assert all("minutes" in json.dumps(row["reasons"], default=str) for row in rejected)
    waiting = place.lake.read("labels_unmatched") if place.lake.exists("labels_unmatched") else None
    kept = [place.lake.read("labels")["label"], *([waiting["label"]] if waiting else [])]
    assert sum(len(one) for one in kept) == len(minutes) - 2
    assert all(pc.all(pc.is_finite(one)).as_py() for one in kept)


def test_constant_numbers_are_nothing_to_learn_from(tmp_path: Path) -> None:
    place = new_place(tmp_path, "number")
    for day in range(10):
        events, labels = parcels(day)
        land(place, "events", f"e{day}", events)
        same = pa.array([30.0] * labels.num_rows)
        land(
            place,
            "labels",
            f"l{day}",
            labels.set_column(labels.column_names.index("minutes"), "minutes", same),
        )
    move(place, START + 10 * DAY)
    serve(place)
    ask(place, "constant")
    admission = retraining.admit(place, run_id="constant")
    assert admission.retrain
    retraining.assemble(place, admission.retrain)
    with pytest.raises(TerminalError, match=r"training rows is \[30\.0\]"):
        retraining.fit(place, run_id="constant")


def test_a_label_of_another_kind_than_before_is_refused(copied: PipelineHome) -> None:
    other = {"number": "category", "category": "number"}[kind_of(copied)]
    loaded = load_spec(written(copied.home.path / "other", other) / "defs.yaml")
    place = PipelineHome(copied.home, loaded)
    land(place, "labels", "other", parcels(18)[1])
    with pytest.raises(UserError, match=f"kept are of kind {kind_of(copied)}, its YAML says {other}"):
        take_all(place)
