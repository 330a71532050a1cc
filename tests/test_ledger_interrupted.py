"""A small replay that is cut off anywhere and run again leaves the rows of an undisturbed one."""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event

from mlops_pipelines.ledger import Admitted, FileFact, Ledger, Retrain
from mlops_pipelines.ledger.landing import FinishedFile
from mlops_pipelines.signing import Keys
from mlops_pipelines.spec import Policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from pathlib import Path

pytestmark = pytest.mark.proof

P = "flights"
START = datetime(2013, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
POLICY = Policy.model_validate({"cooldown": "8d", "breaker": {"after": 2, "backoff": "20d"}})
# Which attempt did it, and how often it was tried, is all that may differ.
VOLATILE = {"token", "run_id", "started_at", "losses", "revision", "closed_revision", "recorded_at"}


class KilledError(BaseException):
    """Stands for the end of the process; no Exception, so that nothing handles it."""


def replay(ledger: Ledger, *, weeks: int, attempt: str) -> None:
    """What a replay asks of the ledger, week by week, from wherever the one before it stopped."""
    end = START + weeks * WEEK
    left_behind = ledger.in_flight(P)
    if left_behind is not None:
        ledger.mark_lost(left_behind.run_id, ledger.watermark() or START)
    while True:
        target, now = ledger.target(), ledger.watermark()
        if target is not None:
            ledger.register_files(
                P, "events", [FileFact(f"{target:%F}.parquet", 100, target, f"{target:%F}")]
            )
            ledger.finish_advance()
            continue
        if now is not None:
            settle(ledger, now, attempt)
        if now == end:
            assert ledger.reopened_days(P, "score") == {}
            return
        ledger.begin_advance((now or START) + WEEK)


def settle(ledger: Ledger, now: datetime, attempt: str) -> None:
    """Everything that is due at one moment, until nothing is."""
    for landed in ledger.pending_files(P):
        ledger.reopen_days(P, [landed.arrival_day], "score", now)
        taken = FinishedFile(landed.id, "taken", f"digest of {landed.path}", rows=100, accepted=100)
        ledger.finish_files([taken], now)
    ledger.close_days(P, ledger.reopened_days(P, "score"), "score")
    for kind in ("labels", "drift"):
        ledger.append_trigger(P, kind, f"{kind} of {now:%F}", {"rows": 100}, now)
    run_id = f"{attempt} {now:%F}"
    answer = ledger.admit(P, now=now, policy=POLICY, run_id=run_id, data_mark=f"{now:%F}")
    if isinstance(answer, Admitted):
        carry_through(ledger, answer.retrain, now)


def carry_through(ledger: Ledger, retrain: Retrain, now: datetime) -> None:
    model_hash = f"model of {retrain.watermark:%F}"
    ledger.record_candidate(
        retrain.id,
        retrain.token,
        dataset_version=f"dataset of {retrain.watermark:%F}",
        model_hash=model_hash,
        mlflow_version=str(retrain.seq),
        mlflow_run_id=f"mlflow {retrain.seq}",
        cutoff=retrain.watermark - WEEK,
        matured_rows=1000 * retrain.seq,
    )
    outcome = "fail" if retrain.seq % 3 == 0 else "pass"
    given = {"outcome": outcome, "figure": 0.1, "bound": 0.1, "interval": (0.0, 0.2), "sentence": outcome}
    gates = [{"gate": gate, **given} for gate in ("skill", "latency")]
    ledger.record_verdicts(retrain.id, retrain.token, gates, now)
    if outcome == "pass":
        earlier = [p for p in ledger.promotions(P) if p.retrain_id != retrain.id]
        ledger.promote(
            P,
            retrain_id=retrain.id,
            token=retrain.token,
            expected_sequence=len(earlier),
            model_hash=model_hash,
            mlflow_version=str(retrain.seq),
            at=now,
        )
    ending: Any = "promoted" if outcome == "pass" else "rejected"
    ledger.finish_retrain(retrain.id, retrain.token, status=ending, reason=f"it was {ending}", at=now)


def rows(path: Path) -> dict[str, list[str]]:
    """Every row of every table, without what tells one attempt from another."""
    connection = sqlite3.connect(path)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {}
    for table in tables:
        cursor = connection.execute(f"SELECT * FROM {table}")  # noqa: S608 - names from the schema
        columns = [column for column, *_ in cursor.description]
        stable = [i for i, column in enumerate(columns) if column not in VOLATILE]
        found[table] = sorted(repr([(columns[i], row[i]) for i in stable]) for row in cursor)
    connection.close()
    return found


def ledger_at(path: Path) -> Ledger:
    return Ledger(f"sqlite:///{path}", keys=Keys(path.parent / "keys"))


def replayed(path: Path, weeks: int) -> int:
    """Replay undisturbed. How many statements it took."""
    ledger = ledger_at(path)
    statements = 0

    def count(*_: Any) -> None:
        nonlocal statements
        statements += 1

    event.listen(ledger._engine, "before_cursor_execute", count)
    replay(ledger, weeks=weeks, attempt="only")
    ledger.close()
    return statements


def replayed_with_a_cut(path: Path, weeks: int, cut: int) -> None:
    """Replay until just before statement number `cut`, and once more from there."""
    ledger = ledger_at(path)
    left = cut

    def kill(*_: Any) -> None:
        nonlocal left
        if left == 0:
            raise KilledError
        left -= 1

    event.listen(ledger._engine, "before_cursor_execute", kill)
    with pytest.raises(KilledError):
        replay(ledger, weeks=weeks, attempt="first")
    ledger.close()
    ledger = ledger_at(path)
    replay(ledger, weeks=weeks, attempt="second")
    ledger.close()


def test_the_replay_is_worth_cutting(tmp_path: Path) -> None:
    replayed(tmp_path / "ledger.db", weeks=12)
    ledger = ledger_at(tmp_path / "ledger.db")
    assert {r.status for r in ledger.retrains(P)} == {"promoted", "rejected"}
    assert {t.status for t in ledger.triggers(P)} >= {"served", "folded"}
    ledger.close()


def test_replay_cut_before_any_statement_ends_with_the_same_rows(
    tmp_path: Path, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    weeks = 5 if full else 3
    total = replayed(tmp_path / "undisturbed.db", weeks)
    expected = rows(tmp_path / "undisturbed.db")
    cuts = range(0, total, 1 if full else 13)
    for cut in cuts:
        path = tmp_path / f"cut-{cut}.db"
        replayed_with_a_cut(path, weeks, cut)
        assert rows(path) == expected, f"cut before statement {cut} of {total}"
    sample_size("cuts", len(cuts))


def replay_in_a_process(path: Path, weeks: int, attempt: str) -> None:
    ledger = ledger_at(path)
    replay(ledger, weeks=weeks, attempt=attempt)
    ledger.close()


def test_replay_killed_and_run_again_ends_with_the_same_rows(
    tmp_path: Path, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    weeks, kills = (300, 40) if full else (16, 3)
    replayed(tmp_path / "undisturbed.db", weeks)
    path = tmp_path / "killed.db"
    spawn = multiprocessing.get_context("spawn")
    moments = random.Random(17)  # noqa: S311 - where it is killed, not a secret
    killed = 0
    for attempt in range(kills + 1):
        process = spawn.Process(target=replay_in_a_process, args=(path, weeks, f"attempt {attempt}"))
        process.start()
        if attempt < kills:
            wait_for_progress(path, attempt, process)
            process.join(moments.uniform(0, 0.1))
            process.kill()
        process.join()
        killed += process.exitcode == -9
    assert process.exitcode == 0
    assert killed > 0
    assert rows(path) == rows(tmp_path / "undisturbed.db")
    sample_size("kills", killed)


def wait_for_progress(path: Path, weeks: int, process: BaseProcess) -> None:
    """Wait until the replay is beyond so many weeks, so that a kill finds it at work."""
    goal = START + (weeks + 1) * WEEK
    ledger = ledger_at(path)
    while process.is_alive() and (ledger.watermark() or START) < goal:
        time.sleep(0.002)
    ledger.close()
