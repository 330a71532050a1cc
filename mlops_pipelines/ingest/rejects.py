"""The quarantine as people work with it: what waits there, why, and what becomes of it.

A rejected row stays for ever. What is decided about it, and why, stands beside it in a table of its own.
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import UserError
from mlops_pipelines.ingest.contract import MASKED
from mlops_pipelines.ingest.quarantine import decide, reason_counts, row_json, together, waiting
from mlops_pipelines.ingest.taking import take_rejects

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ingest.contract import Contract

# So many hexadecimal digits of a file's digest stand in the name of a row: enough to tell files apart.
_DIGITS = 12


@dataclass(frozen=True)
class Replayed:
    """What became of rows that were judged again.

    still: why the others are still rejected, most frequent first.
    """

    accepted: int
    rejected: int
    still: Mapping[str, int]


def waiting_rows(place: PipelineHome, stream: str | None = None) -> pa.Table:
    """The rows of the quarantine that nothing was decided about, by day, file and row.

    Raises UserError if the pipeline has no such stream.
    """
    if stream is not None:
        place.contract.columns_of(stream)
    return waiting(place.lake, stream)


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


def replay(place: PipelineHome, rows: pa.Table) -> Replayed:
    """Judge rows of the quarantine by today's contract, and take in those that keep it.

    A line that is no row stays what it is. Repeating it, also after it was interrupted, changes nothing.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    accepted, still = 0, []
    for stream in rows["stream"].unique().to_pylist():
        mine = rows.filter(pc.equal(rows["stream"], stream))
        parsed = [not _is_unparsed(json.loads(reasons)) for reasons in mine["reasons"].to_pylist()]
        taken = take_rejects(place, stream, mine.filter(pa.array(parsed, pa.bool_())))
        judged = {file.digest for file in taken.files}
        places = zip(mine["file_digest"].to_pylist(), mine["file_row"].to_pylist(), strict=True)
        got_in = [
            is_row and digest in judged and (digest, row) not in taken.still_rejected
            for is_row, (digest, row) in zip(parsed, places, strict=True)
        ]
        mask = pa.array(got_in, pa.bool_())
        why = "kept the contract when it was judged again"
        decide(place.lake, mine.filter(mask), "replayed", why, place.clock.now())
        accepted += sum(got_in)
        still.append(mine.filter(pc.invert(mask)))
    return Replayed(accepted, rows.num_rows - accepted, reason_counts(together(still)))


def discard(place: PipelineHome, rows: pa.Table, reason: str) -> int:
    """Set rows of the quarantine aside for good; how many. They stay where they are.

    Raises UserError without a reason: a text with a letter or a digit.
    """
    if not any(char.isalnum() and "FILLER" not in unicodedata.name(char, "") for char in reason):
        raise UserError("A reason is needed to discard rows.", expected="--reason TEXT, in words")
    decide(place.lake, rows, "discarded", reason.strip(), place.clock.now())
    return int(rows.num_rows)
