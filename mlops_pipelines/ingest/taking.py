"""Taking in: landed files become rows of the lake, each file once, whatever is interrupted.

What must not be lost is durable before what depends on it: rejected rows and reopened days are recorded
before the table is committed, and a file is finished in the ledger after it. Repeating any part changes
nothing, because rows are merged by what they say. Nor does it matter how many runs do it at once: days are
reopened once more after the commit, and a run whose labels another one overtook matches them anew.

Labels and events may come in any order. A label whose event is not there waits in `labels_unmatched`. New
events that such a label waits for reopen their day for the stage `labels`; so labels that wait are looked
at only when there is something for them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import TYPE_CHECKING

from mlops_pipelines.errors import TransientError, UserError
from mlops_pipelines.ingest.quarantine import RejectShare
from mlops_pipelines.outcomes import COLUMN_TYPES, kind_of
from mlops_pipelines.spec_loading import hash_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ingest.contract import Contract
    from mlops_pipelines.ingest.intake import FileOrigin, Merged
    from mlops_pipelines.ingest.judging import Judged
    from mlops_pipelines.ingest.landing import LandedTable
    from mlops_pipelines.lake import Written
    from mlops_pipelines.ledger import LandedFile
    from mlops_pipelines.ledger.landing import FileFact, FinishedFile, RefusedFile, Stage
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
# A producer's clock may be slow: folders this much older than the newest are listed at every tick.
OVERLAP = timedelta(days=3)
# The rejects of files that arrived so long before tell what share of rejects is usual.
USUAL = timedelta(days=30)
# So often labels are matched with their events anew because another run was faster.
_ATTEMPTS = 10
_MOMENTS = {"arrived_at": "timestamp", "known_at": "timestamp"}
_ORIGIN = {"file_digest": "string", "file_row": "int"}


class _OvertakenError(Exception):
    """Another run changed what this one had read; a turn of its loop, no error."""


@dataclass(frozen=True)
class Taken:
    """What became of the landed files of a stream, and of the days of its table.

    files: each as the ledger has it. Of a file's rows are accepted: those that stand in the table or, as
    labels whose event has not come, wait to; quarantined: those in the quarantine; duplicates: those that
    say what was said before.
    written: the days of the table. quarantine: the days of the quarantine. reject_reasons: how often each
    was given. still_rejected: the reasons, JSON, by digest and row of what did not get in. reject_share: how
    the share of the rejected rows compares with that of the files before. refusals: files of the stream that
    were refused as a whole, by this run or before, and still lie there.
    """

    stream: str
    files: Sequence[FinishedFile]
    written: list[Written]
    quarantine: list[Written] = field(default_factory=list)
    reject_reasons: Mapping[str, int] = field(default_factory=dict)
    still_rejected: Mapping[tuple[str, int], str] = field(default_factory=dict)
    reject_share: RejectShare = field(default_factory=RejectShare)
    refusals: Sequence[RefusedFile] = ()

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def accepted(self) -> int:
        return sum(file.accepted for file in self.files)

    @property
    def quarantined(self) -> int:
        return sum(file.quarantined for file in self.files)

    @property
    def duplicates(self) -> int:
        return sum(file.duplicates for file in self.files)

    @property
    def refused(self) -> tuple[str, ...]:
        """What was wrong with each file that was refused as a whole."""
        return tuple(file.detail for file in self.files if file.status == "rejected")

    @property
    def adds_up(self) -> bool:
        """Whether every row of every file is accounted for once. Each figure is counted where it arises."""
        return all(file.rows == file.accepted + file.quarantined + file.duplicates for file in self.files)

    @property
    def sum_sentence(self) -> str:
        return (
            f"{self.accepted} accepted + {self.quarantined} quarantined + {self.duplicates} duplicates, "
            f"of {self.rows} landed rows"
        )


@dataclass(frozen=True)
class Queue:
    """Files of a stream that wait to be taken in. oldest: how long the first of them has waited."""

    files: int
    bytes: int
    oldest: timedelta


@dataclass(frozen=True)
class Backlog:
    """What waits to be taken in, by stream. days: those a run would be asked for, UTC."""

    due: bool
    sentence: str
    queues: Mapping[str, Queue]
    days: tuple[str, ...]


def event_columns(loaded: LoadedSpec) -> dict[str, str]:
    """Columns of the events table: name to type."""
    events = loaded.spec.events
    roles = {"event_id": "string", "event_time": "timestamp", "decision_time": "timestamp", **_MOMENTS}
    return {**roles, **_contract_columns(loaded, "events", {events.id}), **_ORIGIN}


def label_columns(loaded: LoadedSpec) -> dict[str, str]:
    """Columns of the labels table: name to type."""
    event_id = loaded.spec.labels.id or loaded.spec.events.id
    label = COLUMN_TYPES[loaded.spec.labels.kind]
    roles = {"event_id": "string", "label": label, "label_time": "timestamp", **_MOMENTS}
    return {**roles, **_contract_columns(loaded, "labels", {event_id}), **_ORIGIN}


def reference_columns(loaded: LoadedSpec, name: str) -> dict[str, str]:
    """Columns of a reference's table: name to type."""
    roles = {"ref_time": "timestamp", **_MOMENTS}
    return {**roles, **_contract_columns(loaded, name, set()), **_ORIGIN}


def contract_version(loaded: LoadedSpec, stream: str) -> str:
    """Hash (12 hex digits) of the rules of a stream: what rows passed names it."""
    contract = loaded.contract
    halts = [contract.reject_share_halts, contract.reject_rows_allowed, contract.file_size_halts]
    return hash_of([contract.rules_of(stream), *halts])[:12]


def sensitive_columns(loaded: LoadedSpec, stream: str) -> frozenset[str]:
    """Columns of a stream's table whose values are masked wherever they are shown."""
    from mlops_pipelines.ingest.intake import landed_names

    names = landed_names(loaded, stream)
    return frozenset(names[column] for column in loaded.contract.sensitive_columns(stream))


def _contract_columns(loaded: LoadedSpec, stream: str, renamed: set[str]) -> dict[str, str]:
    rules = loaded.contract.columns_of(stream)
    return {name: rule.type for name, rule in rules.items() if name not in renamed}


def register_landed(
    place: PipelineHome, streams: Sequence[str] | None = None, *, everything: bool = False
) -> int:
    """Register what has landed since, by default of all streams; how many files were new.

    Where nothing is new, nothing is written. `not_registered` says what is looked at.
    Raises UserError if a landing folder is missing or may not be listed, once the others are registered.
    """
    new, problems = 0, []
    for stream in place.streams if streams is None else streams:
        try:
            new += place.ledger.register_files(
                place.name, stream, not_registered(place, stream, everything=everything)
            )
        except UserError as error:
            problems.append(error)
    if problems:
        raise problems[0]
    return new


def not_registered(place: PipelineHome, stream: str, *, everything: bool = False) -> list[FileFact]:
    """Files of a stream that have landed and that the ledger does not know.

    Lists recent folders only: from `OVERLAP` before the newest one known, which counts if it is not after
    today by the home's clock. A file in an older folder is found when `everything` is listed, as a
    schedule does every night. A stray is known by its path alone: one that grows is refused once.
    Raises UserError if the landing folder is missing or may not be listed.
    """
    from mlops_pipelines.ingest.landing import list_files

    today = place.clock.now().date()
    newest = place.ledger.newest_arrival(place.name, stream, by=today.isoformat())
    since = date.fromisoformat(newest) - OVERLAP if newest and not everything else None
    known = place.ledger.known_paths(place.name, stream, since.isoformat() if since else "")
    files = list_files(place.landing(stream), since, last_day=today + timedelta(days=1))
    strays = {file.path for file in files if file.is_stray}
    strays -= place.ledger.known_strays(place.name, stream) if strays else set()
    return [
        file
        for file in files
        if (file.path in strays if file.is_stray else (file.path, file.size, file.modified_at) not in known)
    ]


def refusals(place: PipelineHome, streams: Sequence[str] | None = None) -> list[RefusedFile]:
    """Files that were refused as a whole and still lie there as they were, by default of all streams."""
    from mlops_pipelines.ingest.landing import is_there

    wanted = place.streams if streams is None else streams
    return [
        file
        for file in place.ledger.refused_files(place.name)
        if file.stream in wanted and is_there(place.landing(file.stream), file.path)
    ]


def backlog(place: PipelineHome, now: datetime) -> Backlog:
    """Whether what waits is beyond a bound: rows, bytes, or the age of the oldest file.

    Labels wait for a sensor of their own: they count among the files, and are never due here.
    """
    pending = place.ledger.pending_files(place.name)
    queues = queues_of(pending, now)
    asking = [file for file in pending if file.stream != "labels"]
    # A mistyped folder of the far future must not ask for days that nobody has seen yet.
    arrivals = {min(date.fromisoformat(file.arrival_day), now.date()) for file in pending}
    days = tuple(sorted({place.partition_of(day.isoformat()) for day in arrivals}))
    if not asking:
        return Backlog(False, "Nothing waits to be taken in.", queues, days)
    bound = place.spec.triggers.backlog
    size = sum(queues[stream].bytes for stream in queues if stream != "labels")
    age = max(queues[stream].oldest for stream in queues if stream != "labels")
    reasons = [
        f"{size:,} bytes wait" if size >= bound.bytes else "",
        f"the oldest has waited {_rounded(age)}" if age >= bound.age else "",
    ]
    if not any(reasons) and _has_rows(place, asking, bound.rows):
        reasons.append(f"{bound.rows:,} rows or more wait")
    why = "; ".join(reason for reason in reasons if reason)
    if why:
        return Backlog(True, f"Files that wait: {len(pending)}; {why}.", queues, days)
    return Backlog(False, f"Files that wait: {len(pending)}, within every bound.", queues, days)


def queues_of(
    pending: Sequence[LandedFile], now: datetime, landed: Mapping[str, Sequence[FileFact]] | None = None
) -> dict[str, Queue]:
    """What waits, by stream. now: UTC. landed: what the ledger does not know yet."""
    by_stream: defaultdict[str, list[LandedFile | FileFact]] = defaultdict(list)
    for stream, facts in (landed or {}).items():
        if facts:
            by_stream[stream] += facts
    for file in pending:
        by_stream[file.stream].append(file)
    return {
        stream: Queue(
            files=len(files),
            bytes=sum(file.size for file in files),
            # A file may be newer than the clock of a replay.
            oldest=max(now - min(_landed_at(file) for file in files), timedelta(0)),
        )
        for stream, files in by_stream.items()
    }


def event_lag(place: PipelineHome, now: datetime) -> timedelta | None:
    """How far the newest event that was taken in lies behind; None if there is none.

    now: UTC. Events announced ahead of their time do not count.
    """
    import pyarrow.compute as pc

    today = now.date().isoformat()
    for day in (day for day in reversed(place.lake.days("events")) if day <= today):
        times = place.lake.read("events", columns=["event_time"], days=[day])["event_time"]
        newest = pc.max(times.filter(pc.less_equal(times, now))).as_py()
        if newest is not None:
            lag: timedelta = now - newest
            return lag
    return None


def _rounded(age: timedelta) -> timedelta:
    return timedelta(minutes=age // timedelta(minutes=1))


def days_with_new_labels(place: PipelineHome) -> list[str]:
    """Days to judge anew, days whose events labels waited for, and days that landed labels may be of."""
    from mlops_pipelines.monitoring.reports import days_to_judge

    now = place.clock.now()
    days = {*days_to_judge(place, now), *place.ledger.reopened_days(place.name, "labels")}
    for file in place.ledger.pending_files(place.name, ["labels"]):
        arrived = min(date.fromisoformat(file.arrival_day), now.date())
        span = range(_days_to_mature(place) + 1)
        days |= {place.partition_of((arrived - timedelta(days=ago)).isoformat()) for ago in span}
    return sorted(days)


def take_events(place: PipelineHome, days: Sequence[str]) -> Taken:
    """Take in all waiting event files. days: partitions to account for besides those of the rows."""
    return _take_events(place, _read_batch(place, "events"), days)


def _take_events(place: PipelineHome, batch: _Batch, days: Sequence[str]) -> Taken:
    change = _add_events(place, batch, days)
    return _finish(place, batch, _reconsidered(place, batch, change, _add_events))


def _add_events(place: PipelineHome, batch: _Batch, days: Sequence[str]) -> _Change:
    from mlops_pipelines.ingest.intake import (
        canonical_events,
        landed_names,
        merge_events,
        split_by_partitions,
    )
    from mlops_pipelines.ingest.quarantine import quarantine_canonical

    new = batch.concat(lambda accepted, origin: canonical_events(accepted, origin, place.spec))
    rejects = batch.rejects(place)
    if new is not None:
        new, outside, beyond = split_by_partitions(new, place.spec.partitions)
        landed = landed_names(place.loaded, "events")
        rejects.append(
            quarantine_canonical(
                outside, beyond, stream="events", landed=landed, column=place.spec.events.time
            )
        )
        new = _in_time(place, "events", new, "event_time", rejects)
        _reopen_for_events(place, new)
    change = _merge_into(
        place,
        "events",
        new,
        partial(_days_to_merge, place, new, days),
        partial(merge_events, spec=place.spec),
        sort_by=["event_id"],
        key="event_id",
        rejects=rejects,
        quarantine_days=days,
        reopening=partial(_events_moved, place),
    )
    if new is not None and new.num_rows:
        _reopen_for_events(place, new)
        # Before the files are finished: a run that dies in between would leave the clock behind for good.
        place.ledger.raise_watermark(_newest_arrival(batch, new), place.name)
    return change


def take_labels(place: PipelineHome, days: Sequence[str]) -> Taken:
    """Take in all waiting label files, and the labels that waited for an event which has come.

    A label whose event is not there is accepted too: it waits in `labels_unmatched`.
    """
    return _take_labels(place, _read_batch(place, "labels"), days)


def _require_same_kind(place: PipelineHome) -> None:
    """What has been kept of labels was learned from: labels of another kind are another pipeline's."""
    kind = place.spec.labels.kind
    for table in ("labels", "labels_unmatched"):
        if place.lake.exists(table):
            kept = kind_of(place.lake.read(table, columns=["label"], days=[])["label"].type)
            if kept != kind:
                raise UserError(
                    f"The labels that {place.name} has kept are of kind {kept}, its YAML says {kind}.",
                    expected=f"labels.kind: {kept}, as long as the pipeline has its name",
                    remedy="give the pipeline of the other kind another name",
                )


def _take_labels(place: PipelineHome, batch: _Batch, days: Sequence[str]) -> Taken:
    from mlops_pipelines.ingest.intake import canonical_labels, match_labels, merge_labels

    _require_same_kind(place)
    landed = batch.concat(lambda accepted, origin: canonical_labels(accepted, origin, place.spec))
    rejects = batch.rejects(place)
    if landed is not None:
        landed = _in_time(place, "labels", landed, "label_time", rejects)
    written: list[str] = []
    for _ in range(_ATTEMPTS):
        seen = _seen(place)
        reopened = place.ledger.reopened_days(place.name, "labels")
        waiting = _waiting_labels(place) if reopened or landed is not None else None
        # What an overtaken attempt has written may be of events that moved since.
        moved = _moved_labels(place, [*reopened, *written])
        labels = _together(landed, _others(waiting, landed), _others(moved, landed))
        matched = unmatched = None
        if labels is not None:
            events = _events_of(place, _together(landed, moved), [*reopened])
            matched, unmatched = match_labels(labels, events, place.spec)
            _reopen_for_labels(place, matched, moved)
        change = _merge_into(
            place,
            "labels",
            matched if matched is not None and (matched.num_rows or moved is not None) else None,
            _days_in(matched, _days_in(moved, days)),
            partial(_merge_labels, place, moved),
            sort_by=["event_id", "known_at", "label_time", "label"],
            key="event_id",
            rejects=rejects,
            reopening=partial(_versions_changed, place),
        )
        if matched is not None:
            _reopen_for_labels(place, matched, moved)
            written = _days_in(matched, written)
        left = merge_labels(None, unmatched, place.spec) if unmatched is not None else None
        if left is None or _keep_waiting(place, waiting, left.table, seen):
            place.ledger.close_days(place.name, reopened, "labels")
            return _finish(place, batch, change, left)
    raise TransientError(
        f"Other runs took in events or labels {_ATTEMPTS} times while labels were matched with their events.",
        remedy="run the same again once the other runs have ended",
    )


def take_reference(place: PipelineHome, name: str, days: Sequence[str]) -> Taken:
    """Take in all waiting files of a reference."""
    return _take_reference(place, _read_batch(place, name), days)


def _take_reference(place: PipelineHome, batch: _Batch, days: Sequence[str]) -> Taken:
    change = _add_reference(place, batch, days)
    return _finish(place, batch, _reconsidered(place, batch, change, _add_reference))


def _add_reference(place: PipelineHome, batch: _Batch, days: Sequence[str]) -> _Change:
    from mlops_pipelines.ingest.intake import canonical_reference, merge_reference
    from mlops_pipelines.lake import STATIC_DAY

    name = batch.stream
    reference = place.spec.references[name]
    static = reference.time is None
    new = batch.concat(lambda accepted, origin: canonical_reference(accepted, origin, reference))
    rejects = batch.rejects(place)
    if new is not None and not static:
        new = _in_time(place, name, new, "ref_time", rejects)
        _reopen(place, "tiles", _days_of(new["known_at"]))
    change = _merge_into(
        place,
        name,
        new,
        _days_in(new, [STATIC_DAY] if static else days),
        partial(merge_reference, reference=reference),
        sort_by=[*reference.keys, *([] if static else ["ref_time"]), "arrived_at"],
        key=", ".join(reference.keys),
        rejects=rejects,
        reopening=(lambda _: None) if static else partial(_versions_changed, place),
    )
    if new is not None and not static:
        _reopen(place, "tiles", _days_of(new["known_at"]))
    return change


def take_rejects(place: PipelineHome, stream: str, rows: pa.Table) -> Taken:
    """Judge rows of the quarantine, all of one stream, by today's contract, and take in those that keep it.

    They are rows of the files they landed in: the days and the knowledge times are those they would have
    had. Repeating it changes nothing.
    """
    batch = _rejected_batch(place, stream, rows)
    takes = {"events": _take_events, "labels": _take_labels}
    return takes.get(stream, _take_reference)(place, batch, [])


def _rejected_batch(place: PipelineHome, stream: str, rows: pa.Table, beside: _Batch | None = None) -> _Batch:
    """The rows as the files they came from, without the rules that would refuse a file.

    beside: a batch whose files are not finished yet, and may be the ones.
    """
    from mlops_pipelines.ingest.judging import Judged, judge
    from mlops_pipelines.ingest.landing import rows_again

    columns = list(place.contract.columns_of(stream))
    digests = rows["file_digest"].unique().to_pylist()
    files: dict[str, LandedFile] = dict(place.ledger.files_taken(place.name, stream, digests))
    if beside:
        files |= {table.digest: file for file, table, _ in beside.judged if table.digest in digests}
    tables = []
    for digest, file in files.items():
        mine = [row for row in rows.to_pylist() if row["file_digest"] == digest]
        path = place.landing(stream) / file.path
        tables.append(rows_again(path, digest, {row["file_row"]: row["row"] for row in mine}, columns))
    rules = _of_rows_alone(place.contract, stream)
    verdicts = judge(tables, rules, stream, arrived=place.spec.stream(stream).arrived) if tables else []
    judged: list[tuple[LandedFile, LandedTable, Judged]] = []
    refused: list[tuple[LandedFile, str, str]] = []
    for file, table, verdict in zip(files.values(), tables, verdicts, strict=True):
        if isinstance(verdict, Judged):
            judged.append((file, table, verdict))
        else:
            refused.append((file, table.digest, verdict.message))
    return _Batch(stream, tuple(judged), (), tuple(refused))


def _of_rows_alone(contract: Contract, stream: str) -> Contract:
    """The contract as it judges rows whose file was judged before: nothing is said of a file as a whole.

    Of a column with `others_at_most` any value passes: the rule is about the share of the others.
    """
    rules = contract.rules_of(stream)
    columns = {
        name: rule.model_copy(
            update={
                "on_fail": "quarantine",
                "batch": None,
                "one_of": () if rule.batch and rule.batch.others_at_most is not None else rule.one_of,
            }
        )
        for name, rule in rules.columns.items()
    }
    rows = {name: rule.model_copy(update={"on_fail": "quarantine"}) for name, rule in rules.rows.items()}
    alone = rules.model_copy(update={"columns": columns, "rows": rows, "file": None})
    own = stream in ("events", "labels")
    of_stream = {stream: alone} if own else {"references": {**contract.references, stream: alone}}
    return contract.model_copy(update={"reject_share_halts": 1.0, **of_stream})


# --- a batch ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Batch:
    """The waiting files of a stream, read and judged.

    repeated: files whose bytes were taken in before, or are those of a file before them here: whatever
    they say was said. refused: file, digest and why.
    """

    stream: str
    judged: tuple[tuple[LandedFile, LandedTable, Judged], ...]
    repeated: tuple[tuple[LandedFile, LandedTable], ...]
    refused: tuple[tuple[LandedFile, str, str], ...]

    def concat(self, canonical: Callable[[pa.Table, FileOrigin], pa.Table]) -> pa.Table | None:
        """All accepted rows as canonical rows; None if no file was accepted."""
        from mlops_pipelines.ingest.intake import FileOrigin

        return _together(
            *(
                canonical(judged.accepted, FileOrigin(table.digest, file.modified_at))
                for file, table, judged in self.judged
            )
        )

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


def _key_names(place: PipelineHome, stream: str) -> dict[str, str]:
    """The columns of a stream of which one row each stands, as they land, and their canonical names."""
    if stream == "events":
        return {place.spec.events.id: "event_id"}
    return {name: name for name in place.spec.references[stream].keys}


def _read_batch(place: PipelineHome, stream: str) -> _Batch:
    """Read and judge what waits, oldest first, to the end of the file with which it is rows enough.

    Where nothing waits, what has landed is registered: a run needs no sensor before it. A file whose digest
    was taken in is not judged again.

    A digest is taken once a file with it is finished: what a run that died has committed is judged again,
    and changes nothing.
    """
    from mlops_pipelines.ingest.judging import BadBatchError, judge
    from mlops_pipelines.ingest.landing import MisplacedFileError, UnreadableFileError, read_landed

    waiting = place.ledger.pending_files(place.name, [stream])
    if not waiting:
        register_landed(place, [stream])
        waiting = place.ledger.pending_files(place.name, [stream])
    most = place.contract.file_size_halts
    read: list[tuple[LandedFile, LandedTable]] = []
    refused: list[tuple[LandedFile, str, str]] = []
    left = place.spec.triggers.backlog.at_most
    for file in waiting:
        if left <= 0:
            break
        try:
            table = read_landed(place.landing(stream), file, most)
            read.append((file, table))
            left -= table.rows
        except UnreadableFileError as error:
            refused.append((file, error.digest, str(error)))
        except MisplacedFileError as error:
            refused.append((file, "", str(error)))
        except FileNotFoundError:
            refused.append(
                (file, "", f"{file.path} has vanished from {place.landing(stream)}, or its name is not UTF-8")
            )
    taken = place.ledger.taken_digests(place.name, stream, [table.digest for _, table in read])
    repeated = [(file, table.read_out) for file, table in read if table.digest in taken]
    # Copies in one batch are judged together: each is refused under its own name, or one is taken. That is
    # the one registered first, whichever of the others a run that died, or another one, knows of.
    new = sorted(
        ((file, table) for file, table in read if table.digest not in taken), key=lambda one: one[0].id
    )
    tables, moments = [table for _, table in new], [_landed_at(file) for file, _ in new]
    arrived = place.spec.stream(stream).arrived
    verdicts = judge(tables, place.contract, stream, arrived=arrived, landed_at=moments) if new else []
    judged: list[tuple[LandedFile, LandedTable, Judged]] = []
    for (file, table), verdict in zip(new, verdicts, strict=True):
        if isinstance(verdict, BadBatchError):
            refused.append((file, table.digest, str(verdict)))
        elif table.digest in taken:
            repeated.append((file, table.read_out))
        else:
            taken.add(table.digest)
            judged.append((file, table.read_out, verdict))
    return _Batch(stream, tuple(judged), tuple(repeated), tuple(refused))


@dataclass(frozen=True)
class _Change:
    """What a batch did to a table and to the quarantine.

    rejects: all its rejected rows. merged: None where there was nothing to merge.
    """

    written: list[Written]
    quarantine: list[Written]
    rejects: pa.Table
    merged: Merged | None


def _merge_into(
    place: PipelineHome,
    name: str,
    new: pa.Table | None,
    days: Sequence[str] | Callable[[int | None], Sequence[str]],
    merge: Callable[[pa.Table | None, pa.Table], Merged],
    *,
    sort_by: Sequence[str],
    key: str,
    rejects: Sequence[pa.Table],
    reopening: Callable[[Merged], None],
    quarantine_days: Sequence[str] = (),
) -> _Change:
    """Merge new rows, if there are any, into `days` of a table; keep what is rejected.

    days: as `Lake.update` takes them. key: what tells the rows apart, for people. reopening: reopens what was
    made of rows that stood; before the commit and after it, as in `_reopen_for_events`. quarantine_days: to
    account for besides those of the rejected rows.
    """
    from mlops_pipelines.ingest.intake import conflict_with, landed_names
    from mlops_pipelines.ingest.quarantine import quarantine_canonical, together

    conflict = conflict_with(key)
    landed = landed_names(place.loaded, name)
    passed = {"contract": contract_version(place.loaded, name)}
    rejected = together(rejects)
    quarantine: list[Written] = []
    merged: Merged | None = None

    def change(current: pa.Table | None) -> pa.Table:
        nonlocal rejected, quarantine, merged
        merged = merge(current, new)
        rejected = together(
            [*rejects, quarantine_canonical(merged.conflicts, conflict, stream=name, landed=landed)]
        )
        # Durable before the commit: a row that is displaced is nowhere else any more.
        quarantine = _quarantine(place, rejected, quarantine_days)
        reopening(merged)
        return merged.table

    if new is not None:
        written = place.lake.update(
            name, days, change, sort_by=sort_by, unhashed=PROVENANCE, provenance=passed
        )
        if merged is not None:
            reopening(merged)
        return _Change(written, quarantine, rejected, merged)
    quarantine = _quarantine(place, rejected, quarantine_days)
    if not place.lake.exists(name):
        return _Change([], quarantine, rejected, None)
    written = place.lake.update(name, days, lambda rows: rows, sort_by=sort_by, unhashed=PROVENANCE)
    return _Change(written, quarantine, rejected, None)


def _reconsidered(
    place: PipelineHome,
    batch: _Batch,
    change: _Change,
    add: Callable[[PipelineHome, _Batch, Sequence[str]], _Change],
) -> _Change:
    """The change, once rows of the quarantine were judged anew that contradicted one whose key came again.

    What they contradicted may stand no more, or say by now what they say; or a run that died, or that was
    overtaken, put them there in vain. All of them and what stands are all that was ever said of these
    keys: what stands afterwards depends neither on their order nor on how often this is done.
    """
    import pyarrow as pa

    from mlops_pipelines.ingest.quarantine import contradicting, decide, waiting

    if change.merged is None or not change.merged.shared.num_rows:
        return change
    names = _key_names(place, batch.stream)
    keys = change.merged.shared.select(list(names.values())).to_pylist()
    rows = contradicting(
        waiting(place.lake, batch.stream), list(names), {tuple(map(str, key.values())) for key in keys}
    )
    merged = _places_of(change.rejects).union(
        (table.digest, row)
        for _, table, judged in batch.judged
        for row in judged.accepted["file_row"].to_pylist()
    )
    if _places_of(rows) <= merged:
        return change
    anew = _rejected_batch(place, batch.stream, rows, batch)
    again = add(place, anew, [])
    judged = {table.digest for _, table, _ in anew.judged}
    still = _places_of(again.rejects)
    settled = [landed[0] in judged and landed not in still for landed in _in_places(rows)]
    why = "contradicts no row that stands"
    decide(place.lake, rows.filter(pa.array(settled, pa.bool_())), "settled", why, place.clock.now())
    return replace(
        change,
        written=_newest(change.written, again.written),
        quarantine=_newest(change.quarantine, again.quarantine),
    )


def _quarantine(place: PipelineHome, rejects: pa.Table, days: Sequence[str]) -> list[Written]:
    """Keep rejected rows; one entry a day of theirs and of `days`.

    A row that is there already, of which it was decided that it stands, or that was rejected for something
    else, waits again.
    """
    from mlops_pipelines.ingest.quarantine import reject_again

    names = ["stream", *PROVENANCE]
    digests = rejects["file_digest"].unique().to_pylist()
    taken = any(
        place.ledger.taken_digests(place.name, stream, digests)
        for stream in rejects["stream"].unique().to_pylist()
    )
    if taken and place.lake.exists("quarantine"):
        rejects = reject_again(place.lake, rejects, place.clock.now())
    return place.lake.append_new(
        "quarantine", rejects, key=names, sort_by=["file_digest", "file_row"], days=days
    )


def _finish(place: PipelineHome, batch: _Batch, change: _Change, waiting: Merged | None = None) -> Taken:
    """Finish the files of a batch in the ledger, and say what became of them.

    waiting: labels that were kept until their event comes.
    """
    from mlops_pipelines.ingest.quarantine import reason_counts
    from mlops_pipelines.ledger.landing import FinishedFile

    quarantined = Counter(change.rejects["file_digest"].to_pylist())
    merges = [merged for merged in (change.merged, waiting) if merged is not None]
    files = [
        FinishedFile(
            file.id,
            "taken",
            table.digest,
            rows=table.rows,
            accepted=sum(merged.accepted_of[table.digest] for merged in merges),
            quarantined=quarantined[table.digest],
            duplicates=sum(merged.duplicates_of[table.digest] for merged in merges),
        )
        for file, table, _ in batch.judged
    ]
    files += [
        FinishedFile(file.id, "taken", table.digest, rows=table.rows, duplicates=table.rows)
        for file, table in batch.repeated
    ]
    files += [FinishedFile(file.id, "rejected", digest, why) for file, digest, why in batch.refused]
    since = min((file.arrival_day for file, _, _ in batch.judged), default="")
    before = place.ledger.taken_rows(place.name, batch.stream, _days_before(since, USUAL) if since else "")
    place.ledger.finish_files(files, place.clock.now())
    rows, rejected = (sum(getattr(file, name) for file in files) for name in ("rows", "quarantined"))
    return Taken(
        batch.stream,
        files,
        change.written,
        change.quarantine,
        reject_reasons=reason_counts(change.rejects),
        still_rejected={
            (digest, row): reasons
            for digest, row, reasons in zip(
                *(change.rejects[name].to_pylist() for name in (*PROVENANCE, "reasons")), strict=True
            )
        },
        reject_share=RejectShare(rows, rejected, *before),
        refusals=refusals(place, [batch.stream]),
    )


# --- late rows, and events that come again -----------------------------------------------------------


def _in_time(
    place: PipelineHome, stream: str, rows: pa.Table, own_time: str, rejects: list[pa.Table]
) -> pa.Table:
    """The rows that came within the lateness bound; the others go to the rejects."""
    from mlops_pipelines.ingest.intake import landed_names, split_by_lateness
    from mlops_pipelines.ingest.quarantine import quarantine_canonical

    rows, late, reason = split_by_lateness(rows, own_time, place.spec.lateness)
    landed, about = landed_names(place.loaded, stream), place.spec.stream(stream).time
    rejects.append(quarantine_canonical(late, reason, stream=stream, landed=landed, column=about))
    return rows


def _days_to_merge(
    place: PipelineHome, new: pa.Table | None, days: Sequence[str], version: int | None
) -> list[str]:
    """Days of the new events, those asked for, and those on which an id of theirs stands."""
    if new is None or version is None:
        return _days_in(new, days)
    same = place.lake.days_that_share(
        "events", new, "event_id", place.spec.ids_unique_within, version=version
    )
    return _days_in(new, [*days, *same])


def _events_moved(place: PipelineHome, merged: Merged) -> None:
    """Reopen what was made of events that no longer stand, or stand on another day, or from another moment.

    Labels are counted under their event's keys, on the days on which they became known.
    """
    gone = _together(merged.displaced, merged.overtaken)
    if gone is None or not gone.num_rows:
        return
    _reopen(place, "tiles", _days_of(gone["known_at"]))
    stand, stood = (
        set(zip(*(rows[name].to_pylist() for name in ("event_id", "day", "known_at")), strict=True))
        for rows in (merged.replacing, gone)
    )
    _reopen(place, "labels", {day for _, day, _ in stood - stand})
    if merged.displaced.num_rows:
        _reopen(place, "tiles", _days_of(_labels_on(place, merged.displaced)))


def _versions_changed(place: PipelineHome, merged: Merged) -> None:
    """Reopen the tiles of versions that stand no more, or may not be the first of their fact any more."""
    _reopen(place, "tiles", {*_days_of(merged.overtaken["known_at"]), *_days_of(merged.later["known_at"])})


# --- labels and the events they are of -------------------------------------------------------------


def _merge_labels(
    place: PipelineHome, moved: pa.Table | None, current: pa.Table | None, new: pa.Table
) -> Merged:
    from mlops_pipelines.ingest.intake import merge_labels

    left = _others(current, moved) if moved is not None else current
    return merge_labels(left, new, place.spec)


def _moved_labels(place: PipelineHome, days: Sequence[str]) -> pa.Table | None:
    """Labels of these days whose event is, by now, of another day, or known from another moment on.

    None if there is none.
    """
    import pyarrow.compute as pc

    from mlops_pipelines.ingest.intake import beside_events

    if not days or not place.lake.exists("labels"):
        return None
    labels = place.lake.read("labels", days=days)
    if not labels.num_rows:
        return None
    found = beside_events(labels, _events_of(place, labels, ()), place.spec)
    stays = pc.and_(
        *(pc.fill_null(pc.equal(found[name], labels[name]), False) for name in ("day", "known_at"))
    )
    return None if pc.all(stays).as_py() else labels.filter(pc.invert(stays))


def _labels_on(place: PipelineHome, events: pa.Table) -> pa.ChunkedArray:
    """Knowledge times of the labels that stand on these events."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not place.lake.exists("labels"):
        return pa.chunked_array([], pa.timestamp("us", tz="UTC"))
    labels = place.lake.read("labels", columns=["event_id", "known_at"], days=_days_in(events))
    mine = pc.is_in(labels["event_id"], value_set=events["event_id"].combine_chunks())
    return labels.filter(mine)["known_at"]


def _awaited(place: PipelineHome, events: pa.Table) -> pa.Table:
    """The events that a label waits for."""
    import pyarrow.compute as pc

    waiting = _waiting_labels(place, ["event_id"])
    if waiting is None:
        return events.slice(0, 0)
    return events.filter(pc.is_in(events["event_id"], value_set=waiting["event_id"].combine_chunks()))


def _waiting_labels(place: PipelineHome, columns: Sequence[str] | None = None) -> pa.Table | None:
    """Labels whose event had not come when they were last looked at; None if there never were any."""
    if not place.lake.exists("labels_unmatched"):
        return None
    return place.lake.read("labels_unmatched", columns=columns)


def _others(waiting: pa.Table | None, landed: pa.Table | None) -> pa.Table | None:
    """Waiting labels but for those that landed: what a run that died had kept comes again with its file."""
    import pyarrow as pa

    if waiting is None or landed is None:
        return waiting
    places = _places_of(landed)
    return waiting.filter(pa.array([place not in places for place in _in_places(waiting)], pa.bool_()))


def _seen(place: PipelineHome) -> tuple[int | None, int | None]:
    """Versions of the events and of the labels that wait for one."""
    return place.lake.version("events"), place.lake.version("labels_unmatched")


def _keep_waiting(
    place: PipelineHome, before: pa.Table | None, left: pa.Table, seen: tuple[int | None, int | None]
) -> bool:
    """Let the labels that are left be all that wait. Whether they are, and the others are where they belong:
    not if another run changed events, or what waits, after they were `seen`.

    Events that are taken in look for labels that wait after their commit, and labels for events after
    theirs: whoever is second finds the other.
    """
    events, _ = seen
    days = _days_in(left, _days_in(before))

    def keep(_: pa.Table | None) -> pa.Table:
        if _seen(place) != seen:
            raise _OvertakenError
        return left

    if days:
        try:
            place.lake.update(
                "labels_unmatched", days, keep, sort_by=["event_id", "known_at"], unhashed=PROVENANCE
            )
        except _OvertakenError:
            return False
    return place.lake.version("events") == events


def _events_of(place: PipelineHome, labels: pa.Table | None, days: Sequence[str]) -> pa.Table:
    """event_id, day and times of the events of `days`, and of all that the labels may be of.

    Mostly these are recent ones; how far back others may be depends on how long ids are unique.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from mlops_pipelines.ingest.intake import LABEL_BEFORE, beside_events

    moment = pa.timestamp("us", tz="UTC")
    kinds = {"event_id": pa.string(), "day": pa.string(), "event_time": moment, "known_at": moment}
    if not place.lake.exists("events"):
        return pa.schema(kinds).empty_table()

    def read(labels: pa.Table | None, back: timedelta, but: Sequence[str] = ()) -> pa.Table:
        near: list[str] = []
        if labels is not None and labels.num_rows:
            # As numbers: a label may say a time so early that no date lies before it.
            times = pc.min_max(labels["label_time"]).as_py()
            first = times["min"].toordinal() - math.ceil(back / timedelta(days=1)) - 1
            last = times["max"].toordinal() + math.ceil(LABEL_BEFORE / timedelta(days=1))
            known = place.lake.days("events")
            near = [day for day in known if first <= date.fromisoformat(day).toordinal() <= last]
        return place.lake.read("events", columns=list(kinds), days=sorted({*days, *near} - {*but}))

    events = read(labels, place.spec.labels.matures_after)
    if labels is None:
        return events
    left = labels.filter(pc.is_null(beside_events(labels, events, place.spec)["day"]))
    if not left.num_rows:
        return events
    others = read(left, place.spec.ids_unique_within, but=pc.unique(events["day"]).to_pylist())
    return pa.concat_tables([events, others])


def _days_to_mature(place: PipelineHome) -> int:
    return math.ceil(place.spec.labels.matures_after / timedelta(days=1))


# --- days, times, rows -----------------------------------------------------------------------------


def _reopen(place: PipelineHome, stage: Stage, days: Iterable[str]) -> None:
    place.ledger.reopen_days(place.name, days, stage, place.clock.now())


def _reopen_for_events(place: PipelineHome, events: pa.Table) -> None:
    """To be done before events are committed, so that a run that dies leaves their days open; and again
    afterwards: who worked on the days in between has closed them without having seen these events.
    """
    _reopen(place, "tiles", _days_of(events["known_at"]))
    _reopen(place, "score", _days_in(events))
    _reopen(place, "labels", _days_in(_awaited(place, events)))


def _reopen_for_labels(place: PipelineHome, matched: pa.Table, moved: pa.Table | None) -> None:
    """To be done before labels are committed and again afterwards, as with events.

    moved: those that stood on another day, or were known from another moment on.
    """
    known = [rows["known_at"] for rows in (matched, moved) if rows is not None]
    _reopen(place, "tiles", {day for times in known for day in _days_of(times)})
    _reopen(place, "monitor", _days_in(matched, _days_in(moved)))


def _days_of(times: pa.ChunkedArray) -> list[str]:
    import pyarrow as pa

    days: list[str] = times.cast(pa.timestamp("us")).cast(pa.date32()).cast(pa.string()).unique().to_pylist()
    return days


def _days_in(table: pa.Table | None, days: Sequence[str] = ()) -> list[str]:
    """Days of a table's rows, if there is one, and others."""
    return sorted({*days, *(table["day"].unique().to_pylist() if table is not None else ())})


def _together(*tables: pa.Table | None) -> pa.Table | None:
    """The rows of those tables that are there; None if none is."""
    import pyarrow as pa

    there = [table for table in tables if table is not None]
    return pa.concat_tables(there, promote_options="default") if there else None


def _in_places(rows: pa.Table) -> Iterator[tuple[str, int]]:
    """Where each row landed: digest of its file, and place in it."""
    return zip(*(rows[name].to_pylist() for name in PROVENANCE), strict=True)


def _places_of(rows: pa.Table) -> frozenset[tuple[str, int]]:
    return frozenset(_in_places(rows))


def _newest(before: Sequence[Written], after: Sequence[Written]) -> list[Written]:
    """What days hold after two updates, one after the other."""
    first = {one.day: one for one in before}
    found = dict(first)
    for one in after:
        if one.day not in first:
            found[one.day] = one
        elif one.changed:
            found[one.day] = replace(one, rows_before=first[one.day].rows_before)
    return [found[day] for day in sorted(found)]


def _newest_arrival(batch: _Batch, rows: pa.Table) -> datetime:
    """Latest arrival of the rows; none counts as later than the day of the folder that its file landed in."""
    closes = {table.digest: _closes(file) for file, table, _ in batch.judged}
    newest = rows.group_by("file_digest").aggregate([("arrived_at", "max")]).to_pylist()
    latest: datetime = max(min(one["arrived_at_max"], closes[one["file_digest"]]) for one in newest)
    return latest


def _landed_at(file: LandedFile | FileFact) -> datetime:
    """When a file landed: its modification, but not after the day of its folder.

    A replay writes today what producers wrote then; the folder says when that was.
    """
    return min(file.modified_at, _closes(file))


def _days_before(day: str, span: timedelta) -> str:
    return date.fromordinal(max(1, date.fromisoformat(day).toordinal() - span.days)).isoformat()


def _closes(file: LandedFile | FileFact) -> datetime:
    """The last moment of the day that a file's folder is named by."""
    return datetime.combine(date.fromisoformat(file.arrival_day), time.max, UTC)


def _has_rows(place: PipelineHome, files: Sequence[LandedFile], at_least: int) -> bool:
    """Whether the files hold that many rows; reads footers of Parquet files until it is sure.

    A text file does not say how many rows it has: it counts as one.
    """
    from mlops_pipelines.ingest.landing import rows_said

    rows = 0
    for file in files:
        rows += rows_said(place.landing(file.stream) / file.path)
        if rows >= at_least:
            return True
    return False
