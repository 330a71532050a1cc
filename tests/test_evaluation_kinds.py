"""Training and judging on labels that are numbers or categories, and what is odd about some of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.evaluation import evaluate
from mlops_pipelines.evaluation_page import as_markdown, pictures
from mlops_pipelines.gates import judge
from mlops_pipelines.monitoring.evidently_page import of_scores
from mlops_pipelines.outcomes import BINARY, Outcome, from_log, kind_of, logged
from mlops_pipelines.spec import Gates
from mlops_pipelines.training import MOST_CLASSES, Incumbent, TrainedModel, fit_candidate, train, train_again
from tests.synthetic_examples import CARRIERS, FEATURES, examples, training

if TYPE_CHECKING:
    from mlops_pipelines.training import Candidate

LEVELS = ("calm", "fresh", "storm")
GATES = Gates.model_validate(
    {
        "skill": {"at_least": 0.0},
        "champion": {"not_worse_by": 0.5, "min_days": 1},
        "slices": {"by": ["carrier"], "metric": "accuracy", "min_rows": 10, "at_least": 0.1},
    }
)


def table_of(kind: str, **shape: Any) -> pa.Table:
    """The synthetic examples with another label: how windy it felt, as a number or as a word."""
    table = examples(**{"days": 24, "rows_per_day": 60, **shape})
    rng = np.random.default_rng(1)
    carriers = np.array([CARRIERS.index(one) for one in table["carrier"].to_pylist()])
    felt = table["wind"].fill_null(0).to_numpy() + 0.4 * carriers + rng.normal(0, 0.3, table.num_rows)
    words = [LEVELS[int(np.digitize(one, [0.2, 1.2]))] for one in felt]
    return labelled(table, pa.array(felt) if kind == "number" else pa.array(words))


def labelled(table: pa.Table, labels: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index("label"), "label", labels)


@pytest.fixture(scope="module", params=["number", "category"])
def candidate(request: pytest.FixtureRequest) -> Candidate:
    return fit_candidate(table_of(request.param), FEATURES, training())


# Training


def test_the_type_of_the_label_says_what_is_learned(candidate: Candidate) -> None:
    model = candidate.refit
    assert model.outcome.kind == kind_of(candidate.holdout["label"].type)
    scores = model.predict(candidate.holdout)
    if model.outcome.kind == "number":
        labels = candidate.holdout["label"].to_numpy()
        assert np.corrcoef(scores, labels)[0, 1] > 0.9
        assert scores.shape == (candidate.holdout.num_rows,)
    else:
        assert model.outcome.classes == LEVELS
        assert scores.shape == (candidate.holdout.num_rows, 3)
        assert scores.sum(axis=1) == pytest.approx(np.ones(len(scores)))
    assert model.predict(candidate.holdout.slice(0, 0)).shape == (0, *scores.shape[1:])


def test_a_model_is_read_back_from_its_files_and_trained_again(candidate: Candidate) -> None:
    model = candidate.refit
    again = TrainedModel.from_files(model.to_files())
    assert (again.hash, again.outcome) == (model.hash, model.outcome)
    assert np.array_equal(again.predict(candidate.holdout), model.predict(candidate.holdout))
    table = table_of(model.outcome.kind)
    assert train_again(table, model).hash == model.hash
    assert replace(model, outcome=replace(model.outcome, mean=model.outcome.mean + 1)).hash != model.hash


def test_a_binary_model_does_not_tell_its_kind() -> None:
    model = train(examples(days=8), FEATURES, training())
    assert model.outcome == BINARY
    assert "outcome" not in model.to_files()["encoding.json"]
    assert model.params["objective"] == "binary"


def test_contributions_are_one_a_feature(candidate: Candidate) -> None:
    model = candidate.refit
    found = model.contributions(candidate.holdout)
    assert found.shape == (candidate.holdout.num_rows, len(FEATURES))
    if model.outcome.kind == "number":
        # TreeSHAP adds up to the prediction: what is left is the same bias for each row.
        assert np.ptp(model.predict(candidate.holdout) - found.sum(axis=1)) < 1e-9
    else:
        assert (found >= 0).all()


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (pa.array([2.5] * 480), r"is \[2\.5\]"),
        (pa.array(["calm"] * 480), r"is \['calm'\]"),
        (pa.array([float("nan"), *[1.0] * 479]), "missing, or no finite number"),
        (pa.array([None, *["calm", "storm"] * 239, "calm"]), "missing, or no finite number"),
    ],
)
def test_labels_that_teach_nothing_are_refused(labels: pa.Array, said: str) -> None:
    table = labelled(examples(days=8, rows_per_day=60), labels)
    with pytest.raises(TerminalError, match=said):
        train(table, FEATURES, training())


def test_a_text_that_is_no_category_is_refused() -> None:
    labels = pa.array([f"note {row}" for row in range(480)])
    with pytest.raises(TerminalError, match=r"has 480 classes, such as 'note 0'") as refused:
        train(labelled(examples(days=8, rows_per_day=60), labels), FEATURES, training())
    assert f"at most {MOST_CLASSES}" in str(refused.value)


def test_the_order_of_the_rows_says_nothing() -> None:
    table = table_of("category", days=8)
    shuffled = table.take(pa.array(np.random.default_rng(2).permutation(table.num_rows)))
    assert train(table, FEATURES, training()).hash == train(shuffled, FEATURES, training()).hash


# Trainers of one's own


@pytest.mark.parametrize("kind", ["number", "category"])
def test_another_trainer_learns_each_kind(kind: str) -> None:
    table = table_of(kind)
    own = training(
        trainer="tests.own_trainers:Nearest", params={"classes": True} if kind == "category" else {}
    )
    candidate = fit_candidate(table, FEATURES, own)
    report = evaluate(candidate, None, gates=Gates())
    skill = report.metrics["r2" if kind == "number" else "log_loss_skill"]
    assert skill
    assert skill.value > 0.2
    assert report.importance_unit.startswith("mean absolute change when permuted")
    assert next(iter(report.importance)) == "wind"
    assert train_again(table, candidate.refit).hash == candidate.refit.hash


@pytest.mark.parametrize(
    ("kind", "said"), [("number", "some that are no finite numbers"), ("category", "no probabilities")]
)
def test_another_trainer_is_held_to_what_its_kind_asks_for(kind: str, said: str) -> None:
    table = table_of(kind, days=8)
    params = {"classes": True} if kind == "category" else {}
    model = train(table, FEATURES, training(trainer="tests.own_trainers:Unsure", params=params))
    with pytest.raises(TerminalError, match=said):
        model.predict(table)


# Judging


def test_classes_are_counted_as_scikit_learn_does() -> None:
    candidate = fit_candidate(table_of("category"), FEATURES, training())
    report = evaluate(candidate, None, gates=GATES)
    labels = candidate.holdout["label"].to_pylist()
    scores = candidate.twin.predict(candidate.holdout)
    said = [LEVELS[code] for code in scores.argmax(axis=1)]
    for of, one in enumerate(report.classes):
        only = {"labels": [one.value], "average": None, "zero_division": 0}
        assert (one.value, one.rows) == (LEVELS[of], labels.count(one.value))
        assert one.precision == pytest.approx(precision_score(labels, said, **only)[0])
        assert one.recall == pytest.approx(recall_score(labels, said, **only)[0])
        assert one.f1 == pytest.approx(f1_score(labels, said, **only)[0])
    assert {verdict.outcome for verdict in judge(report, GATES)} == {"pass", "not_applicable"}


def test_evaluating_again_gives_the_same_but_for_the_latency(candidate: Candidate) -> None:
    one, other = (evaluate(candidate, None, gates=Gates()) for _ in range(2))
    assert one.content_hash == other.content_hash
    assert pictures(one) == pictures(other)


def test_a_refit_that_knows_more_classes_is_held_against_its_twin() -> None:
    table = table_of("category")
    last = table["day"].unique().sort()[-1]
    late = pc.and_(pc.equal(table["day"], last), pc.equal(table["label"], "storm"))
    table = labelled(table, pc.if_else(late, "hurricane", table["label"]))
    candidate = fit_candidate(table, FEATURES, training())
    assert "hurricane" in candidate.refit.outcome.classes
    assert "hurricane" not in candidate.twin.outcome.classes
    report = evaluate(candidate, None, gates=GATES)
    [new] = [one for one in report.classes if not one.learned]
    assert (new.value, new.predicted, new.recall, new.roc_auc) == ("hurricane", 0, 0.0, 0.5)
    loss = report.metrics["log_loss"]
    assert loss
    share = new.rows / report.rows
    assert loss.value > 36 * share
    assert "hurricane | " in as_markdown(report)
    assert "never seen in training" in as_markdown(report)
    assert report.agreement.mean_absolute_difference > 0


def test_a_class_that_the_holdout_lacks_is_named() -> None:
    table = table_of("category")
    candidate = fit_candidate(table, FEATURES, training())
    calmed = pc.if_else(pc.equal(candidate.holdout["label"], "storm"), "fresh", candidate.holdout["label"])
    report = evaluate(replace(candidate, holdout=labelled(candidate.holdout, calmed)), None, gates=GATES)
    [storm] = [one for one in report.classes if one.value == "storm"]
    assert (storm.rows, storm.recall, storm.roc_auc, storm.learned) == (0, None, None, True)
    assert all(report.metrics.values())
    assert "In no row of the holdout: storm." in as_markdown(report)


def test_a_holdout_of_one_class_leaves_skill_undefined_and_its_gate_fails() -> None:
    candidate = fit_candidate(table_of("category"), FEATURES, training())
    rows = candidate.holdout.filter(pc.equal(candidate.holdout["label"], "fresh"))
    report = evaluate(replace(candidate, holdout=rows), None, gates=GATES)
    assert (report.metrics["log_loss_skill"], report.metrics["roc_auc"]) == (None, None)
    assert report.slices
    # What such a slice has is still judged: how often it is right.
    assert all(one.figure and not one.note for one in report.slices.groups)
    verdicts = {one.gate: one for one in judge(report, GATES)}
    assert verdicts["skill"].outcome == "fail"
    assert "undefined on the holdout" in verdicts["skill"].sentence


def test_a_holdout_of_one_number_still_has_its_errors() -> None:
    candidate = fit_candidate(table_of("number"), FEATURES, training())
    same = labelled(candidate.holdout, pa.array([0.5] * candidate.holdout.num_rows))
    report = evaluate(replace(candidate, holdout=same), None, gates=Gates())
    assert report.metrics["mae"]
    assert report.metrics["r2"]
    assert report.spread
    assert report.spread.std == 0
    assert set(pictures(report)) == {"calibration", "importance"}


def test_a_champion_that_does_not_know_a_class_is_compared_all_the_same() -> None:
    table = table_of("category")
    known = table.filter(pc.and_(pc.less(table["day"], "2024-01-15"), pc.not_equal(table["label"], "storm")))
    old = train(known, FEATURES, training())
    assert old.outcome.classes == ("calm", "fresh")
    candidate = fit_candidate(table, FEATURES, training())
    report = evaluate(candidate, Incumbent(old, old, "1"), gates=GATES)
    assert report.comparison
    paired = report.comparison.metrics["log_loss"]
    assert paired
    assert paired.difference.value < -1


def test_skill_of_both_is_against_one_mean() -> None:
    table = table_of("number")
    old = train(table.filter(pc.less(table["day"], "2024-01-08")), FEATURES, training())
    candidate = fit_candidate(table, FEATURES, training())
    assert old.outcome.mean != candidate.twin.outcome.mean
    report = evaluate(candidate, Incumbent(old, old, "1"), gates=Gates())
    assert report.comparison
    r2, mse = report.comparison.metrics["r2"], report.comparison.metrics["mse"]
    assert r2
    assert mse
    ours, theirs = (
        (1 - skill) / loss for skill, loss in ((r2.candidate, mse.candidate), (r2.incumbent, mse.incumbent))
    )
    assert ours == pytest.approx(theirs)


def test_models_of_two_kinds_are_not_compared() -> None:
    candidate = fit_candidate(table_of("number"), FEATURES, training())
    old = train(table_of("category"), FEATURES, training())
    with pytest.raises(TerminalError, match="label of kind category, the candidate one of kind number"):
        evaluate(candidate, Incumbent(old, old, "1"), gates=Gates())


# The log


def test_probabilities_are_read_back_bit_for_bit() -> None:
    rng = np.random.default_rng(5)
    outcome = Outcome("category", ("a", 'b"\n', "ü"))
    scores = rng.dirichlet([0.1, 0.1, 0.1], 500)
    columns = logged(outcome, scores)
    again, found = from_log("category", pa.chunked_array([columns["probabilities"]]))
    assert again == outcome
    assert np.array_equal(found, scores)
    assert np.array_equal(columns["score"].to_numpy(), scores.max(axis=1))


def test_rows_of_models_with_other_classes_are_read_together() -> None:
    one = logged(Outcome("category", ("a", "b")), np.array([[0.25, 0.75]]))["probabilities"]
    other = logged(Outcome("category", ("b", "c")), np.array([[0.5, 0.5]]))["probabilities"]
    outcome, scores = from_log("category", pa.chunked_array([one, other]))
    assert outcome.classes == ("a", "b", "c")
    assert scores.tolist() == [[0.25, 0.75, 0.0], [0.0, 0.5, 0.5]]


# Evidently


def test_evidently_has_a_report_of_each_kind() -> None:
    rng = np.random.default_rng(1)
    numbers = rng.normal(size=40)
    name, html = of_scores(numbers.tolist(), numbers + rng.normal(size=40), Outcome("number"), 0.5)
    assert (name, "R2 Score" in html) == ("regression", True)
    classes = ("a", "b")
    labels = ["a", "b"] * 19 + ["new", "a"]
    name, html = of_scores(labels, rng.dirichlet([1, 1], 40), Outcome("category", classes), 0.5)
    assert (name, "Confusion Matrix" in html) == ("classification", True)


def test_what_evidently_cannot_draw_is_said_and_stops_nothing() -> None:
    numbers = np.random.default_rng(1).normal(size=40)
    # Its histograms fail where errors differ by rounding alone.
    _, html = of_scores(numbers.tolist(), numbers + 0.1, Outcome("number"), 0.5)
    assert html.startswith("<p>Evidently cannot draw these rows: Too many bins")
