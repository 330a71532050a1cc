"""Delta tables cut by day: replace the rows of some days atomically, read as of a version.

One Parquet file holds one day of one version, its rows sorted. A commit names the content hash of every
day it wrote; content that is there already makes no commit. Commits are compare-and-swap: one that was
based on version v becomes v + 1 or is refused, and a refused one is read and computed again. So readers
and writers in any number of processes see whole versions only, and no writer undoes another's work.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import threading
import time
import uuid
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from mlops_pipelines.batches import batched
from mlops_pipelines.errors import TerminalError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    import pyarrow.dataset as pads
    from deltalake import CommitProperties, DeltaTable
    from deltalake.transaction import AddAction
    from numpy.typing import NDArray

Bound = datetime | date | int | str | None
Where = tuple[str, Bound, Bound]

STATIC_DAY = "static"  # the day of rows that have no time of their own

_NAME = re.compile(r"[a-z][a-z0-9_]{0,127}(/[a-z][a-z0-9_]{0,127})?")
_HASH_FORMAT = b"mlops-content-1\n"
_ATTEMPTS = 10
# So many rows of a day are handed out with what was written: enough to see what a table holds.
HEAD_ROWS = 5
_FIRST_PAUSE = 0.02  # seconds; a commit takes about as long
_LONGEST_PAUSE = 2.0
# A checkpoint makes opening a table and every old version cheap, and costs about two commits.
_CHECKPOINT_EVERY = 50
# Pinned versions that a run goes on reading; a snapshot is a list of file names, a few hundred KB at most.
_SNAPSHOTS_KEPT = 8
# Bytes of a file whose rows are kept once they were read, and of all such rows.
_SMALL = 2**19
_RECENT_BYTES = 2**26


def text_from(column: str, lowest: str, highest: str | None = None) -> Where:
    """Rows whose text in a column lies from `lowest` to `highest`, both included, or is just `lowest`."""
    return (column, lowest, (lowest if highest is None else highest) + "\0")


@dataclass(frozen=True)
class Written:
    """What one day holds after an update.

    version: a table version that holds this content. rows: of the day; rows_before: those it held until
    now. changed: whether this update committed it, or found it there. head: the first of the rows.
    """

    day: str
    content_hash: str
    rows: int
    rows_before: int
    changed: bool
    version: int
    head: Sequence[Mapping[str, Any]] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Commit:
    """One version of a table, as its log tells it.

    hashes: content hash by day written in it. files: SHA-256 of the file by day, of days with rows. at: the
    machine's clock, UTC.
    """

    version: int
    at: datetime
    hashes: Mapping[str, str]
    provenance: Mapping[str, object]
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Altered:
    """A file that is not what was written. recorded, found: SHA-256, "" if unknown. why: for people."""

    recorded: str
    found: str
    why: str


@dataclass(frozen=True)
class StoredFile:
    """One Parquet file of a table: the rows of a day in the versions from `since` to before `until`.

    path: absolute. until: the version that replaced it; None if the newest one holds it.
    """

    path: Path
    day: str
    bytes: int
    since: int
    until: int | None


class _Conflict(Exception):  # noqa: N818 - a turn of the retry loop, not an error
    """Another writer committed first."""


class Lake:
    """The tables under one folder, named `events` or `feature_tiles/x`, each with a string column `day`.

    Arrow tables that come out hold plain types: string, int8 to int64, float, double, bool, binary, date32
    and timestamp[us, UTC]. Tables that go in may use their other encodings (dictionary, large_string, ...).
    All methods raise TerminalError for a name that is no table name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def of(self, pipeline: str | None) -> Lake:
        """The lake of another pipeline of the home (`HOME/pipelines/NAME/lake`); this one for None."""
        return self if pipeline is None else Lake(self.root.parent.parent / pipeline / self.root.name)

    def exists(self, name: str) -> bool:
        """Whether there is such a table."""
        return _first_commit(self._path(name)).exists()

    def version(self, name: str) -> int | None:
        """Newest version of the table, or None if there is no such table."""
        snapshot = self._snapshot(name)
        return None if snapshot is None else snapshot.version

    def read(
        self,
        name: str,
        *,
        columns: Sequence[str] | None = None,
        days: Sequence[str] | None = None,
        version: int | None = None,
        where: Where | None = None,
    ) -> pa.Table:
        """Rows of the table as of a version (by default the newest), in the order day, then as sorted.

        columns: those to read, in this order. days: those to read; a day without rows adds none.
        where: (column, lo, hi) keeps rows with lo <= column < hi, None is unbounded, a null never qualifies;
        files whose minimum and maximum lie outside are not opened.
        Raises TerminalError if there is no such table, version or column.
        """
        return self._existing(name, version).read(columns=columns, days=days, where=where)

    def files(
        self,
        name: str,
        *,
        days: Sequence[str] | None = None,
        version: int | None = None,
        where: Where | None = None,
    ) -> list[str]:
        """Absolute paths of the Parquet files that hold those rows, [] if there is no such table.

        With `where`, a file may hold other rows too: filter again. The column `day` is in the path only, so
        DuckDB reads them with `read_parquet($files, hive_partitioning=true, hive_types={'day': VARCHAR},
        union_by_name=true)`; the last for columns that were added later.
        """
        snapshot = self._snapshot(name, version)
        return [] if snapshot is None else [f.path for f in snapshot.select(days, where)]

    def days(self, name: str, *, version: int | None = None) -> list[str]:
        """Days that have rows, sorted; [] if there is no such table."""
        snapshot = self._snapshot(name, version)
        return [] if snapshot is None else sorted({f.day for f in snapshot.files})

    def days_that_share(
        self, name: str, rows: pa.Table, key: str, within: timedelta, *, version: int | None = None
    ) -> list[str]:
        """Days, other than those of the rows, on which the table has a row with a key of theirs; sorted.

        key: a string column. within: how far from the days of the rows it is looked. About a million rows
        are read at a time. [] if there is no such table.
        """
        import pyarrow.compute as pc

        if not rows.num_rows:
            return []
        own = set(rows["day"].unique().to_pylist())
        # As numbers: a day so early that no date lies before it is still a day.
        first, last = (date.fromisoformat(end(own)).toordinal() for end in (min, max))
        apart = math.ceil(within / timedelta(days=1))
        counts = self.row_counts(name, version=version)
        near = [
            day
            for day in sorted(counts)
            if day not in own and first - apart <= date.fromisoformat(day).toordinal() <= last + apart
        ]
        keys = pc.unique(rows[key])
        ends = pc.min_max(keys).as_py()
        found: set[str] = set()
        before = accumulate((counts[day] for day in near), initial=0)
        for _, part in groupby(zip(near, before, strict=False), lambda each: each[1] // 10**6):
            held = self.read(
                name,
                columns=[key, "day"],
                days=[day for day, _ in part],
                version=version,
                where=text_from(key, ends["min"], ends["max"]),
            )
            found.update(held.filter(pc.is_in(held[key], value_set=keys))["day"].unique().to_pylist())
        return sorted(found)

    def row_counts(self, name: str, *, version: int | None = None) -> dict[str, int]:
        """Rows by day, from the table's statistics alone; {} if there is no such table."""
        snapshot = self._snapshot(name, version)
        if snapshot is None:
            return {}
        rows = snapshot.statistics["num_records"].to_pylist() if snapshot.files else []
        counts: dict[str, int] = {}
        for file in snapshot.files:
            counts[file.day] = counts.get(file.day, 0) + rows[file.index]
        return counts

    def span(self, name: str, column: str, *, version: int | None = None) -> tuple[datetime, datetime] | None:
        """Bounds of a column of times, from the table's statistics alone, a millisecond too wide at most.

        None if the table has no row with a time there, or there is no such table.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        snapshot = self._snapshot(name, version)
        if snapshot is None or not snapshot.files or f"min.{column}" not in snapshot.statistics.schema.names:
            return None
        moments, mine = pa.timestamp("us", tz="UTC"), [file.index for file in snapshot.files]
        lowest, highest = (
            pc.min_max(snapshot.statistics[f"{end}.{column}"].take(mine).cast(moments)).as_py()[end]
            for end in ("min", "max")
        )
        return None if lowest is None else (lowest, highest)

    def update(
        self,
        name: str,
        days: Sequence[str] | Callable[[int | None], Sequence[str]],
        change: Callable[[pa.Table | None], pa.Table],
        *,
        sort_by: Sequence[str],
        unhashed: Sequence[str] = (),
        provenance: Mapping[str, object] | None = None,
    ) -> list[Written]:
        """Replaces the rows of `days` by what `change` makes of them; one entry a day, sorted by day.

        days: where they depend on what the table holds, a function of its version (None without a table).
        change: given the rows of those days (None if there is no such table), returns all they shall hold.
        Both are called again when another writer was faster: they must be functions of what they are given.
        Days whose content hash is as before are left alone; the others are committed together or not at all.
        A column that the table lacks is added to it; one that `change` leaves out is null in these days.
        unhashed: columns of provenance, which do not count as content. provenance: JSON values kept in the
        commit.
        Raises TerminalError for a row of another day, a column of another type than the table's, and a disk
        that refuses to be written; TransientError when other writers were faster 10 times.
        """
        conflict: _Conflict | None = None
        for attempt in range(_ATTEMPTS):
            snapshot = self._snapshot(name)
            version = snapshot.version if snapshot else None
            wanted = valid_days(days(version) if callable(days) else days)
            current = None if snapshot is None else snapshot.read(days=wanted)
            content = partial(
                _Content.of, days=wanted, sort_by=sort_by, unhashed=unhashed, name=name, snapshot=snapshot
            )
            try:
                return self._commit(
                    name, snapshot, content(current), content(change(current)), provenance or {}
                )
            except _Conflict as error:
                conflict = error
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt)
                time.sleep(random.uniform(0, pause))  # noqa: S311 - jitter, not a secret
        raise TransientError(
            f"Other writers changed the table {name} {_ATTEMPTS} times while {_span(wanted)} was computed.",
            remedy="run the same again once the other run has ended",
        ) from conflict

    def replace(
        self,
        name: str,
        table: pa.Table,
        *,
        days: Sequence[str],
        sort_by: Sequence[str],
        unhashed: Sequence[str] = (),
        provenance: Mapping[str, object] | None = None,
    ) -> list[Written]:
        """Makes `table` the content of `days`; as `update` otherwise."""
        return self.update(
            name, days, lambda _: table, sort_by=sort_by, unhashed=unhashed, provenance=provenance
        )

    def as_it_stands(
        self, name: str, days: Sequence[str], *, sort_by: Sequence[str], unhashed: Sequence[str] = ()
    ) -> list[Written]:
        """One entry a day, its content hash made anew from its rows; none without such a table."""
        snapshot, wanted = self._snapshot(name), valid_days(days)
        if snapshot is None:
            return []
        rows = snapshot.read(days=wanted)
        content = _Content.of(rows, wanted, sort_by=sort_by, unhashed=unhashed, name=name, snapshot=snapshot)
        return self._commit(name, snapshot, content, content, {})

    def append_new(
        self,
        name: str,
        table: pa.Table,
        *,
        key: Sequence[str],
        sort_by: Sequence[str],
        days: Sequence[str] = (),
        unhashed: Sequence[str] = (),
        provenance: Mapping[str, object] | None = None,
    ) -> list[Written]:
        """Adds the rows whose key the same day does not hold yet; rows that are there stay as they are.

        days: others to tell about. One entry for each of them and each day of `table`; none if there is
        neither a row nor such a table. Raises TerminalError if two rows of `table` have the same day and
        key, or a key is null; otherwise as `update`.
        """
        import pyarrow as pa

        new = plain(table)
        _require_keys(new, ["day", *key], name)
        wanted = sorted({*days, *new["day"].unique().to_pylist()})
        if not wanted or not (new.num_rows or self.exists(name)):
            return []

        def add(current: pa.Table | None) -> pa.Table:
            if current is None or current.num_rows == 0:
                return new
            fresh = _rows_without(new, current, ["day", *key])
            return pa.concat_tables([current, fresh], promote_options="default")

        return self.update(name, wanted, add, sort_by=sort_by, unhashed=unhashed, provenance=provenance)

    def hashes(
        self,
        name: str,
        *,
        sort_by: Sequence[str],
        unhashed: Sequence[str] = (),
        days: Sequence[str] | None = None,
        version: int | None = None,
    ) -> dict[str, str]:
        """Content hash by day, recomputed from the rows, of the days that have rows.

        Raises TerminalError if there is no such table or version.
        """
        snapshot = self._existing(name, version)
        present = sorted({f.day for f in snapshot.select(days, None)})
        found: dict[str, str] = {}
        for part in batched(present, 32):  # some weeks at a time bound the memory
            content = _Content.of(
                snapshot.read(days=part),
                list(part),
                sort_by=sort_by,
                unhashed=unhashed,
                name=name,
                snapshot=snapshot,
            )
            found.update(content.hashes)
        return found

    def written_by(self, name: str, days: Sequence[str], *, version: int | None = None) -> dict[str, Commit]:
        """The commit that last wrote each of these days, as of a version; a day never written has none.

        Reads the log backwards until all are found. Raises TerminalError without such a table or version.
        """
        snapshot = self._existing(name, version)
        wanted = set(valid_days(days))
        found: dict[str, Commit] = {}
        for number in range(snapshot.version, -1, -1):
            if not wanted:
                break
            commit = _read_commit(self._path(name), number)
            for day in wanted & set(commit.hashes):
                found[day] = commit
            wanted -= set(found)
        return dict(sorted(found.items()))

    def altered(self, name: str, days: Sequence[str], *, version: int | None = None) -> dict[str, Altered]:
        """What is wrong with the files of these days, by day; of whole ones there is nothing.

        A file is held against the SHA-256 that its commit names. Raises TerminalError if there is no such
        table or version.
        """
        snapshot = self._existing(name, version)
        commits = self.written_by(name, days, version=version)
        wrong = {}
        for file in snapshot.select(days, None):
            recorded = commits[file.day].files.get(file.day, "")
            try:
                with open(file.path, "rb") as stored:
                    found = hashlib.file_digest(stored, "sha256").hexdigest()
            except OSError as error:
                wrong[file.day] = Altered(recorded, "", f"{file.path} cannot be read: {error.strerror}")
                continue
            if recorded and found != recorded:
                why = f"{file.path} has SHA-256 {found[:12]}, it was written as {recorded[:12]}"
                wrong[file.day] = Altered(recorded, found, why)
        return wrong

    def tables(self) -> list[str]:
        """Names of all tables, sorted."""
        logs = [*self.root.glob("*/_delta_log"), *self.root.glob("*/*/_delta_log")]
        names = [log.parent.relative_to(self.root).as_posix() for log in logs]
        return sorted(name for name in names if _NAME.fullmatch(name) and self.exists(name))

    def stored(self, name: str) -> list[StoredFile]:
        """Every file that is there and that a version of the table holds, sorted by day and version.

        From the log alone, which is kept for good. Raises TerminalError if there is no such table.
        """
        newest, path = self._existing(name).version, self._path(name)
        since: dict[str, tuple[str, int, int]] = {}
        until: dict[str, int] = {}
        for number in range(newest + 1):
            for line in _commit_file(path, number).read_text(encoding="utf-8").splitlines():
                action = json.loads(line)
                if added := action.get("add"):
                    since[unquote(added["path"])] = (added["partitionValues"]["day"], added["size"], number)
                elif removed := action.get("remove"):
                    until[unquote(removed["path"])] = number
        found = [
            StoredFile(path / file, day, size, first, until.get(file))
            for file, (day, size, first) in since.items()
        ]
        return sorted((one for one in found if one.path.exists()), key=lambda one: (one.day, one.since))

    def log_files(self, name: str, version: int) -> list[Path]:
        """The files of the log that a reader of this version, or of an older one, needs."""
        log = self._path(name) / "_delta_log"
        commits = [_commit_file(log.parent, number) for number in range(version + 1)]
        checkpoints = [
            file
            for file in sorted(log.glob("*.checkpoint*.parquet"))
            if int(file.name.split(".")[0]) <= version
        ]
        return [*commits, *checkpoints]

    def data_files(self, name: str, version: int) -> list[Path]:
        """The files that are there of this version and of the older ones."""
        return [one.path for one in self.stored(name) if one.since <= version]

    def left_behind(self, name: str, before: datetime) -> list[StoredFile]:
        """Files that no version of the table holds: writers that were killed left them before that moment.

        `since` and `until` are -1. A writer that lives has files that no version holds yet, so they are
        told only when they are older than a commit can take. Raises TerminalError as `stored` does.
        """
        known = {one.path for one in self.stored(name)}
        found = []
        for file in sorted(self._path(name).glob("day=*/*.parquet")):
            facts = file.stat()
            if file not in known and facts.st_mtime < before.timestamp():
                found.append(StoredFile(file, file.parent.name.removeprefix("day="), facts.st_size, -1, -1))
        return found

    def commits(self, name: str) -> list[Commit]:
        """All commits, oldest first: the one of version v at place v. Raises TerminalError for no table."""
        newest = self._existing(name).version
        return [_read_commit(self._path(name), number) for number in range(newest + 1)]

    def remove_days(self, name: str, days: Sequence[str], provenance: Mapping[str, object]) -> int:
        """Makes a version of the table without these days; how many of them it had.

        Nothing is read or deleted: older versions hold what they held. No commit where it has none of them.
        Raises what `update` raises.
        """
        import pyarrow as pa

        nothing = _hash_sorted(pa.table({"day": pa.array([], pa.string())}), ())
        for _ in range(_ATTEMPTS):
            snapshot = self._existing(name)
            there = sorted({file.day for file in snapshot.files} & {*days})
            if not there:
                return 0
            message = _message(dict.fromkeys(there, nothing), {}, provenance)
            try:
                with _writing(name, self._path(name), snapshot.version + 1):
                    self._existing_table(name).commit(snapshot, snapshot.schema, [], there, message)
            except _Conflict:
                continue
            return len(there)
        raise TransientError(
            f"Other writers changed the table {name} {_ATTEMPTS} times while {_span(there)} was removed.",
            remedy="run the same again once the other run has ended",
        )

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise TerminalError(
                f"{name!r} is no table name.",
                expected="lower case letters, digits and _, beginning with a letter, with at most one /",
            )
        return (self.root / name).absolute()

    def _snapshot(self, name: str, version: int | None = None) -> _Snapshot | None:
        table = _open(self._path(name))
        return None if table is None else table.snapshot(name, version)

    def _existing(self, name: str, version: int | None = None) -> _Snapshot:
        return self._existing_table(name).snapshot(name, version)

    def _existing_table(self, name: str) -> _Table:
        table = _open(self._path(name))
        if table is None:
            raise TerminalError(
                f"There is no table {name} in {self.root}.",
                remedy="materialize the asset that makes it first",
            )
        return table

    def _commit(
        self,
        name: str,
        snapshot: _Snapshot | None,
        before: _Content,
        target: _Content,
        provenance: Mapping[str, object],
    ) -> list[Written]:
        """Commits the days that differ on top of the snapshot. Raises _Conflict if it is not the newest."""
        changed = [d for d in target.days if before.hashes[d] != target.hashes[d]]
        grows = snapshot is None or set(target.schema.names) - set(snapshot.schema.names)
        rewritten = target.days if grows else changed
        version = snapshot.version if snapshot else -1
        if rewritten:
            path = self._path(name)
            schema = target.schema if snapshot is None else _widened(snapshot, target.schema)
            version += 1
            with _writing(name, path, version) as adds:
                files: dict[str, str] = {}
                for day in rewritten:
                    if target.rows[day].num_rows:
                        add, files[day] = _write_file(path, day, target.rows[day])
                        adds.append(add)
                message = _message({d: target.hashes[d] for d in rewritten}, files, provenance)
                if snapshot is None:
                    _create(path, schema, adds, message)
                else:
                    self._existing_table(name).commit(snapshot, schema, adds, rewritten, message)
        return [
            Written(
                day,
                target.hashes[day],
                rows=target.rows[day].num_rows,
                rows_before=before.rows[day].num_rows,
                changed=day in changed,
                version=version,
                head=target.rows[day].slice(0, HEAD_ROWS).to_pylist(),
            )
            for day in target.days
        ]


def content_hash(table: pa.Table, *, sort_by: Sequence[str], unhashed: Sequence[str] = ()) -> str:
    """SHA-256, 64 hex digits, over column names, types and values of the rows in sorted order.

    The same for any row order, column order, chunking and encoding of the same values. A column that is
    null throughout is left out, so that adding one does not change the hash of what was there; -0.0 counts
    as 0.0 and every NaN as the same. unhashed: columns left out.
    Raises TerminalError for a column type the lake does not store.
    """
    return _hash_sorted(_sorted(plain(table), sort_by, unhashed), unhashed)


def canonical(table: pa.Table, *, sort_by: Sequence[str], unhashed: Sequence[str] = ()) -> pa.Table:
    """The table in the lake's types, in the order in which its content hash is taken, 0.0 for -0.0.

    Rows are ordered by day, `sort_by`, then all other columns: tables of the same columns and the same
    content hash come out equal. Raises TerminalError for a column type the lake does not store.
    """
    return _one_zero(_sorted(plain(table), sort_by, unhashed))


def plain(table: pa.Table) -> pa.Table:
    """The table in the lake's types: dictionaries decoded, string for its variants, timestamps in us, UTC.

    Raises TerminalError for a type the lake does not store, and for a timestamp finer than a microsecond.
    """
    import pyarrow as pa

    schema = pa.schema([pa.field(f.name, _plain_type(f.name, f.type)) for f in table.schema])
    if table.schema.equals(schema, check_metadata=True):
        return table
    try:
        return table.replace_schema_metadata(None).cast(schema)
    except pa.ArrowInvalid as error:
        raise TerminalError(f"A value does not fit the lake's types: {error}") from error


@dataclass(frozen=True)
class _File:
    """One Parquet file of a snapshot. index: its row in the snapshot's statistics."""

    path: str
    day: str
    index: int


@dataclass(frozen=True)
class _Snapshot:
    """One version of a table: its schema and files, sorted by day."""

    name: str
    version: int
    schema: pa.Schema
    files: tuple[_File, ...]
    statistics: pa.Table

    def select(self, days: Sequence[str] | None, where: Where | None) -> list[_File]:
        files = list(self.files)
        if days is not None:
            wanted = set(valid_days(days))
            files = [f for f in files if f.day in wanted]
        if where is None or not files:
            return files
        may_qualify = self._may_qualify(where)
        return [f for f in files if may_qualify[f.index]]

    def read(
        self,
        *,
        columns: Sequence[str] | None = None,
        days: Sequence[str] | None = None,
        where: Where | None = None,
    ) -> pa.Table:
        import pyarrow as pa

        names = self.schema.names if columns is None else list(columns)
        self._require(names)
        files = self.select(days, where)
        try:
            found = self._kept(files, list(dict.fromkeys([*names, *([where[0]] if where else [])])))
            if found is None:
                return self._read(files, names, self._filter(where))
            return found if where is None else self._chosen(found, where).select(names)
        except FileNotFoundError as error:
            raise TerminalError(
                f"Files of version {self.version} of the table {self.name} are gone.",
                expected="a version that something kept names: `mlops gc` frees the files of the others",
                remedy="mlops restore, from a backup that has it",
            ) from error
        except (OSError, pa.ArrowInvalid) as error:
            raise TerminalError(
                f"Files of version {self.version} of the table {self.name} cannot be read: {error}",
                expected="the bytes that were written, on a disk that this user may read",
                remedy="mlops restore, from a backup that has them",
            ) from error

    def _kept(self, files: Sequence[_File], names: Sequence[str]) -> pa.Table | None:
        """The rows of the files; those that were read lately are not read again. None where one is large."""
        import pyarrow as pa

        seen = [Path(file.path).stat() for file in files]
        if not seen or not names or max(one.st_size for one in seen) > _SMALL:
            return None
        # The time of a change cannot be set back, unlike that of the last write.
        keys = [
            (f.path, one.st_ino, one.st_ctime_ns, one.st_size, *names)
            for f, one in zip(files, seen, strict=True)
        ]
        found = _recent.found(keys)
        new = [file for file, key in zip(files, keys, strict=True) if key not in found]
        if new:
            read = self._read(new, names)
            counts = self.statistics["num_records"].take([file.index for file in new]).to_pylist()
            if sum(counts) != read.num_rows:
                return None  # not what was written
            starts = accumulate(counts, initial=0)
            parts = [read.slice(start, count) for start, count in zip(starts, counts, strict=False)]
            missing = (key for key in keys if key not in found)
            made = dict(zip(missing, parts, strict=True))
            # A part holds on to all that was read with it.
            if read.nbytes <= _RECENT_BYTES // 4:
                _recent.keep(made)
            found |= made
        return pa.concat_tables([found[key] for key in keys])

    def _read(
        self, files: Sequence[_File], names: Sequence[str], keep: pads.Expression | None = None
    ) -> pa.Table:
        import pyarrow.dataset as pads
        from pyarrow.fs import LocalFileSystem

        dataset = pads.FileSystemDataset.from_paths(
            [f.path for f in files],
            schema=self.schema,
            format=pads.ParquetFileFormat(),
            filesystem=LocalFileSystem(),
            partitions=[pads.field("day") == f.day for f in files],
        )
        return dataset.to_table(columns=list(names), filter=keep)

    def _require(self, names: Sequence[str]) -> None:
        unknown = [n for n in names if n not in self.schema.names]
        if unknown:
            raise TerminalError(
                f"The table {self.name} has no column {', '.join(unknown)} at version {self.version}.",
                expected=f"one of {', '.join(self.schema.names)}",
            )

    def _bounds(self, where: Where) -> tuple[str, pa.Scalar | None, pa.Scalar | None]:
        import pyarrow as pa

        column, *bounds = where
        self._require([column])
        kind = self.schema.field(column).type
        for bound in bounds:
            if isinstance(bound, datetime) and bound.tzinfo is None:
                raise TerminalError(f"The bound {bound} of {column} has no time zone.", expected="UTC")
        lo, hi = (None if b is None else pa.scalar(b, kind) for b in bounds)
        return column, lo, hi

    def _filter(self, where: Where | None) -> pads.Expression | None:
        import pyarrow.dataset as pads

        if where is None:
            return None
        column, lo, hi = self._bounds(where)
        keep = pads.field(column).is_valid()
        if lo is not None:
            keep &= pads.field(column) >= lo
        if hi is not None:
            keep &= pads.field(column) < hi
        return keep

    def _chosen(self, rows: pa.Table, where: Where) -> pa.Table:
        """As `_filter`, of rows that have been read."""
        import pyarrow.compute as pc

        column, lo, hi = self._bounds(where)
        keep = rows[column].is_valid()
        if lo is not None:
            keep = pc.and_(keep, pc.greater_equal(rows[column], lo))
        if hi is not None:
            keep = pc.and_(keep, pc.less(rows[column], hi))
        return rows.filter(keep)

    def _may_qualify(self, where: Where) -> list[bool]:
        """For each row of the statistics whether the file can hold a row with lo <= column < hi.

        Without statistics (text has none, nor a file that is null throughout) it can.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        column, lo, hi = self._bounds(where)
        possible = pa.array([True] * self.statistics.num_rows)
        names = self.statistics.schema.names
        if lo is not None and f"max.{column}" in names:
            highest = self.statistics[f"max.{column}"].cast(lo.type)
            if pa.types.is_timestamp(lo.type):
                # The Delta protocol lets writers cut timestamps in statistics down to milliseconds.
                highest = pc.add(highest, pa.scalar(timedelta(milliseconds=1)))
            possible = pc.and_(possible, pc.fill_null(pc.greater_equal(highest, lo), True))
        if hi is not None and f"min.{column}" in names:
            lowest = self.statistics[f"min.{column}"].cast(hi.type)
            possible = pc.and_(possible, pc.fill_null(pc.less(lowest, hi), True))
        return list(possible.to_pylist())


class _Recent:
    """Rows of small files that were read last.

    A file is never changed, and to open it takes as long as to read thousands of rows: a run that reads some
    weeks, or an online store that is written every hour, reads the same ones again.
    """

    def __init__(self) -> None:
        self._rows: OrderedDict[tuple[object, ...], pa.Table] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def found(self, keys: Sequence[tuple[object, ...]]) -> dict[tuple[object, ...], pa.Table]:
        """Those that are there, by key: a file, what tells it from another one in its place, and columns."""
        with self._lock:
            found = {key: self._rows[key] for key in keys if key in self._rows}
            for key in found:
                self._rows.move_to_end(key)
        return found

    def keep(self, rows: Mapping[tuple[object, ...], pa.Table]) -> None:
        """Keeps them, and lets go of those that were not read for longest."""
        with self._lock:
            for key, table in rows.items():
                if key not in self._rows:
                    self._rows[key] = table
                    self._bytes += table.nbytes
            while self._bytes > _RECENT_BYTES:
                _, oldest = self._rows.popitem(last=False)
                self._bytes -= oldest.nbytes


_recent = _Recent()


@dataclass
class _Table:
    """One open Delta table, shared by all threads and lakes of the process.

    identity: tells it from a table that was deleted and made again in the same place.
    """

    path: Path
    identity: tuple[int, int]
    delta: DeltaTable
    newest: _Snapshot | None = None
    older: OrderedDict[int, _Snapshot] = field(default_factory=OrderedDict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def snapshot(self, name: str, version: int | None) -> _Snapshot:
        with self.lock:
            newest = self._newest(name)
            if version is None or version == newest.version:
                return newest
            if version not in self.older:
                self._remember(self._load(name, version, newest.version))
            self.older.move_to_end(version)
            return self.older[version]

    def commit(
        self, base: _Snapshot, schema: pa.Schema, adds: list[AddAction], days: list[str], message: str
    ) -> None:
        """Replaces the files of `days` as version base + 1. Raises _Conflict if that is taken."""
        from deltalake import Schema
        from deltalake.exceptions import CommitFailedError

        with self.lock:
            if self._newest(base.name).version != base.version:
                raise _Conflict
            try:
                self.delta.create_write_transaction(
                    [*adds],
                    "overwrite",
                    Schema.from_arrow(schema),
                    ["day"],
                    [("day", "in", days)],
                    commit_properties=_properties(message),
                )
            except CommitFailedError as error:
                raise _Conflict from error

    def _newest(self, name: str) -> _Snapshot:
        # Commits are numbered without a gap: if the file of the next one is missing, this is the newest.
        if self.newest is None or _commit_file(self.path, self.newest.version + 1).exists():
            if self.newest is not None:
                self._remember(self.newest)
            self.delta.update_incremental()
            self.newest = _snapshot_of(self.delta, self.path, name)
        return self.newest

    def _load(self, name: str, version: int, newest: int) -> _Snapshot:
        from deltalake import DeltaTable

        if not 0 <= version <= newest:
            raise TerminalError(
                f"The table {name} has no version {version}.", expected=f"a version from 0 to {newest}"
            )
        return _snapshot_of(DeltaTable(self.path, version=version), self.path, name)

    def _remember(self, snapshot: _Snapshot) -> None:
        self.older[snapshot.version] = snapshot
        if len(self.older) > _SNAPSHOTS_KEPT:
            self.older.popitem(last=False)


_OPEN: dict[Path, _Table] = {}
_OPEN_LOCK = threading.Lock()


def _open(path: Path) -> _Table | None:
    """The table in this folder, opened once a process (opening costs 10 to 40 ms, looking again 0.01)."""
    try:
        found = _first_commit(path).stat()
    except FileNotFoundError:
        return None
    identity = (found.st_ino, found.st_mtime_ns)
    with _OPEN_LOCK:
        table = _OPEN.get(path)
        if table is None or table.identity != identity:
            from deltalake import DeltaTable

            table = _OPEN[path] = _Table(path, identity, DeltaTable(path))
        return table


@dataclass(frozen=True)
class _Content:
    """Sorted rows and content hash of each day; a day without rows is there with an empty table."""

    days: list[str]
    schema: pa.Schema
    rows: Mapping[str, pa.Table]
    hashes: Mapping[str, str]

    @classmethod
    def of(
        cls,
        table: pa.Table | None,
        days: list[str],
        *,
        sort_by: Sequence[str],
        unhashed: Sequence[str],
        name: str,
        snapshot: _Snapshot | None,
    ) -> _Content:
        import pyarrow as pa

        if table is None:
            table = pa.table({"day": pa.array([], pa.string())})
        else:
            table = plain(_fitted(table, snapshot))
            _require_days(table, days, name)
            table = _sorted(table, sort_by, unhashed)
        rows = {day: table.slice(0, 0) for day in days} | dict(_by_day(table))
        return cls(days, table.schema, rows, {d: _hash_sorted(rows[d], unhashed) for d in days})


def _fitted(table: pa.Table, snapshot: _Snapshot | None) -> pa.Table:
    """The table with columns of type null given the type the lake's table has for them."""
    import pyarrow as pa

    if not any(pa.types.is_null(t) for t in table.schema.types):
        return table
    known = {} if snapshot is None else {f.name: f.type for f in snapshot.schema}
    fields = [f.with_type(known.get(f.name, f.type)) if pa.types.is_null(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields))


def _by_day(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Slices of a table that is sorted by day."""
    import pyarrow.compute as pc

    start = 0
    for entry in pc.value_counts(table["day"]).to_pylist():  # in order of appearance
        yield entry["values"], table.slice(start, entry["counts"])
        start += entry["counts"]


def _sorted(table: pa.Table, sort_by: Sequence[str], unhashed: Sequence[str]) -> pa.Table:
    """Rows by day, then `sort_by`, ties by the remaining columns: one order whatever the order before.

    Columns outside the hash come last, so that they never move hashed values.
    """
    import numpy as np
    import pyarrow as pa

    missing = [n for n in sort_by if n not in table.column_names]
    if missing:
        raise TerminalError(f"No column {', '.join(missing)} to sort by among {table.column_names}.")
    outside = set(unhashed)
    head = [n for n in ("day", *sort_by) if n in table.column_names and n not in outside]
    hashed = [n for n in sorted(table.column_names) if n not in outside]
    keys = list(dict.fromkeys([*head, *hashed, *sorted(table.column_names)]))
    if not keys or table.num_rows < 2:
        return table
    order = pa.compute.sort_indices(table, [(k, "ascending") for k in keys])
    if np.array_equal(order, np.arange(table.num_rows)):
        return table
    return table.take(order)


def _one_zero(table: pa.Table) -> pa.Table:
    """The table with 0.0 for -0.0, which compare as equal."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [
        pc.add(column, pa.scalar(0.0, column.type)) if pa.types.is_floating(column.type) else column
        for column in table.columns
    ]
    return pa.table(columns, schema=table.schema)


def _hash_sorted(table: pa.Table, unhashed: Sequence[str]) -> str:
    names = sorted(set(table.column_names) - set(unhashed))
    columns = {n: c for n in names if (c := table[n]).null_count < table.num_rows}
    header = [table.num_rows, [[name, str(column.type)] for name, column in columns.items()]]
    content: list[bytes | memoryview] = [_HASH_FORMAT, json.dumps(header).encode()]
    for column in columns.values():
        for block in _blocks(column):
            content += [memoryview(block).nbytes.to_bytes(8, "little"), block]
    return hashlib.sha256(b"".join(content)).hexdigest()


def _blocks(column: pa.ChunkedArray) -> Iterator[bytes | memoryview]:
    """Bytes that stand for a column's values and nothing else: validity, then values, nulls as zeros.

    Read from the buffers: a table has many columns of few rows, and a call into Arrow costs more than they.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    valid = _bits(array, 0) if array.null_count else None
    yield b"" if valid is None else np.packbits(valid).data
    if pa.types.is_string(array.type) or pa.types.is_binary(array.type):
        filled = array.fill_null("" if pa.types.is_string(array.type) else b"")
        yield pc.binary_length(filled).to_numpy(zero_copy_only=False).data
        yield _characters(filled)
    else:
        values = _numbers(array)
        yield (values if valid is None else np.where(valid, values, np.zeros(1, values.dtype))).data


def _bits(array: pa.Array, index: int) -> NDArray[np.bool_]:
    """One of the array's buffers that holds a bit a value."""
    import numpy as np

    start, end = array.offset, array.offset + len(array)
    packed = np.frombuffer(array.buffers()[index], np.uint8)[start // 8 : -(-end // 8)]
    return np.unpackbits(packed, bitorder="little")[start % 8 :][: len(array)].astype(np.bool_)


def _characters(array: pa.Array) -> bytes | memoryview:
    """The bytes of all strings, one after the other."""
    import numpy as np

    _, offsets, data = array.buffers()
    if data is None:
        return b""
    bounds = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    return memoryview(data)[bounds[0] : bounds[-1]]


def _numbers(array: pa.Array) -> NDArray[np.generic]:
    """The values, anything where they are null; one bit pattern for zero and one for NaN."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_boolean(array.type):
        return _bits(array, 1)
    kind = f"<{'f' if pa.types.is_floating(array.type) else 'i'}{array.type.bit_width // 8}"
    values: NDArray[np.generic] = np.frombuffer(array.buffers()[1], kind)[array.offset :][: len(array)]
    if kind.startswith("<f"):
        values = np.add(values, 0, dtype=values.dtype)  # -0.0 becomes 0.0
        if (nan := np.isnan(values)).any():
            values = np.where(nan, np.array(np.nan, values.dtype), values)
    return values


def _plain_type(name: str, kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _plain_type(name, kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp("us", tz="UTC")
    stored = (
        pa.string(), pa.binary(), pa.bool_(), pa.date32(), pa.float32(), pa.float64(),
        pa.int8(), pa.int16(), pa.int32(), pa.int64(),
    )  # fmt: skip
    if kind not in stored:
        raise TerminalError(
            f"The lake does not store the column {name} of type {kind}.",
            expected=f"{', '.join(str(t) for t in stored)} or a timestamp with a time zone",
            remedy="cast the column first",
        )
    return kind


def _widened(snapshot: _Snapshot, new: pa.Schema) -> pa.Schema:
    """The table's schema with the columns that are new behind it."""
    schema = snapshot.schema
    for column in new:
        if column.name not in schema.names:
            schema = schema.append(column)
        elif column.type != schema.field(column.name).type:
            raise TerminalError(
                f"The column {column.name} for the table {snapshot.name} is {column.type}.",
                expected=f"{schema.field(column.name).type}, as in the table",
                remedy="cast it, or give the changed column a new name",
            )
    return schema


def valid_days(days: Sequence[str]) -> list[str]:
    """The days, sorted, each once. Raises TerminalError for what is neither YYYY-MM-DD nor `static`."""
    for day in days:
        try:
            valid = day == STATIC_DAY or date.fromisoformat(day).isoformat() == day
        except (TypeError, ValueError):
            valid = False
        if not valid:
            raise TerminalError(f"{day!r} is no day.", expected=f"YYYY-MM-DD or {STATIC_DAY}")
    return sorted(set(days))


def _span(days: list[str]) -> str:
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _require_days(table: pa.Table, days: list[str], name: str) -> None:
    if "day" not in table.column_names:
        raise TerminalError(f"Rows for the table {name} have no column day.")
    others = set(table["day"].unique().to_pylist()) - set(days)
    if others:
        shown = ", ".join(sorted(str(d) for d in others)[:5])
        raise TerminalError(
            f"Rows of {shown} were given for the table {name}.", expected=f"rows of {_span(days)}"
        )


def _require_keys(table: pa.Table, key: list[str], name: str) -> None:
    missing = [n for n in key if n not in table.column_names]
    if missing:
        raise TerminalError(f"Rows for the table {name} have no column {', '.join(missing)}.")
    nulls = [n for n in key if table[n].null_count]
    if nulls:
        raise TerminalError(f"Rows for the table {name} have a null in their key {', '.join(nulls)}.")
    if table.group_by(key).aggregate([]).num_rows < table.num_rows:
        raise TerminalError(f"Two rows for the table {name} have the same {', '.join(key)}.")


def _rows_without(table: pa.Table, other: pa.Table, key: list[str]) -> pa.Table:
    """Rows of the table whose key the other lacks."""
    import numpy as np
    import pyarrow as pa

    numbered = table.select(key).append_column("row", pa.array(np.arange(table.num_rows)))
    return table.take(numbered.join(other.select(key), key, join_type="left anti")["row"])


def _first_commit(path: Path) -> Path:
    return _commit_file(path, 0)


def _commit_file(path: Path, version: int) -> Path:
    """Where the Delta protocol puts the commit of a version."""
    return path / "_delta_log" / f"{version:020d}.json"


def _snapshot_of(delta: DeltaTable, path: Path, name: str) -> _Snapshot:
    import pyarrow as pa

    adds = pa.table(delta.get_add_actions(flatten=True))
    schema = pa.schema(delta.schema().to_arrow())
    schema = pa.schema([pa.field(f.name, _plain_type(f.name, f.type)) for f in schema])
    paths = adds["path"].to_pylist()
    days = adds["partition.day"].to_pylist() if adds.num_rows else []
    files = [_File(f"{path}/{unquote(p)}", d, i) for i, (p, d) in enumerate(zip(paths, days, strict=True))]
    files.sort(key=lambda f: (f.day, f.path))
    return _Snapshot(name, delta.version(), schema, tuple(files), adds)


@contextmanager
def _writing(name: str, path: Path, version: int) -> Iterator[list[AddAction]]:
    """The files of a commit. What the disk refuses is said; files that no commit names do not stay on it."""
    adds: list[AddAction] = []
    try:
        yield adds
    except OSError as error:
        # An error may also come after the commit, from the checkpoint behind it.
        if not _commit_file(path, version).exists():
            for add in adds:
                (path / add.path).unlink(missing_ok=True)
        raise TerminalError(
            f"The table {name} cannot be written: {_last_line(error)}",
            expected=f"a disk with room for it at {path}, which this user may write",
            remedy="make room, or mend the permissions, and run the same again: nothing is lost",
        ) from error


def _last_line(error: OSError) -> str:
    """What the operating system said, without what was being done and the colours of the terminal."""
    said = re.sub(r"\x1b\[[0-9;]*m", "", error.strerror or str(error) or repr(error))
    return said.strip().splitlines()[-1].strip(" ↳")


def _write_file(path: Path, day: str, rows: pa.Table) -> tuple[AddAction, str]:
    """Writes the rows of a day under a name of its own; it belongs to the table once a commit names it.

    And the SHA-256 of the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from deltalake.transaction import AddAction

    relative = f"day={day}/part-{uuid.uuid4()}.parquet"
    target = path / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    content = pa.BufferOutputStream()
    pq.write_table(rows.drop_columns("day"), content, compression="zstd")
    written = content.getvalue()
    try:
        target.write_bytes(written)
    except OSError:
        target.unlink(missing_ok=True)
        raise
    add = AddAction(
        path=relative,
        size=written.size,
        partition_values={"day": day},
        modification_time=target.stat().st_mtime_ns // 10**6,
        data_change=True,
        stats=json.dumps(_statistics(rows)),
    )
    return add, hashlib.sha256(written).hexdigest()


def _statistics(rows: pa.Table) -> dict[str, object]:
    """Delta statistics of whole numbers and times; of other columns they are long and prune nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lowest: dict[str, object] = {}
    highest: dict[str, object] = {}
    nulls: dict[str, int] = {}
    for column in rows.schema:
        if pa.types.is_integer(column.type) or pa.types.is_timestamp(column.type):
            nulls[column.name] = rows[column.name].null_count
            found = pc.min_max(rows[column.name]).as_py()
            if found["min"] is not None:
                lowest[column.name] = _statistic(found["min"])
                highest[column.name] = _statistic(found["max"], up=True)
    return {"numRecords": rows.num_rows, "minValues": lowest, "maxValues": highest, "nullCount": nulls}


def _statistic(value: int | datetime, *, up: bool = False) -> int | str:
    """A bound as the Delta protocol writes it: times in milliseconds, here rounded outwards."""
    if isinstance(value, int):
        return value
    below = value.replace(microsecond=value.microsecond // 1000 * 1000)
    bound = below + timedelta(milliseconds=1) if up and below != value else below
    return bound.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{bound.microsecond // 1000:03d}Z"


def _message(hashes: Mapping[str, str], files: Mapping[str, str], provenance: Mapping[str, object]) -> str:
    said = {"hashes": dict(hashes), "files": dict(files), "provenance": dict(provenance)}
    return json.dumps(said, sort_keys=True)


def _properties(message: str) -> CommitProperties:
    from deltalake import CommitProperties

    # No retries inside: a commit becomes the version after the one it read, or it is refused. Delta's own
    # conflict check lets a commit through that only read, and did not write, a day another one changed.
    return CommitProperties(custom_metadata={"userMetadata": message}, max_commit_retries=0)


def _create(path: Path, schema: pa.Schema, adds: list[AddAction], message: str) -> None:
    """Makes the table with its first rows as version 0. Raises _Conflict if it is there meanwhile."""
    from deltalake import Schema
    from deltalake.exceptions import DeltaError
    from deltalake.transaction import create_table_with_add_actions

    path.mkdir(parents=True, exist_ok=True)
    try:
        create_table_with_add_actions(
            str(path),
            Schema.from_arrow(schema),
            adds,
            mode="error",
            partition_by=["day"],
            configuration={
                "delta.checkpointInterval": str(_CHECKPOINT_EVERY),
                # Old versions stay readable: predictions, training sets and models name them.
                "delta.enableExpiredLogCleanup": "false",
                "delta.logRetentionDuration": "interval 36500 days",
                "delta.deletedFileRetentionDuration": "interval 36500 days",
            },
            commit_properties=_properties(message),
        )
    except DeltaError as error:
        if _first_commit(path).exists():
            raise _Conflict from error
        raise


def _read_commit(path: Path, version: int) -> Commit:
    """A commit from its file in the log, which is kept for good."""
    for line in _commit_file(path, version).read_text(encoding="utf-8").splitlines():
        if line.startswith('{"commitInfo"'):
            return _commit_of({**json.loads(line)["commitInfo"], "version": version})
    raise TerminalError(f"The commit {version} of {path} does not say what it wrote.")


def _commit_of(entry: Mapping[str, Any]) -> Commit:
    message = json.loads(entry.get("userMetadata") or "{}")
    return Commit(
        version=entry["version"],
        at=datetime.fromtimestamp(entry["timestamp"] / 1000, UTC),
        hashes=message.get("hashes", {}),
        provenance=message.get("provenance", {}),
        files=message.get("files", {}),
    )
