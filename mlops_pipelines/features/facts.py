"""The facts a view reads: rows of its source with their keys, their own time and their knowledge time.

An outcome, or a row of a reference, may come in several versions: a correction is a later fact about the
same thing. Windows count what became known in them, so they count the first version only: a correction
neither counts twice nor leaves a negative share in a window that its first version has left already. A
last value is the version that was current at the decision.

Tables of facts have the columns `key:0`, `key:1` ... (in the order of the view's keys), `value:COLUMN`,
`own_time`, `known_at`, `day`, and `event_id` for events and labels: prefixed, because an event and what is
known about it may have columns of the same name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.coding import codes_of, microseconds, places_of, shared_codes
from mlops_pipelines.features.views import table_name, tile_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.lake import Lake

KNOWN_AT = "known_at"
OWN_TIME = "own_time"
NEVER = 2**63 - 1
_OWN_TIMES = {"events": "event_time", "labels": "label_time"}
# What a label is of. An id that comes again, further apart than ids are held unique, is another event.
_LABEL_OF = ("day", "event_id")


def key_columns(view: CompiledView) -> list[str]:
    """Names of the key columns in a table of facts."""
    return [f"key:{position}" for position in range(len(view.keys))]


def value_column(column: str) -> str:
    """Name of a source column in a table of facts."""
    return f"value:{column}"


def pinned(versions: Mapping[str, int | None], table: str) -> int | None:
    """The version a table is to be read at; None where there is no such table.

    Raises TerminalError if none was pinned: what a computation reads is named beforehand.
    """
    if table not in versions:
        raise TerminalError(
            f"No version of the table {table} was pinned.",
            expected=f"one of it beside those of {', '.join(sorted(versions)) or 'no table'}",
        )
    return versions[table]


def newest_versions(lake: Lake, views: Iterable[CompiledView]) -> dict[str, int | None]:
    """Newest version of every table that views, and events, are made of; None where there is none.

    lake: of the pipeline that uses the views. Tables of another are named as `table_name` does.
    """
    wanted: set[tuple[str | None, str]] = {(None, "events")}
    for view in views:
        tables = ["events", view.source, *([tile_table(view)] if view.windowed else [])]
        wanted |= {(view.pipeline, table) for table in tables}
    # Labels first: no label may be pinned without its event.
    in_order = sorted(wanted, key=lambda one: (one[1] != "labels", "/" in one[1], one[0] or "", one[1]))
    return {table_name(of, table): lake.of(of).version(table) for of, table in in_order}


def versions_at(pipeline: str | None, versions: Mapping[str, int | None]) -> Mapping[str, int | None]:
    """Of pinned versions those of the tables of one pipeline, by their names there."""
    prefix = table_name(pipeline, "")
    if not prefix:
        return versions
    return {name.removeprefix(prefix): at for name, at in versions.items() if name.startswith(prefix)}


def known_facts(
    view: CompiledView,
    lake: Lake,
    versions: Mapping[str, int | None],
    *,
    columns: Sequence[str],
    since: datetime,
    until: datetime,
) -> pa.Table:
    """Facts of the view's source that became known in [since, until): all versions, in any order.

    columns: source columns that become `value:COLUMN`; of labels the outcome always does, because it breaks
    ties between versions. Raises TerminalError for a label without its event.
    """
    if view.source == "labels":
        columns = list(dict.fromkeys(["label", *columns]))
    version = pinned(versions, view.source)
    if version is None:
        return _no_facts(view, columns)
    wanted = _wanted(view, [KNOWN_AT, *columns])
    facts = lake.read(view.source, columns=wanted, version=version, where=(KNOWN_AT, since, until))
    return _named(view, facts, _keys(view, lake, versions, facts), columns)


def static_facts(
    view: CompiledView, lake: Lake, versions: Mapping[str, int | None], columns: Sequence[str]
) -> pa.Table:
    """All rows of a static reference; `own_time` and `known_at` lie before everything: it was always known.

    Raises TerminalError for a key with two rows: without a time, neither is the later.
    """
    import numpy as np
    import pyarrow as pa

    version = pinned(versions, view.source)
    if version is None:
        return _no_facts(view, columns)
    wanted = list(dict.fromkeys([*view.source_keys, *columns]))
    rows = lake.read(view.source, columns=wanted, version=version)
    facts = _named(view, rows, [rows[key] for key in view.source_keys], columns)
    codes = codes_of([facts[key] for key in key_columns(view)])
    if len(np.unique(codes)) < len(codes):
        raise TerminalError(
            f"The static reference {view.source} has keys with more than one row.",
            expected=f"one row for each {', '.join(view.source_keys)}",
            remedy="give the reference a time column if its rows change",
        )
    always = pa.repeat(pa.scalar(-NEVER, pa.int64()), rows.num_rows).cast(pa.timestamp("us", tz="UTC"))
    return facts.append_column(OWN_TIME, always).append_column(KNOWN_AT, always)


def first_versions(
    view: CompiledView,
    lake: Lake,
    versions: Mapping[str, int | None],
    facts: pa.Table,
    since: datetime,
) -> pa.Table:
    """Those facts that were not known in an earlier version, one row a fact.

    facts: as `known_facts` gives them, known from `since` on. Of versions that became known at the same
    moment the one that is current afterwards counts: latest own time, then greatest outcome and values.
    """
    import numpy as np
    import pyarrow as pa

    if view.source == "events" or not facts.num_rows:
        return facts  # An event is written once.
    earlier = _known_before(view, lake, versions, facts, since)
    identity = _identity(view)
    known, fresh = shared_codes([earlier[c] for c in identity], [facts[c] for c in identity])
    backwards = version_order(facts, KNOWN_AT, "descending")[::-1]
    chosen = np.zeros(facts.num_rows, dtype=bool)
    chosen[backwards[np.unique(fresh[backwards], return_index=True)[1]]] = True
    return facts.filter(pa.array(chosen & ~np.isin(fresh, known)))


def superseded_at(facts: pa.Table, known_at: NDArray[np.int64]) -> NDArray[np.int64]:
    """When each version of a label was replaced by a later one, microseconds; NEVER if it was not.

    facts: labels as `known_facts` gives them; known_at: their knowledge times, microseconds. Of versions
    that became known at the same moment the one of latest own time, then of greatest outcome, stays.
    """
    import numpy as np

    ends = np.full(facts.num_rows, NEVER, dtype=np.int64)
    codes = codes_of([facts[name] for name in _LABEL_OF])
    if len(np.unique(codes)) == len(codes):
        return ends
    order = version_order(facts, KNOWN_AT, "ascending")
    order = order[np.argsort(codes[order], kind="stable")]
    same = codes[order[:-1]] == codes[order[1:]]
    ends[order[:-1][same]] = known_at[order[1:][same]]
    return ends


def version_order(facts: pa.Table, leading: str, direction: str) -> NDArray[np.int64]:
    """Row numbers sorted by `leading`, then own time, knowledge time, event id, outcome and other values.

    Rows that are equal in all of these say the same, so nothing depends on the order rows are stored in.
    """
    import pyarrow.compute as pc

    values = [name for name in facts.column_names if name.startswith("value:")]
    values.sort(key=lambda name: (name != value_column("label"), name))
    following = [n for n in (OWN_TIME, KNOWN_AT, "event_id") if n != leading and n in facts.column_names]
    keys = [(leading, direction), *((name, "ascending") for name in (*following, *values))]
    order: NDArray[np.int64] = pc.sort_indices(facts, sort_keys=keys).to_numpy().astype("int64")
    return order


def order_by_key(facts: pa.Table, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row numbers sorted by key, and within a key as `version_order` does by own time.

    facts: at least one; codes: of their keys.
    """
    import numpy as np

    (places,) = places_of([codes], [microseconds(facts[OWN_TIME])])
    order = np.argsort(places)
    again = np.diff(places[order]) == 0
    tied = np.concatenate([again, [False]]) | np.concatenate([[False], again])
    if tied.any():
        # Comparing all columns takes its time, and few rows need it.
        rows = order[tied]
        rows = rows[version_order(facts.take(rows), OWN_TIME, "ascending")]
        order[tied] = rows[np.argsort(codes[rows], kind="stable")]
    return order


def _own_time(view: CompiledView) -> str:
    return _OWN_TIMES.get(view.source, "ref_time")


def _identity(view: CompiledView) -> list[str]:
    """Columns that say what a fact is about, whatever its version."""
    return [*_LABEL_OF] if view.source == "labels" else [*key_columns(view), OWN_TIME]


def _wanted(view: CompiledView, columns: Sequence[str]) -> list[str]:
    """Source columns to read: those that name a fact and place it in time, and `columns`."""
    if view.source == "labels":
        return list(dict.fromkeys(["day", "event_id", _own_time(view), *columns]))
    identity = ["event_id"] if view.source == "events" else []
    return list(dict.fromkeys(["day", *identity, *view.source_keys, _own_time(view), *columns]))


def _known_before(
    view: CompiledView, lake: Lake, versions: Mapping[str, int | None], facts: pa.Table, since: datetime
) -> pa.Table:
    """Identity of the facts in the same partitions that were known before `since`.

    All versions of a fact lie in one partition: that of the event, or of the row's own time.
    """
    import pyarrow.compute as pc

    rows = lake.read(
        view.source,
        columns=_wanted(view, [KNOWN_AT]),
        days=sorted(pc.unique(facts["day"]).to_pylist()),
        version=pinned(versions, view.source),
        where=(KNOWN_AT, None, since),
    )
    if view.source == "labels":
        return rows.select([*_LABEL_OF])
    return _named(view, rows, [rows[key] for key in view.source_keys], ())


def _keys(
    view: CompiledView, lake: Lake, versions: Mapping[str, int | None], rows: pa.Table
) -> list[pa.ChunkedArray]:
    """Key columns of source rows. Labels have those of their events: only these are read, of their days."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if view.source != "labels":
        return [rows[key] for key in view.source_keys]
    if not rows.num_rows:
        return [_no_facts(view, ())[key] for key in key_columns(view)]
    version = pinned(versions, "events")
    if version is None:
        raise _orphaned(rows, version)
    days = sorted(pc.unique(rows["day"]).to_pylist())
    wanted = list(dict.fromkeys([*_LABEL_OF, *view.keys]))
    events = lake.read("events", columns=wanted, days=days, version=version)
    asked, having = shared_codes([rows[name] for name in _LABEL_OF], [events[name] for name in _LABEL_OF])
    positions = pc.index_in(pa.array(asked), value_set=pa.array(having))
    if positions.null_count:
        raise _orphaned(rows.filter(positions.is_null()), version)
    return [events[key].take(positions) for key in view.keys]


def _orphaned(labels: pa.Table, version: int | None) -> TerminalError:
    return TerminalError(
        f"{labels.num_rows} labels have no event in the table events at version {version}, "
        f"such as {labels['event_id'][0].as_py()}.",
        expected="a version of events that is at least as new as that of labels",
    )


def _named(
    view: CompiledView, rows: pa.Table, keys: Sequence[pa.ChunkedArray], columns: Sequence[str]
) -> pa.Table:
    import pyarrow as pa

    named = dict(zip(key_columns(view), keys, strict=True))
    kept = {"day": "day", "event_id": "event_id", _own_time(view): OWN_TIME, KNOWN_AT: KNOWN_AT}
    named.update({new: rows[old] for old, new in kept.items() if old in rows.column_names})
    named.update({value_column(column): rows[column] for column in columns})
    return pa.table(named)


def _no_facts(view: CompiledView, columns: Sequence[str]) -> pa.Table:
    """No rows, with the columns the facts of a source without a table would have."""
    import pyarrow as pa

    moment = pa.timestamp("us", tz="UTC")
    types = {feature.column: feature.kind for feature in view.last}
    return pa.schema(
        [
            *(
                pa.field(name, pa.int64() if type_ == "int" else pa.string())
                for name, type_ in zip(key_columns(view), view.key_types, strict=True)
            ),
            pa.field("day", pa.string()),
            pa.field("event_id", pa.string()),
            pa.field(OWN_TIME, moment),
            pa.field(KNOWN_AT, moment),
            *(
                pa.field(value_column(c), pa.string() if types.get(c) == "category" else pa.float64())
                for c in columns
            ),
        ]
    ).empty_table()
