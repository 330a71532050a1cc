"""Whatever is altered in the record of promotions, its place is named."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.audit import Head, faults, record
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger import FrozenError, Ledger
from mlops_pipelines.signing import Keys
from tests.candidates import ABOUT, P, asked, at, judged, new_ledger, promoted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlops_pipelines.ledger import Retrain


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """With six records: three promotions, a rejection, a wait and a rollback."""
    ledger = new_ledger(tmp_path)
    for version in ("1", "2"):
        promoted(ledger, version)
    failed = judged(ledger, "3", outcome="fail")
    ledger.finish_retrain(failed.id, failed.token, status="rejected", reason="skill: fail", at=at(3))
    promoted(ledger, "4")
    asked(ledger, "5")
    ledger.reject(P, "5", by="ann", reason="no", at=at(6))
    yield ledger
    ledger.close()


def altered(ledger: Ledger, *statements: str) -> None:
    """What somebody with the database's password does."""
    path = ledger._engine.url.database
    assert path is not None
    ledger.close()
    connection = sqlite3.connect(path)
    for statement in statements:
        assert connection.execute(statement).rowcount
    connection.commit()
    connection.close()


def found(ledger: Ledger, tmp_path: Path, heads: list[Head] | None = None) -> list[str]:
    told = faults(ledger.records(P), ledger.promotions(P), Keys(tmp_path / "keys"), heads or [])
    return [fault.what for fault in told]


def test_what_was_decided_is_all_there(ledger: Ledger, tmp_path: Path) -> None:
    kinds = [one.content["kind"] for one in ledger.records(P)]
    assert kinds == ["promotion", "promotion", "rejection", "promotion", "wait", "rejection"]
    heads = [Head("MLflow", one.number, one.hash) for one in ledger.records(P)]
    assert found(ledger, tmp_path, heads) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("body = replace(body, 'skill: fail', 'skill: pass')", "record 3 is not what its hash says"),
        ("hash = replace(hash, substr(hash, 1, 1), 'x')", "record 3 is not what its hash says"),
        ("signature = 'A' || substr(signature, 2)", "record 3 does not bear its signature"),
        ("key = '0123456789abcdef'", "record 3 does not bear its signature"),
    ],
)
def test_one_altered_byte_is_found(ledger: Ledger, tmp_path: Path, change: str, said: str) -> None:
    altered(ledger, f"UPDATE records SET {change} WHERE number = 3")  # noqa: S608 - from the list above
    assert found(ledger, tmp_path)[0].startswith(said)


SIGNED = ("body", "hash", "key", "signature")


def test_whatever_byte_is_altered_is_found(ledger: Ledger, tmp_path: Path) -> None:
    keys, rows, list_ = Keys(tmp_path / "keys"), ledger.records(P), ledger.promotions(P)

    @given(st.integers(0, len(rows) - 1), st.sampled_from(SIGNED), st.integers(0), st.integers(1, 255))
    def check(position: int, column: str, byte: int, by: int) -> None:
        one = rows[position]
        text = bytearray(getattr(one, column).encode())
        text[byte % len(text)] ^= by
        other = replace(one, **{column: text.decode(errors="surrogateescape")})
        told = faults([*rows[:position], other, *rows[position + 1 :]], list_, keys)
        assert one.number in {fault.number for fault in told}
        assert any(fault.what.startswith(f"record {one.number} ") for fault in told)

    check()


def test_a_removed_record_is_found(ledger: Ledger, tmp_path: Path) -> None:
    altered(ledger, "DELETE FROM records WHERE number = 3")
    assert found(ledger, tmp_path)[0] == "record 3 is missing"


def test_a_removed_record_is_found_when_those_after_it_move_up(ledger: Ledger, tmp_path: Path) -> None:
    altered(
        ledger,
        "DELETE FROM records WHERE number = 3",
        *(f"UPDATE records SET number = number - 1 WHERE number = {n}" for n in (4, 5, 6)),  # noqa: S608
    )
    assert found(ledger, tmp_path)[0] == "record 3 was written as record 4 of flights"


def test_a_cut_tail_is_found_by_what_is_remembered_of_it(ledger: Ledger, tmp_path: Path) -> None:
    heads = [Head("MLflow (version 5)", one.number, one.hash) for one in ledger.records(P)]
    altered(ledger, "DELETE FROM records WHERE number > 4")
    assert found(ledger, tmp_path, heads)[0] == "record 5 is missing: MLflow (version 5) remembers it"


def test_a_cut_tail_with_a_promotion_is_found_by_the_champions(ledger: Ledger, tmp_path: Path) -> None:
    altered(ledger, "DELETE FROM records WHERE number > 3")
    assert found(ledger, tmp_path) == ["champion number 3 has no record"]


def test_two_swapped_records_are_found(ledger: Ledger, tmp_path: Path) -> None:
    altered(
        ledger,
        "UPDATE records SET number = 99 WHERE number = 2",
        "UPDATE records SET number = 2 WHERE number = 3",
        "UPDATE records SET number = 3 WHERE number = 99",
    )
    assert found(ledger, tmp_path)[0] == "record 2 was written as record 3 of flights"


def rewritten(ledger: Ledger, keys: Keys) -> None:
    """The whole chain anew, consistently, with another reason for its second promotion."""
    previous = "0" * 64
    statements = ["UPDATE promotions SET reason = 'another reason' WHERE sequence = 2"]
    for one in ledger.records(P):
        facts: dict[str, Any] = dict(one.content)
        if one.number == 2:
            facts["why"] = "another reason"
        made = record(P, one.number, previous, facts["kind"], facts, keys)
        previous = made.hash
        statements.append(
            f"UPDATE records SET body = '{made.body}', hash = '{made.hash}', key = '{made.key}', "  # noqa: S608
            f"signature = '{made.signature}' WHERE number = {one.number}"
        )
    altered(ledger, *statements)


def test_a_chain_rewritten_without_the_key_is_found(ledger: Ledger, tmp_path: Path) -> None:
    rewritten(ledger, Keys(tmp_path / "other"))
    [said] = found(ledger, tmp_path)
    assert said.startswith("record 1 does not bear its signature")


def test_a_chain_rewritten_with_the_key_is_found_by_what_is_remembered_of_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    heads = [Head("Dagster", one.number, one.hash) for one in ledger.records(P)]
    rewritten(ledger, Keys(tmp_path / "keys"))
    assert found(ledger, tmp_path) == []
    assert found(ledger, tmp_path, heads)[0] == "record 2 is not the one that Dagster remembers"


def test_a_champion_that_nothing_recorded_is_found(ledger: Ledger, tmp_path: Path) -> None:
    altered(ledger, "UPDATE promotions SET mlflow_version = '3', model_hash = 'hash-3' WHERE sequence = 3")
    assert found(ledger, tmp_path) == ["champion number 3 is not the one of record 4"]
    altered(ledger, "DELETE FROM promotions WHERE sequence = 3")
    assert found(ledger, tmp_path) == ["champion number 3 of record 4 is not in the ledger"]


@pytest.mark.parametrize(
    "change", ["UPDATE verdicts SET outcome = 'pass'", "DELETE FROM verdicts"], ids=["altered", "removed"]
)
def test_a_rejected_version_is_not_adopted_once_its_verdicts_were_altered(
    ledger: Ledger, tmp_path: Path, change: str
) -> None:
    altered(ledger, f"{change} WHERE model_hash = 'hash-3'")
    adopt = {"expected_sequence": 3, "version": "3", "model_hash": "hash-3", "by": "ann", "reason": "fine"}
    with pytest.raises(TerminalError, match="failed skill, as record 3 says"):
        ledger.adopt(P, at=at(6), **adopt)
    altered(ledger, "UPDATE records SET body = replace(body, '\"fail\"', '\"pass\"') WHERE number = 3")
    with pytest.raises(TerminalError, match="Record 3 of flights does not bear its signature"):
        ledger.adopt(P, at=at(6), **adopt)
    assert len(ledger.promotions(P)) == 3
    assert found(ledger, tmp_path) == ["record 3 is not what its hash says"]


HIDDEN = {
    "unreadable": "UPDATE records SET body = 'x' WHERE number = 3",
    "another retrain's": "UPDATE records SET body = replace(body, '-00003', '-00009') WHERE number = 3",
    "removed": "DELETE FROM records WHERE number = 3",
}


@pytest.mark.parametrize("change", HIDDEN.values(), ids=HIDDEN)
def test_a_rejected_version_does_not_serve_once_its_record_cannot_be_found(
    ledger: Ledger, change: str
) -> None:
    listed = "mlflow_version = '3', model_hash = 'hash-3', retrain_id = 'flights-00003'"
    altered(
        ledger,
        "UPDATE verdicts SET outcome = 'pass' WHERE model_hash = 'hash-3'",
        f"UPDATE promotions SET {listed} WHERE sequence = 1",  # noqa: S608 - from the line above
        change,
    )
    who = {"by": "ann", "reason": "fine", "at": at(6)}
    with pytest.raises(TerminalError, match=r"Of flights record 3 .*: it may have said"):
        ledger.adopt(P, expected_sequence=3, version="3", model_hash="hash-3", **who)
    with pytest.raises(TerminalError, match=r"Of flights record 3 .*: it may have said"):
        ledger.roll_back(P, expected_sequence=3, to="3", **who)
    # Whatever has a record of its own that can be read comes back nevertheless.
    assert ledger.roll_back(P, expected_sequence=3, to="2", **who).mlflow_version == "2"


UNFROZEN = {
    "altered": 'UPDATE records SET body = replace(body, \'"frozen":"ann: season"\', \'"frozen":null\')'
    " WHERE number = 7",
    "unreadable": "UPDATE records SET body = 'x' WHERE number = 7",
    "an older one again": "INSERT INTO records (pipeline, number, body, hash, key, signature) "
    "SELECT pipeline, 8, body, hash, key, signature FROM records WHERE number = 6",
}


@pytest.mark.parametrize("change", UNFROZEN.values(), ids=UNFROZEN)
def test_nobody_without_the_key_ends_a_freeze(ledger: Ledger, tmp_path: Path, change: str) -> None:
    assert ledger.frozen(P) is None
    ledger.freeze(P, True, by="ann", reason="season", at=at(6))
    assert ledger.frozen(P) == "ann: season"
    waits = judged(ledger, "7")
    altered(ledger, change)
    assert "was altered" in str(ledger.frozen(P))
    with pytest.raises(FrozenError):
        promote(ledger, waits)
    assert found(ledger, tmp_path) != []
    # A rollback is not held up, and unfreezes nothing.
    ledger.roll_back(P, expected_sequence=3, by="ann", reason="worse", at=at(7))
    assert "was altered" in str(ledger.frozen(P))
    assert ledger.freeze(P, False, by="ann", reason="looked at", at=at(7))
    assert ledger.frozen(P) is None


def promote(ledger: Ledger, retrain: Retrain) -> None:
    ledger.promote(
        P, retrain_id=retrain.id, token=retrain.token, expected_sequence=3, model_hash="hash-7",
        mlflow_version="7", at=at(7),
    )  # fmt: skip


def test_a_champion_whose_verdicts_are_not_those_of_before_is_found(tmp_path: Path, ledger: Ledger) -> None:
    first, second = ledger.records(P)[2], ledger.records(P)[3]
    facts = {**second.content, **{name: first.content[name] for name in ("retrain_id", "model_hash")}}
    made = record(P, 4, second.content["previous"], "promotion", facts, Keys(tmp_path / "keys"))
    told = faults([*ledger.records(P)[:3], made], [], Keys(tmp_path / "keys"))
    assert "record 4 has other verdicts on model hash-3 than record 3" in [fault.what for fault in told]


@pytest.mark.parametrize(
    "change",
    [
        "mlflow_version = '3'", "model_hash = 'hash-3'", "retrain_id = 'flights-00003'", "previous = '1'",
        "kind = 'adoption'", "reason = 'another'", "by = 'ann'", "at = '2013-03-02 00:00:00.000000'",
    ],
    ids=lambda change: change.partition(" ")[0],
)  # fmt: skip
def test_a_champion_of_which_a_column_was_altered_is_found(
    ledger: Ledger, tmp_path: Path, change: str
) -> None:
    altered(ledger, f"UPDATE promotions SET {change} WHERE sequence = 3")  # noqa: S608 - from the list above
    assert found(ledger, tmp_path) == ["champion number 3 is not the one of record 4"]


def test_what_is_no_json_is_found(ledger: Ledger, tmp_path: Path) -> None:
    altered(ledger, "UPDATE records SET body = 'x' WHERE number = 2")
    assert found(ledger, tmp_path)[0] == "record 2 is not what its hash says"


def test_a_record_is_readable_json_of_what_was_decided(ledger: Ledger) -> None:
    told = json.loads(ledger.records(P)[2].body)
    assert told["verdicts"] == [
        {"gate": "skill", "outcome": "fail", "figure": 0.1, "bound": 0.02, "interval": None,
         "sentence": "skill: fail"}
    ]  # fmt: skip
    assert (told["by"], told["why"], told["at"]) == ("its gates", "skill: fail", at(3).isoformat())
    assert (told["dataset_version"], told["model_hash"]) == ("data-3", "hash-3")


def test_an_interval_that_was_altered_is_found_once_that_version_serves(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    asked(ledger, "1", interval=(0.05, 0.15))
    [verdict] = ledger.records(P)[0].content["verdicts"]
    assert verdict["interval"] == [0.05, 0.15]
    altered(ledger, "UPDATE verdicts SET interval_low = 0.09")
    ledger.approve(P, "1", model_hash="hash-1", by="ann", reason="fine", at=at(2))
    assert found(ledger, tmp_path) == ["record 3 has other verdicts on model hash-1 than record 1"]
    ledger.close()


def test_each_record_on_a_candidate_says_on_what_it_was_judged(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    promoted(ledger, "1")
    asked(ledger, "2")
    ledger.reject(P, "2", by="ann", reason="no", at=at(3))
    ledger.adopt(P, expected_sequence=1, version="2", model_hash="hash-2", by="ann", reason="fine", at=at(3))
    ledger.roll_back(P, expected_sequence=2, by="ann", reason="worse", at=at(3))
    asked(ledger, "3")
    ledger.expire_waits(P, at(10))
    asked(ledger, "4", needed=2)
    for by in ("ann", "bob"):
        ledger.approve(P, "4", model_hash="hash-4", by=by, reason="fine", at=at(5))
    ledger.freeze(P, True, by="ann", reason="season", at=at(5))
    *on_candidates, freeze = [one.content for one in ledger.records(P)]
    assert [one["kind"] for one in on_candidates] == [
        "promotion", "wait", "rejection", "adoption", "rollback", "wait", "expiry", "wait", "approval",
        "approval", "promotion",
    ]  # fmt: skip
    for one in on_candidates:
        assert {name: one[name] for name in ABOUT} == ABOUT
        assert one["dataset_version"] == f"data-{one['mlflow_version']}"
        assert [verdict["gate"] for verdict in one["verdicts"]] == ["skill"]
        assert one["by"]
        assert one["why"]
    assert not freeze.keys() & ABOUT.keys()
    assert found(ledger, tmp_path) == []
    ledger.close()


def test_what_waits_is_rejected_also_where_its_record_was_altered(ledger: Ledger) -> None:
    asked(ledger, "6")
    altered(ledger, "UPDATE records SET body = replace(body, 'abc', 'abd') WHERE number = 7")
    ledger.reject(P, "6", by="ann", reason="altered", at=at(7))
    assert not ledger.records(P)[-1].content.keys() & ABOUT.keys()


def test_a_ledger_without_a_key_records_nothing(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    failed = judged(ledger, "1", outcome="fail")
    with pytest.raises(TerminalError, match="without a key"):
        ledger.finish_retrain(failed.id, failed.token, status="rejected", reason="no", at=at(1))
    assert ledger.retrain(failed.id).status == "running"
    ledger.close()
