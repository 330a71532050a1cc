"""Incidents and deliveries in the ledger, on SQLite and on PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from mlops_pipelines.alerting.lifecycle import Change, Incident, changes
from mlops_pipelines.ledger import Ledger, Look
from tests.alerting.test_diagnosis import finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mlops_pipelines.alerting.diagnosis import Finding

NOW = datetime(2013, 5, 11, tzinfo=UTC)
WALL = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BROKEN = finding("inputs_broken", "events.x", parts=["feature:f0"])


@pytest.fixture
def ledger(ledger_url: str, tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(ledger_url, home_id=None if "sqlite" in ledger_url else str(tmp_path))
    yield made
    made.close()


def settle(ledger: Ledger, *found: Finding, at: datetime = NOW) -> list[Change]:
    def decide(known: Sequence[Incident], last: int) -> list[Change]:
        return changes("p", known, found, at, reopen_within=timedelta(days=7), last_number=last)

    def told_to(change: Change) -> Mapping[str, str]:
        return {"file": f"{change.event} {change.incident.id}"} if change.event else {}

    since = at - timedelta(days=30)
    return ledger.settle_incidents(
        "p", decide, since=since, told_to=told_to, look=Look(at, WALL, f"{len(found)} findings")
    )


def test_an_incident_comes_back_as_it_was_put_down(ledger: Ledger) -> None:
    assert ledger.incidents("p") == []
    assert ledger.last_look("p") is None
    [opened] = settle(ledger, BROKEN)
    assert ledger.incidents("p") == [opened.incident]
    assert ledger.last_look("p") == Look(NOW, WALL, "1 findings")
    [resolved] = settle(ledger, at=NOW + MINUTE)
    assert ledger.incidents("p") == []
    assert ledger.incidents("p", since=NOW) == [resolved.incident]
    assert ledger.incidents("p", since=NOW + 2 * MINUTE) == []
    assert ledger.incidents("q", since=NOW) == []


def test_looks_at_one_moment_open_one_incident(ledger: Ledger) -> None:
    ledger.prepare()
    with ThreadPoolExecutor(8) as pool:
        made = [*pool.map(lambda _: settle(ledger, BROKEN), range(24))]
    assert sum(len(one) for one in made) == 1
    assert [one.number for one in ledger.incidents("p")] == [1]
    assert len(ledger.claim_deliveries("p", WALL, MINUTE, 100)) == 1


def test_what_is_to_be_told_is_taken_once_and_again_if_it_failed(ledger: Ledger) -> None:
    settle(ledger, BROKEN)
    settle(ledger, at=NOW + MINUTE)
    assert ledger.claim_deliveries("p", WALL - MINUTE, MINUTE, 10) == []
    taken = ledger.claim_deliveries("p", WALL, MINUTE, 10)
    assert [one.body for one in taken] == ["opened p-i1", "resolved p-i1"]
    assert ledger.claim_deliveries("p", WALL, MINUTE, 10) == []
    # Whoever took them never said what became of them.
    taken = ledger.claim_deliveries("p", WALL + MINUTE, MINUTE, 10)
    assert [one.attempts for one in taken] == [0, 0]
    ledger.record_delivery(taken[0], delivered_at=WALL, due_at=None)
    ledger.record_delivery(taken[1], delivered_at=None, problem="away", due_at=WALL + 5 * MINUTE)
    assert ledger.claim_deliveries("p", WALL + 4 * MINUTE, MINUTE, 10) == []
    assert ledger.undelivered("p") == {"file": "away"}
    [again] = ledger.claim_deliveries("p", WALL + 5 * MINUTE, MINUTE, 10)
    assert (again.body, again.attempts) == ("resolved p-i1", 1)
    ledger.record_delivery(again, delivered_at=None, problem="gone for good", due_at=None)
    assert ledger.claim_deliveries("p", WALL + timedelta(days=9), MINUTE, 10) == []
    assert ledger.undelivered("p") == {"file": "gone for good"}


def test_each_delivery_is_taken_by_one_of_many(ledger: Ledger) -> None:
    ledger.prepare()
    settle(ledger, *(finding("inputs_broken", f"events.x{n}") for n in range(20)))

    def take(_: int) -> list[int]:
        return [one.id for one in ledger.claim_deliveries("p", WALL, MINUTE, 3)]

    with ThreadPoolExecutor(8) as pool:
        taken = [one for ids in pool.map(take, range(16)) for one in ids]
    assert len(taken) == len({*taken}) == 20


def test_that_it_is_over_is_told_after_that_it_began(ledger: Ledger) -> None:
    settle(ledger, BROKEN)
    [opened] = ledger.claim_deliveries("p", WALL, MINUTE, 10)
    ledger.record_delivery(opened, delivered_at=None, problem="away", due_at=WALL + 60 * MINUTE)
    settle(ledger, at=NOW + MINUTE)
    assert ledger.claim_deliveries("p", WALL + 5 * MINUTE, MINUTE, 10) == []
    again = ledger.claim_deliveries("p", WALL + 60 * MINUTE, MINUTE, 10)
    assert [one.body for one in again] == ["opened p-i1", "resolved p-i1"]
