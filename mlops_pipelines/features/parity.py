"""Parity: are the vectors that were logged those that their facts give, bit by bit?

Each example names the versions of the tables it was made of. Made again from these, it has to be the same;
that it was the best that could have been known is another question, which `skew` answers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_pipelines.batches import batched
from mlops_pipelines.features.functions import rewritten
from mlops_pipelines.features.in_use import known_sets, vectors
from mlops_pipelines.ingest.contract import MASKED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.features.sets import FeatureSet
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ingest.contract import Contract

# Of the values that differ, so many are told.
MOST_TOLD = 20
# As many as are looked at in one run that monitors: memory does not grow with the history.
DAYS_AT_ONCE = 31


@dataclass(frozen=True)
class Difference:
    """A value that is not what its facts give. key: what its view was looked up by; {} for the event's own.

    feature: None where the event itself is not there any more, at the version that was read.
    """

    day: str
    event_id: str
    feature: str | None
    key: Mapping[str, Any]
    logged: float | str | None
    recomputed: float | str | None


@dataclass(frozen=True)
class Parity:
    """compared, differ: vectors. not_compared: those of Python functions whose file is another one by now.
    differences: the first of the values that differ, in order of day and event."""

    compared: int
    differ: int
    not_compared: int
    differences: tuple[Difference, ...]

    @property
    def holds(self) -> bool:
        """Whether something was compared, and nothing differs."""
        return self.compared > 0 and self.differ == 0

    @property
    def sentence(self) -> str:
        others = ""
        if self.not_compared:
            were = "more were" if self.compared else "were"
            others = (
                f"; {self.not_compared:,} {were} not compared: their functions are written otherwise by now"
            )
        return f"{self.compared:,} vectors compared, {self.differ:,} differ{others}"


def parity(place: PipelineHome, days: Sequence[str] | None = None) -> Parity:
    """Makes the examples of these days (UTC, by default all) again and compares every value.

    By each set that vectors were ever made by. Not those whose predictions were freed for their age, with
    all that the vectors were made of. Raises what `compute_examples` raises, and TerminalError for
    a version of a table that is gone.
    """
    compared = differ = not_compared = 0
    told: list[Difference] = []
    for features in known_sets(place):
        rows_by_day = place.lake.row_counts(features.examples)
        wanted = sorted(day for day in rows_by_day if days is None or day in days)
        wanted = place.ledger.not_freed(place.name, wanted)
        if rewritten(features.from_python):
            not_compared += sum(rows_by_day[day] for day in wanted)
            continue
        for part in batched(wanted, DAYS_AT_ONCE):
            logged = place.lake.read(features.examples, days=part)
            for made_of, rows in _groups(logged):
                made = _made_again(place, features, rows, json.loads(made_of))
                wrong = _wrong(rows, made.examples, [column.name for column in features.columns])
                compared += rows.num_rows
                differ += len({row for row, _ in wrong})
                told += [
                    _told(place.contract, made, rows.slice(row, 1), one) for row, one in wrong[:MOST_TOLD]
                ]
            told = sorted(told, key=lambda one: (one.day, one.event_id, one.feature or ""))[:MOST_TOLD]
    return Parity(compared, differ, not_compared, tuple(told))


def logged_days(place: PipelineHome, since: date | None) -> list[str]:
    """Days (YYYY-MM-DD) that have vectors, from one on or all, in order."""
    first = since.isoformat() if since else ""
    days = {day for features in known_sets(place) for day in place.lake.days(features.examples)}
    return sorted(day for day in days if day >= first)


def made_again(place: PipelineHome, features: FeatureSet, logged: pa.Table) -> pa.Table:
    """The vectors of the same events, made again from the versions that each was made of, in any order.

    logged: examples of a set. What is not there any more has no row. Raises as `parity` does.
    """
    import pyarrow as pa

    return pa.concat_tables(
        [
            _made_again(place, features, rows, json.loads(made_of)).examples
            for made_of, rows in _groups(logged)
        ]
    )


def differing_features(logged: pa.Table, again: pa.Table, features: FeatureSet) -> list[str]:
    """Features whose values differ by a bit in any of these rows."""
    wrong = _wrong(logged, again, [column.name for column in features.columns])
    return sorted({feature or "the event" for _, feature in wrong})


def _groups(logged: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The rows by what they were made of, each in order of day and event."""
    import pyarrow.compute as pc

    for made_of in sorted(logged["made_of"].unique().to_pylist()):
        rows = logged.filter(pc.equal(logged["made_of"], made_of))
        yield made_of, rows.sort_by([("day", "ascending"), ("event_id", "ascending")])


@dataclass(frozen=True)
class _Made:
    """Events and their examples by a feature set, made again, in order of their ids."""

    features: FeatureSet
    events: pa.Table
    examples: pa.Table


def _made_again(
    place: PipelineHome, features: FeatureSet, rows: pa.Table, versions: Mapping[str, int | None]
) -> _Made:
    """Of the same events; without those that are not there."""
    import pyarrow.compute as pc

    days = sorted(rows["day"].unique().to_pylist())
    events = place.lake.read("events", days=days, version=versions["events"])
    events = events.filter(pc.is_in(events["event_id"], value_set=rows["event_id"].combine_chunks()))
    events = events.sort_by("event_id")
    return _Made(features, events, vectors(place, features, events, versions))


def _wrong(rows: pa.Table, again: pa.Table, features: Sequence[str]) -> list[tuple[int, str | None]]:
    """Place of the row, and feature, of each value that differs; None for an event that is not there."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    places = pc.index_in(rows["event_id"], value_set=again["event_id"].combine_chunks()).combine_chunks()
    wrong: list[tuple[int, str | None]] = [(int(row), None) for row in np.flatnonzero(places.is_null())]
    there = pa.array(np.flatnonzero(places.is_valid()))
    mine, theirs = rows.take(there), again.take(places.drop_null())
    for feature in features:
        differs = _bits(mine[feature]) != _bits(theirs[feature])
        wrong += [(there[int(place)].as_py(), feature) for place in np.flatnonzero(differs)]
    return sorted(wrong, key=lambda one: (one[0], one[1] or ""))


def _bits(values: pa.ChunkedArray) -> NDArray[np.object_] | NDArray[np.int64]:
    """Something that is equal just where the values are the same bits, null where null."""
    import numpy as np
    import pyarrow as pa

    if not pa.types.is_floating(values.type):
        texts: NDArray[np.object_] = np.array(values.to_pylist(), dtype=object)
        return texts
    # The lake keeps 0.0 for -0.0. No number of a vector is NaN, so one of these stands for null.
    numbers = values.to_numpy().astype(np.float64) + 0.0
    bits: NDArray[np.int64] = np.where(values.is_null().to_numpy(), np.nan, numbers).view(np.int64)
    return bits


def _told(contract: Contract, made: _Made, row: pa.Table, feature: str | None) -> Difference:
    """A value that differs, for people: sensitive values are masked, and texts where there are any."""
    import pyarrow.compute as pc

    day, event_id = row["day"][0].as_py(), row["event_id"][0].as_py()
    found = pc.index(made.examples["event_id"], event_id).as_py()
    if feature is None or found < 0:
        return Difference(day, event_id, None, {}, None, None)
    hidden = contract.sensitive_columns("events")
    view = next((view for view in made.features.views if feature in {one.name for one in view.columns}), None)
    keys = view.keys if view else ()
    key = {name: MASKED if name in hidden else made.events[name][found].as_py() for name in keys}
    values = [row[feature][0].as_py(), made.examples[feature][found].as_py()]
    # What another pipeline calls sensitive is not known here.
    if (hidden or (view and view.pipeline)) and any(isinstance(value, str) for value in values):
        values = [MASKED, MASKED]
    return Difference(day, event_id, feature, key, *values)
