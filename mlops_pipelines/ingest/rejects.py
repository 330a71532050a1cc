"""The quarantine as people work with it: what waits there, why, and what becomes of it.

A rejected row stays for ever. What is decided about it, and why, stands beside it in a table of its own.
"""

from __future__ import annotations

import fcntl
import json
import unicodedata
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import UserError
from mlops_pipelines.ingest.contract import MASKED
from mlops_pipelines.ingest.quarantine import decide, reasons_said, row_json, still_waiting, waiting
from mlops_pipelines.ingest.taking import PROVENANCE, take_rejects
from mlops_pipelines.lake import text_from

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import pyarrow as pa

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ingest.contract import Contract

# So many hexadecimal digits of a file's digest stand in the name of a row: enough to tell files apart.
_DIGITS = 12


# Of rows that are not compared by their time.
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Replayed:
    """What became of rows that were judged again.

    still: why the others are still rejected, most frequent first. left_out: how many rows were not judged,
    by the reason.
    """

    accepted: int
    rejected: int
    still: Mapping[str, int]
    left_out: Mapping[str, int] = field(default_factory=dict)


def waiting_rows(place: PipelineHome, stream: str | None = None) -> pa.Table:
    """The rows of the quarantine that nothing was decided about, by day, file and row.

    Raises UserError if the pipeline has no such stream, and never had.
    """
    rows = waiting(place.lake, stream)
    if stream is not None and not rows.num_rows:
        place.contract.columns_of(stream)
    return rows


def name_of(row: Mapping[str, Any]) -> str:
    """How people call a row: the beginning of its file's digest, and its place in the file."""
    return f"{row['file_digest'][:_DIGITS]}:{row['file_row']}"


def chosen(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """The rows with these names. Raises UserError for a name that none of them has, or several."""
    known: defaultdict[str, dict[tuple[Any, ...], int]] = defaultdict(dict)
    for place, row in enumerate(rows.select(["stream", "file_digest", "file_row"]).to_pylist()):
        known[name_of(row)][tuple(row.values())] = place
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"No row of the quarantine that waits is called {', '.join(unknown)}.",
            remedy="mlops quarantine list PIPELINE",
        )
    for name in names:
        if len(known[name]) > 1:
            streams = ", ".join(sorted({str(stream) for stream, *_ in known[name]}))
            raise UserError(
                f"{len(known[name])} rows of the quarantine that wait are called {name}: the same file "
                f"landed in {streams}.",
                expected="the name of one row",
                remedy="name the stream, with --stream STREAM",
            )
    return rows.take(sorted({place for name in names for place in known[name].values()}))


def standing_rows(place: PipelineHome, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | None]:
    """For each row of the quarantine, the row of its key that stands, where it was that which it contradicts.

    As it landed, values masked as in `as_shown`. None where the row was rejected for something else, or
    the contract calls the columns of its key something else by now.
    """
    one_a_key = {"events", *place.spec.references}
    found: list[dict[str, Any] | None] = [None] * len(rows)
    asked: defaultdict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for position, row in enumerate(rows):
        if row["stream"] in one_a_key and _has_code(row["reasons"], "conflict"):
            asked[row["stream"]][position] = json.loads(row["row"])
    for stream, said in asked.items():
        if place.lake.exists(stream):
            for position, stands in _standing(place, stream, said).items():
                found[position] = _masked(stands, _in_clear(place.contract, stream))
    return found


def _standing(
    place: PipelineHome, stream: str, said: Mapping[int, Mapping[str, Any]]
) -> dict[int, dict[str, Any]]:
    """By position of those rows whose key stands, the row that does; of several, the nearest in time."""
    from mlops_pipelines.ingest.intake import landed_names

    names = landed_names(place.loaded, stream)
    events = place.spec.events
    keys, time = (
        ((events.id,), events.time) if stream == "events" else (place.spec.references[stream].keys, None)
    )
    moments = {position: _moment(row.get(time)) if time else None for position, row in said.items()}
    keyed = {
        position: tuple(row[key] for key in keys)
        for position, row in said.items()
        if all(row.get(key) is not None for key in keys) and (time is None or moments[position])
    }
    if not keyed:
        return {}
    near = [moment for position in keyed if (moment := moments[position])]
    within = place.spec.ids_unique_within
    days = _days_near(place.lake.days(stream), near, within) if time else None
    by_key: defaultdict[tuple[Any, ...], list[tuple[datetime, dict[str, Any]]]] = defaultdict(list)
    for row in _with_first_key(place, stream, names[keys[0]], [key[0] for key in keyed.values()], days):
        landed = json.loads(row_json({name: row.get(canonical) for name, canonical in names.items()}))
        at = row["event_time"] if time else _NO_TIME
        by_key[tuple(landed[key] for key in keys)].append((at, landed))
    found: dict[int, dict[str, Any]] = {}
    for position, key in keyed.items():
        moment = moments[position] or _NO_TIME
        apart = {abs(at - moment): landed for at, landed in by_key[key]}
        if apart and min(apart) <= within:
            found[position] = apart[min(apart)]
    return found


def _with_first_key(
    place: PipelineHome, table: str, column: str, values: Sequence[Any], days: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Rows of some days of a table; of a column of texts, only those with one of these values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = place.lake.read(table, days=days)
    if pa.types.is_string(rows[column].type):
        rows = rows.filter(pc.is_in(rows[column], value_set=pa.array(values, pa.string())))
    found: list[dict[str, Any]] = rows.to_pylist()
    return found


def _days_near(days: Sequence[str], moments: Sequence[datetime], within: timedelta) -> list[str]:
    """Those of the days that have a time within so long of one of the moments."""
    apart = within.days + 1
    ordinals = sorted({moment.astimezone(UTC).toordinal() for moment in moments})
    return [
        day
        for day in days
        if any(abs(date.fromisoformat(day).toordinal() - ordinal) <= apart for ordinal in ordinals)
    ]


def _moment(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        return None


def as_shown(row: Mapping[str, Any], contract: Contract) -> dict[str, Any]:
    """A row of the quarantine for people and machines.

    Masked are the values of sensitive columns, and of all that the contract does not name: a column that it
    named once, or calls something else, may be sensitive, and a line that is no row may hold anything.
    """
    clear = _in_clear(contract, row["stream"])
    reasons = json.loads(row["reasons"])
    for reason in reasons:
        if reason["column"] not in clear and reason["value"] is not None and reason["code"] != "unparsed":
            reason["value"] = MASKED
    return {
        "name": name_of(row),
        "day": row["day"],
        "stream": row["stream"],
        "file_digest": row["file_digest"],
        "file_row": row["file_row"],
        "arrived_at": row["arrived_at"].isoformat(),
        "reasons": reasons,
        "row": _masked(
            json.loads(row["row"]), frozenset() if _has_code(row["reasons"], "unparsed") else clear
        ),
    }


def shown_with_files(place: PipelineHome, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the quarantine as `as_shown` has them, each with `file`: its path in the landing folder."""
    files = _files_of(place, rows)
    return [{**as_shown(row, place.contract), "file": file} for row, file in zip(rows, files, strict=True)]


def _files_of(place: PipelineHome, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
    digests: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        digests[row["stream"]].add(row["file_digest"])
    paths = {
        (stream, digest): file.path
        for stream, wanted in digests.items()
        for digest, file in place.ledger.files_taken(place.name, stream, sorted(wanted)).items()
    }
    return [paths.get((row["stream"], row["file_digest"])) for row in rows]


def _in_clear(contract: Contract, stream: str) -> frozenset[str]:
    """Columns of a stream whose values may be shown; none of a stream that is gone."""
    if stream not in contract.streams:
        return frozenset()
    return frozenset(contract.columns_of(stream)) - contract.sensitive_columns(stream)


def _masked(values: Mapping[str, Any], clear: Collection[str]) -> dict[str, Any]:
    return {name: value if name in clear or value is None else MASKED for name, value in values.items()}


def _has_code(reasons: str, code: str) -> bool:
    return any(reason["code"] == code for reason in json.loads(reasons))


@contextmanager
def _alone(place: PipelineHome) -> Iterator[None]:
    """Whoever decides about rows waits until nobody else does."""
    with (place.path / "quarantine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def replay(place: PipelineHome, rows: pa.Table) -> Replayed:
    """Judge rows of the quarantine by today's contract, and take in those that keep it.

    What their files have to satisfy as a whole was judged when they landed, and no row halts the others.
    A line that is no row stays what it is. Repeating it, also after it was interrupted, changes nothing.
    """
    import pyarrow.compute as pc

    accepted = 0
    still: Counter[str] = Counter()
    rejected = 0
    with _alone(place):
        waits = still_waiting(place.lake, rows)
        left_out = Counter({"were decided about already": rows.num_rows - waits.num_rows})
        for stream in waits["stream"].unique().to_pylist():
            mine = waits.filter(pc.equal(waits["stream"], stream))
            if stream in place.contract.streams:
                got_in, why = _judge_again(place, stream, mine)
                accepted += decide(
                    place.lake,
                    mine.filter(got_in),
                    "replayed",
                    "kept the contract when it was judged again",
                    place.clock.now(),
                )
                rejected += mine.num_rows - got_in.true_count
                still.update(why)
            else:
                left_out[f"are of {stream}, a stream that the contract does not have"] = mine.num_rows
    frequent = sorted(still.items(), key=lambda item: (-item[1], item[0]))
    return Replayed(accepted, rejected, dict(frequent), {why: n for why, n in left_out.items() if n})


def _judge_again(place: PipelineHome, stream: str, rows: pa.Table) -> tuple[pa.BooleanArray, Counter[str]]:
    """Which of the rows of a stream were taken in, and how often each reason was given for the others."""
    import pyarrow as pa

    parsed = [not _has_code(reasons, "unparsed") for reasons in rows["reasons"].to_pylist()]
    taken = take_rejects(place, stream, rows.filter(pa.array(parsed, pa.bool_())))
    verdicts = {file.digest: file for file in taken.files}
    got_in: list[bool] = []
    still: Counter[str] = Counter()
    named = zip(*(rows[name].to_pylist() for name in (*PROVENANCE, "reasons")), strict=True)
    for is_row, (digest, row, before) in zip(parsed, named, strict=True):
        verdict = verdicts.get(digest) if is_row else None
        why = taken.still_rejected.get((digest, row), before)
        got_in.append(
            verdict is not None and verdict.status == "taken" and (digest, row) not in taken.still_rejected
        )
        if verdict is not None and verdict.status == "rejected":
            still[verdict.detail] += 1
        elif not got_in[-1]:
            still.update(reasons_said([why]))
    return pa.array(got_in, pa.bool_()), still


def discard(place: PipelineHome, rows: pa.Table, reason: str) -> int:
    """Set rows of the quarantine aside for good; how many that nothing was decided about. They stay there.

    Raises UserError without a reason, a text with a letter or a digit, and for a row that stands in the
    table of its stream: a replay of it was interrupted.
    """
    if not any(char.isalnum() and "FILLER" not in unicodedata.name(char, "") for char in reason):
        raise UserError("A reason is needed to discard rows.", expected="--reason TEXT, in words")
    with _alone(place):
        waits = still_waiting(place.lake, rows)
        if standing := _taken_in(place, waits):
            raise UserError(
                f"Rows that have been taken in are not discarded: {', '.join(standing)}.",
                expected="rows that stand in no table",
                remedy=f"mlops quarantine replay {place.name} {' '.join(standing)}",
            )
        return decide(place.lake, waits, "discarded", reason.strip(), place.clock.now())


def _taken_in(place: PipelineHome, rows: pa.Table) -> list[str]:
    """Names of the rows of the quarantine that stand in a table."""
    import pyarrow.compute as pc

    found = []
    for stream in rows["stream"].unique().to_pylist():
        mine = rows.filter(pc.equal(rows["stream"], stream))
        ends = pc.min_max(mine["file_digest"]).as_py()
        of_files = text_from("file_digest", ends["min"], ends["max"])
        stand: set[tuple[str, int]] = set()
        for table in (stream, *(["labels_unmatched"] if stream == "labels" else [])):
            if place.lake.exists(table):
                held = place.lake.read(table, columns=PROVENANCE, where=of_files)
                stand.update(zip(*(held[name].to_pylist() for name in PROVENANCE), strict=True))
        found += [
            name_of(row)
            for row in mine.select([*PROVENANCE]).to_pylist()
            if (row["file_digest"], row["file_row"]) in stand
        ]
    return found
