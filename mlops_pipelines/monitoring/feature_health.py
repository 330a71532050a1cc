"""Health of the features of a day: what is missing, whose keys are known, how fresh they were, and skew.

*Skew* is how far a logged vector is from the one that a fully fresh store would have given at the decision:
one that holds every fact that was known by then, also those that were taken in, or put right, after the
vector was made. (Whether the vector is what its own facts give is another question: parity.)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mlops_pipelines.features.coding import HOUR_US, microseconds, moment
from mlops_pipelines.features.facts import KNOWN_AT, newest_versions, versions_at
from mlops_pipelines.features.in_use import sets_in_use, vectors
from mlops_pipelines.features.views import tile_table
from mlops_pipelines.monitoring.reports import closed_days, table_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date, datetime

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.features.sets import FeatureSet
    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.lake import Written

TABLE = "feature_report"
COLUMNS = {
    "feature_set": "string",
    "view": "string",
    "feature": "string",
    "rows": "int",
    "missing": "float",
    "skew": "float",
    "differ": "float",
    "covered": "float",
    "age_median": "float",
    "age_worst": "float",
    "stale": "float",
}
WHOLE_VIEW = "*"
DAYS_SHOWN = 7
OWN_ROW = "event"
# So many of a day's decisions may find a view older than its `max_age`.
STALE_SHARE = 0.01
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Health:
    """A feature, or with `feature` WHOLE_VIEW a view, of one feature set on one day.

    rows: vectors. missing: share of values that are null. skew: mean distance from the fresh vector, of
    numbers in standard deviations of the feature, 1 where one of the two is missing or another category;
    of a view the worst of its features. differ: share of values that are not the fresh ones.
    Of a view: covered, the share of vectors whose key had a fact in reach; age_median, age_worst, of its
    newest tile (without windows: of its newest fact) at the decision, hours, of those not much older than
    its `max_age`; stale, the share of decisions that found it older than that.
    """

    day: str
    feature_set: str
    view: str
    feature: str
    rows: int
    missing: float
    skew: float
    differ: float
    covered: float | None = None
    age_median: float | None = None
    age_worst: float | None = None
    stale: float | None = None


@dataclass(frozen=True)
class Report:
    """What was found of some days."""

    written: list[Written]
    found: Sequence[Health]
    max_skew: float

    @property
    def features(self) -> list[Health]:
        """Of single features, the worst skew first."""
        own = [one for one in self.found if one.feature != WHOLE_VIEW]
        return sorted(own, key=lambda one: (-one.skew, -one.missing, one.feature, one.day))

    @property
    def views(self) -> list[Health]:
        """Of whole views."""
        return [one for one in self.found if one.feature == WHOLE_VIEW]

    @property
    def skew_sentence(self) -> str:
        if not self.features:
            return "no vectors on these days"
        worst = self.features[0]
        return f"worst skew {worst.skew:.4f}, of {worst.feature} on {worst.day}; at most {self.max_skew:g}"

    @property
    def within_skew(self) -> bool:
        """Whether every feature is as near to the fresh one as is asked for."""
        return all(one.skew <= self.max_skew for one in self.features)

    @property
    def stale_views(self) -> list[Health]:
        """Views that more than STALE_SHARE of a day's decisions found too old."""
        return [one for one in self.views if one.stale is not None and one.stale > STALE_SHARE]


def days_to_look_at(place: PipelineHome, now: datetime) -> list[str]:
    """Closed days that got vectors and have not been looked at since."""
    return [*closed_days(place, "features", now)]


def report_features(place: PipelineHome, days: Sequence[str]) -> Report:
    """Look at the features of `days` (UTC), and of closed days with new vectors.

    Raises what `compute_examples` raises.
    """
    reopened = closed_days(place, "features", place.clock.now(), days)
    wanted = sorted({*days, *reopened})
    found = [
        one
        for features in sets_in_use(place).sets
        if place.lake.exists(features.examples)
        for day in wanted
        for one in _of_day(place, features, day)
    ]
    written: list[Written] = []
    if found or place.lake.exists(TABLE):
        rows = [asdict(one) for one in found]
        written = place.lake.replace(
            TABLE, table_of(rows, COLUMNS), days=wanted, sort_by=["feature_set", "view", "feature"]
        )
    place.ledger.close_days(place.name, reopened, "features")
    return Report(written, found, place.spec.features.max_skew)


def latest(place: PipelineHome, since: date | None = None) -> list[dict[str, Any]]:
    """The rows of the report about whole views, of days from one on or of the last seven, newest first."""
    import pyarrow.compute as pc

    if not place.lake.exists(TABLE):
        return []
    days = place.lake.days(TABLE)
    wanted = [day for day in days if day >= since.isoformat()] if since else days[-DAYS_SHOWN:]
    rows = place.lake.read(TABLE, days=wanted)
    rows = rows.filter(pc.equal(rows["feature"], WHOLE_VIEW)).drop_columns(["feature"])
    found: list[dict[str, Any]] = rows.sort_by([("day", "descending"), ("view", "ascending")]).to_pylist()
    return found


def column_skew(logged: pa.ChunkedArray, fresh: pa.ChunkedArray) -> tuple[float, float]:
    """Skew of a feature, and share of its values that differ. Pure; rows of both are of the same events."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(logged):
        return 0.0, 0.0
    one_missing = pc.xor(logged.is_null(), fresh.is_null()).to_numpy()
    both = pc.and_(logged.is_valid(), fresh.is_valid()).to_numpy()
    apart = one_missing.astype(np.float64)
    if pa.types.is_floating(logged.type):
        values, others = (column.fill_null(0.0).to_numpy() for column in (logged, fresh))
        known = np.concatenate([values[logged.is_valid().to_numpy()], others[fresh.is_valid().to_numpy()]])
        deviation = float(known.std()) if len(known) else 0.0
        distances = np.where(both, np.abs(values - others), 0.0)
        apart += distances / deviation if deviation else 0.0
    else:
        apart += np.where(both, pc.fill_null(pc.not_equal(logged, fresh), False).to_numpy(), 0.0)
    return float(apart.mean()), float((apart > 0).mean())


def ages(decisions: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.float64]:
    """Hours from the newest of what was known at each decision until the decision; NaN where nothing was.

    decisions, known: microseconds since 1970 UTC; known: ascending. Pure.
    """
    import numpy as np

    newest = np.searchsorted(known, decisions, side="right") - 1
    if not len(known):
        return np.full(len(decisions), np.nan)
    hours: NDArray[np.float64] = (decisions - known[newest]) / HOUR_US
    return np.where(newest >= 0, hours, np.nan)


def _of_day(place: PipelineHome, features: FeatureSet, day: str) -> Iterator[Health]:
    import pyarrow.compute as pc

    logged = place.lake.read(features.examples, days=[day]).sort_by("event_id")
    if not logged.num_rows:
        return
    fresh = _fresh(place, features, logged)
    kept = logged.filter(pc.is_in(logged["event_id"], value_set=fresh["event_id"].combine_chunks()))
    named = {OWN_ROW: [*features.own], **{v.name: [c.name for c in v.columns] for v in features.views}}
    views = {view.name: view for view in features.views}
    for view, columns in named.items():
        ones = [
            Health(
                day, features.version, view, name, logged.num_rows,
                logged[name].null_count / logged.num_rows, *column_skew(kept[name], fresh[name]),
            )
            for name in columns
        ]  # fmt: skip
        yield from ones
        if view in views:
            yield _of_view(place, features, views[view], logged, ones)


def _of_view(
    place: PipelineHome, features: FeatureSet, view: CompiledView, logged: pa.Table, ones: Sequence[Health]
) -> Health:
    import numpy as np

    old = np.concatenate(
        [_ages_of(place, view, rows, json.loads(made_of)) for made_of, rows in _by_provenance(logged)]
    )
    known = old[~np.isnan(old)]
    limit = view.max_age / _HOUR
    return Health(
        day=ones[0].day,
        feature_set=features.version,
        view=view.name,
        feature=WHOLE_VIEW,
        rows=logged.num_rows,
        missing=sum(one.missing for one in ones) / len(ones),
        skew=max(one.skew for one in ones),
        differ=max(one.differ for one in ones),
        covered=_covered(view, logged),
        age_median=float(np.median(known)) if len(known) else None,
        age_worst=float(known.max()) if len(known) else None,
        stale=None if view.static else float((np.isnan(old) | (old > limit)).mean()),
    )


def _fresh(place: PipelineHome, features: FeatureSet, logged: pa.Table) -> pa.Table:
    """The vectors of the same events from all that is there now, by event; without events that are gone."""
    import pyarrow.compute as pc

    versions = newest_versions(place.lake, features.views)
    days = sorted(logged["day"].unique().to_pylist())
    events = place.lake.read("events", days=days, version=versions["events"])
    events = events.filter(pc.is_in(events["event_id"], value_set=logged["event_id"].combine_chunks()))
    return vectors(place, features, events.sort_by("event_id"), versions)


def _by_provenance(logged: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    import pyarrow.compute as pc

    for made_of in sorted(logged["made_of"].unique().to_pylist()):
        yield made_of, logged.filter(pc.equal(logged["made_of"], made_of))


def _ages_of(
    place: PipelineHome, view: CompiledView, rows: pa.Table, versions: Mapping[str, int | None]
) -> NDArray[np.float64]:
    """Of the tables that these vectors were made of, at their versions."""
    import numpy as np

    decisions = microseconds(rows["decision_time"])
    table, column = (tile_table(view), "hour") if view.windowed else (view.source, KNOWN_AT)
    version = versions_at(view.pipeline, versions).get(table)
    if view.static or version is None:
        return np.full(rows.num_rows, np.nan)
    # What is older than that is stale, however old it is.
    since, until = moment(int(decisions.min())) - view.max_age - 2 * _HOUR, moment(int(decisions.max()))
    read = place.lake.of(view.pipeline).read(
        table, columns=[column], version=version, where=(column, since, until)
    )
    known = np.unique(microseconds(read[column]))
    # A tile is known, and read, when its hour is over.
    return ages(decisions, known + HOUR_US if view.windowed else known)


def _covered(view: CompiledView, logged: pa.Table) -> float:
    """Share of vectors with anything from the view: a value, or a count that is not zero."""
    import numpy as np
    import pyarrow.compute as pc

    counts = {one.name for one in view.windowed if one.aggregate in ("count", "distinct")}
    found = np.zeros(logged.num_rows, dtype=bool)
    for column in view.columns:
        values = logged[column.name]
        there = pc.greater(values, 0.0).fill_null(False) if column.name in counts else values.is_valid()
        found |= there.to_numpy()
    return float(found.mean())
