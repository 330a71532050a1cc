"""Ticks that are repeated or cut short, and runs that are deleted, re-executed, or asked for twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from mlops_pipelines import retraining, triggering
from mlops_pipelines.component import build_definitions
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec import DriftTrigger, LabelsTrigger, PerformanceTrigger, Triggers
from tests.loop import advance, ask, at, copy_of, retrain, small_home, varied
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of eight days with enough labels for a first model."""
    home = tmp_path_factory.mktemp("lived")
    advance(small_home(home), at(9))
    return home


@pytest.fixture
def loop(lived: Path, tmp_path: Path) -> Iterator[Loop]:
    place = copy_of(lived, tmp_path / "home")
    with dg.DagsterInstance.from_config(str(place.home.dagster)) as instance:
        yield Loop(place, instance)


class Loop:
    """The sensor `retraining` and the job `retrain` on a home, as a daemon would use them."""

    def __init__(self, place: PipelineHome, instance: dg.DagsterInstance) -> None:
        self.place = place
        self.instance = instance
        self.repository = build_definitions(
            loaded(), HomeResource(path=str(place.home.path))
        ).get_repository_def()

    def tick(self, sensor: str = "retraining") -> Any:
        context = dg.build_sensor_context(
            instance=self.instance,
            repository_def=self.repository,
            resources={"home": HomeResource(path=str(self.place.home.path))},
        )
        return self.repository.get_sensor_def(f"{self.place.name}_{sensor}").evaluate_tick(context)

    def run(self, *assets: str, **named: Any) -> dg.ExecuteInProcessResult:
        selection = [dg.AssetKey([self.place.name, one]) for one in assets] or None
        job = self.repository.get_job(f"{self.place.name}_retrain")
        return job.execute_in_process(
            instance=self.instance, asset_selection=selection, raise_on_error=False, **named
        )

    def begun(self) -> dg.DagsterRun:
        """A run that is under way, and holds a retrain."""
        run = self.instance.create_run_for_job(
            self.repository.get_job(f"{self.place.name}_retrain"), status=dg.DagsterRunStatus.STARTED
        )
        ask(self.place, "something")
        assert retraining.admit(self.place, run_id=run.run_id).retrain
        return run


def promoted(place: PipelineHome) -> list[str]:
    return [one.retrain_id for one in place.ledger.promotions(place.name)]


def test_a_tick_that_is_tested_or_ticked_twice_asks_and_decides_nothing(loop: Loop) -> None:
    ask(loop.place, "something")
    for _ in range(3):
        assert len(loop.tick().run_requests) == 1
    assert [one.status for one in loop.place.ledger.triggers(loop.place.name)] == ["pending", "pending"]
    assert loop.place.ledger.retrains(loop.place.name) == []


def test_a_tick_that_is_cut_short_is_made_up_for_by_the_next(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(triggering, "outlook", cut)
        with pytest.raises(TimeoutError):
            loop.tick()
    # What was appended before the cut is there once.
    assert len(loop.tick().run_requests) == 1
    assert [one.kind for one in loop.place.ledger.triggers(loop.place.name)] == ["bootstrap"]


def test_runs_that_two_daemons_ask_for_are_one_retrain(loop: Loop) -> None:
    ask(loop.place, "something")
    first, second = loop.run(), loop.run()
    assert first.success
    assert second.success
    assert not second.get_asset_materialization_events()
    [only] = loop.place.ledger.retrains(loop.place.name)
    assert promoted(loop.place) == [only.id]


def test_a_run_that_is_deleted_while_it_holds_the_token_is_followed_by_another(loop: Loop) -> None:
    run = loop.begun()
    [before] = loop.place.ledger.retrains(loop.place.name)
    assert "already on its way" in loop.tick().skip_message
    loop.instance.delete_run(run.run_id)
    assert len(loop.tick().run_requests) == 1
    assert loop.run().success
    [after] = loop.place.ledger.retrains(loop.place.name)
    assert (after.id, after.watermark, after.status) == (before.id, before.watermark, "promoted")
    assert promoted(loop.place) == [before.id]


def test_deleting_a_run_that_is_over_changes_nothing(loop: Loop) -> None:
    ask(loop.place, "something")
    done = loop.run()
    loop.instance.delete_run(done.run_id)
    assert "nothing to do" in loop.tick().skip_message
    assert len(loop.place.ledger.retrains(loop.place.name)) == 1


def test_a_reexecution_from_the_failure_on_makes_an_experiment_and_no_champion(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(loop.place, "something")

    def broken(*_: object, **__: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(retraining, "fit", broken)
        failed = loop.run()
    assert not failed.success
    again = {"dagster/parent_run_id": failed.run_id, "dagster/root_run_id": failed.run_id}
    assert loop.run("model", "evaluation_report", "champion", tags=again).success
    assert promoted(loop.place) == []
    # The retrain goes on with a run that is admitted.
    assert len(loop.tick().run_requests) == 1
    assert loop.run().success
    [only] = loop.place.ledger.retrains(loop.place.name)
    assert (only.status, promoted(loop.place)) == ("promoted", [only.id])


def test_a_trigger_that_cannot_be_served_does_not_stop_others(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the first was asked for by, three lost runs end it, and the next reason is served."""
    ask(loop.place, "poison")

    def broken(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(retraining, "fit", broken)
        for _ in range(3):
            loop.tick()
            loop.run()
        loop.tick()
    [first] = loop.place.ledger.retrains(loop.place.name)
    assert first.status == "failed"
    assert {one.status for one in loop.place.ledger.triggers(loop.place.name)} <= {"served", "folded"}
    advance(loop.place, at(12))
    retrain(loop.place, "another run")
    assert loop.place.ledger.retrains(loop.place.name)[-1].status == "promoted"


def test_a_reason_that_cannot_be_looked_at_stops_neither_the_others_nor_the_labels(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = loop.place
    broken = TerminalError("v1 has no evaluation report.", remedy="mlops registry heal small_flights")

    def cannot(*_: Any) -> None:
        raise broken

    def is_due(*_: Any) -> triggering.Reason:
        return triggering.Reason("labels", True, "enough of them", {"new_labels": 9})

    for kind, looked in (
        ("performance", cannot),
        ("labels", is_due),
        ("drift", cannot),
        ("bootstrap", cannot),
    ):
        monkeypatch.setitem(triggering._LOOKED_AT, kind, looked)  # type: ignore[arg-type]
    every = Triggers(
        labels=LabelsTrigger(at_least=1), performance=PerformanceTrigger(drop=0.1), drift=DriftTrigger()
    )
    loop.repository = build_definitions(
        varied(place, triggers=every).loaded, HomeResource(path=str(place.home.path))
    ).get_repository_def()
    place.ledger.reopen_days(place.name, ["2013-01-09"], "labels", place.clock.now())
    data = loop.tick("label_arrival")
    assert len(data.run_requests) == 1
    assert [one.kind for one in place.ledger.triggers(place.name, "pending")] == ["labels"]
    place.ledger.reopen_days(place.name, ["2013-01-08"], "drift", place.clock.now())
    assert len(loop.tick("drift").run_requests) == 1
    assert len(loop.tick().run_requests) == 1, "a trigger waits, and that there is no champion is not known"
    monkeypatch.setattr("mlops_pipelines.ingest.taking.days_with_new_labels", lambda _: [])
    with pytest.raises(TerminalError, match="no evaluation report"):
        loop.tick("label_arrival")
    told = triggering.explain(varied(place, triggers=every), place.clock.now()).reasons
    of_performance = {one.kind: one.sentence for one in told}["performance"]
    assert of_performance.startswith("cannot be looked at: v1 has no")
