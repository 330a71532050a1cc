"""A ledger that an earlier version of the code made, and code one version apart from its schema."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger import Admitted, Ledger, Look
from mlops_pipelines.ledger.store import FIRST_VERSION, REVISIONS
from mlops_pipelines.ledger.tables import SCHEMA_VERSION
from mlops_pipelines.policy import Admit
from mlops_pipelines.spec import Policy
from tests.loop import mlops, small_home

if TYPE_CHECKING:
    from collections.abc import Iterator

P = "flight_delays"
# Ledgers as earlier versions of the code made them, the first three months of flights: `8.sql` and so on.
EARLIER = sorted((Path(__file__).parent / "ledgers").glob("*.sql"), key=lambda path: int(path.stem))
ADDED_SINCE_8 = (
    "INDEX triggers_that_press",
    "INDEX triggers_that_wait",
    "TABLE made_days",
    "TABLE deliveries",
    "TABLE incidents",
    "TABLE looks",
)
STAGES_OF_8 = "stage IN ('tiles', 'labels', 'score', 'features', 'drift', 'monitor', 'mature')"
NOW = datetime(2013, 4, 1, tzinfo=UTC)


def test_there_is_a_ledger_of_every_earlier_version() -> None:
    assert [int(path.stem) for path in EARLIER] == [*range(FIRST_VERSION, SCHEMA_VERSION)]


@pytest.fixture(params=EARLIER, ids=lambda path: f"of {path.stem}")
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(request.param.read_text())
    return path


@pytest.fixture
def ledger(made: Path) -> Iterator[Ledger]:
    found = Ledger(f"sqlite:///{made}")
    yield found
    found.close()


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: sorted(database.execute(f"SELECT * FROM {name}"), key=str)  # noqa: S608 - names of the schema
            for name in names
            if name not in ("ledger_schema", REVISIONS)
        }


def schema(path: Path) -> set[tuple[str, ...]]:
    """Tables and indexes, as SQL without its spaces."""
    query = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"
    with closing(sqlite3.connect(path)) as database:
        found = {
            (kind, name, "".join(sql.split()).replace('"', "")) for kind, name, sql in database.execute(query)
        }
    return {one for one in found if one[1] != REVISIONS}


def test_an_earlier_ledger_is_carried_over_whole(ledger: Ledger, made: Path, tmp_path: Path) -> None:
    before = rows(made)
    version = ledger.upgrade()[0]
    assert version < SCHEMA_VERSION
    added = [name for kind, _, name in (one.partition(" ") for one in ADDED_SINCE_8) if kind == "TABLE"]
    assert rows(made) == {name: [] for name in added} | before
    new = Ledger(f"sqlite:///{tmp_path / 'new.db'}")
    new.prepare()
    new.close()
    assert schema(made) == schema(tmp_path / "new.db")
    assert ledger.upgrade() == (SCHEMA_VERSION, SCHEMA_VERSION)


def ledger_version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        [(version,)] = database.execute("SELECT version FROM ledger_schema")
    return int(version)


def test_this_code_works_on_the_schema_before_its_own(ledger: Ledger, made: Path) -> None:
    if ledger_version(made) == SCHEMA_VERSION - 1:
        works(ledger)
    else:
        with pytest.raises(TerminalError, match="Try: mlops ledger upgrade"):
            works(ledger)


def works(ledger: Ledger) -> None:
    champion = ledger.champion(P)
    assert champion
    assert champion.mlflow_version == "3"
    assert len(ledger.records(P)) == 3
    assert ledger.append_trigger(P, "manual", "now", {}, NOW)
    assert ledger.pending(P)
    answer = ledger.admit(
        P, now=NOW, policy=Policy(), run_id="run", data_mark="mark", decide=lambda *_: Admit(4, "admitted")
    )
    assert isinstance(answer, Admitted)
    assert answer.retrain.trigger_kinds == ("manual",)
    ledger.record_made_days(P, "drift", {"2013-04-01": 2}, {"2013-04-01": "hash"})
    assert set(ledger.days_made(P, "drift", ["2013-04-01"])) <= {"2013-04-01"}
    ledger.reopen_days(P, ["2013-04-01"], "feedback", NOW)
    waiting = ledger.reopened_days(P, "feedback")
    assert set(waiting) <= {"2013-04-01"}
    ledger.close_days(P, waiting, "feedback")
    assert ledger.reopened_days(P, "feedback") == {}
    look = Look(NOW, NOW, "seen")
    ledger.looked(P, look)
    assert ledger.last_look(P) in {None, look}
    assert ledger.settle_incidents(P, lambda *_: [], since=NOW, told_to=lambda _: {}, look=look) == []
    assert ledger.incidents(P, since=NOW) == ledger.claim_deliveries(P, NOW, timedelta(0), 1) == []
    assert ledger.undelivered(P) == {}


@pytest.mark.parametrize(("version", "opens"), [(SCHEMA_VERSION + 1, True), (SCHEMA_VERSION + 2, False)])
def test_a_ledger_one_version_newer_works_and_one_two_newer_is_refused(
    ledger: Ledger, made: Path, version: int, opens: bool
) -> None:
    ledger.upgrade()
    ledger.close()
    with closing(sqlite3.connect(made)) as database:
        database.execute("UPDATE ledger_schema SET version = ?", (version,))
        database.commit()
    if opens:
        works(ledger)
        assert ledger.upgrade() == (version, version), "it is not taken back"
    else:
        for ask in (lambda: ledger.champion(P), ledger.upgrade):
            with pytest.raises(
                TerminalError, match=f"schema version {version}.*\n.*\nTry: upgrade mlops-pipelines"
            ):
                ask()


def test_an_upgrade_that_breaks_off_leaves_everything_as_it_was(ledger: Ledger, made: Path) -> None:
    # In the way of the first step that is to come.
    with closing(sqlite3.connect(made)) as database:
        if ledger_version(made) < 10:
            database.execute("CREATE TABLE made_days (pipeline VARCHAR)")
        else:
            database.execute("DROP INDEX days_still_open")
    before = schema(made), rows(made)
    with pytest.raises(OperationalError, match=r"already exists|no such index"):
        ledger.upgrade()
    assert (schema(made), rows(made)) == before
    assert ledger_version(made) < SCHEMA_VERSION


def test_a_ledger_on_a_server_is_upgraded_too(postgres: sa.URL) -> None:
    from tests.postgres_server import new_database

    url = new_database(postgres)
    ledger = Ledger(url, home_id=None)
    ledger.prepare()
    with ledger._writing() as connection:
        for added in ADDED_SINCE_8:
            connection.execute(sa.text(f"DROP {added}"))
        connection.execute(
            sa.text(
                "ALTER TABLE reopened_days DROP CONSTRAINT stage_is_known, "
                f"ADD CONSTRAINT stage_is_known CHECK ({STAGES_OF_8})"
            )
        )
        connection.execute(sa.text("UPDATE ledger_schema SET version = 8"))
    assert ledger.upgrade() == (8, SCHEMA_VERSION)
    with ledger._reading() as connection:
        there = sa.inspect(connection)
        names = {index["name"] for index in there.get_indexes("triggers")}
        assert there.has_table("made_days")
    assert names.issuperset({"triggers_that_press", "triggers_that_wait"})
    assert ledger.upgrade() == (SCHEMA_VERSION, SCHEMA_VERSION)
    ledger.close()
    opened = Ledger(url, home_id=None)
    for made_by in ("one", "another"):
        opened.record_made_days(P, "drift", {"2013-03-01": 1}, {"2013-03-01": made_by})
    [made] = opened.days_made(P, "drift", ["2013-03-01"]).values()
    assert (made.revision, made.made_by) == (1, "another")
    opened.reopen_days(P, ["2013-03-01"], "feedback", NOW)
    assert opened.reopened_days(P, "feedback") == {"2013-03-01": 1}
    opened.close()


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    place = small_home(tmp_path)
    assert f"has schema version {SCHEMA_VERSION}: nothing to do" in mlops(place, "ledger", "upgrade").output
    place.ledger.close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database:
        for added in ADDED_SINCE_8:
            database.execute(f"DROP {added}")
        database.execute("UPDATE ledger_schema SET version = 8")
        database.commit()
    assert f"from version 8 to {SCHEMA_VERSION}" in mlops(place, "ledger", "upgrade").output
