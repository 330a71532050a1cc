"""A tick that finds nothing new costs the same, however long the history is."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import taking
from mlops_pipelines.ledger.landing import FinishedFile
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TODAY = datetime(2013, 12, 31, tzinfo=UTC)
RECENT_DAYS = taking.OVERLAP // timedelta(days=1) + 1

# An audit hook stays as long as its process: it notes only while it is asked to.
_noting: list[Counter[str]] = []


def _note(event: str, _: Any) -> None:
    if _noting and event in ("os.scandir", "os.listdir"):
        _noting[-1][event] += 1


sys.addaudithook(_note)


@contextmanager
def folders_listed() -> Iterator[Counter[str]]:
    _noting.append(Counter())
    try:
        yield _noting[-1]
    finally:
        _noting.pop()


@contextmanager
def statements(place: PipelineHome) -> Iterator[list[tuple[str, Any]]]:
    """What is asked of the ledger meanwhile, with its values."""
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, values: Any, *_: Any) -> None:
        seen.append((statement, values))

    sa.event.listen(place.ledger._engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(place.ledger._engine, "before_cursor_execute", note)


def history(path: Path, older_days: int, files_a_day: int) -> PipelineHome:
    """A home that has taken in five files on each of the recent days and some on each day before."""
    place = Home.create(path).pipeline(loaded())
    place.prepare()
    place.ledger.begin_advance(TODAY)
    place.ledger.finish_advance()
    for ago in range(RECENT_DAYS + older_days):
        folder = place.landing("events") / f"{TODAY - timedelta(days=ago):%Y-%m-%d}"
        folder.mkdir()
        for number in range(5 if ago < RECENT_DAYS else files_a_day):
            (folder / f"{number}.parquet").touch()
    taking.register_landed(place, everything=True)
    done = [FinishedFile(file.id, "taken", str(file.id)) for file in place.ledger.pending_files(place.name)]
    assert len(done) == 5 * RECENT_DAYS + older_days * files_a_day
    place.ledger.finish_files(done, TODAY)
    return place


def asked(place: PipelineHome) -> tuple[Counter[str], list[tuple[str, Any]]]:
    """What a tick of the backlog sensor lists, and what it asks of the ledger."""
    with folders_listed() as listed, statements(place) as seen:
        assert taking.register_landed(place) == 0
        assert taking.backlog(place, place.clock.now()).queues == {}
    return listed, seen


def test_a_tick_lists_and_asks_the_same_over_two_thousand_files_as_over_twenty(tmp_path: Path) -> None:
    short_listed, short_seen = asked(history(tmp_path / "short", older_days=0, files_a_day=0))
    long_listed, long_seen = asked(history(tmp_path / "long", older_days=198, files_a_day=10))
    # Each stream's landing folder, and the recent ones of the stream that has any.
    assert long_listed == short_listed == {"os.scandir": len(loaded().spec.references) + 2 + RECENT_DAYS}
    assert long_seen == short_seen
    assert [text for text, _ in long_seen if text.startswith("SELECT")]


def test_a_tick_reads_no_file_of_the_ledger_but_by_an_index(tmp_path: Path) -> None:
    place = history(tmp_path / "home", older_days=20, files_a_day=1)
    _, seen = asked(place)
    selects = [
        (text, values) for text, values in seen if text.startswith("SELECT") and "landed_files" in text
    ]
    assert selects
    with place.ledger._reading() as connection:
        for text, values in selects:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values).all()
            assert all(step.detail.startswith("SEARCH landed_files USING INDEX") for step in plan), plan
