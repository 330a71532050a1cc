"""What the backlog sensor asks for, publishes and complains about."""

from __future__ import annotations

import shutil
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from mlops_pipelines import scoring
from mlops_pipelines.component import build_definitions
from mlops_pipelines.errors import UserError
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import taking
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.resources import HomeResource
from tests.loop import at, land
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST = datetime(2013, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Ticks:
    """The sensor on a home, tick by tick, with its cursor."""

    def __init__(self, place: PipelineHome, instance: dg.DagsterInstance) -> None:
        self.place = place
        self._instance = instance
        self._repository = build_definitions(loaded()).get_repository_def()
        self.cursor: str | None = None

    def tick(self) -> Any:
        context = dg.build_sensor_context(
            instance=self._instance,
            cursor=self.cursor,
            repository_def=self._repository,
            resources={"home": HomeResource(path=str(self.place.home.path))},
        )
        result = self._repository.get_sensor_def(f"{self.place.name}_backlog").evaluate_tick(context)
        self.cursor = result.cursor
        return result

    def published(self) -> dict[str, dict[str, Any]]:
        """The figures of a tick, by asset."""
        return {
            event.asset_key.path[-1]: {name: one.value for name, one in event.metadata.items()}
            for event in self.tick().asset_events
        }


@pytest.fixture
def ticks(tmp_path: Path) -> Iterator[Ticks]:
    place = Home.create(tmp_path).pipeline(loaded())
    place.prepare()
    with dg.DagsterInstance.ephemeral() as instance:
        yield Ticks(place, instance)


def move(place: PipelineHome, to: datetime) -> None:
    place.ledger.begin_advance(to)
    place.ledger.finish_advance()


def test_what_waits_is_published_when_it_changes_and_while_it_lasts(ticks: Ticks) -> None:
    place, at = ticks.place, FIRST + timedelta(days=1)
    move(place, at)
    assert ticks.published() == {}
    Flights().write(place.landing_root, FIRST, at)
    assert ticks.published()["landing_events"]["queue_files"] == 1
    assert ticks.published() == {}
    move(place, at + 5 * MINUTE)
    later = ticks.published()
    assert later["landing_labels"]["queue_files"] == 1
    assert all(one["queue_oldest_minutes"] >= 5 for one in later.values())
    for take in (taking.take_events, taking.take_labels):
        take(place, [])
    taking.take_reference(place, "weather", [])
    taking.take_reference(place, "planes", [])
    drained = ticks.published()
    assert drained["landing_events"] == {"queue_files": 0, "queue_bytes": 0, "queue_oldest_minutes": 0}
    assert drained["events"]["event_lag_minutes"] >= 5
    assert ticks.published() == {}


def test_a_landing_folder_that_is_gone_holds_up_no_other_stream(ticks: Ticks) -> None:
    place, at = ticks.place, FIRST + timedelta(days=1)
    move(place, at)
    Flights().write(place.landing_root, FIRST, at)
    shutil.rmtree(place.landing("events").parent / "weather")
    shutil.rmtree(place.landing("planes"))
    (asked,) = ticks.tick().run_requests
    assert asked.job_name == f"{place.name}_ingest"
    taking.take_events(place, [])
    taking.take_labels(place, [])
    assert scoring.reopened_days(place)
    for stage in ("tiles", "score"):
        place.ledger.close_days(place.name, place.ledger.reopened_days(place.name, stage), stage)
    with pytest.raises(UserError, match="weather"):
        ticks.tick()


@pytest.mark.parametrize(
    "cursor", ["v2:7", "[]", '{"seen": 3}', '{"files": {"events": 1}, "at": "2013-01-01"}']
)
def test_the_cursor_of_another_version_begins_anew(ticks: Ticks, cursor: str) -> None:
    place, at = ticks.place, FIRST + timedelta(days=1)
    move(place, at)
    Flights().write(place.landing_root, FIRST, at)
    ticks.cursor = cursor
    assert ticks.published()["landing_events"]["queue_files"] == 1
    assert ticks.published() == {}


def test_a_file_that_lands_while_the_sensor_looks_out_is_asked_for_by_the_same_tick(ticks: Ticks) -> None:
    place = ticks.place
    assert place.home.clock.now() > FIRST, "the machine's clock"
    land(place, "planes", "old", Flights().rows("planes", FIRST, FIRST + timedelta(days=1)))
    for take in ("planes", "weather"):
        taking.register_landed(place)
        taking.take_reference(place, take, [])
    late = threading.Timer(0.3, land, (place, "events", "new", Flights().rows("events", FIRST, at(2))))
    late.start()
    asked = ticks.tick()
    late.join()
    assert [one.job_name for one in asked.run_requests] == [f"{place.name}_ingest"]


def test_on_a_replayed_home_nothing_is_looked_out_for(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    move(ticks.place, FIRST)

    def waited(_: float) -> None:
        raise AssertionError

    monkeypatch.setattr(time, "sleep", waited)
    assert ticks.tick().skip_message == "Nothing waits to be taken in."
