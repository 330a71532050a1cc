"""Landed files and what became of them; days reopened by late data."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa

from mlops_pipelines.batches import batched
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger.store import Store, insert_new
from mlops_pipelines.ledger.tables import landed_files, reopened_days

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from mlops_pipelines.ledger.store import AnyRow

# What has to look at a day again: its tiles, its labels, its examples and scores, the health of its
# features, its drift, its quality, its quality once more when the day has matured, and how its labels came
# to exist.
Stage = Literal["tiles", "labels", "score", "features", "drift", "monitor", "mature", "feedback"]
# Version of the schema whose days can wait for `feedback`.
FEEDBACK_SINCE = 11
_IS_STRAY = ~landed_files.c.path.startswith(landed_files.c.arrival_day + "/")
# So many values go into one statement: SQLite takes 32,766.
_VALUES_AT_ONCE = 10_000


@dataclass(frozen=True)
class FileFact:
    """A file in a landing folder.

    path: as listed. size: bytes. modified_at: UTC. arrival_day: YYYY-MM-DD, UTC, the folder's name; of a
    stray, which lies in no such folder, the day of its modification.
    """

    path: str
    size: int
    modified_at: datetime
    arrival_day: str

    @property
    def is_stray(self) -> bool:
        return not self.path.startswith(f"{self.arrival_day}/")


@dataclass(frozen=True)
class LandedFile:
    """A registered file that waits to be taken in. registered_at: wall clock, UTC."""

    id: int
    stream: str
    path: str
    size: int
    modified_at: datetime
    arrival_day: str
    registered_at: datetime


@dataclass(frozen=True)
class TakenFile(LandedFile):
    """A file that was taken in. digest: sha256 of its bytes, hexadecimal."""

    digest: str


@dataclass(frozen=True)
class RefusedFile:
    """A file that was refused as a whole. why: what was wrong with it."""

    id: int
    stream: str
    path: str
    why: str


@dataclass(frozen=True)
class ArrivalDay:
    """Rows of a stream's files in one day's folder (YYYY-MM-DD), and what became of them."""

    day: str
    rows: int
    accepted: int
    quarantined: int


@dataclass(frozen=True)
class FinishedFile:
    """What became of a landed file, by its id in the ledger.

    digest: sha256 of its bytes, hexadecimal, "" if it could not be read. detail: why it was rejected. The
    rest: rows, all 0 of a rejected file, of which nothing was taken in. They are counted when the file is
    taken in: of a row that is displaced later, the quarantine tells.
    """

    id: int
    status: Literal["taken", "rejected"]
    digest: str
    detail: str = ""
    rows: int = 0
    accepted: int = 0
    quarantined: int = 0
    duplicates: int = 0


@dataclass(frozen=True)
class FileCounts:
    """Sums over the files of a stream. files: all of them; pending, rejected: of these; the rest: rows."""

    files: int = 0
    pending: int = 0
    rejected: int = 0
    rows: int = 0
    accepted: int = 0
    quarantined: int = 0
    duplicates: int = 0


class Landing(Store):
    """The landed file is the unit of ingest: registered once, finished once."""

    def register_files(self, pipeline: str, stream: str, files: Sequence[FileFact]) -> int:
        """Register files, known ones aside. How many were new.

        A file is known by its path, size and modification time: one that was rewritten is a new file.
        """
        if not files:
            return 0
        with self._writing() as connection:
            return sum(
                insert_new(
                    connection,
                    landed_files,
                    {
                        "pipeline": pipeline,
                        "stream": stream,
                        "path": file.path,
                        "size": file.size,
                        "modified_at": file.modified_at,
                        "arrival_day": file.arrival_day,
                    },
                )
                for file in files
            )

    def pending_files(
        self, pipeline: str, streams: Sequence[str] | None = None, limit: int | None = None
    ) -> list[LandedFile]:
        """Files that wait to be taken in, oldest first: by arrival day, then path."""
        query = (
            sa.select(landed_files)
            .where(landed_files.c.pipeline == pipeline, landed_files.c.status == "pending")
            .order_by(landed_files.c.arrival_day, landed_files.c.path, landed_files.c.id)
            .limit(limit)
        )
        if streams is not None:
            query = query.where(landed_files.c.stream.in_(streams))
        with self._reading() as connection:
            return [_landed_file(row) for row in connection.execute(query)]

    def finish_files(self, files: Sequence[FinishedFile], at: datetime) -> int:
        """Record what became of pending files, all or none. How many this call finished; the first counts.

        at: the home's clock, UTC. Raises TerminalError if there is no such file.
        """
        if not files:
            return 0
        with self._writing() as connection:
            return sum(_finish(connection, file, at) for file in files)

    def taken_digests(self, pipeline: str, stream: str, digests: Sequence[str]) -> set[str]:
        """Those of the digests that a file of the stream had when it was taken in."""
        columns = landed_files.c
        taken: set[str] = set()
        with self._reading() as connection:
            for part in batched(digests, _VALUES_AT_ONCE):
                query = sa.select(columns.digest).where(
                    columns.pipeline == pipeline,
                    columns.stream == stream,
                    columns.status == "taken",
                    columns.digest.in_(part),
                )
                taken.update(connection.execute(query).scalars())
        return taken

    def files_taken(self, pipeline: str, stream: str, digests: Sequence[str]) -> dict[str, TakenFile]:
        """The first file that was taken in with each of these digests."""
        columns = landed_files.c
        found: dict[str, TakenFile] = {}
        with self._reading() as connection:
            for part in batched(digests, _VALUES_AT_ONCE):
                query = (
                    sa.select(landed_files)
                    .where(
                        columns.pipeline == pipeline,
                        columns.stream == stream,
                        columns.status == "taken",
                        columns.digest.in_(part),
                    )
                    .order_by(columns.id)
                )
                for row in connection.execute(query):
                    found.setdefault(row.digest, TakenFile(**asdict(_landed_file(row)), digest=row.digest))
        return found

    def file_counts(self, pipeline: str, since_day: str = "") -> Mapping[str, FileCounts]:
        """Sums over the registered files that arrived on a day or later, by default all, by stream."""
        columns = landed_files.c
        query = (
            sa.select(
                columns.stream,
                sa.func.count(),
                sa.func.sum(sa.case((columns.status == "pending", 1), else_=0)),
                sa.func.sum(sa.case((columns.status == "rejected", 1), else_=0)),
                *(
                    sa.func.coalesce(sa.func.sum(column), 0)
                    for column in (columns.rows, columns.accepted, columns.quarantined, columns.duplicates)
                ),
            )
            .where(columns.pipeline == pipeline, columns.arrival_day >= since_day)
            .group_by(columns.stream)
        )
        counts: defaultdict[str, FileCounts] = defaultdict(FileCounts)
        with self._reading() as connection:
            for stream, *sums in connection.execute(query):
                counts[stream] = FileCounts(*(int(n) for n in sums))
        return counts

    def taken_rows(self, pipeline: str, stream: str, since_day: str) -> tuple[int, int]:
        """Rows, and rejected rows, of the files that were taken in and arrived on `since_day` or later."""
        columns = landed_files.c
        query = sa.select(
            sa.func.coalesce(sa.func.sum(columns.rows), 0),
            sa.func.coalesce(sa.func.sum(columns.quarantined), 0),
        ).where(
            columns.pipeline == pipeline,
            columns.stream == stream,
            columns.status == "taken",
            columns.arrival_day >= since_day,
        )
        with self._reading() as connection:
            rows, rejected = connection.execute(query).one()
            return int(rows), int(rejected)

    def rows_by_arrival(self, pipeline: str, since_day: str) -> dict[str, list[ArrivalDay]]:
        """What arrived on each day from one on, of files that were taken in, by stream, oldest first."""
        columns = landed_files.c
        sums = [sa.func.sum(column) for column in (columns.rows, columns.accepted, columns.quarantined)]
        query = (
            sa.select(columns.stream, columns.arrival_day, *sums)
            .where(
                columns.pipeline == pipeline,
                columns.status == "taken",
                columns.arrival_day >= since_day,
                ~_IS_STRAY,
            )
            .group_by(columns.stream, columns.arrival_day)
            .order_by(columns.stream, columns.arrival_day)
        )
        found: dict[str, list[ArrivalDay]] = {}
        with self._reading() as connection:
            for stream, day, *counts in connection.execute(query):
                found.setdefault(stream, []).append(ArrivalDay(day, *(int(n or 0) for n in counts)))
        return found

    def newest_arrival(self, pipeline: str, stream: str, by: str) -> str | None:
        """Latest day (YYYY-MM-DD), not after `by`, in whose folder a file of the stream is registered.

        None if there is none.
        """
        columns = landed_files.c
        query = (
            sa.select(columns.arrival_day)
            .where(columns.pipeline == pipeline, columns.stream == stream)
            .where(columns.arrival_day <= by, ~_IS_STRAY)
            .order_by(columns.arrival_day.desc())
            .limit(1)
        )
        with self._reading() as connection:
            newest: str | None = connection.execute(query).scalar_one_or_none()
            return newest

    def refused_files(self, pipeline: str) -> list[RefusedFile]:
        """Each file that was refused as a whole, in order of arrival.

        A file that was rewritten since is told of as it is now.
        """
        columns, later = landed_files.c, landed_files.alias()
        query = (
            sa.select(columns.id, columns.stream, columns.path, columns.detail)
            .where(
                columns.pipeline == pipeline,
                columns.status == "rejected",
                ~sa.exists().where(
                    later.c.pipeline == columns.pipeline,
                    later.c.stream == columns.stream,
                    later.c.path == columns.path,
                    later.c.id > columns.id,
                ),
            )
            .order_by(columns.arrival_day, columns.path)
        )
        with self._reading() as connection:
            return [RefusedFile(*row) for row in connection.execute(query)]

    def registered_files(self, pipeline: str, stream: str) -> dict[str, tuple[str | None, str]]:
        """Digest and status of the stream's registered files, by path; of a rewritten one, the latest."""
        columns = landed_files.c
        query = (
            sa.select(columns.path, columns.digest, columns.status)
            .where(columns.pipeline == pipeline, columns.stream == stream)
            .order_by(columns.id)
        )
        with self._reading() as connection:
            return {path: (digest, status) for path, digest, status in connection.execute(query)}

    def known_strays(self, pipeline: str, stream: str) -> set[str]:
        """Paths of the stream's registered files that lie in no folder named by a day."""
        columns = landed_files.c
        query = sa.select(columns.path).where(
            columns.pipeline == pipeline, columns.stream == stream, _IS_STRAY
        )
        with self._reading() as connection:
            return set(connection.execute(query).scalars())

    def known_paths(self, pipeline: str, stream: str, since_day: str) -> set[tuple[str, int, datetime]]:
        """Path, size and modification time of registered files that arrived on `since_day` or later."""
        columns = landed_files.c
        query = sa.select(columns.path, columns.size, columns.modified_at).where(
            columns.pipeline == pipeline, columns.stream == stream, columns.arrival_day >= since_day
        )
        with self._reading() as connection:
            return {(path, size, modified_at) for path, size, modified_at in connection.execute(query)}

    def reopen_days(
        self,
        pipeline: str,
        days: Iterable[str],
        stage: Stage,
        at: datetime,
        worked_on: Mapping[str, int] | None = None,
    ) -> None:
        """Mark days (YYYY-MM-DD) whose data came late: `stage` has to look at them again.

        at: from when on, the home's clock, UTC. A day that is open from an earlier time on stays so, unless
        that is what is being worked on: its revision is in `worked_on`, as `reopened_days` gave it.
        """
        days = sorted(set(days))
        if not days or not self._knows(stage):
            return
        with self._writing() as connection:
            reopen(connection, pipeline, days, stage, at, worked_on)

    def reopened_days(self, pipeline: str, stage: Stage, by: datetime | None = None) -> dict[str, int]:
        """Days (YYYY-MM-DD) that `stage` has to look at again, in order, each with its revision.

        by: leaves out days that are to be looked at later than this, UTC.
        Hand what was worked on to `close_days`: a day reopened in the meantime stays open.
        """
        columns = reopened_days.c
        query = (
            sa.select(columns.day, columns.revision)
            .where(
                columns.pipeline == pipeline,
                columns.stage == stage,
                sa.text("revision > closed_revision"),
            )
            .order_by(columns.day)
        )
        if by is not None:
            query = query.where(columns.reopened_at <= by)
        with self._reading() as connection:
            return dict(connection.execute(query).all())

    def waiting_since(self, pipeline: str, by: datetime) -> dict[str, dict[str, datetime]]:
        """Days that a stage has to look at, by stage, each with the moment since when (UTC).

        by: leaves out days that are to be looked at later than this, UTC.
        """
        columns = reopened_days.c
        query = (
            sa.select(columns.stage, columns.day, columns.reopened_at)
            .where(
                columns.pipeline == pipeline,
                columns.reopened_at <= by,
                sa.text("revision > closed_revision"),
            )
            .order_by(columns.stage, columns.day)
        )
        found: dict[str, dict[str, datetime]] = {}
        with self._reading() as connection:
            for stage, day, at in connection.execute(query):
                found.setdefault(stage, {})[day] = at
        return found

    def _knows(self, stage: Stage) -> bool:
        """Whether the tables take the stage: those of the version before know no audit of feedback."""
        return stage != "feedback" or self._schema_version >= FEEDBACK_SINCE

    def close_days(self, pipeline: str, days: Mapping[str, int], stage: Stage) -> None:
        """Close days at the revisions that `reopened_days` gave."""
        if not days:
            return
        columns = reopened_days.c
        with self._writing() as connection:
            for day, revision in days.items():
                connection.execute(
                    reopened_days.update()
                    .where(
                        columns.pipeline == pipeline,
                        columns.stage == stage,
                        columns.day == day,
                        columns.closed_revision < revision,
                    )
                    .values(closed_revision=revision)
                )


def reopen(  # noqa: PLR0917 - as the method
    connection: Connection,
    pipeline: str,
    days: Sequence[str],
    stage: Stage,
    at: datetime,
    worked_on: Mapping[str, int] | None = None,
) -> None:
    """As `Landing.reopen_days`, in a transaction of the caller's."""
    columns = reopened_days.c
    for day in days:
        row = {"pipeline": pipeline, "stage": stage, "day": day}
        insert_new(connection, reopened_days, {**row, "revision": 0, "reopened_at": at})
        waits_already = sa.and_(
            columns.revision > columns.closed_revision,
            columns.revision > (worked_on or {}).get(day, 0),
            columns.reopened_at < at,
        )
        connection.execute(
            reopened_days.update()
            .where(*(columns[name] == value for name, value in row.items()))
            .values(
                revision=columns.revision + 1,
                reopened_at=sa.case((waits_already, columns.reopened_at), else_=at),
            )
        )


def _finish(connection: Connection, file: FinishedFile, at: datetime) -> bool:
    """Finish a file that is pending. Whether it was."""
    values = asdict(file)
    mine = landed_files.c.id == values.pop("id")
    update = landed_files.update().where(mine, landed_files.c.status == "pending")
    if connection.execute(update.values(**values, finished_at=at)).rowcount:
        return True
    if connection.execute(sa.select(landed_files.c.id).where(mine)).one_or_none() is None:
        raise TerminalError(f"The ledger knows no landed file {file.id}.")
    return False


def _landed_file(row: AnyRow) -> LandedFile:
    return LandedFile(
        row.id, row.stream, row.path, row.size, row.modified_at, row.arrival_day, row.recorded_at
    )
