"""Approval, rollback, adoption and freezing, as the ledger decides and records them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlops_pipelines.audit import faults
from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.ledger import (
    ABOUT_CHAMPION,
    FrozenError,
    PromotionConflictError,
    StaleTokenError,
    Wait,
    tables,
)
from mlops_pipelines.signing import Keys
from tests.candidates import DAY, P, asked, at, judged, new_ledger, promoted, rejected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import sqlalchemy as sa

    from mlops_pipelines.ledger import Ledger, Promotion


@pytest.fixture
def ledger(ledger_url: str, tmp_path: Path) -> Iterator[Ledger]:
    """Whatever a test does to it, its records verify."""
    ledger = new_ledger(tmp_path, ledger_url)
    yield ledger
    assert faults(ledger.records(P), ledger.promotions(P), Keys(tmp_path / "keys")) == []
    ledger.close()


def approve(
    ledger: Ledger, version: str, *, by: str = "ann", day: int = 5, model_hash: str | None = None
) -> Promotion | Wait:
    return ledger.approve(
        P, version, model_hash=model_hash or f"hash-{version}", by=by, reason="looked at", at=at(day)
    )


def roll_back(ledger: Ledger, to: str | None = None, *, expected: int = 2, day: int = 5) -> Promotion:
    return ledger.roll_back(P, expected_sequence=expected, to=to, by="ann", reason="worse", at=at(day))


def adopt(ledger: Ledger, version: str, *, expected: int = 1, day: int = 5) -> Promotion:
    return ledger.adopt(
        P, expected_sequence=expected, version=version, model_hash=f"hash-{version}", by="ann",
        reason="it is right", at=at(day),
    )  # fmt: skip


def kinds(ledger: Ledger) -> list[str]:
    return [one.content["kind"] for one in ledger.records(P)]


def last(ledger: Ledger) -> dict[str, Any]:
    return ledger.records(P)[-1].content


# --- approval


def test_a_candidate_that_waits_serves_once_a_person_approves(ledger: Ledger) -> None:
    promoted(ledger, "1")
    retrain = asked(ledger, "2")
    assert (retrain.status, retrain.outcome) == ("waiting", "waits for approval: a person has to approve it")
    assert [one.mlflow_version for one in ledger.waiting(P)] == ["2"]
    made = approve(ledger, "2")
    assert (made, made.by, made.previous) == (ledger.champion(P), "ann", "1")
    assert ledger.waiting(P) == []
    ended = ledger.retrain(retrain.id)
    assert (ended.status, ended.outcome) == ("promoted", "approved by ann: looked at")
    assert kinds(ledger) == ["promotion", "wait", "approval", "promotion"]
    told = last(ledger)
    assert (told["by"], told["why"], told["authority"], told["sequence"]) == (
        "ann",
        "looked at",
        "approval",
        2,
    )
    assert (told["dataset_version"], told["commit"]["sha"]) == ("data-2", "abc")
    assert [one["gate"] for one in told["verdicts"]] == ["skill"]


def test_no_retrain_is_held_up_by_one_that_waits(ledger: Ledger) -> None:
    asked(ledger, "1")
    assert judged(ledger, "2").status == "running"


def test_a_candidate_that_a_person_rejects_never_serves(ledger: Ledger) -> None:
    retrain = asked(ledger, "1")
    ledger.reject(P, "1", by="ann", reason="odd holdout", at=at(2))
    assert ledger.retrain(retrain.id).outcome == "rejected by ann: odd holdout"
    assert ledger.champion(P) is None
    with pytest.raises(UserError, match=r"it was rejected \(rejected by ann: odd holdout\)"):
        approve(ledger, "1")
    with pytest.raises(UserError, match="does not wait"):
        ledger.reject(P, "1", by="bob", reason="again", at=at(2))


def test_an_approval_that_comes_too_late_changes_nothing(ledger: Ledger) -> None:
    asked(ledger, "1")
    with pytest.raises(UserError, match=r"waited in vain .*nobody decided until 2013-03-09"):
        approve(ledger, "1", day=8)
    assert ledger.champion(P) is None
    assert kinds(ledger) == ["wait", "expiry"]
    assert ledger.expire_waits(P, at(9)) == []


def test_the_moment_before_it_expires_it_can_be_approved(ledger: Ledger) -> None:
    asked(ledger, "1")
    assert ledger.expire_waits(P, at(8) - DAY / 24) == []
    assert approve(ledger, "1", day=7) == ledger.champion(P)


def test_what_was_altered_since_it_was_judged_is_not_approved(ledger: Ledger) -> None:
    asked(ledger, "1")
    with pytest.raises(TerminalError, match="hashes to another"):
        approve(ledger, "1", model_hash="another")
    assert ledger.champion(P) is None


def test_four_eyes_are_two_people(ledger: Ledger) -> None:
    asked(ledger, "1", needed=2)
    first = approve(ledger, "1", by="ann")
    assert isinstance(first, Wait)
    assert [one.by for one in first.given] == ["ann"]
    with pytest.raises(UserError, match="ann has approved version 1 already"):
        approve(ledger, "1", by="ann")
    assert ledger.champion(P) is None
    made = approve(ledger, "1", by="bob")
    assert made == ledger.champion(P)
    assert made.by == "ann, bob"


USER, TOKEN = "ann (user 1000 of the operating system)", "ann (token by corp)"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (USER, TOKEN),
        (TOKEN, USER),
        (TOKEN, "ann (token by another)"),
        ("user 1000 of the operating system", TOKEN),
        (USER, "user 7 of the operating system (token by corp)"),
    ],
)
def test_four_eyes_are_not_one_person_who_comes_in_two_ways(ledger: Ledger, first: str, second: str) -> None:
    asked(ledger, "1", needed=2)
    approve(ledger, "1", by=first)
    with pytest.raises(UserError, match="may be one person"):
        approve(ledger, "1", by=second)
    assert ledger.champion(P) is None
    approve(ledger, "1", by=first.replace("ann", "bob").replace("1000", "1001"))
    assert ledger.champion(P)


def altered(ledger: Ledger, table: sa.Table, **values: object) -> None:
    """What somebody with the database's password does to all rows."""
    with ledger._engine.begin() as connection:
        connection.execute(table.update().values(**values))


@pytest.mark.parametrize(
    "change",
    [{"approvals": 1}, {"sequence": 7}, {"expires_at": at(99)}],
    ids=lambda change: next(iter(change)),
)
def test_a_wait_that_was_altered_lets_nothing_serve(ledger: Ledger, change: dict[str, Any]) -> None:
    asked(ledger, "1", needed=2)
    altered(ledger, tables.waits, **change)
    with pytest.raises(TerminalError, match="is not the one of record 1"):
        approve(ledger, "1")
    assert ledger.champion(P) is None
    ledger.reject(P, "1", by="bob", reason="altered", at=at(6))
    assert kinds(ledger) == ["wait", "rejection"]


def test_a_wait_ends_when_its_record_says_so(ledger: Ledger) -> None:
    asked(ledger, "1")
    altered(ledger, tables.waits, expires_at=at(99))
    assert ledger.expire_waits(P, at(8)) == ["1"]


def test_an_approval_that_nobody_gave_is_none(ledger: Ledger) -> None:
    retrain = asked(ledger, "1", needed=2)
    with ledger._engine.begin() as connection:
        forged = {"retrain_id": retrain.id, "by": "bob", "at": at(2), "reason": "fine"}
        connection.execute(tables.approvals.insert().values(**forged))
    with pytest.raises(TerminalError, match=r"approvals of version 1 .* not those of its records"):
        approve(ledger, "1")
    assert ledger.champion(P) is None


def test_what_was_rejected_does_not_wait_again(ledger: Ledger) -> None:
    asked(ledger, "1")
    ledger.reject(P, "1", by="bob", reason="no", at=at(2))
    altered(ledger, tables.retrains, status="waiting")
    with pytest.raises(TerminalError, match="does not wait any more, as record 2 says"):
        approve(ledger, "1")
    assert ledger.champion(P) is None


def test_a_candidate_that_failed_a_gate_cannot_even_wait(ledger: Ledger) -> None:
    with pytest.raises(TerminalError, match="failed skill"):
        asked(ledger, "1", outcome="fail")
    assert ledger.waiting(P) == []


def test_of_two_that_wait_the_one_that_is_not_approved_waits_no_longer(ledger: Ledger) -> None:
    first, second = asked(ledger, "1"), asked(ledger, "2")
    approve(ledger, "2")
    assert ledger.retrain(second.id).status == "promoted"
    ended = ledger.retrain(first.id)
    assert ended.status == "expired"
    assert "version 2 became champion number 1" in str(ended.outcome)
    with pytest.raises(UserError, match="waited in vain"):
        approve(ledger, "1")


def test_what_was_compared_with_an_earlier_champion_cannot_ask(ledger: Ledger) -> None:
    promoted(ledger, "1")
    retrain = judged(ledger, "2")
    with pytest.raises(PromotionConflictError):
        ledger.ask_for_approval(
            P, retrain_id=retrain.id, token=retrain.token, expected_sequence=0, model_hash="hash-2",
            mlflow_version="2", needed=1, reason="x", at=at(2), expires_at=at(9),
        )  # fmt: skip


def test_a_zombie_asks_for_nothing(ledger: Ledger) -> None:
    retrain = judged(ledger, "1")
    ask = {
        "retrain_id": retrain.id, "expected_sequence": 0, "model_hash": "hash-1", "mlflow_version": "1",
        "needed": 1, "reason": "x", "at": at(2), "expires_at": at(9),
    }  # fmt: skip
    with pytest.raises(StaleTokenError):
        ledger.ask_for_approval(P, token="old", **ask)  # noqa: S106 - of an attempt, no password
    for _ in range(2):
        ledger.ask_for_approval(P, token=retrain.token, **ask)
    assert kinds(ledger) == ["wait"]


@pytest.mark.parametrize("version", ["1", "9"])
def test_what_does_not_wait_cannot_be_approved(ledger: Ledger, version: str) -> None:
    promoted(ledger, "1")
    with pytest.raises(UserError, match="does not wait for approval"):
        approve(ledger, version)


# --- rollback


def test_a_rollback_makes_the_one_before_champion_again_from_now_on(ledger: Ledger) -> None:
    first, second = promoted(ledger, "1"), promoted(ledger, "2")
    made = roll_back(ledger)
    assert (made.sequence, made.mlflow_version, made.model_hash, made.previous) == (3, "1", "hash-1", "2")
    assert (made.kind, made.by, made.retrain_id) == ("rollback", "ann", first.retrain_id)
    assert ledger.champion(P, at(5) - DAY / 24) == second
    assert ledger.retrain(second.retrain_id).status == "rolled_back"
    assert ledger.retrain(first.retrain_id).status == "promoted"
    assert (last(ledger)["kind"], last(ledger)["mlflow_version"]) == ("rollback", "1")


def test_a_champion_is_rolled_back_while_its_run_still_goes_on(ledger: Ledger) -> None:
    promoted(ledger, "1")
    retrain = judged(ledger, "2")
    ledger.promote(
        P, retrain_id=retrain.id, token=retrain.token, expected_sequence=1, model_hash="hash-2",
        mlflow_version="2", at=at(2),
    )  # fmt: skip
    roll_back(ledger)
    ended = ledger.retrain(retrain.id)
    assert (ended.status, ended.finished_at) == ("rolled_back", at(5))
    with pytest.raises(StaleTokenError):
        ledger.finish_retrain(retrain.id, retrain.token, status="promoted", reason="it passed", at=at(5))


def test_the_latest_promotion_of_a_version_is_the_one_by_which_it_came_back(ledger: Ledger) -> None:
    promoted(ledger, "1")
    second = promoted(ledger, "2")
    back = roll_back(ledger)
    assert ledger.promotion_of(P, version="1") == ledger.promotion_of(P, model_hash="hash-1") == back
    assert ledger.promotion_of(P, version="2") == second
    assert ledger.promotion_of(P, version="3") is None


def test_what_has_failed_a_gate_does_not_come_back(ledger: Ledger) -> None:
    promoted(ledger, "1")
    promoted(ledger, "2")
    altered(ledger, tables.verdicts, outcome="fail")
    with pytest.raises(TerminalError, match="failed skill and cannot be promoted"):
        roll_back(ledger)
    assert len(ledger.promotions(P)) == 2


def test_one_rollback_after_another_goes_further_back(ledger: Ledger) -> None:
    for version in ("1", "2", "3"):
        promoted(ledger, version)
    assert roll_back(ledger, expected=3).mlflow_version == "2"
    assert ledger.back_to(P, expected_sequence=4, at=at(5)).mlflow_version == "1"
    assert roll_back(ledger, expected=4).mlflow_version == "1"
    with pytest.raises(UserError, match=r"first champion .* none to go back to"):
        roll_back(ledger, expected=5)


def test_a_rollback_is_repeated_by_nobody(ledger: Ledger) -> None:
    promoted(ledger, "1")
    promoted(ledger, "2")
    roll_back(ledger)
    with pytest.raises(PromotionConflictError):
        roll_back(ledger)


def test_a_version_that_was_never_champion_is_nothing_to_go_back_to(ledger: Ledger) -> None:
    promoted(ledger, "1")
    failed = judged(ledger, "2", outcome="fail")
    ledger.finish_retrain(failed.id, failed.token, status="rejected", reason="skill: fail", at=at(2))
    promoted(ledger, "3")
    for version, said in (("2", "never was champion"), ("9", "never was"), ("3", "is the champion")):
        with pytest.raises(UserError, match=said):
            roll_back(ledger, to=version)
    assert roll_back(ledger, to="1").mlflow_version == "1"


def test_without_a_champion_there_is_nothing_to_roll_back(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="no champion to roll back"):
        roll_back(ledger, expected=0)


def test_who_waits_was_not_compared_with_the_champion_that_came_back(ledger: Ledger) -> None:
    promoted(ledger, "1")
    promoted(ledger, "2")
    waits = asked(ledger, "3")
    roll_back(ledger)
    assert ledger.retrain(waits.id).status == "expired"


def test_a_rolled_back_candidate_counts_towards_the_breaker_and_waits_for_new_data(ledger: Ledger) -> None:
    promoted(ledger, "1")
    promoted(ledger, "2")
    assert ledger.state(P).failures == 0
    roll_back(ledger)
    state = ledger.state(P, data_mark="d2")
    assert (state.failures, state.last_failed) == (1, f"{P}-00002")
    assert state.tried_by == f"{P}-00002"


def test_breaker_and_cooldown_count_from_the_rollback_on(ledger: Ledger) -> None:
    promoted(ledger, "1")
    promoted(ledger, "2")
    roll_back(ledger, day=9)
    state = ledger.state(P)
    assert (state.last_failed_at, state.last_finished_at) == (at(9), at(9))


def test_breaker_and_cooldown_count_from_the_rollback_on_whatever_came_before_it(ledger: Ledger) -> None:
    promoted(ledger, "1")
    promoted(ledger, "2")
    rejected(ledger, "3")
    roll_back(ledger, day=9)
    state = ledger.state(P)
    assert (state.failures, state.last_failed, state.last_failed_at) == (2, f"{P}-00002", at(9))
    assert (state.last_retrain, state.last_finished_at) == (f"{P}-00002", at(9))


@pytest.mark.parametrize(
    ("status", "mark", "tried"),
    [
        ("rejected", "data:rules", True),
        ("rejected", "data:others", False),
        ("rejected", "data", True),  # of before the mark named the rules
        ("rejected", "other:rules", False),
        ("rolled_back", "data:others", True),
        ("rolled_back", "other:rules", False),
    ],
)
def test_what_was_tried_is_tried_by_other_rules_unless_it_was_rolled_back(
    ledger: Ledger, status: str, mark: str, tried: bool
) -> None:
    promoted(ledger, "1")
    (promoted if status == "rolled_back" else rejected)(ledger, "2", mark=mark)
    if status == "rolled_back":
        roll_back(ledger)
    assert (ledger.state(P, data_mark="data:rules").tried_by is not None) == tried


def test_what_was_asked_because_of_a_champion_ends_with_it(ledger: Ledger) -> None:
    promoted(ledger, "1")
    promoted(ledger, "2")
    kinds = [*ABOUT_CHAMPION, "labels", "manual"]
    for kind in kinds:
        ledger.append_trigger(P, kind, kind, {}, at(4))
        ledger.append_trigger("other", kind, kind, {}, at(4))
    roll_back(ledger)
    ended = {one.kind: one for one in ledger.triggers(P, "expired")}
    assert sorted(ended) == sorted(ABOUT_CHAMPION)
    assert {one.ended_at for one in ended.values()} == {at(5)}
    assert {one.reason for one in ended.values()} == {"version 1 became champion number 3"}
    assert [one.kind for one in ledger.triggers(P, "pending")] == ["labels", "manual"]
    assert len(ledger.triggers("other", "pending")) == len(kinds)


# --- adoption


def test_a_version_whose_gates_passed_can_be_adopted(ledger: Ledger) -> None:
    promoted(ledger, "1")
    asked(ledger, "2")
    ledger.reject(P, "2", by="bob", reason="no", at=at(3))
    made = adopt(ledger, "2")
    assert (made.kind, made.sequence, made.by) == ("adoption", 2, "ann")
    assert last(ledger)["kind"] == "adoption"
    assert ledger.retrain(made.retrain_id).status == "promoted"


def test_what_is_not_decided_yet_is_not_adopted(ledger: Ledger) -> None:
    promoted(ledger, "1")
    asked(ledger, "2")
    judged(ledger, "3")
    for version in ("2", "3"):
        with pytest.raises(UserError, match="not decided yet"):
            adopt(ledger, version)


def test_a_version_that_failed_a_gate_cannot_be_adopted(ledger: Ledger) -> None:
    promoted(ledger, "1")
    failed = judged(ledger, "2", outcome="fail")
    ledger.finish_retrain(failed.id, failed.token, status="rejected", reason="skill: fail", at=at(2))
    with pytest.raises(TerminalError, match="failed skill"):
        adopt(ledger, "2")
    with pytest.raises(UserError, match="No retrain of flights has made version 9"):
        adopt(ledger, "9")
    with pytest.raises(UserError, match="champion of flights already"):
        adopt(ledger, "1")


# --- freezing


def test_while_frozen_nothing_becomes_champion_but_by_a_rollback(ledger: Ledger) -> None:
    promoted(ledger, "1")
    promoted(ledger, "2")
    asked(ledger, "3")
    passed = judged(ledger, "4")
    assert ledger.freeze(P, True, by="ann", reason="holidays", at=at(4))
    assert not ledger.freeze(P, True, by="bob", reason="again", at=at(4))
    assert ledger.frozen(P) == last(ledger)["frozen"] == "ann: holidays"
    with pytest.raises(FrozenError, match="frozen by ann: holidays"):
        approve(ledger, "3")
    with pytest.raises(FrozenError):
        adopt(ledger, "1", expected=2)
    with pytest.raises(FrozenError):
        ledger.promote(
            P, retrain_id=passed.id, token=passed.token, expected_sequence=2, model_hash="hash-4",
            mlflow_version="4", at=at(4),
        )  # fmt: skip
    assert ledger.freeze(P, False, by="ann", reason="over", at=at(5))
    assert ledger.frozen(P) is None
    assert approve(ledger, "3", day=6).mlflow_version == "3"
    ledger.freeze(P, True, by="ann", reason="holidays", at=at(6))
    assert roll_back(ledger, expected=3, day=6).mlflow_version == "2"
    assert ledger.frozen(P) == "ann: holidays"
    assert kinds(ledger)[-5:] == ["unfreeze", "approval", "promotion", "freeze", "rollback"]
