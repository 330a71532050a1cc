"""The audit's records, each written in the transaction of what it is about."""

from __future__ import annotations

import math
from datetime import UTC
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_pipelines.audit import (
    NOTHING,
    Kind,
    Record,
    hash_of,
    judged_in,
    links,
    parsed,
    record,
    signature_fault,
)
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger.store import BUSY_TIMEOUT, Store
from mlops_pipelines.ledger.tables import records
from mlops_pipelines.ledger.verdicts import candidate_facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime, timedelta

    from sqlalchemy.engine import URL, Connection

    from mlops_pipelines.ledger.store import AnyRow
    from mlops_pipelines.signing import Keys

# Of a candidate what the ledger does not know, from the run that judged it.
_TOLD = ("commit", "report", "metrics")
# Records that are read at once.
_PAGE = 20
# Not when its row was made, which nobody has signed.
_ALL = sa.select(*(records.c[name] for name in ("pipeline", "number", "body", "hash", "key", "signature")))
# Rows that have a place in a chain: SQLite keeps whatever somebody sets for a number.
_PLACED = sa.and_(records.c.number > 0, records.c.number == sa.cast(records.c.number, sa.Integer))


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
        """Records of a pipeline, by number: those after one, or all, at last what has no number."""
        with self._reading() as connection:
            return all_records(connection, pipeline, after)

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
        of the earlier one decide first. A record of that which does not bear its signature ends nothing.
        """
        found: list[Record] = []
        while True:
            found = _page(connection, retrain.pipeline, found)
            for one in found:
                content = parsed(one)
                last = _number(judged_in(content)) <= _number(retrain.id)
                mine = content.get("retrain_id") == retrain.id
                if mine:
                    self._check_signed(one)
                    yield one
                if last and self._fault(one) is None:
                    return
            if len(found) < _PAGE:
                return

    def _known(self, connection: Connection, retrain: AnyRow) -> dict[str, Any]:
        """What a record says of a retrain's candidate: what the ledger knows, and what its run knew.

        Without the latter where its records were altered.
        """
        facts = candidate_facts(connection, retrain)
        try:
            for one in self._about(connection, retrain):
                told = {name: one.content[name] for name in _TOLD if name in one.content}
                if told and one.content["model_hash"] == retrain.model_hash:
                    return {**facts, **told}
        except TerminalError:
            # What may serve was checked before; a wait ends, or is refused, also where they were altered.
            pass
        return facts

    def _frozen(self, connection: Connection, pipeline: str) -> str | None:
        """Who froze the champion, and why; None if it is not frozen.

        Each record says so, and only the newest one counts.
        """
        last = _newest(connection, pipeline)
        return self._frozen_by(last, self._fault(last)) if last else None

    @staticmethod
    def _frozen_by(last: Record, fault: str | None) -> str | None:
        """What the newest record says of it. Where that was altered nobody knows, and the champion is frozen
        until a person says otherwise.
        """
        if fault:
            return f"nobody who is known: record {last.number} was altered"
        frozen: str | None = parsed(last).get("frozen")
        return frozen

    def _check_whole(self, connection: Connection, pipeline: str) -> None:
        """Raises TerminalError for a chain of which a record was altered or removed."""
        found = all_records(connection, pipeline)
        if self._keys is not None:
            for fault in links(found, {one.number: parsed(one) for one in found}, self._keys):
                raise TerminalError(
                    f"Of {pipeline} {fault.what}: it may have said that the gates failed this candidate.",
                    expected="records as they were written",
                    remedy=f"mlops promotions {pipeline} --verify",
                )

    def _fault(self, one: Record) -> str | None:
        return signature_fault(one, self._keys) if self._keys is not None else None

    def _check_signed(self, one: Record) -> None:
        if fault := self._fault(one):
            raise TerminalError(
                f"Record {one.number} of {one.pipeline} {fault}",
                expected="records as they were written",
                remedy=f"mlops promotions {one.pipeline} --verify",
            )

    def record(self, pipeline: str, number: int) -> Record | None:
        """The record with this number; None if there is none."""
        query = _ALL.where(records.c.pipeline == pipeline, records.c.number == number)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
            return _record(row) if row else None

    def last_record(self, pipeline: str) -> Record | None:
        """The newest record of a pipeline; None if it has none."""
        with self._reading() as connection:
            return _newest(connection, pipeline)

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
        number, previous, frozen = 1, NOTHING, None
        if last := _newest(connection, pipeline):
            fault = self._fault(last)
            number, frozen = last.number + 1, self._frozen_by(last, fault)
            # Whatever somebody altered of it, put back it is whole again.
            previous = _encodable(last.hash) if fault else hash_of(last.body)
        said = {"frozen": frozen, **facts, "by": by, "why": why, "at": at.astimezone(UTC).isoformat()}
        made = record(pipeline, number, previous, kind, said, self._keys)
        connection.execute(records.insert().values(**vars(made)))
        return made


def all_records(connection: Connection, pipeline: str, after: int = 0) -> list[Record]:
    """Records of a pipeline, by number: those after one, or all, at last what has no number."""
    query = _ALL.where(records.c.pipeline == pipeline).order_by(_PLACED.desc(), records.c.number)
    if after:
        query = query.where(_PLACED, records.c.number > after)
    return [_record(row) for row in connection.execute(query)]


def _page(connection: Connection, pipeline: str, after: list[Record], limit: int = _PAGE) -> list[Record]:
    """The newest records of a pipeline, or those before a page of them; the newest first."""
    query = _ALL.where(records.c.pipeline == pipeline, _PLACED).order_by(records.c.number.desc())
    if after:
        query = query.where(records.c.number < after[-1].number)
    return [_record(row) for row in connection.execute(query.limit(limit))]


def _newest(connection: Connection, pipeline: str) -> Record | None:
    return next(iter(_page(connection, pipeline, [], limit=1)), None)


def _number(retrain_id: str | None) -> float:
    """How many retrains of its pipeline were admitted up to this one; of what is none, later than all."""
    try:
        return int((retrain_id or "").rpartition("-")[2])
    except ValueError:
        return math.inf


def _record(row: AnyRow) -> Record:
    number = max(0, row.number) if isinstance(row.number, int) else 0
    return Record(row.pipeline, number, *map(_text, (row.body, row.hash, row.key, row.signature)))


def _encodable(text: str) -> str:
    """A text that can be written, also of one that somebody altered to be none."""
    return text.encode(errors="backslashreplace").decode()


def _text(value: str | bytes) -> str:
    """What SQLite keeps, whatever somebody set."""
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value
