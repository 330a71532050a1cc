"""Faults in real flights: one incident each, rightly triaged, resolved by itself when mended."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mlops_pipelines import replay as replaying
from mlops_pipelines.clock import midnight
from mlops_pipelines.home import Home
from tests.alerting.injected import DAY, FLIPPED, LABELS, NULLS, SCHEMA, STOPPED, WEATHER, loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlops_pipelines.alerting.lifecycle import Incident


class Silent:
    def moved(self, *_: Any) -> None: ...
    def started(self, *_: Any) -> None: ...


def run(home: Path, until: date, step: timedelta) -> None:
    replaying.replay(loaded(), home, until, step, progress=Silent(), module="tests.alerting.injected")


@contextmanager
def nobody_measures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The sensor of closed days, and the schedules, do not tick."""
    with monkeypatch.context() as patched:
        patched.setattr(replaying, "SENSORS", ("backlog", "label_arrival", "retraining"))
        patched.setattr(replaying._Daemon, "_run_schedules", lambda *_: 0)
        yield


def incidents(home: Path) -> list[Incident]:
    place = Home.open(home).pipeline(loaded())
    return place.ledger.incidents(place.name, since=midnight("2013-01-01"))


def expect(one: Incident, kind: str, subject: str, triage: str, *when: date) -> None:
    """Opened within two days of the fault, and over within two of its mending. when: these two days."""
    began, mended = when
    assert (one.kind, one.subject, one.triage) == (kind, subject, triage), one.told
    assert midnight(began) < one.opened_at <= midnight(began) + 3 * DAY, one.told
    assert one.resolved_at is not None, one.told
    assert midnight(mended) <= one.resolved_at <= midnight(mended) + 3 * DAY, one.told


@pytest.mark.proof
def test_each_fault_is_one_incident(
    tmp_path: Path,
    full: bool,
    monkeypatch: pytest.MonkeyPatch,
    sample_size: Callable[[str, int], None],
) -> None:
    if not full:
        pytest.skip("six weeks day by day: at full size alone")
    run(tmp_path, date(2013, 3, 3), timedelta(days=7))
    before = len(incidents(tmp_path))
    run(tmp_path, min(STOPPED) - DAY, DAY)
    with nobody_measures(monkeypatch):
        run(tmp_path, max(STOPPED), DAY)
    run(tmp_path, max(FLIPPED) + 7 * DAY, DAY)
    found = incidents(tmp_path)[before:]
    sample_size("faults", 6)
    sample_size("incidents", len(found))
    for one in found:
        print(one.told)
    # In April it became warmer than in any week that had been learned from: drift, and no fault.
    found = [one for one in found if one.kind != "drift" or "origin_weather_temp_last" not in one.title]
    schema, nulls, weather, labels, stopped, flipped = found
    expect(schema, "refused_files", "events", "data", min(SCHEMA), date(2013, 3, 8))
    expect(nulls, "inputs_broken", "events.tailnum", "data", min(NULLS), max(NULLS) + DAY)
    expect(weather, "stale_view", "weather", "features", min(WEATHER), date(2013, 3, 19))
    expect(labels, "labels_missing", "", "labels", min(LABELS), date(2013, 3, 25))
    expect(stopped, "stage_stopped", "monitor", "platform", min(STOPPED), max(STOPPED) + DAY)
    # A day matures 36 hours after its end: the third is known on the sixth morning.
    assert (flipped.kind, flipped.triage) == ("concept_drift", "model")
    assert flipped.opened_at <= midnight(min(FLIPPED)) + 6 * DAY
    assert flipped.resolved_at
