"""A run may only do what it was admitted for; whatever it repeats, or another repeats for it, is the same."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pyarrow.compute as pc
import pytest

from mlops_pipelines import promoting, retraining, triggering
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.spec import Gates, ScheduleTrigger, Triggers
from tests.loop import advance, ask, at, copy_of, finish, land, retrain, serve, small_home, varied

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from mlops_pipelines.evaluation_report import EvaluationReport
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ledger import Retrain

LATE = Flights().rows("events", at(3), at(4)).slice(0, 40)["event_id"]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of nine days without a model; some events of the 3rd never landed."""
    home = tmp_path_factory.mktemp("lived")
    advance(
        small_home(home), at(10), keep=lambda rows: rows.filter(pc.invert(pc.is_in(rows["event_id"], LATE)))
    )
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    """A copy of that home."""
    return copy_of(lived, tmp_path / "home")


def admitted(place: PipelineHome, run_id: str) -> Retrain:
    retrain = retraining.admit(place, run_id=run_id).retrain
    assert retrain is not None
    return retrain


def training_rows(place: PipelineHome) -> pa.Table:
    """What a retrain would learn from now."""
    versions = {name: place.lake.version(name) or 0 for name in (place.features.examples, "labels")}
    return retraining.training_rows(place, place.clock.now(), versions)


def with_gates(place: PipelineHome, **gates: object) -> PipelineHome:
    """The same pipeline with these gates alone."""
    return varied(place, gates=Gates.model_validate(gates))


def test_a_run_without_a_trigger_is_not_admitted_and_says_why(place: PipelineHome) -> None:
    admission = retraining.admit(place, run_id="run")
    assert admission.retrain is None
    assert "no trigger is pending" in admission.sentence
    assert admission.tags["mlops/retrain"] == "none"


def test_a_retrain_promotes_a_candidate_that_no_gate_stands_against(place: PipelineHome) -> None:
    outcome = retrain(place, "run")
    champion = place.ledger.champion(place.name)
    assert champion is not None
    assert outcome.promotion == champion
    assert place.home.registry.alias(place.name, "champion") == champion.mlflow_version
    said = f"promotion, champion number 1 | its gates | {place.ledger.retrains(place.name)[0].reason} |"
    assert said in outcome.model_card
    assert place.home.registry.card(place.name, champion.mlflow_version) == outcome.model_card
    assert [one.status for one in place.ledger.retrains(place.name)] == ["promoted"]


def test_a_failed_gate_ends_the_retrain_as_rejected_and_leaves_the_champion(place: PipelineHome) -> None:
    retrain(place, "first")
    champion = place.ledger.champion(place.name)
    advance(place, at(12))
    outcome = retrain(with_gates(place, skill={"metric": "log_loss_skill", "at_least": 0.99}), "second")
    assert outcome.promotion is None
    assert "rejected" in outcome.sentence
    assert place.ledger.champion(place.name) == champion
    assert place.home.registry.alias(place.name, "champion") == champion.mlflow_version  # type: ignore[union-attr]
    assert [one.status for one in place.ledger.retrains(place.name)] == ["promoted", "rejected"]


def test_a_run_that_carries_no_retrain_makes_an_experiment_and_moves_nothing(place: PipelineHome) -> None:
    retrain(place, "first")
    aliases = [place.home.registry.alias(place.name, alias) for alias in ("champion", "candidate")]
    made = retraining.fit(place, run_id="by-hand")
    assert made.authority == retraining.EXPERIMENT
    retraining.evaluate(place, run_id="by-hand")
    assert retraining.conclude(place, run_id="by-hand").promotion is None
    assert aliases == [place.home.registry.alias(place.name, alias) for alias in ("champion", "candidate")]
    assert len(place.ledger.retrains(place.name)) == len(place.ledger.promotions(place.name)) == 1


def test_the_champion_made_by_hand_heals_the_alias_to_the_ledger(place: PipelineHome) -> None:
    retrain(place, "first")
    other = retraining.fit(place, run_id="by-hand").version
    place.home.registry.set_alias(place.name, "champion", other)
    retraining.conclude(place, run_id="by-hand")
    champion = place.ledger.champion(place.name)
    assert champion is not None
    assert place.home.registry.alias(place.name, "champion") == champion.mlflow_version != other


def test_a_run_that_was_thought_lost_has_no_authority_any_more(place: PipelineHome) -> None:
    ask(place, "lost")
    first = admitted(place, "zombie")
    retraining.assemble(place, first)
    retraining.take_back(place, "zombie", place.clock.now())
    again = admitted(place, "successor")
    assert (again.id, again.watermark) == (first.id, first.watermark)
    assert again.token != first.token
    assert retraining.fit(place, run_id="zombie").authority == retraining.EXPERIMENT
    assert retraining.conclude(place, run_id="zombie").promotion is None
    with pytest.raises(TerminalError):
        retraining.assemble(place, first)
    assert finish(place, "successor").promotion is not None


def test_a_retrain_that_is_taken_up_learns_from_what_it_began_with(place: PipelineHome) -> None:
    ask(place, "lost")
    begun = retraining.assemble(place, admitted(place, "first"))
    retraining.take_back(place, "first", place.clock.now())
    rows = Flights().rows("events", at(3), at(4))
    land(place, "events", "late", rows.filter(pc.is_in(rows["event_id"], LATE)))
    serve(place)
    assert training_rows(place).num_rows > begun.rows
    again = retraining.assemble(place, admitted(place, "second"))
    assert (again.version, again.rows) == (begun.version, begun.rows)


def test_evaluating_again_gives_the_verdicts_of_the_first_time(place: PipelineHome) -> None:
    ask(place, "twice")
    retraining.assemble(place, admitted(place, "run"))
    retraining.fit(place, run_id="run")
    first = retraining.evaluate(place, run_id="run")
    again = retraining.evaluate(place, run_id="run")
    assert (first.data_version, first.verdicts) == (again.data_version, again.verdicts)


def test_what_the_clock_measured_is_kept_unless_it_is_asked_for(place: PipelineHome) -> None:
    ask(place, "twice")
    retraining.assemble(place, admitted(place, "run"))
    made = retraining.fit(place, run_id="run")
    registry = place.home.registry

    def report() -> EvaluationReport:
        found = registry.evaluation(made.run_id)
        assert found
        return found

    retraining.evaluate(place, run_id="run")
    first = report()
    retraining.evaluate(place, run_id="run")
    assert report() == first
    again = retraining.evaluate(place, run_id="run", measure_again=True)
    assert report().latency != first.latency
    assert (report().content_hash, again.data_version) == (first.content_hash, first.content_hash)


def test_a_run_that_takes_over_is_judged_by_the_gates_of_now_until_it_was_judged(place: PipelineHome) -> None:
    ask(place, "twice")
    retraining.assemble(place, admitted(place, "run"))
    made = retraining.fit(place, run_id="run")
    # The process ends after the report was kept, and before its verdicts were recorded.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(place.ledger), "record_verdicts", interrupted)
        with pytest.raises(KeyboardInterrupt):
            retraining.evaluate(place, run_id="run")
    kept = place.home.registry.evaluation(made.run_id)
    assert kept
    sliced = with_gates(place, slices={"by": ["origin"], "min_rows": 10, "at_least": 0.0, "too_small": 1.0})
    [judged] = retraining.evaluate(sliced, run_id="run").verdicts
    assert (judged.gate, judged.outcome) == ("slices", "pass")
    now = place.home.registry.evaluation(made.run_id)
    assert now
    assert now.latency == kept.latency
    # What was judged stands, in what is shown as in the ledger.
    stricter = with_gates(place, slices={"by": ["origin"], "min_rows": 10, "at_least": 0.99})
    [shown] = retraining.evaluate(stricter, run_id="run").verdicts
    assert (shown.outcome, shown.bound) == ("pass", 0.0)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_candidate_is_judged_on_the_holdout_that_its_twin_has_not_seen(place: PipelineHome) -> None:
    ask(place, "twice")
    retraining.assemble(place, admitted(place, "run"))
    made = retraining.fit(place, run_id="run")
    holdout = place.spec.training.holdout
    longer = varied(place, training=place.spec.training.model_copy(update={"holdout": 3 * holdout}))
    retraining.evaluate(longer, run_id="run")
    report = place.home.registry.evaluation(made.run_id)
    model = place.home.registry.load(place.name, made.version)
    assert report
    assert model.twin.last_day < report.first_day


def test_a_candidate_whose_champion_changed_meanwhile_does_not_serve_and_costs_no_trial(
    place: PipelineHome,
) -> None:
    place = with_gates(place)
    for day, run in ((11, "first"), (12, "second")):
        advance(place, at(day))
        assert retrain(place, run).promotion
    advance(place, at(13))
    ask(place, "third")
    retraining.assemble(place, admitted(place, "third"))
    made = retraining.fit(place, run_id="third")
    retraining.evaluate(place, run_id="third")
    promoting.roll_back(place, None, by="ann", reason="scores jumped")
    failures = place.ledger.state(place.name).failures
    outcome = retraining.conclude(place, run_id="third")
    assert outcome.promotion is None
    assert "was compared with another champion" in outcome.sentence
    assert [one.status for one in place.ledger.retrains(place.name)][-1] == "expired"
    assert place.ledger.state(place.name).failures == failures
    last = place.ledger.last_record(place.name)
    assert last
    assert (last.content["kind"], last.content["mlflow_version"]) == ("expiry", made.version)
    champion = place.ledger.champion(place.name)
    assert champion
    assert place.home.registry.alias(place.name, "champion") == champion.mlflow_version
    assert promoting.verify(place.home, place.name) == []
    card = place.home.registry.card(place.name, champion.mlflow_version)
    assert card
    assert card.count("## Decisions") == 1
    assert "rollback, champion number 3 | ann | scores jumped |" in card


def test_the_training_set_has_each_matured_event_with_its_label_once(place: PipelineHome) -> None:
    rows = training_rows(place)
    assert set(rows["day"].to_pylist()) == {f"2013-01-{day:02}" for day in range(1, 8)}
    assert pc.count_distinct(rows["event_id"]).as_py() == rows.num_rows
    labels = place.lake.read("labels", columns=["event_id", "label"])
    known = dict(zip(labels["event_id"].to_pylist(), labels["label"].to_pylist(), strict=True))
    assert all(
        known[row["event_id"]] == row["label"] for row in rows.select(["event_id", "label"]).to_pylist()
    )


def test_nothing_known_only_after_departure_is_learned_from(place: PipelineHome) -> None:
    columns = set(training_rows(place).column_names)
    assert not columns & {"dep_delay", "dep_time", "arr_delay", "arr_time", "air_time", "landed_at"}


def test_the_first_model_asks_for_itself_once(place: PipelineHome) -> None:
    now = place.clock.now()
    assert len(triggering.append(place, now, "bootstrap")) == 1
    assert triggering.append(place, now, "bootstrap") == []
    assert [one.kind for one in place.ledger.triggers(place.name)] == ["bootstrap"]
    retrain(place, "run")
    assert triggering.append(place, now, "bootstrap") == []


def test_a_first_retrain_that_failed_is_asked_for_again(place: PipelineHome) -> None:
    now = place.clock.now()
    triggering.append(place, now, "bootstrap")
    for attempt in range(3):
        assert triggering.append(place, now, "bootstrap") == []
        admitted(place, f"attempt-{attempt}")
        retraining.take_back(place, f"attempt-{attempt}", now)
    assert [one.status for one in place.ledger.retrains(place.name)] == ["failed"]
    assert len(triggering.append(place, now, "bootstrap")) == 1


def test_too_few_matured_labels_do_not_ask_for_a_first_model(place: PipelineHome) -> None:
    assert triggering.append(place, at(5), "bootstrap") == []


def test_enough_new_labels_ask_once_for_each_candidate(place: PipelineHome) -> None:
    now = place.clock.now()
    assert triggering.append(place, now, "labels") == []
    retrain(place, "run")
    assert triggering.append(place, now, "labels") == []
    advance(place, at(15))
    later = place.clock.now()
    assert len(triggering.append(place, later, "labels")) == 1
    assert triggering.append(place, later, "labels") == []
    evidence = place.ledger.triggers(place.name)[-1].evidence
    assert evidence["new_labels"] >= evidence["at_least"]


def test_a_schedule_asks_once_when_the_last_training_set_is_old(place: PipelineHome) -> None:
    scheduled = varied(place, triggers=Triggers(schedule=ScheduleTrigger(every=timedelta(days=5))))
    now = place.clock.now()
    assert triggering.append(scheduled, now, "schedule") == []
    retrain(place, "run")
    due = now + timedelta(days=5)
    assert triggering.append(scheduled, due - timedelta(minutes=1), "schedule") == []
    assert len(triggering.append(scheduled, due, "schedule")) == 1
    assert triggering.append(scheduled, due + timedelta(days=1), "schedule") == []
    assert triggering.append(place, due, "schedule") == [], "it declares none"


def test_the_same_data_makes_the_same_mark_and_a_further_matured_day_another(place: PipelineHome) -> None:
    now = place.clock.now()
    assert retraining.data_mark(place, now) == retraining.data_mark(place, now + timedelta(hours=2))
    assert retraining.data_mark(place, now) != retraining.data_mark(place, now - timedelta(days=1))


def test_a_candidate_names_its_training_set_and_its_drift_reference(place: PipelineHome) -> None:
    retrain(place, "run")
    champion = place.ledger.champion(place.name)
    assert champion is not None
    model = retraining.model_of(place, champion)
    facts = json.loads(model.files["facts.json"])
    assert facts["dataset_version"] == place.ledger.retrains(place.name)[0].dataset_version
    assert set(facts) >= {"commit", "lock", "platform"}
    assert facts["platform"]["threads"] == place.spec.training.threads
    assert facts["platform"]["lightgbm"]
    assert retraining.REFERENCE_FILE in model.files
