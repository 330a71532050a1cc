"""The audit's records, each written in the transaction of what it is about."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_pipelines.audit import NOTHING, Kind, Record, judged_in, parsed, record, signature_fault
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger.store import BUSY_TIMEOUT, Store
from mlops_pipelines.ledger.tables import records

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime, timedelta

    from sqlalchemy.engine import URL, Connection

    from mlops_pipelines.ledger.store import AnyRow
    from mlops_pipelines.signing import Keys

# Records that are read at once.
_PAGE = 20


class Records(Store):
    """Appends to the chain of a pipeline's records."""

    def __init__(
        self,
        url: str | URL,
        *,
        keys: Keys | None = None,
        home_id: str | None = None,
        busy_timeout: timedelta = BUSY_TIMEOUT,
    ):
        """url: an SQLAlchemy URL, such as `sqlite:////absolute/path/ledger.db`.

        keys: what records are signed with; without it nothing that needs a record can be written. home_id: of
        the one home whose ledger the database is; None where it is a file of that home.
        """
        super().__init__(url, home_id=home_id, busy_timeout=busy_timeout)
        self._keys = keys

    def records(self, pipeline: str, after: int = 0) -> list[Record]:
        """Records of a pipeline, by number: all, or those after one."""
        mine = sa.select(records).where(records.c.pipeline == pipeline, records.c.number > after)
        query = mine.order_by(records.c.number)
        with self._reading() as connection:
            return [_record(row) for row in connection.execute(query)]

    def records_backwards(self, pipeline: str) -> Iterator[Record]:
        """All records of a pipeline, the newest first; read as far as somebody asks for them."""
        found: list[Record] = []
        while True:
            with self._reading() as connection:
                found = _page(connection, pipeline, found)
            yield from found
            if len(found) < _PAGE:
                return

    def _about(self, connection: Connection, retrain: AnyRow) -> Iterator[Record]:
        """The records of a retrain's candidate, the newest first. Raises TerminalError for one that does not
        bear its signature.

        Read back to where its gates have decided, or those of an earlier retrain: of two retrains the gates
        of the earlier one decide first.
        """
        found: list[Record] = []
        while True:
            found = _page(connection, retrain.pipeline, found)
            for one in found:
                content = parsed(one)
                decided = judged_in(content)
                last = decided is not None and _number(decided) <= _number(retrain.id)
                mine = content.get("retrain_id") == retrain.id
                if mine or last:
                    self._check_signed(one)
                if mine:
                    yield one
                if last:
                    return
            if len(found) < _PAGE:
                return

    def _check_signed(self, one: Record) -> None:
        if self._keys is not None and (fault := signature_fault(one, self._keys)):
            raise TerminalError(
                f"Record {one.number} of {one.pipeline} {fault}",
                expected="records as they were written",
                remedy=f"mlops promotions {one.pipeline} --verify",
            )

    def record(self, pipeline: str, number: int) -> Record | None:
        """The record with this number; None if there is none."""
        query = sa.select(records).where(records.c.pipeline == pipeline, records.c.number == number)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
            return _record(row) if row else None

    def last_record(self, pipeline: str) -> Record | None:
        """The newest record of a pipeline; None if it has none."""
        return next(self.records_backwards(pipeline), None)

    def _append(
        self,
        connection: Connection,
        pipeline: str,
        kind: Kind,
        facts: Mapping[str, Any],
        *,
        by: str,
        why: str,
        at: datetime,
    ) -> Record:
        """The next record. The transaction holds the pipeline's row, so that there is one at a time."""
        if self._keys is None:
            raise TerminalError("This ledger was opened without a key: it can write no record.")
        last = connection.execute(
            sa.select(records.c.number, records.c.hash)
            .where(records.c.pipeline == pipeline)
            .order_by(records.c.number.desc())
            .limit(1)
        ).one_or_none()
        number, previous = (last.number + 1, last.hash) if last else (1, NOTHING)
        said = {**facts, "by": by, "why": why, "at": at.astimezone(UTC).isoformat()}
        made = record(pipeline, number, previous, kind, said, self._keys)
        connection.execute(records.insert().values(**vars(made)))
        return made


def _page(connection: Connection, pipeline: str, after: list[Record]) -> list[Record]:
    """The newest records of a pipeline, or those before a page of them; the newest first."""
    query = sa.select(records).where(records.c.pipeline == pipeline).order_by(records.c.number.desc())
    if after:
        query = query.where(records.c.number < after[-1].number)
    return [_record(row) for row in connection.execute(query.limit(_PAGE))]


def _number(retrain_id: str) -> int:
    """How many retrains of its pipeline were admitted up to this one."""
    return int(retrain_id.rpartition("-")[2])


def _record(row: AnyRow) -> Record:
    return Record(row.pipeline, row.number, row.body, row.hash, row.key, row.signature)
