"""Whatever byte of a record is altered, `mlops promotions --verify` names it, and nothing else breaks."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from mlops_pipelines import dagster_events, promoting
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ledger import FrozenError
from tests import candidates
from tests.candidates import P, hash_in, home_of_models, judged, promoted
from tests.loop import copy_of, mlops, move
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

    from mlops_pipelines.ledger import Retrain

LAST = 3
ROWS = "SELECT hex(pipeline), hex(number), hex(body), hex(hash), hex(key), hex(signature) FROM records"
# What somebody sets of a record, as SQL. Bytes that are no text can be put into a file, not onto a server.
WHY = '"why":"'
ALTERED = {
    "body, printable": "body = replace(body, 'its gates', 'my gates')",
    "body, a control character": "body = replace(body, 'kind', 'k' || char(1) || 'nd')",
    "body, NUL": "body = replace(body, 'kind', 'k' || char(0) || 'nd')",
    "body, an escape of the terminal": "body = replace(body, 'kind', char(27) || 'ind')",
    "body, no UTF-8": "body = CAST(replace(body, 'kind', CAST(x'6b80' AS TEXT) || 'nd') AS TEXT)",
    "body, no UTF-8 where people read": f"body = replace(body, '{WHY}', '{WHY}' || CAST(x'ff' AS TEXT))",
    "body, no UTF-8 at all": "body = x'80ff00'",
    "body, another UTF-8": "body = replace(body, 'kind', 'kínd')",
    "body, no JSON": "body = replace(body, '{', '[')",
    "body, no object": "body = '1'",
    "body, empty": "body = ''",
    "body, nested too deeply": "body = replace(hex(zeroblob(20000)), '0', '[')",
    "body, a number that is none": "body = replace(body, '\"number\":', '\"number\":x')",
    "body, a list for a number": "body = replace(body, '\"sequence\":', '\"sequence\":[1],\"x\":')",
    "body, a list for a hash": "body = replace(body, '\"model_hash\":', '\"model_hash\":[1],\"x\":')",
    **{
        f"body, {name} renamed": f"body = replace(body, '\"{name}\":', '\"x{name[1:]}\":')"
        for name in ("at", "by", "why", "kind", "number", "previous", "pipeline", "mlflow_version",
                     "verdicts", "retrain_id", "model_hash", "authority", "sequence", "commit", "metrics")
    },
    "body, the version": "body = replace(body, '\"mlflow_version\":\"', '\"mlflow_version\":\"/')",
    "body, the commit": "body = replace(body, '\"commit\":{', '\"commit\":7,\"x\":{')",
    "body, the time": "body = replace(body, '\"at\":\"', '\"at\":7,\"x\":\"')",
    "hash, printable": "hash = 'x' || substr(hash, 2)",
    "hash, a control character": "hash = char(27) || substr(hash, 2)",
    "hash, no ASCII": "hash = 'ä' || substr(hash, 2)",
    "hash, no UTF-8": "hash = CAST(x'80' AS TEXT) || substr(hash, 2)",
    "hash, empty": "hash = ''",
    "key, printable": "key = 'x' || substr(key, 2)",
    "key, a control character": "key = char(27) || substr(key, 2)",
    "key, no ASCII": "key = 'ä' || substr(key, 2)",
    "key, no UTF-8": "key = CAST(x'80' AS TEXT) || substr(key, 2)",
    "key, empty": "key = ''",
    "signature, printable": "signature = 'AAAA' || substr(signature, 5)",
    "signature, no base64": "signature = '-' || substr(signature, 2)",
    "signature, bits that mean nothing": "signature = substr(signature, 1, 85) || "
    "replace(replace(replace(replace(substr(signature, 86), 'A', 'B'), 'Q', 'R'), 'g', 'h'), 'w', 'x')",
    "signature, a control character": "signature = char(10) || substr(signature, 2)",
    "signature, no ASCII": "signature = 'ä' || substr(signature, 2)",
    "signature, no UTF-8": "signature = CAST(x'80' AS TEXT) || substr(signature, 2)",
    "signature, empty": "signature = ''",
    "number, another": "number = 99",
    "number, below one": "number = -number",
    "number, a text": "number = number || 'x'",
    "number, no whole one": "number = number + 0.5",
    "number, bytes": "number = x'80'",
    "pipeline": "pipeline = 'flightz'",
}  # fmt: skip


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three champions, each of which is remembered by MLflow and Dagster."""
    place = home_of_models(tmp_path_factory.mktemp("lived") / "home", LAST + 1)
    for version in map(str, range(1, LAST + 1)):
        move(place, candidates.at(int(version)))
        promoted(place.ledger, version, model_hash=hash_in(place, version))
        promoting.heal(place.home, P)
    dagster_events.tell(place)
    place.ledger.close()
    return place.home.path


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    return copy_of(lived, tmp_path / "home", loaded(P))


@pytest.fixture
def same_place(lived: Path) -> Iterator[PipelineHome]:
    """The home itself, whose records are put back."""
    place = PipelineHome(Home.open(lived), loaded(P))
    with closing(opened(place)) as connection, connection:
        rows = connection.execute("SELECT * FROM records").fetchall()
    yield place
    with closing(opened(place)) as connection, connection:
        connection.execute("DELETE FROM records")
        connection.executemany(f"INSERT INTO records VALUES ({', '.join('?' * len(rows[0]))})", rows)  # noqa: S608


def opened(place: PipelineHome) -> sqlite3.Connection:
    return sqlite3.connect(place.home.path / "ledger.db")


def alter(place: PipelineHome, change: str, number: int) -> None:
    with closing(opened(place)) as connection, connection:
        before = connection.execute(ROWS).fetchall()
        connection.execute(f"UPDATE records SET {change} WHERE number = {number}")  # noqa: S608 - from above
        assert connection.execute(ROWS).fetchall() != before


def verify(place: PipelineHome, *arguments: str) -> Result:
    return mlops(place, "promotions", P, "--verify", *arguments)


def check_named(done: Result, number: int) -> None:
    """It ended with exit code 1, and said which record was altered."""
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("Expected: ", "Try: "))]
    assert all(line.startswith("Altered: ") for line in lines), done.stderr
    assert any(line.startswith(f"Altered: record {number} ") for line in lines), done.stderr
    # Nothing that a terminal would act on.
    assert all(line.isprintable() for line in [*done.stdout.splitlines(), *lines])


@pytest.mark.parametrize(
    ("change", "number"),
    # One in between, or the newest.
    [(change, 2 + n % 2) for n, change in enumerate(ALTERED.values())],
    ids=ALTERED,
)
def test_whatever_is_altered_of_a_record_is_named(same_place: PipelineHome, change: str, number: int) -> None:
    place = same_place
    alter(place, change, number)
    done = verify(place)
    check_named(done, number)
    assert "Verified" not in done.stdout
    as_json = verify(place, "--json")
    check_named(as_json, number)
    told = json.loads(as_json.stdout)
    assert not told["verified"]
    assert any(fault["number"] == number for fault in told["faults"])
    as_csv = mlops(place, "promotions", P, "--export", "csv")
    assert as_csv.exit_code == 0, as_csv.exception
    rows = [*csv.DictReader(io.StringIO(as_csv.stdout))]
    there = LAST - ("pipeline" in change.partition("=")[0])
    shown = [line for line in done.stdout.splitlines() if line[:4].strip().isdecimal()]
    assert len(shown) == len(told["records"]) == len(rows) == there


def test_a_record_that_was_altered_is_shown_as_such(place: PipelineHome) -> None:
    alter(place, "body = replace(body, '\"at\":', '\"to\":')", 2)
    done = verify(place)
    check_named(done, 2)
    assert '   2  altered  {"to":"2013-03-03T00:00:00+00:00","authority":"gates",' in done.stdout
    exported = verify(place, "--export", "json")
    check_named(exported, 2)
    altered: dict[str, Any] = json.loads(exported.stdout)["records"][1]
    assert sorted(altered) == ["altered", "body", "hash", "key", "number", "signature"]
    assert (altered["number"], altered["altered"]) == (2, True)
    assert json.loads(altered["body"])["to"] == candidates.at(2).isoformat()
    as_csv = verify(place, "--export", "csv")
    check_named(as_csv, 2)
    row = [*csv.DictReader(io.StringIO(as_csv.stdout))][1]
    assert (row["number"], row["kind"], row["why"]) == ("2", "altered", altered["body"])


@pytest.mark.parametrize(
    "what",
    [
        "body, no UTF-8", "body, no JSON", "body, at renamed", "body, retrain_id renamed", "hash, no UTF-8",
        "signature, no ASCII", "number, another", "number, a text",
    ],
)  # fmt: skip
def test_after_an_altered_record_people_decide_on_and_what_they_decide_is_remembered(
    place: PipelineHome, what: str
) -> None:
    with closing(opened(place)) as connection, connection:
        [kept] = connection.execute("SELECT * FROM records WHERE number = ?", (LAST,))
    alter(place, ALTERED[what], LAST)
    # Whether it said that the champion is frozen nobody knows any more.
    unclear = what not in ("number, a text", "hash, no UTF-8")
    assert (place.ledger.frozen(P) is not None) == unclear
    waits = judged(place.ledger, "4", model_hash=hash_in(place, "4"))
    for command in (("rollback", P), ("registry", "heal", P)):
        decided(place, *command)
    if unclear:
        with pytest.raises(FrozenError, match=r"record \d+ was altered"):
            promote(place, waits)
        decided(place, "unfreeze", P)
    promote(place, waits)
    decided(place, "freeze", P)
    check_named(verify(place), LAST)
    kinds = ["rollback", *["unfreeze"] * unclear, "promotion", "freeze"]
    made = [one for one in place.ledger.records(P) if one.number][-len(kinds) :]
    assert [one.content["kind"] for one in made] == kinds
    for heads in (promoting.heads_in_mlflow(place.home, P), dagster_events.heads(place.home, P)):
        assert {(one.number, one.hash) for one in made} <= {(head.number, head.hash) for head in heads}
    if not what.startswith("number"):
        with closing(opened(place)) as connection, connection:
            connection.execute("DELETE FROM records WHERE number = ?", (LAST,))
            connection.execute(f"INSERT INTO records VALUES ({', '.join('?' * len(kept))})", kept)  # noqa: S608
        assert mlops(place, "promotions", P, "--verify").exit_code == 0


def decided(place: PipelineHome, *command: str) -> None:
    told = () if "heal" in command else ("--reason", "looked at it")
    done = mlops(place, *command, *told)
    assert done.exit_code == 0, done.output


def promote(place: PipelineHome, retrain: Retrain) -> None:
    place.ledger.promote(
        P,
        retrain_id=retrain.id,
        token=retrain.token,
        expected_sequence=LAST + 1,
        model_hash=str(retrain.model_hash),
        mlflow_version=str(retrain.mlflow_version),
        at=retrain.watermark,
    )
