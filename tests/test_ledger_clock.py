"""Whose the home's clock is, what moves it, and what an older ledger's clock becomes."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.ledger import MAX_LOSSES, Admitted, FileFact, Ledger
from mlops_pipelines.spec import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2013, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield made
    made.close()


def advance(ledger: Ledger, to: datetime, pipeline: str) -> None:
    ledger.begin_advance(to, pipeline)
    ledger.finish_advance()


def test_the_clock_is_that_of_the_first_pipeline_replayed(ledger: Ledger) -> None:
    assert ledger.clock_owner() is None
    advance(ledger, NOW, "a")
    assert ledger.clock_owner() == "a"
    with pytest.raises(TerminalError, match="a's replay, not of b's"):
        ledger.begin_advance(NOW + DAY, "b")
    assert ledger.target() is None


def test_only_its_owner_raises_the_clock(ledger: Ledger) -> None:
    advance(ledger, NOW, "a")
    assert not ledger.raise_watermark(NOW + DAY, "b")
    assert ledger.raise_watermark(NOW + DAY, "a")
    assert ledger.raise_watermark(NOW + 2 * DAY)
    assert ledger.watermark() == NOW + 2 * DAY


def test_a_mistyped_year_does_not_hold_the_clock_in_the_future(ledger: Ledger) -> None:
    advance(ledger, NOW, "a")
    assert not ledger.raise_watermark(NOW.replace(year=9013), "a")
    assert ledger.watermark() == NOW


def test_an_interruption_from_outside_is_no_loss_of_the_retrain(ledger: Ledger) -> None:
    ledger.append_trigger("a", "manual", "k", {}, NOW)
    for attempt in range(MAX_LOSSES + 2):
        got = ledger.admit("a", now=NOW, policy=Policy(), run_id=f"run-{attempt}", data_mark="d")
        assert isinstance(got, Admitted)
        lost = ledger.mark_lost(f"run-{attempt}", NOW, charged=False)
        assert lost is not None
        assert (lost.status, lost.losses) == ("lost", 0)


# The tables of version 1 that version 2 has otherwise.
VERSION_1 = """
DROP TABLE home_clock;
CREATE TABLE home_clock (
    id INTEGER NOT NULL CHECK (id = 1), watermark DATETIME, target DATETIME, PRIMARY KEY (id)
);
DROP TABLE reopened_days;
CREATE TABLE reopened_days (
    pipeline VARCHAR NOT NULL, stage VARCHAR NOT NULL, day VARCHAR NOT NULL, revision INTEGER NOT NULL,
    closed_revision INTEGER DEFAULT '0' NOT NULL, reopened_at DATETIME NOT NULL,
    PRIMARY KEY (pipeline, stage, day),
    CONSTRAINT stage_is_known CHECK (stage IN ('tiles', 'score', 'drift', 'monitor'))
);
CREATE INDEX days_still_open ON reopened_days (pipeline, stage, day) WHERE revision > closed_revision;
DROP INDEX landed_files_by_digest;
INSERT INTO home_clock VALUES (1, '2013-03-01 00:00:00.000000', NULL);
INSERT INTO reopened_days VALUES ('a', 'tiles', '2013-02-28', 3, 1, '2013-03-01 00:00:00.000000');
INSERT INTO reopened_days VALUES ('a', 'score', '2013-02-27', 2, 2, '2013-03-01 00:00:00.000000');
UPDATE ledger_schema SET version = 1;
"""


@pytest.mark.parametrize(("pipelines", "owner"), [(("a",), "a"), (("a", "b"), None), ((), None)])
def test_a_ledger_of_version_1_is_brought_up_to_date(
    tmp_path: Path, pipelines: tuple[str, ...], owner: str | None
) -> None:
    path = tmp_path / "ledger.db"
    older = Ledger(f"sqlite:///{path}")
    older.prepare()
    for pipeline in pipelines:
        older.register_files(pipeline, "events", [FileFact("f", 1, NOW, "2013-03-01")])
    older.close()
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1)

    ledger = Ledger(f"sqlite:///{path}")
    assert (ledger.watermark(), ledger.target(), ledger.clock_owner()) == (NOW, None, owner)
    assert ledger.reopened_days("a", "tiles") == {"2013-02-28": 3}
    assert ledger.reopened_days("a", "score") == {}
    ledger.reopen_days("a", ["2013-02-28"], "mature", NOW)
    assert ledger.has_landed_files() == bool(pipelines)
    ledger.close()
    assert schema(path) == schema_of_a_new_one(tmp_path / "new.db")


def schema(path: Path) -> list[tuple[str, ...]]:
    with sqlite3.connect(path) as connection:
        return connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()


def schema_of_a_new_one(path: Path) -> list[tuple[str, ...]]:
    ledger = Ledger(f"sqlite:///{path}")
    ledger.prepare()
    ledger.close()
    return schema(path)


def test_a_ledger_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    with pytest.raises(UserError, match="cannot be opened or written"):
        ledger.watermark()


def test_a_ledger_opened_for_reading_only_is_the_users_to_mend(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    schema_of_a_new_one(path)
    ledger = Ledger(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert ledger.watermark() is None
    with pytest.raises(UserError, match="readonly"):
        ledger.begin_advance(NOW)
    ledger.close()
