"""The ledger on a real SQLite file: what each call leaves behind, and what it refuses."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, StatementError

from mlops_pipelines.errors import TerminalError, TransientError, UserError
from mlops_pipelines.ledger import (
    Admitted,
    FileCounts,
    FileFact,
    Held,
    Ledger,
    Promotion,
    PromotionConflictError,
    Retrain,
    StaleTokenError,
)
from mlops_pipelines.ledger import tables as of_ledger
from mlops_pipelines.ledger.landing import FinishedFile
from mlops_pipelines.policy import Admit, Hold, Pending, PendingTrigger, State
from mlops_pipelines.signing import Keys
from mlops_pipelines.spec import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlops_pipelines.ledger.landing import Stage

NOW = datetime(2013, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
POLICY = Policy()
P = "flights"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", keys=Keys(tmp_path / "keys"))
    yield ledger
    ledger.close()


def ask(ledger: Ledger, *, run_id: str = "run-1", now: datetime = NOW, mark: str = "d1") -> Admitted | Held:
    return ledger.admit(P, now=now, policy=POLICY, run_id=run_id, data_mark=mark)


def admit(ledger: Ledger, *, run_id: str = "run-1", now: datetime = NOW, mark: str = "d1") -> Retrain:
    answer = ask(ledger, run_id=run_id, now=now, mark=mark)
    assert isinstance(answer, Admitted), answer
    return answer.retrain


def hold(ledger: Ledger, *, run_id: str = "run-9", now: datetime = NOW, mark: str = "d9") -> Hold:
    answer = ask(ledger, run_id=run_id, now=now, mark=mark)
    assert isinstance(answer, Held), answer
    return answer.hold


def begin(ledger: Ledger, key: str = "k1", *, now: datetime = NOW, mark: str = "d1") -> Retrain:
    """A trigger, and the retrain it gets."""
    ledger.append_trigger(P, "labels", key, {"rows": 30000}, now)
    return admit(ledger, run_id=f"run-{key}", now=now, mark=mark)


def candidate(ledger: Ledger, retrain: Retrain, model_hash: str = "hash-1") -> None:
    ledger.record_candidate(
        retrain.id,
        retrain.token,
        dataset_version="abc123",
        model_hash=model_hash,
        mlflow_version="7",
        mlflow_run_id="mlflow-run",
        cutoff=NOW - DAY,
        matured_rows=54321,
    )


def verdict(gate: str, outcome: str = "pass", figure: float | None = 0.1) -> dict[str, Any]:
    return {
        "gate": gate,
        "outcome": outcome,
        "figure": figure,
        "bound": 0.02,
        "interval": (0.05, 0.15),
        "sentence": f"{gate}: {outcome}",
    }


def promote(ledger: Ledger, retrain: Retrain, expected: int = 0, at: datetime = NOW) -> Promotion:
    return ledger.promote(
        P,
        retrain_id=retrain.id,
        token=retrain.token,
        expected_sequence=expected,
        model_hash="hash-1",
        mlflow_version="7",
        at=at,
    )


def finish(ledger: Ledger, retrain: Retrain, status: Any = "rejected", at: datetime = NOW) -> None:
    ledger.finish_retrain(retrain.id, retrain.token, status=status, reason=f"it was {status}", at=at)


def prove(ledger: Ledger, retrain: Retrain) -> None:
    candidate(ledger, retrain)
    ledger.record_verdicts(retrain.id, retrain.token, [verdict("skill")], NOW)


def dump(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    path = ledger._engine.url.database
    assert path is not None
    connection = sqlite3.connect(path)
    try:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}  # noqa: S608 - names from the schema
    finally:
        connection.close()


@contextmanager
def unchanged(ledger: Ledger) -> Iterator[None]:
    before = dump(ledger)
    yield
    assert dump(ledger) == before


# --- the home's clock ------------------------------------------------------------------------------


def test_a_new_home_has_no_watermark(ledger: Ledger) -> None:
    assert ledger.watermark() is None
    assert ledger.target() is None
    assert not ledger.raise_watermark(NOW)


def test_watermark_moves_when_the_advance_is_finished(ledger: Ledger) -> None:
    ledger.begin_advance(NOW)
    assert (ledger.watermark(), ledger.target()) == (None, NOW)
    ledger.begin_advance(NOW)
    ledger.finish_advance()
    assert (ledger.watermark(), ledger.target()) == (NOW, None)
    ledger.finish_advance()
    assert (ledger.watermark(), ledger.target()) == (NOW, None)


def test_interrupted_advance_must_be_finished_before_another(ledger: Ledger) -> None:
    ledger.begin_advance(NOW)
    with pytest.raises(TerminalError, match="2013-03-01 00:00 UTC is not finished"):
        ledger.begin_advance(NOW + DAY)
    assert ledger.target() == NOW


def test_watermark_never_goes_back(ledger: Ledger) -> None:
    ledger.begin_advance(NOW)
    ledger.finish_advance()
    with pytest.raises(TerminalError, match="cannot go back"):
        ledger.begin_advance(NOW - DAY)
    assert not ledger.raise_watermark(NOW)
    assert not ledger.raise_watermark(NOW - DAY)
    assert ledger.raise_watermark(NOW + DAY)
    assert ledger.watermark() == NOW + DAY


def test_times_come_back_aware_and_in_utc(ledger: Ledger) -> None:
    ledger.begin_advance(datetime(2013, 3, 1, 1, 30, 0, 5, tzinfo=timezone(timedelta(hours=1))))
    target = ledger.target()
    assert target == datetime(2013, 3, 1, 0, 30, 0, 5, tzinfo=UTC)
    assert target is not None
    assert target.tzinfo is UTC


def test_naive_times_are_refused(ledger: Ledger) -> None:
    with pytest.raises(StatementError, match="no time zone"):
        ledger.append_trigger(P, "labels", "k", {}, datetime(2013, 3, 1))  # noqa: DTZ001 - what is refused


# --- landing ---------------------------------------------------------------------------------------


def file(path: str, day: str = "2013-03-01", size: int = 10) -> FileFact:
    return FileFact(path, size, NOW, day)


def take(ledger: Ledger, *file_ids: int, status: Any = "taken", rows: int = 10) -> int:
    counts = {"rows": rows, "accepted": rows - 3, "quarantined": 2, "duplicates": 1}
    return ledger.finish_files(
        [FinishedFile(file_id, status, f"digest of {file_id}", **counts) for file_id in file_ids], NOW
    )


def test_a_file_is_registered_once_and_again_when_rewritten(ledger: Ledger) -> None:
    files = [file("b"), file("a")]
    assert ledger.register_files(P, "events", files) == 2
    assert ledger.register_files(P, "events", files) == 0
    assert ledger.register_files(P, "events", [file("a", size=11)]) == 1
    assert ledger.register_files(P, "labels", files) == 2
    assert ledger.register_files("other", "events", files) == 2
    assert ledger.register_files(P, "events", []) == 0
    assert ledger.known_paths(P, "events", "2013-03-01") == {("a", 10, NOW), ("b", 10, NOW), ("a", 11, NOW)}
    assert ledger.known_paths(P, "events", "2013-03-02") == set()


def test_pending_files_come_oldest_first(ledger: Ledger) -> None:
    ledger.register_files(
        P, "events", [file("z", "2013-03-01"), file("a", "2013-03-02"), file("b", "2013-03-02")]
    )
    ledger.register_files(P, "labels", [file("y", "2013-02-28")])
    assert [f.path for f in ledger.pending_files(P)] == ["y", "z", "a", "b"]
    assert [f.path for f in ledger.pending_files(P, ["events"], limit=2)] == ["z", "a"]
    assert ledger.pending_files(P, []) == []
    assert ledger.pending_files("other") == []


def test_the_first_finish_of_a_file_counts(ledger: Ledger) -> None:
    ledger.register_files(P, "events", [file("a"), file("b"), file("c")])
    a, b, _ = (f.id for f in ledger.pending_files(P))
    assert take(ledger, a) == 1
    assert take(ledger, a, rows=99) == 0
    assert take(ledger, a, b, status="rejected", rows=5) == 1
    assert ledger.finish_files([], NOW) == 0
    assert [f.path for f in ledger.pending_files(P)] == ["c"]
    counts = ledger.file_counts(P)
    assert counts["events"] == FileCounts(
        files=3, pending=1, rejected=1, rows=15, accepted=9, quarantined=4, duplicates=2
    )
    assert counts["labels"] == FileCounts()


def test_files_are_finished_together_or_not_at_all(ledger: Ledger) -> None:
    ledger.register_files(P, "events", [file("a"), file("b")])
    with pytest.raises(TerminalError, match="no landed file 99"):
        take(ledger, 1, 99)
    assert len(ledger.pending_files(P)) == 2
    assert take(ledger, 1, 2) == 2
    assert ledger.pending_files(P) == []


def test_a_digest_is_taken_once_a_file_of_the_stream_with_it_was(ledger: Ledger) -> None:
    ledger.register_files(P, "events", [file("a"), file("b"), file("c")])
    take(ledger, 1)
    take(ledger, 2, status="rejected")
    asked = [f"digest of {n}" for n in range(20_000)]
    assert ledger.taken_digests(P, "events", asked) == {"digest of 1"}
    assert ledger.taken_digests(P, "labels", asked) == ledger.taken_digests("other", "events", asked) == set()
    assert ledger.taken_digests(P, "events", []) == set()


def test_newest_arrival_is_the_streams_own(ledger: Ledger) -> None:
    assert ledger.newest_arrival(P, "events", by="2013-03-10") is None
    days = ("2013-03-02", "2013-03-01", "2099-01-01")
    ledger.register_files(P, "events", [file(f"{day}/a", day) for day in days])
    ledger.register_files(P, "labels", [file("2013-03-09/c", "2013-03-09")])
    assert ledger.newest_arrival(P, "events", by="2013-03-10") == "2013-03-02"


def test_strays_are_known_by_path_and_are_no_arrival(ledger: Ledger) -> None:
    ledger.register_files(P, "events", [file("2013-03-02/a", "2013-03-02"), file("notes", "2013-03-09")])
    assert ledger.known_strays(P, "events") == {"notes"}
    assert ledger.newest_arrival(P, "events", by="2013-03-10") == "2013-03-02"


def test_refused_files_say_why_in_the_order_of_their_arrival(ledger: Ledger) -> None:
    ledger.register_files(P, "events", [file("b", "2013-03-02"), file("a", "2013-03-01"), file("c")])
    for landed in ledger.pending_files(P)[::-1]:
        status: Any = "taken" if landed.path == "c" else "rejected"
        ledger.finish_files([FinishedFile(landed.id, status, "d", f"{landed.path} is no Parquet file")], NOW)
    assert [file.why for file in ledger.refused_files(P)] == ["a is no Parquet file", "b is no Parquet file"]
    assert ledger.refused_files("other") == []
    ledger.register_files(P, "events", [FileFact("a", 99, NOW, "2013-03-01")])
    assert [file.why for file in ledger.refused_files(P)] == ["b is no Parquet file"]


def test_stages_are_reopened_apart(ledger: Ledger) -> None:
    stages: tuple[Stage, ...] = ("tiles", "score", "labels", "drift", "monitor")
    for n, stage in enumerate(stages):
        ledger.reopen_days(P, [f"2013-03-0{n + 1}"], stage, NOW)
    assert [list(ledger.reopened_days(P, stage)) for stage in stages] == [
        [f"2013-03-0{n + 1}"] for n in range(len(stages))
    ]


def test_a_day_that_waits_keeps_the_earlier_time_unless_it_is_what_is_worked_on(ledger: Ledger) -> None:
    later = NOW + timedelta(days=1)
    ledger.reopen_days(P, ["2013-03-01", "2013-03-02"], "score", NOW)
    work = ledger.reopened_days(P, "score", by=NOW)
    ledger.reopen_days(P, ["2013-03-02"], "score", NOW)  # what came in between
    ledger.reopen_days(P, work, "score", later, work)
    ledger.close_days(P, work, "score")
    assert list(ledger.reopened_days(P, "score", by=NOW)) == ["2013-03-02"]
    assert list(ledger.reopened_days(P, "score", by=later)) == ["2013-03-01", "2013-03-02"]


def test_day_reopened_while_it_is_worked_on_stays_open(ledger: Ledger) -> None:
    ledger.reopen_days(P, ["2013-03-02", "2013-03-01", "2013-03-01"], "score", NOW)
    work = ledger.reopened_days(P, "score")
    assert list(work) == ["2013-03-01", "2013-03-02"]
    assert ledger.reopened_days(P, "monitor") == {}
    ledger.reopen_days(P, ["2013-03-02"], "score", NOW)
    ledger.close_days(P, work, "score")
    again = ledger.reopened_days(P, "score")
    assert list(again) == ["2013-03-02"]
    ledger.close_days(P, again, "score")
    ledger.close_days(P, work, "score")
    assert ledger.reopened_days(P, "score") == {}


def test_what_a_day_was_made_by_is_what_it_was_made_by_last(ledger: Ledger) -> None:
    days = ["2013-03-01", "2013-03-02", "2013-03-03"]
    ledger.reopen_days(P, days[:1], "drift", NOW)
    revisions = ledger.revisions(P, "drift", days)
    assert revisions == dict(zip(days, (1, 0, 0), strict=True))
    ledger.record_made_days(P, "drift", revisions, dict.fromkeys(days[:2], "first"))
    ledger.record_made_days(P, "drift", revisions, {days[1]: "second"})
    made = ledger.days_made(P, "drift", days)
    assert [(one.day, one.revision, one.made_by) for one in made.values()] == [
        (days[0], 1, "first"),
        (days[1], 0, "second"),
    ]
    assert ledger.days_made(P, "drift", days[2:]) == ledger.days_made(P, "tiles", days) == {}
    assert ledger.days_made(P, "drift", []) == ledger.revisions(P, "drift", []) == {}


def test_close_of_an_earlier_round_does_not_close_a_later_reopening(ledger: Ledger) -> None:
    ledger.reopen_days(P, ["2013-03-01"], "score", NOW)
    first = ledger.reopened_days(P, "score")
    ledger.close_days(P, first, "score")
    ledger.reopen_days(P, ["2013-03-01"], "score", NOW)
    ledger.close_days(P, first, "score")
    assert list(ledger.reopened_days(P, "score")) == ["2013-03-01"]


# --- triggers --------------------------------------------------------------------------------------


def test_a_trigger_is_appended_once_under_its_key(ledger: Ledger) -> None:
    assert ledger.append_trigger(P, "drift", "report-7", {"psi": 0.3, "features": ["a"]}, NOW)
    assert not ledger.append_trigger(P, "drift", "report-7", {"psi": 0.9}, NOW + DAY)
    assert ledger.append_trigger("other", "drift", "report-7", {}, NOW)
    (trigger,) = ledger.triggers(P)
    assert trigger.evidence == {"psi": 0.3, "features": ["a"]}
    assert (trigger.kind, trigger.created_at, trigger.status) == ("drift", NOW, "pending")


def test_triggers_are_listed_in_order_and_cut_to_the_latest(ledger: Ledger) -> None:
    for n in range(5):
        ledger.append_trigger(P, "drift", f"k{n}", {}, NOW + n * DAY)
    assert [t.key for t in ledger.triggers(P)] == ["k0", "k1", "k2", "k3", "k4"]
    assert [t.key for t in ledger.triggers(P, limit=2)] == ["k3", "k4"]
    assert [t.key for t in ledger.triggers(P, "pending")] == ["k0", "k1", "k2", "k3", "k4"]
    assert ledger.triggers(P, status="expired") == []


def test_what_a_retrain_answered_since_is_not_appended_again(ledger: Ledger) -> None:
    before = ledger.stands(P)
    assert ledger.append_trigger(P, "labels", "labels:first", {}, NOW, seen=before)
    begin(ledger, "k1")
    assert not ledger.append_trigger(P, "schedule", "schedule:first", {}, NOW, seen=before)
    assert ledger.append_trigger("other", "labels", "labels:first", {}, NOW, seen=before)
    assert ledger.append_trigger(P, "schedule", "schedule:next", {}, NOW, seen=ledger.stands(P))


# --- admission -------------------------------------------------------------------------------------


def test_an_admitted_retrain_ends_its_triggers(ledger: Ledger) -> None:
    ledger.append_trigger(P, "drift", "d", {}, NOW + DAY)
    ledger.append_trigger(P, "labels", "l", {}, NOW)
    retrain = admit(ledger, now=NOW + 2 * DAY)
    assert (retrain.id, retrain.seq, retrain.status) == ("flights-00001", 1, "running")
    assert (retrain.watermark, retrain.started_at) == (NOW + 2 * DAY, NOW + 2 * DAY)
    assert retrain.trigger_kinds == ("labels", "drift")
    assert [one.id for one in ledger.triggers_of(retrain.id)] == [2, 1]
    assert retrain.reason == (
        "admitted for a labels trigger of 2013-03-01 00:00 UTC, with 1 more folded in (1 drift)"
    )
    served, folded = ledger.triggers(P)
    assert (served.status, served.reason) == ("served", "served by retrain flights-00001")
    assert (folded.status, folded.reason) == ("folded", "folded into retrain flights-00001")
    assert served.ended_at == folded.ended_at == NOW + 2 * DAY
    assert served.retrain_id == folded.retrain_id == retrain.id


def test_nothing_pending_admits_nothing(ledger: Ledger) -> None:
    assert hold(ledger).reason == "nothing_pending"
    assert ledger.retrains(P) == []


def test_more_triggers_than_a_statement_takes_parameters_fold_into_one(ledger: Ledger) -> None:
    many = 33_000
    rows = [
        {"pipeline": P, "kind": ("drift", "labels")[n % 2], "key": f"k{n}", "evidence": {}, "urgent": False,
         "created_at": NOW + timedelta(seconds=n)}
        for n in range(many)
    ]  # fmt: skip
    with ledger._writing() as connection:
        connection.execute(of_ledger.triggers.insert(), rows)
    retrain = admit(ledger, now=NOW + 2 * DAY)
    assert retrain.reason == (
        "admitted for a drift trigger of 2013-03-01 00:00 UTC, with over 1000 more folded in "
        "(500 drift, 500 labels)"
    )
    assert retrain.trigger_kinds == ("drift", "labels")
    assert ledger.counts(P).triggers == {"pending": 0, "served": 1, "folded": many - 1, "expired": 0}


def test_a_run_that_asks_again_gets_the_same_retrain(ledger: Ledger) -> None:
    retrain = begin(ledger)
    with unchanged(ledger):
        assert admit(ledger, run_id="run-k1") == retrain


def test_another_run_is_held_while_one_is_in_flight(ledger: Ledger) -> None:
    retrain = begin(ledger)
    ledger.append_trigger(P, "drift", "later", {}, NOW)
    assert hold(ledger).sentence == f"held: retrain {retrain.id} is in flight"
    assert [t.key for t in ledger.triggers(P, "pending")] == ["later"]


def test_triggers_that_came_during_a_retrain_are_judged_afterwards(ledger: Ledger) -> None:
    retrain = begin(ledger)
    ledger.append_trigger(P, "drift", "later", {}, NOW)
    finish(ledger, retrain, "failed", NOW)
    assert [t.status for t in ledger.triggers(P)] == ["served", "pending"]
    assert (
        hold(ledger).sentence == "held until 2013-03-04 00:00 UTC: cooldown of 3d after retrain flights-00001"
    )
    second = admit(ledger, run_id="run-2", now=NOW + 3 * DAY, mark="d1")
    assert second.id == "flights-00002"
    assert second.trigger_kinds == ("drift",)


def test_decision_is_what_admit_would_do_and_writes_nothing(ledger: Ledger) -> None:
    ledger.append_trigger(P, "drift", "k", {}, NOW)
    with unchanged(ledger):
        decision = ledger.decision(P, now=NOW, policy=POLICY, data_mark="d1")
    assert isinstance(decision, Admit)
    assert admit(ledger).reason == decision.sentence


def test_pipelines_do_not_hold_each_other(ledger: Ledger) -> None:
    for pipeline in (P, "fares"):
        ledger.append_trigger(pipeline, "labels", "k", {}, NOW)
        answer = ledger.admit(pipeline, now=NOW, policy=POLICY, run_id=f"run-{pipeline}", data_mark="d")
        assert isinstance(answer, Admitted)
        assert answer.retrain.id == f"{pipeline}-00001"


@pytest.mark.parametrize("ending", ["rejected", "nothing", "promoted"])
def test_data_that_was_tried_is_not_tried_again(ledger: Ledger, ending: str) -> None:
    retrain = begin(ledger)
    if ending == "promoted":
        prove(ledger, retrain)
        promote(ledger, retrain)
    finish(ledger, retrain, ending)
    ledger.append_trigger(P, "labels", "k2", {}, NOW)
    assert hold(ledger, now=NOW + 9 * DAY, mark="d1").reason == "nothing_new"
    assert admit(ledger, run_id="r", now=NOW + 9 * DAY, mark="d2").seq == 2


def test_data_of_a_failed_retrain_may_be_tried_again(ledger: Ledger) -> None:
    finish(ledger, begin(ledger), "failed")
    ledger.append_trigger(P, "labels", "k2", {}, NOW)
    assert admit(ledger, run_id="r", now=NOW + 9 * DAY, mark="d1").seq == 2


def test_breaker_counts_failures_since_the_last_promotion(ledger: Ledger) -> None:
    for n, ending in enumerate(["failed", "promoted", "rejected", "nothing", "failed"]):
        retrain = begin(ledger, f"k{n}", now=NOW + 5 * n * DAY, mark=f"d{n}")
        if ending == "promoted":
            prove(ledger, retrain)
            promote(ledger, retrain)
        finish(ledger, retrain, ending, NOW + 5 * n * DAY)
    state = ledger.state(P)
    assert (state.failures, state.last_failed, state.last_failed_at) == (
        2,
        "flights-00005",
        NOW + 20 * DAY,
    )
    assert (state.last_retrain, state.last_finished_at) == ("flights-00005", NOW + 20 * DAY)


def test_spent_budget_holds_until_a_token_is_back(ledger: Ledger) -> None:
    for n in range(6):
        finish(
            ledger, begin(ledger, f"k{n}", now=NOW + 3 * n * DAY, mark=f"d{n}"), "nothing", NOW + 3 * n * DAY
        )
    # Six were spent within 15 days, three came back.
    assert ledger.state(P).bucket.spent == 3
    for n in range(6, 20):
        ledger.append_trigger(P, "labels", f"k{n}", {}, NOW + 15 * DAY)
        answer = ask(ledger, run_id=f"r{n}", now=NOW + 3 * n * DAY, mark=f"d{n}")
        if isinstance(answer, Held):
            break
        finish(ledger, answer.retrain, "nothing", NOW + 3 * n * DAY)
    assert isinstance(answer, Held)
    assert answer.hold.reason == "budget"
    assert answer.hold.until is not None
    assert admit(ledger, run_id="r", now=answer.hold.until, mark="new").seq == n + 1


def test_pause_holds_and_resume_lets_go(ledger: Ledger) -> None:
    assert ledger.state(P).paused is None
    ledger.append_trigger(P, "labels", "k", {}, NOW)
    assert ledger.pause(P, True, by="ann", reason="holidays", at=NOW)
    assert not ledger.pause(P, True, by="bob", reason="me too", at=NOW)
    assert ledger.state(P).paused == "ann: holidays"
    assert hold(ledger).reason == "paused"
    assert ledger.pause(P, False, by="bob", reason="over", at=NOW)
    assert ledger.state(P).paused is None
    assert admit(ledger).seq == 1


def test_a_decision_that_raises_changes_nothing(ledger: Ledger) -> None:
    ledger.append_trigger(P, "labels", "k", {}, NOW)

    def broken(*_: Any) -> Admit | Hold:
        raise RuntimeError("no decision")

    with unchanged(ledger), pytest.raises(RuntimeError, match="no decision"):
        ledger.admit(P, now=NOW, policy=POLICY, run_id="r", data_mark="d", decide=broken)
    assert admit(ledger).seq == 1


def test_the_database_itself_refuses_two_in_flight(ledger: Ledger) -> None:
    begin(ledger)
    ledger.append_trigger(P, "labels", "k2", {}, NOW)

    def reckless(pending: Any, state: State, policy: Policy, now: datetime) -> Admit | Hold:
        return Admit(pending.first.id, "admitted whatever is in flight")

    with unchanged(ledger), pytest.raises(IntegrityError):
        ledger.admit(P, now=NOW, policy=POLICY, run_id="r", data_mark="d", decide=reckless)


# --- loss and fencing ------------------------------------------------------------------------------


def test_lost_retrain_is_taken_up_by_the_next_run(ledger: Ledger) -> None:
    first = begin(ledger)
    charged = ledger.state(P).bucket
    lost = ledger.mark_lost("run-k1", NOW + DAY)
    assert lost is not None
    assert (lost.status, lost.losses) == ("lost", 1)
    assert ledger.in_flight(P) == lost
    answer = ask(ledger, run_id="run-2", now=NOW + DAY, mark="other data")
    assert isinstance(answer, Admitted)
    assert answer.taken_up
    assert answer.sentence == "retrain flights-00001 lost its run and is taken up again"
    second = answer.retrain
    assert (second.id, second.watermark, second.data_mark) == (first.id, NOW, "d1")
    assert (second.run_id, second.started_at) == ("run-2", NOW + DAY)
    assert second.token != first.token
    assert second.trigger_kinds == first.trigger_kinds
    assert second.reason == first.reason
    assert ledger.state(P).bucket == charged
    assert ledger.counts(P).retrains["running"] == 1


def test_loss_is_counted_once_for_each_run(ledger: Ledger) -> None:
    begin(ledger)
    ledger.mark_lost("run-k1", NOW)
    with unchanged(ledger):
        assert ledger.mark_lost("run-k1", NOW) is None
    admit(ledger, run_id="run-2")
    with unchanged(ledger):
        assert ledger.mark_lost("run-k1", NOW) is None
        assert ledger.mark_lost("a run that never retrained", NOW) is None


def test_third_loss_ends_the_retrain_as_failed(ledger: Ledger) -> None:
    begin(ledger)
    ledger.mark_lost("run-k1", NOW)
    for n in (2, 3):
        admit(ledger, run_id=f"run-{n}", now=NOW + n * DAY)
        ended = ledger.mark_lost(f"run-{n}", NOW + n * DAY)
    assert ended is not None
    assert (ended.status, ended.losses, ended.finished_at) == ("failed", 3, NOW + 3 * DAY)
    assert ended.outcome == "its run was lost 3 times, the last run-3"
    assert ledger.in_flight(P) is None
    assert [t.status for t in ledger.triggers(P)] == ["served"]
    assert ledger.state(P).failures == 1


def test_third_loss_after_the_promotion_leaves_it_standing(ledger: Ledger) -> None:
    retrain = begin(ledger)
    prove(ledger, retrain)
    promote(ledger, retrain)
    ledger.mark_lost("run-k1", NOW)
    for n in (2, 3):
        admit(ledger, run_id=f"run-{n}")
        ended = ledger.mark_lost(f"run-{n}", NOW)
    assert ended is not None
    assert ended.status == "promoted"
    assert ledger.state(P).failures == 0


@pytest.mark.parametrize("successor", ["nobody", "another run", "the end"])
def test_stale_token_changes_nothing(ledger: Ledger, successor: str) -> None:
    zombie = begin(ledger)
    prove(ledger, zombie)
    if successor == "the end":
        finish(ledger, zombie, "failed")
    else:
        ledger.mark_lost("run-k1", NOW)
    if successor == "another run":
        admit(ledger, run_id="run-2")
    with unchanged(ledger):
        for effect in (
            lambda: ledger.check_token(zombie.id, zombie.token),
            lambda: ledger.record_training_set(
                zombie.id, zombie.token, dataset_version="def456", feature_set="0a1b2c3d", matured_rows=6
            ),
            lambda: candidate(ledger, zombie, "hash-2"),
            lambda: ledger.record_verdicts(zombie.id, zombie.token, [verdict("latency")], NOW),
            lambda: promote(ledger, zombie),
            lambda: finish(ledger, zombie, "rejected"),
        ):
            with pytest.raises(StaleTokenError, match="lost its authority over retrain flights-00001"):
                effect()


def test_a_made_up_token_or_retrain_has_no_authority(ledger: Ledger) -> None:
    retrain = begin(ledger)
    ledger.check_token(retrain.id, retrain.token)
    with pytest.raises(StaleTokenError):
        ledger.check_token(retrain.id, "0" * 32)
    with pytest.raises(TerminalError, match="no retrain flights-00099"):
        ledger.check_token("flights-00099", retrain.token)
    with pytest.raises(TerminalError, match="no retrain flights-00099"):
        ledger.retrain("flights-00099")


def test_finish_may_be_repeated_but_not_changed(ledger: Ledger) -> None:
    retrain = begin(ledger)
    finish(ledger, retrain, "rejected")
    with unchanged(ledger):
        finish(ledger, retrain, "rejected", NOW + DAY)
        with pytest.raises(StaleTokenError):
            finish(ledger, retrain, "nothing")
    ended = ledger.retrain(retrain.id)
    assert (ended.status, ended.outcome, ended.finished_at) == ("rejected", "it was rejected", NOW)


def test_promoted_goes_with_a_promotion_and_only_then(ledger: Ledger) -> None:
    retrain = begin(ledger)
    prove(ledger, retrain)
    with pytest.raises(TerminalError, match="has no promotion and cannot end as promoted"):
        finish(ledger, retrain, "promoted")
    promote(ledger, retrain)
    with pytest.raises(TerminalError, match="has been promoted and cannot end as rejected"):
        finish(ledger, retrain, "rejected")
    finish(ledger, retrain, "promoted")
    assert ledger.retrain(retrain.id).status == "promoted"


# --- candidates, verdicts, promotions --------------------------------------------------------------


def test_candidate_is_on_the_retrain(ledger: Ledger) -> None:
    assert ledger.last_candidate(P) is None
    retrain = begin(ledger)
    assert ledger.last_candidate(P) is None
    candidate(ledger, retrain)
    candidate(ledger, retrain)
    stored = ledger.last_candidate(P)
    assert stored == ledger.retrain(retrain.id) == ledger.retrains(P)[0]
    assert (stored.dataset_version, stored.model_hash, stored.mlflow_version) == ("abc123", "hash-1", "7")
    assert (stored.mlflow_run_id, stored.cutoff, stored.matured_rows) == ("mlflow-run", NOW - DAY, 54321)


def test_training_set_is_on_the_retrain_before_its_candidate(ledger: Ledger) -> None:
    retrain = begin(ledger)
    for _ in range(2):
        ledger.record_training_set(
            retrain.id, retrain.token, dataset_version="abc123", feature_set="0a1b2c3d", matured_rows=5
        )
    stored = ledger.retrain(retrain.id)
    assert (stored.dataset_version, stored.feature_set) == ("abc123", "0a1b2c3d")
    assert (stored.matured_rows, stored.model_hash) == (5, None)
    assert ledger.last_candidate(P) is None


def test_first_verdict_of_a_gate_on_a_model_stands(ledger: Ledger) -> None:
    retrain = begin(ledger)
    candidate(ledger, retrain)
    first = [verdict("skill"), verdict("latency", "fail", 7.5)]
    ledger.record_verdicts(retrain.id, retrain.token, first, NOW)
    with unchanged(ledger):
        ledger.record_verdicts(retrain.id, retrain.token, [verdict("latency", "pass", 4.0)], NOW + DAY)
    skill, latency = ledger.verdicts(retrain.id)
    assert (skill.gate, skill.interval, skill.bound) == ("skill", (0.05, 0.15), 0.02)
    assert (latency.outcome, latency.figure, latency.at) == ("fail", 7.5, NOW)
    assert latency.model_hash == "hash-1"


def test_verdict_without_figures_comes_back_without(ledger: Ledger) -> None:
    retrain = begin(ledger)
    candidate(ledger, retrain)
    bare = {**verdict("champion", "not_applicable", float("nan")), "interval": None, "bound": None}
    ledger.record_verdicts(retrain.id, retrain.token, [bare], NOW)
    (stored,) = ledger.verdicts(retrain.id)
    assert (stored.figure, stored.bound, stored.interval) == (None, None, None)


def test_unknown_outcome_is_refused_whole(ledger: Ledger) -> None:
    retrain = begin(ledger)
    candidate(ledger, retrain)
    given = [verdict("skill"), verdict("latency", "maybe")]
    with unchanged(ledger), pytest.raises(TerminalError, match="'maybe' is no outcome of a gate"):
        ledger.record_verdicts(retrain.id, retrain.token, given, NOW)


def test_verdicts_need_a_candidate(ledger: Ledger) -> None:
    retrain = begin(ledger)
    with pytest.raises(TerminalError, match="no candidate to judge"):
        ledger.record_verdicts(retrain.id, retrain.token, [verdict("skill")], NOW)


def test_promotion_makes_the_champion_of_then_and_later(ledger: Ledger) -> None:
    first = begin(ledger, "k1")
    prove(ledger, first)
    promotion = promote(ledger, first)
    assert promotion == Promotion(
        P, 1, "7", "hash-1", first.id, NOW, None, "gates", "its gates", first.reason
    )
    finish(ledger, first, "promoted")
    second = begin(ledger, "k2", now=NOW + 5 * DAY, mark="d2")
    prove(ledger, second)
    later = promote(ledger, second, expected=1, at=NOW + 5 * DAY)
    assert (later.sequence, later.previous) == (2, "7")
    assert ledger.promotions(P) == [promotion, later]
    assert ledger.champion(P) == later
    assert ledger.champion(P, NOW - DAY) is None
    assert ledger.champion(P, NOW) == promotion
    assert ledger.champion(P, NOW + 5 * DAY - timedelta(microseconds=1)) == promotion
    assert ledger.champion(P, NOW + 5 * DAY) == later
    assert ledger.champion("other") is None


def test_promotion_is_the_same_row_when_repeated(ledger: Ledger) -> None:
    retrain = begin(ledger)
    prove(ledger, retrain)
    promotion = promote(ledger, retrain)
    with unchanged(ledger):
        assert promote(ledger, retrain) == promotion
    ledger.mark_lost("run-k1", NOW)
    again = admit(ledger, run_id="run-2", now=NOW + DAY)
    prove(ledger, again)
    assert promote(ledger, again, expected=1, at=NOW + DAY) == promotion
    finish(ledger, again, "promoted")
    with unchanged(ledger):
        assert promote(ledger, again) == promotion


def test_failed_verdict_is_never_promoted(ledger: Ledger) -> None:
    retrain = begin(ledger)
    candidate(ledger, retrain)
    given = [verdict("skill"), verdict("slices", "fail"), verdict("latency", "fail")]
    ledger.record_verdicts(retrain.id, retrain.token, given, NOW)
    with unchanged(ledger), pytest.raises(TerminalError, match="failed slices, latency and cannot"):
        promote(ledger, retrain)


def test_not_applicable_does_not_stop_a_promotion(ledger: Ledger) -> None:
    retrain = begin(ledger)
    candidate(ledger, retrain)
    ledger.record_verdicts(retrain.id, retrain.token, [verdict("champion", "not_applicable")], NOW)
    assert promote(ledger, retrain).sequence == 1


def test_no_verdict_is_added_after_the_promotion(ledger: Ledger) -> None:
    retrain = begin(ledger)
    prove(ledger, retrain)
    promote(ledger, retrain)
    with unchanged(ledger):
        ledger.record_verdicts(retrain.id, retrain.token, [verdict("skill", "fail")], NOW)
        with pytest.raises(TerminalError, match="promoted without a verdict of latency"):
            ledger.record_verdicts(retrain.id, retrain.token, [verdict("latency")], NOW)


def test_pipeline_without_gates_promotes_only_what_was_judged(ledger: Ledger) -> None:
    retrain = begin(ledger)
    candidate(ledger, retrain)
    with unchanged(ledger), pytest.raises(TerminalError, match="has not been judged"):
        promote(ledger, retrain)
    ledger.record_verdicts(retrain.id, retrain.token, [], NOW)
    assert promote(ledger, retrain).sequence == 1


def test_model_is_not_promoted_on_the_verdicts_of_another(ledger: Ledger) -> None:
    retrain = begin(ledger)
    prove(ledger, retrain)
    candidate(ledger, retrain, "hash-2")
    assert ledger.verdicts(retrain.id) == []
    with unchanged(ledger):
        with pytest.raises(TerminalError, match="not the one retrain flights-00001 recorded"):
            promote(ledger, retrain)
        with pytest.raises(TerminalError, match="has not been judged"):
            ledger.promote(
                P,
                retrain_id=retrain.id,
                token=retrain.token,
                expected_sequence=0,
                model_hash="hash-2",
                mlflow_version="8",
                at=NOW,
            )


def test_another_model_cannot_follow_a_promotion_of_the_same_retrain(ledger: Ledger) -> None:
    retrain = begin(ledger)
    prove(ledger, retrain)
    promote(ledger, retrain)
    with unchanged(ledger), pytest.raises(TerminalError, match="made another, hash-2"):
        candidate(ledger, retrain, "hash-2")


def test_promotion_against_another_champion_is_refused(ledger: Ledger) -> None:
    retrain = begin(ledger)
    prove(ledger, retrain)
    with unchanged(ledger), pytest.raises(PromotionConflictError, match="has sequence 0"):
        promote(ledger, retrain, expected=1)


def test_promotion_cannot_be_dated_before_the_champion(ledger: Ledger) -> None:
    first = begin(ledger, "k1")
    prove(ledger, first)
    promote(ledger, first)
    finish(ledger, first, "promoted")
    second = begin(ledger, "k2", now=NOW + 5 * DAY, mark="d2")
    prove(ledger, second)
    with unchanged(ledger), pytest.raises(TerminalError, match="would change who served"):
        promote(ledger, second, expected=1, at=NOW - DAY)


def test_retrain_is_promoted_for_its_own_pipeline(ledger: Ledger) -> None:
    retrain = begin(ledger)
    prove(ledger, retrain)
    with unchanged(ledger), pytest.raises(TerminalError, match="belongs to flights, not to other"):
        ledger.promote(
            "other",
            retrain_id=retrain.id,
            token=retrain.token,
            expected_sequence=0,
            model_hash="hash-1",
            mlflow_version="7",
            at=NOW,
        )


def test_counts_name_every_status(ledger: Ledger) -> None:
    retrain = begin(ledger)
    prove(ledger, retrain)
    promote(ledger, retrain)
    ledger.append_trigger(P, "drift", "k2", {}, NOW)
    counts = ledger.counts(P)
    assert counts.retrains == {
        "running": 1, "lost": 0, "waiting": 0, "promoted": 0, "rejected": 0, "failed": 0, "nothing": 0,
        "expired": 0, "rolled_back": 0,
    }  # fmt: skip
    assert counts.triggers == {"pending": 1, "served": 1, "folded": 0, "expired": 0}
    assert counts.promotions == 1


def test_retrains_are_listed_in_order_and_cut_to_the_latest(ledger: Ledger) -> None:
    for n in range(3):
        finish(
            ledger, begin(ledger, f"k{n}", now=NOW + 4 * n * DAY, mark=f"d{n}"), "nothing", NOW + 4 * n * DAY
        )
    assert [r.seq for r in ledger.retrains(P)] == [1, 2, 3]
    assert [r.seq for r in ledger.retrains(P, limit=2)] == [2, 3]
    assert ledger.retrains("other") == []


# --- the database ----------------------------------------------------------------------------------


def test_everything_is_there_after_the_ledger_is_opened_again(ledger: Ledger, tmp_path: Path) -> None:
    retrain = begin(ledger)
    prove(ledger, retrain)
    promotion = promote(ledger, retrain)
    ledger.close()
    again = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert again.champion(P) == promotion
    assert again.triggers(P) == ledger.triggers(P)
    assert again.retrain(retrain.id) == ledger.retrain(retrain.id)
    assert again.state(P, data_mark="d1") == ledger.state(P, data_mark="d1")
    again.close()


def test_views_whose_tiles_are_kept_are_those_recorded_last(ledger: Ledger) -> None:
    assert ledger.kept_tiles(P) == frozenset()
    ledger.record_kept_tiles(P, ["a__1", "b__1"])
    ledger.record_kept_tiles("other", ["a__1"])
    ledger.record_kept_tiles(P, ["b__1", "c__1"])
    assert ledger.kept_tiles(P) == {"b__1", "c__1"}
    ledger.record_kept_tiles(P, [])
    assert (ledger.kept_tiles(P), ledger.kept_tiles("other")) == (frozenset(), {"a__1"})


def test_prepare_makes_the_tables_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(f"sqlite:///{path}")
    assert not path.exists()
    ledger.prepare()
    ledger.prepare()
    assert dump(ledger)["ledger_schema"] == [(11, None)]
    ledger.close()


def test_who_comes_while_another_makes_the_database_waits(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE being_made (n)")
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, other.rollback)
    release.start()
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.prepare()
    ledger.close()
    release.join()
    other.close()


@pytest.mark.parametrize(("version", "what_helps"), [(99, "upgrade"), (1, "begin a new home")])
def test_ledger_of_another_version_is_refused(tmp_path: Path, version: int, what_helps: str) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = Ledger(url)
    with ledger._writing() as connection:
        connection.execute(sa.text("UPDATE ledger_schema SET version = :version"), {"version": version})
    ledger.close()
    newer = Ledger(url)
    with pytest.raises(
        TerminalError, match=rf"schema version {version}.*\nExpected: version \d.*\n.*{what_helps}"
    ):
        newer.watermark()
    newer.close()


def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_text("not a database " * 100)
    ledger = Ledger(f"sqlite:///{path}")
    with pytest.raises(TerminalError, match="damaged: file is not a database"):
        ledger.watermark()
    ledger.close()


def test_a_ledger_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'missing' / 'ledger.db'}")
    with pytest.raises(TerminalError, match="cannot be opened or written"):
        ledger.prepare()
    ledger.close()


@pytest.mark.parametrize("url", ["", "ledger.db", "nosuchdatabase://x", "sqlite+nosuchdriver:///x"])
def test_an_address_that_cannot_be_used_is_the_users(url: str) -> None:
    with pytest.raises(UserError, match="address cannot be used"):
        Ledger(url)


def test_a_writer_that_waits_too_long_may_try_again(ledger: Ledger, tmp_path: Path) -> None:
    ledger.prepare()
    impatient = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", busy_timeout=timedelta(milliseconds=20))
    with ledger._writing():
        assert impatient.watermark() is None
        with pytest.raises(TransientError, match="locked"):
            impatient.append_trigger(P, "drift", "k", {}, NOW)
    assert impatient.append_trigger(P, "drift", "k", {}, NOW)
    impatient.close()


@contextmanager
def statements(ledger: Ledger) -> Iterator[list[tuple[str, Any]]]:
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            seen.append((statement, parameters))

    sa.event.listen(ledger._engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(ledger._engine, "before_cursor_execute", note)


HISTORY = {"landed_files", "reopened_days", "triggers", "retrains", "verdicts", "promotions"}


def every_tick(ledger: Ledger, now: datetime) -> None:
    """What sensors and runs ask again and again."""
    ledger.watermark()
    ledger.newest_arrival(P, "events", by="2999-01-01")
    ledger.known_paths(P, "events", "2999-01-01")
    ledger.taken_digests(P, "events", ["d"])
    ledger.pending_files(P, limit=10)
    ledger.reopened_days(P, "score")
    ledger.append_trigger(P, "drift", "early", {}, now)
    ledger.decision(P, now=now, policy=POLICY, data_mark="other")
    ledger.in_flight(P)
    ledger.champion(P)
    ledger.champion(P, now)
    ledger.last_candidate(P)
    ledger.mark_lost("no such run", now)
    retrain = admit(ledger, run_id="tick", now=now, mark=f"tick of {now}")
    candidate(ledger, retrain)
    ledger.record_verdicts(retrain.id, retrain.token, [verdict("skill")], now)
    promote(ledger, retrain, expected=len(ledger.promotions(P)), at=now)
    finish(ledger, retrain, "promoted", now)


def test_what_a_tick_asks_does_not_grow_with_history(ledger: Ledger) -> None:
    ledger.append_trigger(P, "drift", "early", {}, NOW)
    with statements(ledger) as early:
        every_tick(ledger, NOW)
    for n in range(30):
        now = NOW + 6 * (n + 1) * DAY
        ledger.register_files(P, "events", [file(f"f{n}")])
        take(ledger, n + 1)
        ledger.reopen_days(P, [f"2013-03-{n + 1:02d}"], "score", now)
        ledger.close_days(P, ledger.reopened_days(P, "score"), "score")
        finish(ledger, begin(ledger, f"k{n}", now=now, mark=f"d{n}"), "nothing", now)
    ledger.append_trigger(P, "drift", "late", {}, now)
    with statements(ledger) as late:
        every_tick(ledger, now + 30 * DAY)
    assert len(late) == len(early)
    with ledger._reading() as connection:
        for statement, parameters in late:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            scanned = {row.detail.split()[1] for row in plan if row.detail.startswith("SCAN")}
            assert not scanned & HISTORY, statement


def test_policy_types_are_what_the_policy_takes(ledger: Ledger) -> None:
    ledger.append_trigger(P, "manual", "k", {"by": "ann"}, NOW, urgent=True)
    first = PendingTrigger(1, "manual", "k", NOW, urgent=True)
    assert ledger.pending(P) == Pending(first, {"manual": 1}, urgent=True)
    assert ledger.state(P) == State()
