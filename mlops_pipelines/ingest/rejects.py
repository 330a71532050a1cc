"""The quarantine as people work with it: what waits there, why, and what becomes of it.

A rejected row stays for ever. What is decided about it, and why, stands beside it in a table of its own.
"""

from __future__ import annotations

import fcntl
import json
import unicodedata
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import UserError
from mlops_pipelines.ingest.contract import MASKED
from mlops_pipelines.ingest.quarantine import decide, reasons_said, row_json, still_waiting, waiting
from mlops_pipelines.ingest.taking import PROVENANCE, take_rejects

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ingest.contract import Contract

# So many hexadecimal digits of a file's digest stand in the name of a row: enough to tell files apart.
_DIGITS = 12


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
    """The rows with these names. Raises UserError for a name that none of them has."""
    places = rows.select(["file_digest", "file_row"]).to_pylist()
    known = {name_of(row): place for place, row in enumerate(places)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"No row of the quarantine that waits is called {', '.join(unknown)}.",
            remedy="mlops quarantine list PIPELINE",
        )
    return rows.take(sorted({known[name] for name in names}))


def standing_row(place: PipelineHome, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row that stands, of the same key as a row of the quarantine that contradicts it.

    As it landed, values of sensitive columns masked. None where the row was rejected for something else.
    """
    import pyarrow.compute as pc

    from mlops_pipelines.ingest.intake import landed_names

    if all(one["code"] != "conflict" for one in json.loads(row["reasons"])):
        return None
    stream, said = row["stream"], json.loads(row["row"])
    keys = [place.spec.events.id] if stream == "events" else place.spec.references[stream].keys
    names = landed_names(place.loaded, stream)
    rows = place.lake.read(stream)
    for key in keys:
        column = rows[names[key]]
        rows = rows.filter(pc.equal(column, pc.cast(str(said[key]), column.type)))
    for found in rows.to_pylist():
        landed = json.loads(row_json({name: found[names[name]] for name in names}))
        return _masked(landed, place.contract.sensitive_columns(stream))
    return None


def as_shown(row: Mapping[str, Any], contract: Contract) -> dict[str, Any]:
    """A row of the quarantine for people and machines; values of sensitive columns are masked."""
    hidden = contract.sensitive_columns(row["stream"])
    reasons = json.loads(row["reasons"])
    for reason in reasons:
        if reason["column"] in hidden and reason["value"] is not None:
            reason["value"] = MASKED
    values = _masked(json.loads(row["row"]), hidden)
    if hidden and _is_unparsed(reasons):  # a line that is no row may hold anything
        values = {"text": MASKED}
    return {
        "name": name_of(row),
        "day": row["day"],
        "stream": row["stream"],
        "file_digest": row["file_digest"],
        "file_row": row["file_row"],
        "arrived_at": row["arrived_at"].isoformat(),
        "reasons": reasons,
        "row": values,
    }


def _masked(values: Mapping[str, Any], hidden: frozenset[str]) -> dict[str, Any]:
    return {name: MASKED if name in hidden and value is not None else value for name, value in values.items()}


def _is_unparsed(reasons: Sequence[Mapping[str, Any]]) -> bool:
    return any(reason["code"] == "unparsed" for reason in reasons)


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
        of_files = ("file_digest", ends["min"], ends["max"] + "\0")
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
