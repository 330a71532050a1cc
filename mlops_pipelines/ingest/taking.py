"""Taking in: landed files become rows of the lake, each file once, whatever is interrupted.

What must not be lost is durable before what depends on it: rejected rows and reopened days are recorded
before the table is committed, and a file is finished in the ledger after it. Repeating any part changes
nothing, because rows are merged by what they say.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger.landing import FinishedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ingest.intake import Merged
    from mlops_pipelines.ingest.judging import Judged
    from mlops_pipelines.ingest.landing import LandedTable
    from mlops_pipelines.ingest.quarantine import Reason
    from mlops_pipelines.lake import Written
    from mlops_pipelines.ledger import LandedFile
    from mlops_pipelines.ledger.landing import Stage
    from mlops_pipelines.spec_loading import LoadedSpec

PROVENANCE = ("file_digest", "file_row")
QUARANTINE_COLUMNS = {
    "stream": "string",
    "file_digest": "string",
    "file_row": "int",
    "reasons": "string",
    "row": "string",
    "arrived_at": "timestamp",
}
PREVIEW_ROWS = 5
# A producer's clock may be slow: folders this much older than the newest are listed again.
OVERLAP = timedelta(days=3)
_MOMENTS = {"arrived_at": "timestamp", "known_at": "timestamp"}
_ORIGIN = {"file_digest": "string", "file_row": "int"}


@dataclass(frozen=True)
class Taken:
    """What became of the landed files of a stream.

    written: the days of its table; quarantine: the days of the quarantine. refused: a sentence a file.
    """

    stream: str
    written: list[Written]
    files: int = 0
    rows: int = 0
    accepted: int = 0
    quarantined: int = 0
    duplicates: int = 0
    refused: tuple[str, ...] = ()
    quarantine: list[Written] = field(default_factory=list)
    reject_reasons: Mapping[str, int] = field(default_factory=dict)
    rejects: Sequence[Mapping[str, Any]] = ()
    preview: Sequence[Mapping[str, Any]] = ()

    @property
    def adds_up(self) -> bool:
        """Whether every landed row is accounted for once."""
        return self.rows == self.accepted + self.quarantined + self.duplicates

    @property
    def sum_sentence(self) -> str:
        return (
            f"{self.accepted} accepted + {self.quarantined} quarantined + {self.duplicates} duplicates, "
            f"of {self.rows} landed rows"
        )


@dataclass(frozen=True)
class Backlog:
    """What waits to be taken in. days: those a run would be asked for, UTC."""

    due: bool
    sentence: str
    files: int
    days: tuple[str, ...]


def event_columns(loaded: LoadedSpec) -> dict[str, str]:
    """Columns of the events table: name to type."""
    events = loaded.spec.events
    roles = {"event_id": "string", "event_time": "timestamp", "decision_time": "timestamp", **_MOMENTS}
    return {**roles, **_contract_columns(loaded, "events", {events.id}), **_ORIGIN}


def label_columns(loaded: LoadedSpec) -> dict[str, str]:
    """Columns of the labels table: name to type."""
    event_id = loaded.spec.labels.id or loaded.spec.events.id
    roles = {"event_id": "string", "label": "int", "label_time": "timestamp", **_MOMENTS}
    return {**roles, **_contract_columns(loaded, "labels", {event_id}), **_ORIGIN}


def reference_columns(loaded: LoadedSpec, name: str) -> dict[str, str]:
    """Columns of a reference's table: name to type."""
    roles = {"ref_time": "timestamp", **_MOMENTS}
    return {**roles, **_contract_columns(loaded, name, set()), **_ORIGIN}


def _contract_columns(loaded: LoadedSpec, stream: str, renamed: set[str]) -> dict[str, str]:
    rules = loaded.contract.columns_of(stream)
    return {name: rule.type for name, rule in rules.items() if name not in renamed}


def register_landed(place: PipelineHome) -> int:
    """Register what has landed since; how many files were new. Lists recent folders only."""
    from mlops_pipelines.ingest.landing import list_files

    new = 0
    for stream in place.streams:
        newest = place.ledger.newest_arrival(place.name, stream)
        since = date.fromisoformat(newest) - OVERLAP if newest else None
        new += place.ledger.register_files(place.name, stream, list_files(place.landing(stream), since))
    return new


def backlog(place: PipelineHome, now: datetime) -> Backlog:
    """Whether what waits is beyond a bound: rows, bytes, or the age of the oldest file."""
    pending = place.ledger.pending_files(place.name)
    asking = [file for file in pending if file.stream != "labels"]
    if not asking:
        return Backlog(False, "Nothing waits to be taken in.", 0, ())
    bound = place.spec.triggers.backlog
    size = sum(file.size for file in asking)
    age = now - min(_landed_at(file) for file in asking)
    reasons = [
        f"{size:,} bytes wait" if size >= bound.bytes else "",
        f"the oldest file waits {age}" if age >= bound.age else "",
    ]
    if not any(reasons) and _has_rows(place, asking, bound.rows):
        reasons.append(f"at least {bound.rows:,} rows wait")
    why = "; ".join(reason for reason in reasons if reason)
    days = sorted({place.partition_of(file.arrival_day) for file in pending})
    if why:
        return Backlog(True, f"{len(pending)} files: {why}.", len(pending), tuple(days))
    return Backlog(False, f"{len(pending)} files wait, within every bound.", len(pending), tuple(days))


def days_with_new_labels(place: PipelineHome) -> list[str]:
    """Days whose quality is to be judged anew, and those that waiting labels may belong to."""
    from mlops_pipelines.monitoring.reports import days_to_judge

    days = set(days_to_judge(place, place.clock.now()))
    back = place.spec.labels.matures_after
    for file in place.ledger.pending_files(place.name, ["labels"]):
        arrived = date.fromisoformat(file.arrival_day)
        span = (arrived - (arrived - back)).days + (1 if back % timedelta(days=1) else 0)
        for ago in range(span + 1):
            days.add(place.partition_of((arrived - timedelta(days=ago)).isoformat()))
    return sorted(days)


def take_events(place: PipelineHome, days: Sequence[str]) -> Taken:
    """Take in all waiting event files. days: partitions to account for besides those of the rows."""
    import pyarrow.compute as pc

    from mlops_pipelines.ingest.intake import canonical_events, merge_events, split_by_partitions
    from mlops_pipelines.ingest.quarantine import quarantine_canonical

    batch = _read_batch(place, "events", place.spec.events.arrived)
    new = batch.concat(lambda accepted, origin: canonical_events(accepted, origin, place.spec))
    conflict = _conflict("event_id")
    rejects = batch.rejects(place)
    merged: list[Merged] = []
    if new is not None:
        new, outside, beyond = split_by_partitions(new, place.spec.partitions)
        rejects.append(quarantine_canonical(outside, beyond, stream="events"))
        _reopen(place, "tiles", _days_of(new["known_at"]))
        _reopen(place, "score", new["day"].unique().to_pylist())
    quarantine = _quarantine(place, rejects, days)

    def change(current: pa.Table | None) -> pa.Table:
        if new is None:
            return current
        merged.append(merge_events(current, new, place.spec))
        # Durable before the commit: a row that is displaced is nowhere else any more.
        _quarantine(place, [quarantine_canonical(merged[-1].conflicts, conflict, stream="events")], ())
        return merged[-1].table

    written = _update(place, "events", _union(days, new), change, ["event_id"], exists=new is not None)
    if merged:
        rejects.append(quarantine_canonical(merged[-1].conflicts, conflict, stream="events"))
    taken = batch.finish(place, merged[-1].table if merged else None, rejects)
    if new is not None and new.num_rows:
        place.ledger.raise_watermark(pc.max(new["arrived_at"]).as_py())
    return _with(taken, written, quarantine, rejects, new)


def take_labels(place: PipelineHome, days: Sequence[str]) -> Taken:
    """Take in all waiting label files, and labels that came before their event."""
    import pyarrow as pa

    from mlops_pipelines.ingest.intake import canonical_labels, match_labels, merge_labels

    batch = _read_batch(place, "labels", place.spec.labels.arrived)
    landed = batch.concat(lambda accepted, origin: canonical_labels(accepted, origin, place.spec))
    rejects = batch.rejects(place)
    _quarantine(place, rejects, ())
    waiting = place.lake.read("labels_unmatched") if place.lake.exists("labels_unmatched") else None
    parts = [table for table in (landed, waiting) if table is not None and table.num_rows]
    matched = unmatched = None
    if parts:
        labels = pa.concat_tables(parts, promote_options="default")
        matched, unmatched = match_labels(labels, _events_of(place, labels))
        _reopen(place, "tiles", _days_of(matched["known_at"]))
        _reopen(place, "monitor", matched["day"].unique().to_pylist())

    def change(current: pa.Table | None) -> pa.Table:
        return current if matched is None else merge_labels(current, matched, place.spec).table

    written = _update(
        place,
        "labels",
        _union(days, matched),
        change,
        ["event_id", "known_at", "label_time", "label"],
        exists=matched is not None and matched.num_rows > 0,
    )
    if unmatched is not None:
        _keep_unmatched(place, waiting, unmatched)
    taken = batch.finish(place, None, rejects)
    return _with(taken, written, [], rejects, matched)


def take_reference(place: PipelineHome, name: str, days: Sequence[str]) -> Taken:
    """Take in all waiting files of a reference."""
    from mlops_pipelines.ingest.intake import canonical_reference, merge_reference
    from mlops_pipelines.ingest.quarantine import quarantine_canonical
    from mlops_pipelines.lake import STATIC_DAY

    reference = place.spec.references[name]
    batch = _read_batch(place, name, reference.arrived)
    new = batch.concat(lambda accepted, origin: canonical_reference(accepted, origin, reference))
    rejects = batch.rejects(place)
    _quarantine(place, rejects, ())
    if new is not None and reference.time is not None:
        _reopen(place, "tiles", _days_of(new["known_at"]))

    rejects_of_merge: list[pa.Table] = []

    def change(current: pa.Table | None) -> pa.Table:
        if new is None:
            return current
        merged = merge_reference(current, new, reference)
        rejects_of_merge[:] = [quarantine_canonical(merged.conflicts, _conflict("keys"), stream=name)]
        _quarantine(place, rejects_of_merge, ())
        return merged.table

    wanted = [STATIC_DAY] if reference.time is None else days
    order = [*reference.keys, *([] if reference.time is None else ["ref_time"]), "arrived_at"]
    written = _update(place, name, _union(wanted, new), change, order, exists=new is not None)
    rejects += rejects_of_merge
    return _with(batch.finish(place, None, rejects), written, [], rejects, new)


def _conflict(column: str) -> Reason:
    from mlops_pipelines.ingest.quarantine import Reason

    return Reason("conflict", f"says what the row with the same {column} says", column)


@dataclass(frozen=True)
class _Batch:
    """The waiting files of a stream, read and judged. refused: file, digest and why."""

    stream: str
    judged: tuple[tuple[LandedFile, LandedTable, Judged], ...]
    refused: tuple[tuple[LandedFile, str, str], ...]

    def concat(self, canonical: Callable[..., pa.Table]) -> pa.Table | None:
        """All accepted rows as canonical rows; None if no file was accepted."""
        import pyarrow as pa

        from mlops_pipelines.ingest.intake import FileOrigin

        tables = [
            canonical(judged.accepted, FileOrigin(table.digest, file.modified_at))
            for file, table, judged in self.judged
        ]
        return pa.concat_tables(tables, promote_options="default") if tables else None

    def rejects(self, place: PipelineHome) -> list[pa.Table]:
        """The rejected rows of each file, as rows of the quarantine."""
        from mlops_pipelines.ingest.quarantine import quarantine_table

        return [
            quarantine_table(
                judged.rejected,
                stream=self.stream,
                file_digest=table.digest,
                arrival_day=date.fromisoformat(place.partition_of(file.arrival_day)),
            )
            for file, table, judged in self.judged
        ]

    def finish(self, place: PipelineHome, standing: pa.Table | None, rejects: Sequence[pa.Table]) -> Taken:
        """Finish the files in the ledger, and count.

        standing: the table's rows in the days of the batch, each with the file it came from; None where
        every row that was not rejected stands.
        """
        finished: list[FinishedFile] = []
        rejected = Counter(digest for table in rejects for digest in table["file_digest"].to_pylist())
        accepted = Counter(standing["file_digest"].to_pylist()) if standing is not None else None
        sums: Counter[str] = Counter()
        for file, table, _ in self.judged:
            quarantined = rejected[table.digest]
            stands = table.rows - quarantined if accepted is None else accepted[table.digest]
            counts = {
                "rows": table.rows,
                "accepted": stands,
                "quarantined": quarantined,
                "duplicates": table.rows - quarantined - stands,
            }
            sums.update(counts)
            finished.append(FinishedFile(file.id, "taken", table.digest, **counts))
        finished += [FinishedFile(file.id, "rejected", digest, why) for file, digest, why in self.refused]
        place.ledger.finish_files(finished, place.clock.now())
        return Taken(
            self.stream,
            [],
            files=len(self.judged) + len(self.refused),
            rows=sums["rows"],
            accepted=sums["accepted"],
            quarantined=sums["quarantined"],
            duplicates=sums["duplicates"],
            refused=tuple(why for _, _, why in self.refused),
        )


def _read_batch(place: PipelineHome, stream: str, arrived: str | None) -> _Batch:
    from mlops_pipelines.ingest.judging import BadBatchError, judge
    from mlops_pipelines.ingest.landing import UnreadableFileError, read_file

    read: list[tuple[LandedFile, LandedTable]] = []
    refused: list[tuple[LandedFile, str, str]] = []
    for file in place.ledger.pending_files(place.name, [stream]):
        try:
            read.append((file, read_file(place.landing(stream) / file.path)))
        except UnreadableFileError as error:
            refused.append((file, error.digest, str(error)))
        except FileNotFoundError:
            refused.append((file, "", f"{file.path} has vanished from {place.landing(stream)}"))
    verdicts = judge([table for _, table in read], place.contract, stream, arrived=arrived) if read else []
    judged = []
    for (file, table), verdict in zip(read, verdicts, strict=True):
        if isinstance(verdict, BadBatchError):
            refused.append((file, table.digest, str(verdict)))
        else:
            judged.append((file, table, verdict))
    return _Batch(stream, tuple(judged), tuple(refused))


def _update(
    place: PipelineHome,
    table: str,
    days: Sequence[str],
    change: Callable[[pa.Table | None], pa.Table],
    sort_by: Sequence[str],
    *,
    exists: bool,
) -> list[Written]:
    if not days or not (exists or place.lake.exists(table)):
        return []
    return place.lake.update(table, days, change, sort_by=sort_by, unhashed=PROVENANCE)


def _quarantine(place: PipelineHome, rejects: Sequence[pa.Table], days: Sequence[str]) -> list[Written]:
    """Keep rejected rows; one entry a day of theirs and of `days`."""
    import pyarrow as pa

    table = pa.concat_tables(rejects) if rejects else None
    if table is not None and table.num_rows:
        place.lake.append_new(
            "quarantine",
            table,
            key=["stream", "file_digest", "file_row"],
            sort_by=["file_digest", "file_row"],
        )
    if not days or not place.lake.exists("quarantine"):
        return []
    return place.lake.update("quarantine", days, lambda current: current, sort_by=["file_digest", "file_row"])


def _keep_unmatched(place: PipelineHome, waiting: pa.Table | None, unmatched: pa.Table) -> None:
    """Let `unmatched` be all that waits for its event; a row that came again waits once."""
    from mlops_pipelines.ingest.intake import merge_labels

    if waiting is None and unmatched.num_rows == 0:
        return
    left = merge_labels(None, unmatched, place.spec).table
    days = {*left["day"].unique().to_pylist(), *(waiting["day"].unique().to_pylist() if waiting else ())}
    if days:
        place.lake.replace(
            "labels_unmatched", left, days=sorted(days), sort_by=["event_id", "known_at"], unhashed=PROVENANCE
        )


def _events_of(place: PipelineHome, labels: pa.Table) -> pa.Table:
    """event_id and day of the events that labels may belong to: recent ones, or all where those do not do."""
    import pyarrow.compute as pc

    lake = place.lake
    if not lake.exists("events"):
        raise TerminalError(
            f"Labels of {place.name} have landed before any event.",
            remedy="land the events they belong to; the labels wait",
        )
    times = pc.min_max(labels["label_time"]).as_py()
    first = (times["min"] - place.spec.labels.matures_after).date() - timedelta(days=1)
    recent = [
        day for day in lake.days("events") if first.isoformat() <= day <= times["max"].date().isoformat()
    ]
    events = lake.read("events", columns=["event_id", "day"], days=recent)
    found = pc.is_in(labels["event_id"], value_set=events["event_id"].combine_chunks())
    if pc.all(found).as_py() is not False:
        return events
    return lake.read("events", columns=["event_id", "day"])


def _reopen(place: PipelineHome, stage: Stage, days: Iterable[str]) -> None:
    place.ledger.reopen_days(place.name, days, stage, place.clock.now())


def _days_of(times: pa.ChunkedArray) -> list[str]:
    import pyarrow as pa

    days: list[str] = times.cast(pa.timestamp("us")).cast(pa.date32()).cast(pa.string()).unique().to_pylist()
    return days


def _union(days: Sequence[str], table: pa.Table | None) -> list[str]:
    return sorted({*days, *(table["day"].unique().to_pylist() if table is not None else ())})


def _landed_at(file: LandedFile) -> datetime:
    """When a file landed: its modification, but not after the day of its folder.

    A replay writes today what producers wrote then; the folder says when that was.
    """
    closes = datetime.combine(date.fromisoformat(file.arrival_day), time(), UTC) + timedelta(days=1)
    return min(file.modified_at, closes)


def _has_rows(place: PipelineHome, files: Sequence[LandedFile], at_least: int) -> bool:
    """Whether the files hold that many rows; reads footers of Parquet files until it is sure.

    A text file does not say how many rows it has: it counts as one.
    """
    rows = 0
    for file in files:
        rows += _rows_said(place.landing(file.stream) / file.path)
        if rows >= at_least:
            return True
    return False


def _rows_said(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix != ".parquet":
        return 1
    try:
        return int(pq.read_metadata(path).num_rows)
    except pa.ArrowInvalid:
        return 1  # not Parquet, whatever its name says: the run that takes it in will refuse it


def _with(
    taken: Taken,
    written: list[Written],
    quarantine: list[Written],
    rejects: Sequence[pa.Table],
    new: pa.Table | None,
) -> Taken:
    from dataclasses import replace

    import pyarrow as pa

    from mlops_pipelines.ingest.quarantine import reason_counts

    rejected = pa.concat_tables(rejects) if rejects else None
    return replace(
        taken,
        written=written,
        quarantine=quarantine,
        reject_reasons=reason_counts(rejected) if rejected is not None else {},
        rejects=rejected.slice(0, PREVIEW_ROWS).to_pylist() if rejected is not None else (),
        preview=new.slice(0, PREVIEW_ROWS).to_pylist() if new is not None else (),
    )
