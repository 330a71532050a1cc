"""Incidents over time: told once, resolved by themselves, opened again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.alerting.lifecycle import Change, Incident, changes
from tests.alerting.test_diagnosis import finding, findings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_pipelines.alerting.diagnosis import Finding

NOW = datetime(2013, 5, 11, tzinfo=UTC)
DAY = timedelta(days=1)
BROKEN = finding("inputs_broken", "events.x", parts=["feature:f0"])
DRIFT = finding("drift", days="10 11", parts=["feature:f0"])


class Book:
    """What the ledger keeps, without one."""

    def __init__(self) -> None:
        self.incidents: dict[int, Incident] = {}

    def look(
        self, *found: Finding, at: datetime = NOW, unlooked: Sequence[str] = ()
    ) -> list[tuple[str | None, int]]:
        made = changes(
            "p", [*self.incidents.values()], found, at,
            reopen_within=7 * DAY, unlooked=unlooked, last_number=max(self.incidents, default=0),
        )  # fmt: skip
        self.incidents |= {one.incident.number: one.incident for one in made}
        return [(one.event, one.incident.number) for one in made]


def test_what_is_found_again_is_told_once() -> None:
    book = Book()
    assert book.look(BROKEN) == [("opened", 1)]
    assert book.look(BROKEN) == []
    assert book.look(replace(BROKEN, days=("2013-05-11",)), at=NOW + DAY) == [(None, 1)]
    assert (book.incidents[1].first, book.incidents[1].last) == ("2013-05-10", "2013-05-11")


def test_it_is_resolved_when_it_is_found_no_more_and_comes_back_as_itself() -> None:
    book = Book()
    book.look(BROKEN)
    assert book.look(at=NOW + DAY) == [("resolved", 1)]
    assert book.incidents[1].ending == "what it was found by is gone"
    assert book.look(at=NOW + DAY) == []
    again = replace(BROKEN, days=("2013-05-13",))
    assert book.look(again, at=NOW + 3 * DAY) == [("reopened", 1)]
    assert (book.incidents[1].reopened, book.incidents[1].resolved_at) == (1, None)
    book.look(at=NOW + 4 * DAY)
    later = replace(BROKEN, days=("2013-05-30",))
    assert book.look(later, at=NOW + 20 * DAY) == [("opened", 2)]


def test_a_symptom_that_makes_it_worse_is_told() -> None:
    book = Book()
    book.look(BROKEN)
    assert book.look(BROKEN, finding("quality", severity="critical")) == [("worsened", 1)]
    assert book.incidents[1].severity == "critical"
    assert book.incidents[1].symptoms == ("quality ",)
    # That it is better again is no news; it stays what it was at its worst.
    assert book.look(BROKEN) == [(None, 1)]
    assert (book.incidents[1].severity, book.incidents[1].symptoms) == ("critical", ())
    assert book.look(BROKEN, finding("quality", severity="critical")) == [(None, 1)]


def test_an_incident_that_turns_out_to_follow_from_another_ends_in_it() -> None:
    book = Book()
    assert book.look(DRIFT) == [("opened", 1)]
    assert book.look(DRIFT, BROKEN) == [("opened", 2), ("resolved", 1)]
    assert book.incidents[1].ending == "it follows from something else: inputs_broken events.x"
    assert book.incidents[2].symptoms == ("drift ",)


def test_what_lingers_of_a_resolved_incident_opens_none() -> None:
    book = Book()
    book.look(BROKEN, DRIFT)
    assert book.look(DRIFT, at=NOW + DAY) == [("resolved", 1)]
    assert book.look(DRIFT, at=NOW + DAY) == []
    gone_on = replace(DRIFT, days=("2013-05-13", "2013-05-14"))
    assert book.look(gone_on, at=NOW + 4 * DAY) == [("opened", 2)]


def test_a_monitor_that_cannot_look_resolves_nothing() -> None:
    book = Book()
    book.look(BROKEN, DRIFT)
    assert book.look(DRIFT, unlooked=["inputs_broken"]) == []
    assert book.incidents[1].resolved_at is None
    assert book.look() == [("resolved", 1)]


@given(st.lists(findings(), max_size=6))
def test_every_incident_ends_and_none_is_open_twice(looks: list[list[Finding]]) -> None:
    book = Book()
    told: dict[int, list[str]] = {}
    for step, found in enumerate([*looks, []]):
        before = {one.key for one in book.incidents.values() if one.resolved_at is None}
        for event, number in book.look(*found, at=NOW + step * DAY):
            if event:
                told.setdefault(number, []).append(event)
        open_ones = [one.key for one in book.incidents.values() if one.resolved_at is None]
        assert len(open_ones) == len({*open_ones})
        # Nothing open that no finding stands for, and the same findings again change nothing.
        assert {*open_ones} <= {one.key for one in found} | before
        assert book.look(*found, at=NOW + step * DAY) == []
    assert all(one.resolved_at for one in book.incidents.values())
    for events in told.values():
        assert (events[0], events[-1]) == ("opened", "resolved")
        for one, after in pairwise(events):
            assert after in ({"reopened"} if one == "resolved" else {"worsened", "resolved"})


def test_a_change_says_what_it_is_about() -> None:
    [change] = changes("p", [], [BROKEN], NOW, reopen_within=7 * DAY)
    assert isinstance(change, Change)
    assert (change.incident.id, change.incident.triage) == ("p-i1", "data")
    assert change.incident.to_json()["opened_at"] == "2013-05-11T00:00:00+00:00"
    assert "Try: mlops health p" in change.incident.told
