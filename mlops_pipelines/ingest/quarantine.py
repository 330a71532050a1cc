"""The quarantine: rejected rows, each kept whole with its reasons."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mlops_pipelines.clock import midnight

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from mlops_pipelines.lake import Lake

ReasonCode = Literal[
    "unparsed", "type", "missing", "range", "set", "pattern", "rule", "partition", "late", "conflict"
]

# Taken in after all, under a contract that changed; set aside for good; found to contradict nothing that
# stands by now: such a row says what stands, or stands itself; or rejected once more, and waiting again.
Decision = Literal["replayed", "discarded", "settled", "rejected"]

QUARANTINE = "quarantine"
DECISIONS = "quarantine_decisions"

# What names a row: where it landed.
_ROW = ("stream", "file_digest", "file_row")
_Key = tuple[str, str, int]

# A value is shown to be recognised; the row beside it holds all of it.
_VALUE_SHOWN = 200


@dataclass(frozen=True)
class Reason:
    """Why a row was rejected.

    rule: what would have been right. column, value: where it is one column's value that is wrong.
    """

    code: ReasonCode
    rule: str
    column: str | None = None
    value: str | None = None


@dataclass(frozen=True)
class RejectedRow:
    """A row that is not taken in.

    file_row: place in its file, from 0. row: the whole row, JSON. arrived_at: UTC, None if the row does
    not say.
    """

    file_row: int
    row: str
    reasons: tuple[Reason, ...]
    arrived_at: datetime | None = None


@dataclass(frozen=True)
class RejectShare:
    """Rows that were rejected among those that landed, in some files and in the usual ones before them."""

    rows: int = 0
    rejected: int = 0
    usual_rows: int = 0
    usual_rejected: int = 0

    @property
    def has_jumped(self) -> bool:
        """Whether more than twice what is usual was rejected, and ten rows more: chance does not do that.

        Without usual files there is nothing that it could have jumped from.
        """
        return self.usual_rows > 0 and self.rejected > 2 * self._expected + 10

    @property
    def sentence(self) -> str:
        what = f"{self.rejected:,} of {self.rows:,} rows were rejected"
        if not self.usual_rows:
            return f"{what}; no files came before to compare them with."
        return f"{what}, where {self._expected:,.1f} would have been usual."

    @property
    def _expected(self) -> float:
        return self.rows * self.usual_rejected / self.usual_rows


def shown(value: Any) -> str:
    """The value as text, cut short."""
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return text if len(text) <= _VALUE_SHOWN else f"{text[:_VALUE_SHOWN]}…"


def row_json(row: Mapping[str, Any]) -> str:
    """The row as JSON: times in ISO 8601, NaN as missing, what JSON cannot hold as text."""
    return json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False)


def quarantine_table(
    rejected: Sequence[RejectedRow], *, stream: str, file_digest: str, arrival_day: date
) -> pa.Table:
    """Rows of the quarantine table, from one file.

    Columns day (of the folder the file arrived in), stream, file_digest, file_row, reasons (JSON list),
    row (JSON), arrived_at (the row's own; the first moment of the day where the row has none).
    """
    unsaid = midnight(arrival_day)
    return _table(
        [
            {
                "day": arrival_day.isoformat(),
                "stream": stream,
                "file_digest": file_digest,
                "file_row": one.file_row,
                "reasons": _reasons_json(one.reasons),
                "row": one.row,
                "arrived_at": one.arrived_at or unsaid,
            }
            for one in rejected
        ]
    )


def quarantine_canonical(
    rows: pa.Table, reason: Reason, *, stream: str, landed: Mapping[str, str], column: str | None = None
) -> pa.Table:
    """Rows of the quarantine table, from rows of a canonical table that were set aside for one reason.

    landed: the columns that the row landed with, each with its name in the canonical table. column: that of
    the reason, as it landed, if its value is to be told. Their day is that of `arrived_at`; the rows' origin
    is in their own file_digest and file_row.
    """
    own = {name: canonical for name, canonical in landed.items() if canonical in rows.column_names}

    def why(row: Mapping[str, Any]) -> Reason:
        if column is None or reason.column is None:
            return reason
        return replace(reason, column=column, value=shown(row[reason.column]))

    return _table(
        [
            {
                "day": row["arrived_at"].date().isoformat(),
                "stream": stream,
                "file_digest": row["file_digest"],
                "file_row": row["file_row"],
                "reasons": _reasons_json([why(row)]),
                "row": row_json({name: row[canonical] for name, canonical in own.items()}),
                "arrived_at": row["arrived_at"],
            }
            for row in rows.to_pylist()
        ]
    )


def waiting(lake: Lake, stream: str | None = None) -> pa.Table:
    """The rows of the quarantine, of all streams or of one, that nothing was decided about.

    In the order day, stream, file, row.
    """
    if not lake.exists(QUARANTINE):
        return together([])
    rows = lake.read(QUARANTINE)
    if stream is not None:
        import pyarrow.compute as pc

        rows = rows.filter(pc.equal(rows["stream"], stream))
    return still_waiting(lake, rows).sort_by([(name, "ascending") for name in ("day", *_ROW)])


def still_waiting(lake: Lake, rows: pa.Table) -> pa.Table:
    """Those of some rows of the quarantine that nothing was decided about until now."""
    return undecided(rows, _decisions(lake))


def decide(lake: Lake, rows: pa.Table, decision: Decision, reason: str, at: datetime) -> int:
    """Record what is decided about rows of the quarantine, which stay where they are. at: UTC.

    How many of them nothing was decided about before: the first decision stands.
    """
    decisions = _decisions(lake)
    waits = undecided(rows, decisions)
    return _record(lake, waits, decision, [reason] * waits.num_rows, at=at, latest=_latest(decisions))


def reject_again(lake: Lake, rows: pa.Table, at: datetime) -> pa.Table:
    """Let those rows that the quarantine has wait again, for what they are rejected for now.

    rows: of the quarantine, newly rejected. What was discarded stays so. at: UTC. Returns the rows but for
    those that have an entry under another day: a row has one.
    """
    import pyarrow as pa

    kept = lake.read(QUARANTINE, columns=["day", *_ROW, "reasons"])
    first = dict(zip(_keys(kept), kept["reasons"].to_pylist(), strict=True))
    latest = _latest(_decisions(lake))
    changed = []
    for key, reasons in zip(_keys(rows), rows["reasons"].to_pylist(), strict=True):
        last = latest.get(key)
        state = (last.decision, last.reason) if last else ("rejected", first.get(key, reasons))
        changed.append(state[0] != "discarded" and state != ("rejected", reasons))
    again = rows.filter(pa.array(changed, pa.bool_()))
    _record(lake, again, "rejected", again["reasons"].to_pylist(), at=at, latest=latest)
    return _with_one_entry(rows, kept)


def _record(
    lake: Lake,
    rows: pa.Table,
    decision: Decision,
    reasons: Sequence[str],
    *,
    at: datetime,
    latest: Mapping[_Key, _Decided],
) -> int:
    import pyarrow as pa

    if not rows.num_rows:
        return 0
    moment = pa.timestamp("us", tz="UTC")
    turns = [latest[key].turn + 1 if key in latest else 1 for key in _keys(rows)]
    decisions = (
        rows.select(["day", *_ROW])
        .append_column("turn", pa.array(turns, pa.int64()))
        .append_column("decision", pa.array([decision] * rows.num_rows, pa.string()))
        .append_column("reason", pa.array(reasons, pa.string()))
        .append_column("decided_at", pa.array([at] * rows.num_rows, moment))
    )
    written = lake.append_new(
        DECISIONS,
        decisions,
        key=(*_ROW, "turn"),
        sort_by=["file_digest", "file_row", "turn"],
        unhashed=("decided_at",),
    )
    return sum(day.rows - day.rows_before for day in written if day.changed)


def _decisions(lake: Lake) -> pa.Table | None:
    return lake.read(DECISIONS) if lake.exists(DECISIONS) else None


class _Decided(NamedTuple):
    """The last thing that was decided about a row. turn: how often something was."""

    turn: int
    decision: Decision
    reason: str
    decided_at: datetime


def _latest(decisions: pa.Table | None) -> dict[_Key, _Decided]:
    found: dict[_Key, _Decided] = {}
    if decisions is not None:
        said = zip(*(decisions[name].to_pylist() for name in _Decided._fields), strict=True)
        for key, one in zip(_keys(decisions), (_Decided(*values) for values in said), strict=True):
            found[key] = max(found.get(key, one), one)
    return found


def _keys(rows: pa.Table) -> Iterator[_Key]:
    return zip(*(rows[name].to_pylist() for name in _ROW), strict=True)


def decided(lake: Lake, stream: str | None = None) -> list[dict[str, Any]]:
    """The rows of the quarantine that something was decided about, the latest decision first.

    Each with `decision`, `why` (what was said of it) and `decided_at` (UTC) of its last decision.
    """
    latest = _latest(_decisions(lake))
    found = []
    for row in lake.read(QUARANTINE).to_pylist() if latest else []:
        last = latest.get((row["stream"], row["file_digest"], row["file_row"]))
        if last and last.decision != "rejected" and stream in (None, row["stream"]):
            facts = {"decision": last.decision, "why": last.reason, "decided_at": last.decided_at}
            found.append({**row, **facts})
    return sorted(found, key=lambda row: (row["decided_at"], row["file_digest"], row["file_row"]))[::-1]


def contradicting(rows: pa.Table, names: Sequence[str], keys: Container[tuple[str, ...]]) -> pa.Table:
    """Those rows of the quarantine that are conflicts and have one of the keys. Pure.

    names: the columns of a key, as they land. keys: as texts, in that order.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = rows.filter(pc.match_substring(rows["reasons"], '"conflict"'))
    said = (json.loads(row) for row in rows["row"].to_pylist())
    chosen = [tuple(str(row.get(name)) for name in names) in keys for row in said]
    return rows.filter(pa.array(chosen, pa.bool_()))


def undecided(rows: pa.Table, decisions: pa.Table | None) -> pa.Table:
    """The rows of the quarantine that nothing was decided about, and those that were rejected again. Pure.

    Each with what it was rejected for last.
    """
    import pyarrow as pa

    latest = _latest(decisions)
    if not latest:
        return rows
    last = [latest.get(key) for key in _keys(rows)]
    reasons = [
        one.reason if one and one.decision == "rejected" else first
        for one, first in zip(last, rows["reasons"].to_pylist(), strict=True)
    ]
    rows = rows.set_column(rows.schema.get_field_index("reasons"), "reasons", pa.array(reasons, pa.string()))
    return rows.filter(pa.array([one is None or one.decision == "rejected" for one in last], pa.bool_()))


def _with_one_entry(rows: pa.Table, kept: pa.Table) -> pa.Table:
    """The rows of the quarantine but for those it has kept under another day. Pure.

    kept: at least day and what names a row.
    """
    import pyarrow as pa

    days = dict(zip(_keys(kept), kept["day"].to_pylist(), strict=True))
    own = zip(_keys(rows), rows["day"].to_pylist(), strict=True)
    return rows.filter(pa.array([days.get(name, day) == day for name, day in own], pa.bool_()))


def together(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of several quarantine tables, or of none."""
    import pyarrow as pa

    return pa.concat_tables([_table([]), *tables])


def reason_counts(quarantined: pa.Table) -> dict[str, int]:
    """How often each reason was given, most frequent first, as `column: rule`."""
    counts = reasons_said(quarantined["reasons"].to_pylist())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def reasons_said(reasons: Iterable[str]) -> Counter[str]:
    """How often each reason was given, as `column: rule`. reasons: of each row, JSON."""
    return Counter(
        f"{one['column']}: {one['rule']}" if one["column"] else one["rule"]
        for of_row in reasons
        for one in json.loads(of_row)
    )


def _reasons_json(reasons: Sequence[Reason]) -> str:
    return json.dumps([asdict(reason) for reason in reasons], ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return str(value)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    text = ("day", "stream", "file_digest", "file_row", "reasons", "row", "arrived_at")
    types: dict[str, pa.DataType] = dict.fromkeys(text, pa.string())
    types |= {"file_row": pa.int64(), "arrived_at": pa.timestamp("us", tz="UTC")}
    return pa.Table.from_pylist(rows, schema=pa.schema(types))
