"""From accepted rows to the canonical tables: pure, independent of the order in which files come.

Every merge keeps, of the rows that say the same, the first. So a file that is taken in twice changes
nothing, and a producer that repeats itself restates nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ingest.quarantine import Reason
from mlops_pipelines.ingest.values import is_text
from mlops_pipelines.lake import STATIC_DAY
from mlops_pipelines.spec import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.spec import Labels, Partitions, PipelineSpec, Reference
    from mlops_pipelines.spec_loading import LoadedSpec

# An event may be announced so long ahead; one further off is a clock or a year gone wrong.
_FURTHEST_AHEAD = timedelta(days=366)

# A label may say a time so long before its event's: clocks differ.
LABEL_BEFORE = timedelta(days=1)

# The last moment with a day behind it that Python can say.
_LATEST = datetime(9999, 12, 30, 23, 59, 59, 999_999, tzinfo=UTC)

# Where a row came from and when: what two rows that say the same may differ in.
_ORIGIN = frozenset({"day", "arrived_at", "known_at", "file_digest", "file_row"})


@dataclass(frozen=True)
class FileOrigin:
    """The file that accepted rows come from.

    digest: sha256 of its bytes. modified_at: UTC, the rows' arrival where no column of theirs says it.
    """

    digest: str
    modified_at: datetime


@dataclass(frozen=True)
class Merged:
    """A canonical table after new rows came to it.

    table: the rows that stand, by day, in order of their key. conflicts: rows, new or not, that a
    standing row with the same key contradicts. displaced: those of them that stood before. overtaken: rows
    that stood before one came that says the same and takes their place. replacing: what stands now in the
    place of both. later: the rows that stand, and became known after one of their key that came or went.
    shared: the rows that stand for a key that came and of which there is more than one.
    The rest counts new rows by the digest of their file. accepted_of: those that stand. duplicates_of:
    those that say what a standing row says. conflicting_of: those among the conflicts.
    A new row that comes again from the same place of the same file takes the place of the one it was.
    """

    table: pa.Table
    conflicts: pa.Table
    displaced: pa.Table
    overtaken: pa.Table
    replacing: pa.Table
    later: pa.Table
    shared: pa.Table
    accepted_of: Counter[str]
    duplicates_of: Counter[str]
    conflicting_of: Counter[str]

    @property
    def accepted(self) -> int:
        return self.accepted_of.total()

    @property
    def duplicates(self) -> int:
        return self.duplicates_of.total()

    @property
    def conflicting(self) -> int:
        return self.conflicting_of.total()


def canonical_events(accepted: pa.Table, origin: FileOrigin, spec: PipelineSpec) -> pa.Table:
    """Events: day, event_id, event_time, decision_time, arrived_at, known_at, the contract's other
    columns, file_digest, file_row.

    accepted: as judged. day is the UTC day of the event time; known_at the later of event time and
    arrival. Raises TerminalError if an id or a time is missing.
    """
    events = spec.events
    event_time = accepted[events.time]
    arrived_at = _arrivals(accepted, events.arrived, origin)
    roles = {
        "day": _days(event_time),
        "event_id": _text(accepted[events.id]),
        "event_time": event_time,
        "decision_time": accepted[events.decide_at or events.time],
        "arrived_at": arrived_at,
        "known_at": _later(event_time, arrived_at),
    }
    sources = {
        "event_id": events.id,
        "event_time": events.time,
        "decision_time": events.decide_at or events.time,
        "arrived_at": events.arrived,
    }
    return _canonical(accepted, roles, sources, {events.id}, origin)


def canonical_labels(accepted: pa.Table, origin: FileOrigin, spec: PipelineSpec) -> pa.Table:
    """Labels: day, event_id, label, label_time, arrived_at, known_at, the contract's other columns,
    file_digest, file_row.

    label: int8 (0 or 1), float64 or string, as `labels.kind` says: binary, number or category.

    day is the UTC day of arrival, and known_at the later of label time + publish lag and arrival, until
    `match_labels` makes them those of a label of its event. Raises TerminalError if an id, outcome or time
    is missing.
    """
    labels = spec.labels
    event_id = labels.id or spec.events.id
    arrived_at = _arrivals(accepted, labels.arrived, origin)
    roles = {
        "day": _days(arrived_at),
        "event_id": _text(accepted[event_id]),
        "label": _outcomes(labels, accepted[labels.value]),
        "label_time": accepted[labels.time],
        "arrived_at": arrived_at,
        "known_at": _label_known_at(accepted[labels.time], arrived_at, spec),
    }
    sources = {
        "event_id": event_id,
        "label": labels.value,
        "label_time": labels.time,
        "arrived_at": labels.arrived,
    }
    return _canonical(accepted, roles, sources, {event_id}, origin)


def canonical_reference(accepted: pa.Table, origin: FileOrigin, reference: Reference) -> pa.Table:
    """Reference rows: day, ref_time, arrived_at, known_at, the contract's columns, file_digest, file_row.

    day is the UTC day of the row's own time, or `static`; known_at the later of that time + publish lag
    and arrival. Rows of a static reference have neither time. Raises TerminalError if a key or a time is
    missing.
    """
    import pyarrow as pa

    arrived_at = _arrivals(accepted, reference.arrived, origin)
    for key in reference.keys:
        _all_there(key, accepted[key])
    if reference.time is None:
        never = pa.chunked_array([pa.nulls(accepted.num_rows, pa.timestamp("us", tz="UTC"))])
        day = pa.chunked_array([pa.array([STATIC_DAY] * accepted.num_rows, pa.string())])
        roles = {"day": day, "ref_time": never, "arrived_at": arrived_at, "known_at": never}
        return _canonical(accepted, roles, {"arrived_at": reference.arrived}, set(), origin)
    ref_time = accepted[reference.time]
    roles = {
        "day": _days(ref_time),
        "ref_time": ref_time,
        "arrived_at": arrived_at,
        "known_at": _later(_after(ref_time, reference.publish_lag), arrived_at),
    }
    sources = {"ref_time": reference.time, "arrived_at": reference.arrived}
    return _canonical(accepted, roles, sources, set(), origin)


def landed_names(loaded: LoadedSpec, stream: str) -> dict[str, str]:
    """The columns of a stream as they land, each with its name in the canonical table."""
    spec = loaded.spec
    event_id = {"events": spec.events.id, "labels": spec.labels.id or spec.events.id}.get(stream)
    return {name: "event_id" if name == event_id else name for name in loaded.contract.columns_of(stream)}


def split_by_partitions(events: pa.Table, partitions: Partitions) -> tuple[pa.Table, pa.Table, Reason]:
    """Events within the pipeline's partitions, those outside, and the reason for rejecting these.

    Without a last partition, those are outside whose own time lies more than 366 days after their arrival.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    start, end = partitions.start.isoformat(), partitions.end and partitions.end.isoformat()
    inside = pc.greater_equal(events["day"], start)
    if end:
        inside = pc.and_(inside, pc.less(events["day"], end))
        words = f"is from {start} to before {end}"
    else:
        furthest = pc.add(events["arrived_at"], pa.scalar(_FURTHEST_AHEAD, pa.duration("us")))
        inside = pc.and_(inside, pc.less_equal(events["event_time"], furthest))
        words = f"is from {start} on, and at most {_FURTHEST_AHEAD.days} days after its arrival"
    return (*_divided(events, inside), Reason("partition", words, "event_time"))


def merge_events(current: pa.Table | None, new: pa.Table, spec: PipelineSpec) -> Merged:
    """Events by id. Of rows with one id the one produced first stands, then that of lowest content hash.

    current: rows of the table that could share an id with `new`, of whatever days. Rows whose event times
    lie further apart than ids are unique within are not compared. What the standing row contradicts is in
    `conflicts`.
    """
    one = _One(spec.events.produced or "arrived_at", apart=("event_time", spec.ids_unique_within))
    return _merge(current, new, ("event_id",), {spec.events.arrived, spec.events.produced}, one)


def merge_labels(current: pa.Table | None, new: pa.Table, spec: PipelineSpec) -> Merged:
    """Labels by all that they say. A correction says something else, and stands beside what it corrects."""
    return _merge(current, new, ("event_id",), {spec.labels.arrived}, None)


def merge_reference(current: pa.Table | None, new: pa.Table, reference: Reference) -> Merged:
    """Reference rows by all that they say; of a static reference one row a key, the first to arrive."""
    static = reference.time is None
    keys = reference.keys if static else (*reference.keys, "ref_time")
    return _merge(current, new, keys, {reference.arrived}, _One("arrived_at") if static else None)


def split_by_lateness(rows: pa.Table, own_time: str, bound: timedelta) -> tuple[pa.Table, pa.Table, Reason]:
    """Rows that arrived within a bound after their own time, those that came later, and the reason."""
    import pyarrow.compute as pc

    in_time = pc.less_equal(rows["arrived_at"], _after(rows[own_time], bound))
    words = f"is at most {format_duration(bound)} before the row arrives"
    return (*_divided(rows, in_time), Reason("late", words, own_time))


def conflict_with(key: str) -> Reason:
    """Why a row is rejected that contradicts the one that stands. key: what tells rows apart, for people."""
    return Reason("conflict", f"contradicts no other row with this {key}", key)


def _divided(rows: pa.Table, mask: pa.ChunkedArray) -> tuple[pa.Table, pa.Table]:
    """The rows for which it holds, and the others; mostly all, which are not copied."""
    import pyarrow.compute as pc

    if pc.all(mask).as_py():
        return rows, rows.slice(0, 0)
    return rows.filter(mask), rows.filter(pc.invert(mask))


def match_labels(labels: pa.Table, events: pa.Table, spec: PipelineSpec) -> tuple[pa.Table, pa.Table]:
    """Labels whose event is there, as `beside_events` places them, and those without, as when they landed.

    events: at least event_id, day, event_time and known_at.
    """
    import pyarrow.compute as pc

    placed = beside_events(labels, events, spec)
    found = pc.is_valid(placed["day"])
    matched, unmatched = labels.filter(found), labels.filter(pc.invert(found))
    for name in placed.column_names:
        matched = _with(matched, name, placed[name].filter(found))
    arrived_at = unmatched["arrived_at"]
    unmatched = _with(unmatched, "day", _days(arrived_at))
    known_at = _label_known_at(unmatched["label_time"], arrived_at, spec)
    return matched, _with(unmatched, "known_at", known_at)


def beside_events(labels: pa.Table, events: pa.Table, spec: PipelineSpec) -> pa.Table:
    """day and known_at of each label as that of its event; null where there is none.

    A label's own time is not more than a day before that of its event, nor so long after it that its id may
    be another event's. It is known once its event is, too: what it is of, nobody can say before.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    asked = labels.select(["event_id", "label_time"]).append_column(_PLACE, [np.arange(labels.num_rows)])
    events = _same_types(events.select(["event_id", "day", "event_time", "known_at"]), asked)
    pairs = asked.join(events, ["event_id"], join_type="inner")
    microsecond = timedelta(microseconds=1)
    after = pc.subtract(*(pairs[name].cast(pa.int64()) for name in ("label_time", "event_time")))
    near = pc.and_(
        pc.greater_equal(after, -LABEL_BEFORE // microsecond),
        pc.less(after, (spec.ids_unique_within - LABEL_BEFORE) // microsecond),
    )
    pairs = pairs.filter(near)
    rows = np.full(labels.num_rows, -1)
    rows[pairs[_PLACE].to_numpy()] = np.arange(pairs.num_rows)
    found = pairs.select(["day", "known_at"]).take(pa.array(rows, mask=rows < 0))
    own = _label_known_at(labels["label_time"], labels["arrived_at"], spec)
    return _with(found, "known_at", _later(found["known_at"], own))


# --- columns --------------------------------------------------------------------------------------


def _canonical(
    accepted: pa.Table,
    roles: Mapping[str, pa.ChunkedArray],
    sources: Mapping[str, str | None],
    renamed: set[str],
    origin: FileOrigin,
) -> pa.Table:
    """The roles, the remaining columns under their own names, and the origin.

    sources: column that plays each role. renamed: columns that go by the name of their role alone.
    """
    import pyarrow as pa

    for role, column in sources.items():
        if column is not None:
            _all_there(column, roles[role])
    columns = dict(roles)
    for name in accepted.column_names:
        if name in renamed or name == "file_row" or sources.get(name) == name:
            continue
        if name in roles:
            raise TerminalError(
                f"The column {name} of the landed files has the name of a column that the intake writes",
                remedy=f"rename it, or name it as the column of this role ({name})",
            )
        columns[name] = accepted[name]
    columns["file_digest"] = pa.chunked_array([pa.array([origin.digest] * accepted.num_rows, pa.string())])
    columns["file_row"] = accepted["file_row"]
    return pa.table(columns)


def _all_there(name: str, values: pa.ChunkedArray) -> None:
    if values.null_count:
        raise TerminalError(
            f"{values.null_count:,} accepted rows have no {name}, which every row needs",
            remedy=f"take `nullable` from {name} in the contract",
        )


def _arrivals(accepted: pa.Table, column: str | None, origin: FileOrigin) -> pa.ChunkedArray:
    import pyarrow as pa

    if column is not None:
        return accepted[column]
    kind = pa.timestamp("us", tz="UTC")
    return pa.chunked_array([pa.array([origin.modified_at] * accepted.num_rows, kind)])


def _outcomes(labels: Labels, values: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if labels.kind == "category":
        return values.cast(pa.string())
    if labels.kind == "number":
        # A whole number of more than 53 bits becomes the nearest fraction.
        return values.cast(pa.float64(), safe=False)
    numbers = values.cast(pa.int64())
    if others := [value for value in pc.unique(numbers).to_pylist() if value not in (0, 1, None)]:
        raise TerminalError(
            f"The label {labels.value} holds {others[0]}, which is neither 0 nor 1",
            remedy=f"write `one_of: [0, 1]` for {labels.value} in the contract",
        )
    return numbers.cast(pa.int8())


def _text(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    return ids.cast(pa.string())


def _days(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """UTC days as YYYY-MM-DD. By way of a date: `strftime` would ask for the machine's time zones."""
    import pyarrow as pa

    return times.cast(pa.timestamp("us")).cast(pa.date32()).cast(pa.string())


def _with(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    """The table with other values in one of its columns."""
    return table.set_column(table.schema.get_field_index(name), name, values)


def _label_known_at(
    label_time: pa.ChunkedArray, arrived_at: pa.ChunkedArray, spec: PipelineSpec
) -> pa.ChunkedArray:
    """From when on a label is known by itself, whatever is known of its event."""
    return _later(_after(label_time, spec.labels.publish_lag), arrived_at)


def _after(times: pa.ChunkedArray, lag: timedelta) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    after = pc.add(times, pa.scalar(lag, pa.duration("us")))
    last = pa.scalar(_LATEST, after.type)
    return pc.if_else(pc.less(after, last), after, last)


def _later(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    return pc.if_else(pc.greater_equal(left, right), left, right)


# --- merging --------------------------------------------------------------------------------------

_PLACE = "#place"  # no column of a contract can be called this

# Of rows that say the same, the least in these stands.
_ORDER = ("arrived_at", "file_digest", "file_row")

_Content = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class _One:
    """That one content stands for a key: the lowest by this column, then by its hash.

    apart: a column of times; contents that lie further apart than the duration are not compared.
    """

    first_by: str
    apart: tuple[str, timedelta] | None = None


@dataclass(frozen=True)
class _Row:
    """A row among those of its key.

    first_by: what decides among contents, then among rows that say the same. at: where rows may lie too
    far apart to be compared, in microseconds. known_at: 0 where a row was always known. content: name and
    value of what the row says. What is missing is not said, so that a row does not change when a contract
    grows by a column.
    """

    place: int
    first_by: int
    at: int
    known_at: int
    arrived_at: int
    file_digest: str
    file_row: int
    content: _Content


def _merge(
    current: pa.Table | None, new: pa.Table, keys: Sequence[str], unsaid: set[str | None], one: _One | None
) -> Merged:
    """Rows of both tables, each content once; one content a key where that is asked for.

    unsaid: columns that are no content, besides those of origin.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    both = new if current is None else _together(_without(current, new, keys), new)
    first_new = both.num_rows - new.num_rows
    repeated: list[int] = []
    contradicted: list[int] = []
    replacing: list[int] = []
    later: list[int] = []
    shared: list[int] = []
    for rows in _rows_that_share(both, keys, _ORIGIN | unsaid, one):
        standing = _standing(rows, one) if one else {row.content for row in rows}
        firsts = {
            _first_place([row for row in rows if row.content == content], first_new) for content in standing
        }
        contradicted += [row.place for row in rows if row.content not in standing]
        repeated += [row.place for row in rows if row.content in standing and row.place not in firsts]
        gone = [row for row in rows if row.place < first_new and row.place not in firsts]
        came = [row for row in rows if row.place >= first_new]
        if gone:
            replacing += sorted(firsts)
        if came:
            shared += sorted(firsts)
            first = min(row.known_at for row in (*came, *gone))
            later += [row.place for row in rows if row.place in firsts and row.known_at > first]
    repeats, conflicts = np.zeros(both.num_rows, dtype=bool), np.zeros(both.num_rows, dtype=bool)
    repeats[repeated] = True
    conflicts[contradicted] = True
    stands = ~(repeats | conflicts)

    def by_file(which: NDArray[np.bool_]) -> Counter[str]:
        counts = pc.value_counts(new["file_digest"].filter(pa.array(which[first_new:])))
        return Counter({one["values"]: one["counts"] for one in counts.to_pylist()})

    def rows_at(places: Sequence[int]) -> pa.Table:
        return both.take(pa.array(places, pa.int64()))

    # By day first, as the lake keeps them: it need not bring a copy of them into its own order.
    order = pc.sort_indices(both, [(name, "ascending") for name in ("day", *keys, *_ORDER)]).to_numpy()
    return Merged(
        table=both.take(pa.array(order[stands[order]])),
        conflicts=both.filter(pa.array(conflicts)),
        displaced=rows_at([place for place in contradicted if place < first_new]),
        overtaken=rows_at([place for place in repeated if place < first_new]),
        replacing=rows_at(replacing),
        later=rows_at(later),
        shared=rows_at(shared),
        accepted_of=by_file(stands),
        duplicates_of=by_file(repeats),
        conflicting_of=by_file(conflicts),
    )


def _standing(rows: Sequence[_Row], one: _One) -> set[_Content]:
    """The contents that stand for a key: the lowest, and those too far from it to be compared."""
    first: dict[_Content, _Row] = {}
    for row in sorted(rows, key=lambda row: row.first_by):
        first.setdefault(row.content, row)
    if len(first) == 1:
        return set(first)
    bound = one.apart[1] // timedelta(microseconds=1) if one.apart else None
    standing: list[_Row] = []
    for row in sorted(first.values(), key=lambda row: (row.first_by, _content_hash(row.content))):
        if not standing or (bound is not None and all(abs(row.at - other.at) > bound for other in standing)):
            standing.append(row)
    return {row.content for row in standing}


def _first_place(rows: Sequence[_Row], first_new: int) -> int:
    """The row that came first; of those that came at the same time the one that stood before."""
    return min(
        rows,
        key=lambda row: (
            row.first_by, row.arrived_at, row.place >= first_new, row.file_digest, row.file_row, row.place
        ),
    ).place  # fmt: skip


def _content_hash(content: _Content) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _without(current: pa.Table, new: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The current rows but for those that come again from the same place of the same file."""
    return current.take(_places(current, [*keys, *_ORDER], new, "left anti"))


def _rows_that_share(
    table: pa.Table, keys: Sequence[str], ignored: frozenset[str | None], one: _One | None
) -> list[list[_Row]]:
    """The rows of every key that has more than one."""
    import pyarrow.compute as pc

    counts = table.select(list(keys)).group_by(list(keys)).aggregate([([], "count_all")])
    if counts.num_rows == table.num_rows:
        return []
    places = _places(table, keys, counts.filter(pc.greater(counts["count_all"], 1)), "left semi")
    values = _values(table.take(places))
    said = [name for name in sorted(values) if name not in ignored]
    first_by = values[one.first_by if one else "arrived_at"]
    at = values[one.apart[0]] if one and one.apart else [0] * len(first_by)
    groups: dict[tuple[Any, ...], list[_Row]] = defaultdict(list)
    for row, place in enumerate(places.to_pylist()):
        content = tuple((name, values[name][row]) for name in said if values[name][row] is not None)
        known_at = values["known_at"][row] or 0
        arrived_at, digest, file_row = (values[name][row] for name in _ORDER)
        groups[tuple(values[key][row] for key in keys)].append(
            _Row(place, first_by[row], at[row], known_at, arrived_at, digest, file_row, content)
        )
    return list(groups.values())


def _values(table: pa.Table) -> dict[str, list[Any]]:
    """Values by column. Times as numbers: a hundred times faster than datetimes, and as good to compare."""
    import pyarrow as pa

    return {
        name: (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _places(table: pa.Table, columns: Sequence[str], other: pa.Table, join_type: str) -> pa.Array:
    """Places, in order, of the table's rows that are (`left semi`) or are not (`left anti`) in the other."""
    import numpy as np

    names = list(columns)
    placed = table.select(names).append_column(_PLACE, [np.arange(table.num_rows)])
    found = placed.join(_same_types(other.select(names), placed), names, join_type=join_type)
    return found[_PLACE].combine_chunks().sort()


def _together(current: pa.Table, new: pa.Table) -> pa.Table:
    """Both tables' rows; a column that one of them lacks is null there."""
    import pyarrow as pa

    return pa.concat_tables([_same_types(current, new), new], promote_options="default")


def _same_types(table: pa.Table, other: pa.Table) -> pa.Table:
    """The table with texts held as the other one holds them.

    Raises TerminalError if a column of both is of different types.
    """
    for field in other.schema:
        index = table.schema.get_field_index(field.name)
        if index < 0 or table.schema.field(index).type == field.type:
            continue
        kind = table.schema.field(index).type
        if not (is_text(kind) and is_text(field.type)):
            raise TerminalError(
                f"The column {field.name} is {kind} in the table and {field.type} in the new rows",
                remedy="give a column of another type another name in the contract",
            )
        table = table.set_column(index, field.name, table[field.name].cast(field.type))
    return table
