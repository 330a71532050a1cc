"""Several processes ask, admit, promote and declare each other dead at once."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mlops_pipelines.ledger import Admitted, Ledger, Retrain, StaleTokenError
from mlops_pipelines.signing import Keys
from mlops_pipelines.spec import Policy
from tests.policy_model import START, Model, ModelRetrain, P, at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlops_pipelines.ledger.retrains import RetrainStatus

# What the processes of a simulated hour wait for each other with; one a process.
TOGETHER: list[Any] = []

pytestmark = pytest.mark.proof

NOW = datetime(2013, 3, 1, tzinfo=UTC)
UNLIMITED = {
    "cooldown": "0s",
    "budget": {"retrains": 1_000_000, "per": "1d"},
    "breaker": {"after": 1_000_000},
}


@dataclass
class Report:
    """What one process saw."""

    shared_appended: int = 0
    admitted: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    fenced: int = 0


def ask(ledger: Ledger, me: str, n: int, rules: dict[str, Any]) -> Admitted | None:
    """Append a trigger of one's own and one that all append, then ask."""
    ledger.append_trigger(P, "labels", f"{me} {n}", {}, NOW)
    answer = ledger.admit(
        P, now=NOW, policy=Policy.model_validate(rules), run_id=f"{me} {n}", data_mark=f"{me} {n}"
    )
    return answer if isinstance(answer, Admitted) else None


def carry_through(ledger: Ledger, retrain: Retrain) -> None:
    """Make, judge and promote a candidate."""
    ledger.record_candidate(
        retrain.id,
        retrain.token,
        dataset_version="d",
        model_hash=retrain.id,
        mlflow_version=str(retrain.seq),
        mlflow_run_id="r",
        cutoff=NOW,
        matured_rows=1,
    )
    ledger.record_verdicts(retrain.id, retrain.token, [], NOW)
    champion = ledger.champion(P)
    own = champion is not None and champion.retrain_id == retrain.id
    ledger.promote(
        P,
        retrain_id=retrain.id,
        token=retrain.token,
        expected_sequence=0 if champion is None else champion.sequence - own,
        model_hash=retrain.id,
        mlflow_version=str(retrain.seq),
        at=NOW,
    )


def finish(ledger: Ledger, retrain: Retrain) -> None:
    ledger.finish_retrain(retrain.id, retrain.token, status="promoted", reason="proven", at=NOW)


def orderly(url: str, folder: Path, me: str, rounds: int, rules: dict[str, Any]) -> Report:
    """Carries through whatever it is admitted with. A file that must not exist yet witnesses it is alone."""
    ledger, report, witness = Ledger(url, keys=Keys(folder / "keys")), Report(), folder / "in flight"
    for n in range(rounds):
        report.shared_appended += ledger.append_trigger(P, "labels", f"shared {n}", {}, NOW)
        answer = ask(ledger, me, n, rules)
        if answer is None:
            continue
        os.close(os.open(witness, os.O_CREAT | os.O_EXCL))
        report.admitted.append(answer.retrain.id)
        carry_through(ledger, answer.retrain)
        witness.unlink()
        finish(ledger, answer.retrain)
        report.finished.append(answer.retrain.id)
    ledger.close()
    return report


def hostile(url: str, folder: Path, me: str, rounds: int, rules: dict[str, Any]) -> Report:
    """Declares the others' runs lost whenever it is held, and goes on as a zombie when it was."""
    ledger, report = Ledger(url, keys=Keys(folder / "keys")), Report()
    for n in range(rounds):
        answer = ask(ledger, me, n, rules)
        if answer is None:
            other = ledger.in_flight(P)
            if other is not None:
                ledger.mark_lost(other.run_id, NOW)
            continue
        if not answer.taken_up:
            report.admitted.append(answer.retrain.id)
        try:
            carry_through(ledger, answer.retrain)
            finish(ledger, answer.retrain)
        except StaleTokenError:
            report.fenced += 1
        else:
            report.finished.append(answer.retrain.id)
    ledger.close()
    return report


def race(
    work: Any, url: str, folder: Path, *, processes: int, rounds: int, rules: dict[str, Any]
) -> list[Report]:
    # A forked child would share the parent's SQLite connections.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        tasks = [pool.submit(work, url, folder, f"process {i}", rounds, rules) for i in range(processes)]
        return [task.result() for task in tasks]


@pytest.fixture
def size(full: bool) -> tuple[int, int]:
    """Processes and rounds."""
    return (8, 500) if full else (4, 50)


def test_processes_that_admit_at_once_are_admitted_one_by_one(
    ledger_url: str, tmp_path: Path, size: tuple[int, int], sample_size: Callable[[str, int], None]
) -> None:
    processes, rounds = size
    reports = race(orderly, ledger_url, tmp_path, processes=processes, rounds=rounds, rules=UNLIMITED)
    admitted = sorted(retrain for report in reports for retrain in report.admitted)
    assert sum(report.shared_appended for report in reports) == rounds
    ledger = Ledger(ledger_url)
    assert [r.id for r in ledger.retrains(P)] == admitted
    assert [r.seq for r in ledger.retrains(P)] == list(range(1, len(admitted) + 1))
    assert {r.status for r in ledger.retrains(P)} == {"promoted"}
    assert [p.retrain_id for p in ledger.promotions(P)] == admitted
    counts = ledger.counts(P).triggers
    assert counts["served"] == len(admitted)
    assert counts["served"] + counts["folded"] + counts["pending"] == (processes + 1) * rounds
    ledger.close()
    sample_size("processes", processes)
    sample_size("rounds", processes * rounds)
    sample_size("admitted", len(admitted))


def test_processes_that_race_for_a_small_budget_get_no_more_than_it_has(
    ledger_url: str, tmp_path: Path
) -> None:
    rules = {**UNLIMITED, "budget": {"retrains": 7, "per": "1d"}}
    reports = race(orderly, ledger_url, tmp_path, processes=3, rounds=15, rules=rules)
    # Who asks while another is in flight asks in vain: what that left over is there for whoever comes alone.
    reports.append(orderly(ledger_url, tmp_path, "alone", 8, rules))
    assert sum(len(report.admitted) for report in reports) == 7


# Of a simulated hour: the length of a slot, which is the tick of all sensors, in seconds.
SLOT = 10
# A retrain runs so many slots; every third is rejected, and the run of every fourth is lost once.
LASTS = 3
HOUR_RULES = {
    "cooldown": "1m",
    "budget": {"retrains": 30, "per": "1h"},
    "breaker": {"after": 2, "backoff": "2m"},
}


def hour(
    url: str, folder: Path, me: int, *, processes: int, triggers: int, slots: int
) -> list[tuple[int, int]]:
    """What one of several processes does in an hour of one clock: in each slot it appends its share of the
    triggers, some of which another appends as well, and asks. The retrains it was given, each with its slot.
    """
    ledger, admitted = Ledger(url, keys=Keys(folder / "keys")), []
    for slot in range(slots):
        TOGETHER[0].wait()
        if me == 0:
            _go_on(ledger, slot)
        TOGETHER[0].wait()
        now = at(slot * SLOT)
        for n in range(slot * triggers // slots, (slot + 1) * triggers // slots):
            if n % processes == me or n % 5 == me:
                ledger.append_trigger(P, ("labels", "staleness", "external")[n % 3], f"n {n}", {}, now)
        answer = ledger.admit(
            P, now=now, policy=Policy.model_validate(HOUR_RULES), run_id=f"{me} {slot}", data_mark=f"{slot}"
        )
        if isinstance(answer, Admitted) and not answer.taken_up:
            admitted.append((answer.retrain.seq, slot))
    ledger.close()
    return admitted


def _go_on(ledger: Ledger, slot: int) -> None:
    """What becomes of the retrain in flight by a slot, while nobody else is at work."""
    flying = ledger.in_flight(P)
    if flying is None:
        return
    begun = (flying.watermark - START) // timedelta(seconds=SLOT)
    if flying.seq % 4 == 0 and slot == begun + 1:
        ledger.mark_lost(flying.run_id, at(slot * SLOT))
    elif slot >= begun + LASTS:
        rejected = flying.seq % 3 == 0
        if not rejected:
            carry_through(ledger, flying)
        status: RetrainStatus = "rejected" if rejected else "promoted"
        ledger.finish_retrain(
            flying.id, flying.token, status=status, reason="so it ended", at=at(slot * SLOT)
        )


def expected_hour(slots: int) -> list[int]:
    """The slots in which a retrain is admitted, by the plain model; each slot has a trigger."""
    model = Model(Policy.model_validate(HOUR_RULES), pending={"some": False})
    for slot in range(slots):
        model.now, model.mark = slot * SLOT, slot
        if (flying := model.open) is not None:
            begun = flying.admitted // SLOT
            flying.state = "lost" if flying.number % 4 == 0 and slot == begun + 1 else "running"
            if slot >= begun + LASTS:
                flying.state = "rejected" if flying.number % 3 == 0 else "promoted"
                flying.ended = model.now
        if model.verdict() == {"admit"}:
            number = len(model.retrains) + 1
            model.retrains.append(ModelRetrain(number, "", "", str(slot), model.now, set()))
    return [retrain.admitted // SLOT for retrain in model.retrains]


def _meet_at(barrier: Any) -> None:
    TOGETHER.append(barrier)


def test_an_hour_of_triggers_is_admitted_as_the_plain_model_says(
    ledger_url: str, tmp_path: Path, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    processes, triggers, slots = (8, 10_000, 360) if full else (4, 300, 60)
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(processes, timeout=120)
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_meet_at, initargs=(barrier,)) as pool:
        tasks = [
            pool.submit(hour, ledger_url, tmp_path, me, processes=processes, triggers=triggers, slots=slots)
            for me in range(processes)
        ]
        admitted = sorted(one for task in tasks for one in task.result())
    assert [slot for _, slot in admitted] == expected_hour(slots)
    ledger = Ledger(ledger_url)
    counts = ledger.counts(P)
    assert [retrain.seq for retrain in ledger.retrains(P)] == [seq for seq, _ in admitted]
    assert sum(counts.triggers.values()) == triggers
    assert counts.triggers["served"] == len(admitted)
    # Whatever was there when the last one was admitted is answered.
    last = admitted[-1][1]
    assert counts.triggers["pending"] <= triggers - last * triggers // slots
    assert {one.status for one in ledger.triggers(P)} <= {"served", "folded", "pending"}
    ledger.close()
    sample_size("processes", processes)
    sample_size("triggers", triggers)
    sample_size("admitted", len(admitted))


def test_zombies_that_race_with_their_successors_change_nothing(
    ledger_url: str, tmp_path: Path, size: tuple[int, int], sample_size: Callable[[str, int], None]
) -> None:
    processes, rounds = size
    reports = race(hostile, ledger_url, tmp_path, processes=processes, rounds=rounds, rules=UNLIMITED)
    finished = sorted(retrain for report in reports for retrain in report.finished)
    ledger = Ledger(ledger_url)
    retrains = {r.id: r for r in ledger.retrains(P)}
    assert sorted(retrain for report in reports for retrain in report.admitted) == list(retrains)
    # Finished by one attempt only, or by its third loss, or still in flight.
    assert len(finished) == len(set(finished))
    for retrain in retrains.values():
        if retrain.id in finished:
            assert retrain.status == "promoted"
        else:
            assert retrain.losses == 3 or retrain.status in ("running", "lost")
    promoted = [p.retrain_id for p in ledger.promotions(P)]
    assert len(promoted) == len(set(promoted))
    assert {r.id for r in retrains.values() if r.status == "promoted"} <= set(promoted)
    in_flight = ledger.in_flight(P)
    assert set(promoted) - {r.id for r in retrains.values() if r.status == "promoted"} <= (
        {in_flight.id} if in_flight else set()
    )
    ledger.close()
    sample_size("processes", processes)
    sample_size("rounds", processes * rounds)
    sample_size("zombies fenced off", sum(report.fenced for report in reports))
