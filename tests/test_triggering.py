"""Reasons to retrain that rest on reports, on the contract, or on what others report to Dagster."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from mlops_pipelines import dagster_events, promoting, triggering
from mlops_pipelines.home import PipelineHome
from mlops_pipelines.monitoring import feature_health, reports
from mlops_pipelines.monitoring.reference import SCORE
from mlops_pipelines.spec import (
    ContractChangeTrigger,
    Gates,
    LabelsTrigger,
    PerformanceTrigger,
    PredictionDriftTrigger,
    StalenessTrigger,
    Triggers,
)
from tests.candidates import FREE
from tests.loop import advance, at, copy_of, retrain, serving_home, varied

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

DAYS = ("2013-01-08", "2013-01-09", "2013-01-10")


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion of the 8th."""
    return serving_home(tmp_path_factory.mktemp("lived")).home.path


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    return varied(copy_of(lived, tmp_path / "home"), gates=Gates())


def written(place: PipelineHome, table: str, rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> None:
    """What a report says, as if it had been made."""
    place.lake.replace(table, reports.table_of(rows, columns), days=DAYS, sort_by=["day"])


def drift_of_scores(place: PipelineHome, *excesses: float, model_hash: str = "") -> None:
    champion = place.ledger.champion(place.name)
    assert champion
    rows = [
        {"day": day, "feature": SCORE, "model_hash": model_hash or champion.model_hash, "excess": excess}
        for day, excess in zip(DAYS, excesses, strict=True)
    ]
    written(place, "drift_report", rows, reports.DRIFT_COLUMNS)


def due(place: PipelineHome, kind: str) -> bool:
    [reason] = triggering.reasons(place, place.clock.now(), kind)
    assert reason.kind == kind
    assert reason.sentence
    return reason.due


def test_scores_that_stay_apart_ask_once(place: PipelineHome) -> None:
    place = varied(place, triggers=Triggers(prediction_drift=PredictionDriftTrigger(alarm=0.2)))
    assert not due(place, "prediction_drift"), "there is no report yet"
    drift_of_scores(place, 0.3, 0.1, 0.1)
    assert not due(place, "prediction_drift")
    drift_of_scores(place, 0.3, 0.1, 0.2)
    [told] = triggering.append(place, place.clock.now(), "prediction_drift")
    assert "unexplained PSI was 0.30 at most, on 2 of 3 days at least 0.2" in told
    assert triggering.append(place, place.clock.now(), "prediction_drift") == []


def test_what_the_scores_of_another_champion_did_says_nothing(place: PipelineHome) -> None:
    place = varied(place, triggers=Triggers(prediction_drift=PredictionDriftTrigger()))
    drift_of_scores(place, 9.0, 9.0, 9.0, model_hash="another")
    assert not due(place, "prediction_drift")


@pytest.mark.parametrize("triggers", [Triggers(), Triggers(prediction_drift=PredictionDriftTrigger())])
def test_drift_is_measured_whatever_asks_for_a_retrain(place: PipelineHome, triggers: Triggers) -> None:
    place = varied(place, triggers=triggers)
    advance(place, at(10))
    reports.report_drift(place, [DAYS[0]])
    rows = place.lake.read("drift_report", days=[DAYS[0]], columns=["feature", "excess"]).to_pylist()
    [of_scores] = [row for row in rows if row["feature"] == SCORE]
    assert of_scores["excess"] is not None


def test_decisions_that_keep_finding_old_views_ask(place: PipelineHome) -> None:
    place = varied(place, triggers=Triggers(staleness=StalenessTrigger(at_least=0.5)))
    for stale, asks in [((0.6, 0.4, 0.4), False), ((0.6, 0.4, 0.5), True)]:
        rows = [
            {"day": day, "view": "tail_lateness", "feature": feature_health.WHOLE_VIEW, "stale": share}
            for day, share in zip(DAYS, stale, strict=True)
        ]
        written(place, "feature_report", rows, feature_health.COLUMNS)
        assert due(place, "staleness") is asks
    [told] = triggering.append(place, place.clock.now(), "staleness")
    assert "on 2 of the last 3 days 50% of the decisions or more found tail_lateness too old" in told


def test_a_changed_contract_asks_once_its_rows_have_matured(place: PipelineHome) -> None:
    place = varied(place, triggers=Triggers(contract_change=ContractChangeTrigger()))
    advance(place, at(10))
    assert not due(place, "contract_change")
    contract = place.contract.model_copy(update={"reject_share_halts": 0.5})
    changed = PipelineHome(place.home, replace(place.loaded, contract=contract))
    assert not due(changed, "contract_change"), "no row has passed it"
    advance(changed, at(13))
    [told] = triggering.append(changed, changed.clock.now(), "contract_change")
    assert "streams ['events', 'labels']" in told
    assert triggering.append(changed, changed.clock.now(), "contract_change") == []
    retrain(changed, "again")
    assert not due(changed, "contract_change"), "the last training set has such rows"


@pytest.mark.parametrize(("floor", "urgent"), [(None, False), (0.0, True), (-0.99, False)])
def test_quality_below_the_floor_does_not_wait_for_the_cooldown(
    place: PipelineHome, floor: float | None, urgent: bool
) -> None:
    trigger = PerformanceTrigger(drop=0.03, over=timedelta(days=3), floor=floor)
    place = varied(place, triggers=Triggers(performance=trigger))
    champion = place.ledger.champion(place.name)
    assert champion
    # Worse than the base rate on each day.
    rows = [
        {"day": day, "model_hash": champion.model_hash, "rows": 900, "labelled": 900, "matured": True,
         "prevalence": 0.2, "log_loss": 0.7, "brier": 0.25}
        for day in DAYS
    ]  # fmt: skip
    written(place, "performance_report", rows, reports.performance_columns("binary"))
    assert len(triggering.append(place, at(11), "performance")) == 1
    [appended] = place.ledger.triggers(place.name, "pending")
    assert (appended.kind, appended.urgent) == ("performance", urgent)


def test_a_retrain_that_is_reported_to_dagster_is_asked_for_once(place: PipelineHome) -> None:
    key = dg.AssetKey([place.name, dagster_events.RETRAIN_REQUESTS])
    with dg.DagsterInstance.ephemeral() as instance:
        assert dagster_events.take_requests(place, instance, None) == ([], None)
        instance.report_runless_asset_event(
            dg.AssetMaterialization(key, description="new fares", metadata={"ticket": 7, "by": "x" * 900})
        )
        [told], cursor = dagster_events.take_requests(place, instance, None)
        assert "reported to Dagster" in told
        assert dagster_events.take_requests(place, instance, cursor) == ([], cursor)
        # Of another version, or lost: what was taken is not taken twice.
        for broken in ("", "v2:7", None):
            assert dagster_events.take_requests(place, instance, broken) == ([], cursor)
    trigger = place.ledger.triggers(place.name)[-1]
    assert (trigger.kind, trigger.status) == ("external", "pending")
    assert (trigger.evidence["description"], trigger.evidence["ticket"]) == ("new fares", "7")
    assert len(trigger.evidence["by"]) == 500


def is_due(kind: str, meanwhile: Callable[[], object] = lambda: None) -> Callable[..., triggering.Reason]:
    """Looks at a reason that is due; something else happens meanwhile."""

    def look(*_: object) -> triggering.Reason:
        meanwhile()
        return triggering.Reason(kind, True, "it is due", {"because": "of it"})

    return look


def test_what_a_retrain_answers_while_it_is_looked_at_is_not_asked_again(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance(place, at(12))
    place = varied(place, triggers=Triggers(labels=LabelsTrigger(at_least=1)), policy=FREE)
    meanwhile = is_due("labels", lambda: retrain(place, "faster"))
    monkeypatch.setitem(triggering._LOOKED_AT, "labels", meanwhile)
    assert triggering.append(place, place.clock.now(), "labels") == []
    monkeypatch.setitem(triggering._LOOKED_AT, "labels", is_due("labels"))
    assert len(triggering.append(place, place.clock.now(), "labels")) == 1


def test_what_is_about_a_champion_that_goes_meanwhile_is_not_asked(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance(place, at(12))
    place = varied(place, triggers=Triggers(performance=PerformanceTrigger(drop=0.1)), policy=FREE)
    assert retrain(place, "second").promotion
    promoting.roll_back(place, None, by="ann", reason="worse")
    now = place.clock.now()
    because = is_due("performance", lambda: promoting.roll_back(place, "2", by="ann", reason="better"))
    monkeypatch.setitem(triggering._LOOKED_AT, "performance", because)
    assert triggering.append(place, now, "performance") == []
    monkeypatch.setitem(triggering._LOOKED_AT, "performance", is_due("performance"))
    assert len(triggering.append(place, now, "performance")) == 1
    assert triggering.append(place, now, "performance") == []
    promoting.roll_back(place, "1", by="ann", reason="worse after all")
    [appended] = [one for one in place.ledger.triggers(place.name) if one.kind == "performance"]
    assert (appended.status, appended.reason) == ("expired", "version 1 became champion number 5")
    assert len(triggering.append(place, now, "performance")) == 1, "the same retrain, and another champion"
