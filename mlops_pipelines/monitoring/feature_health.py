"""Health of the features of a day: what is missing, whose keys are known, how fresh they were, and skew.

*Skew* is how far a logged vector is from the one that a fully fresh store would have given at the decision:
one that holds every fact that was known by then, also those that were taken in, or put right, after the
vector was made. (Whether the vector is what its own facts give is another question: parity.)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from mlops_pipelines.batches import batched
from mlops_pipelines.features.coding import HOUR_US, microseconds, moment
from mlops_pipelines.features.facts import KNOWN_AT, newest_versions, versions_at
from mlops_pipelines.features.functions import rewritten
from mlops_pipelines.features.in_use import sets_in_use, vectors
from mlops_pipelines.features.point_in_time import has_facts
from mlops_pipelines.features.sets import FeatureSet
from mlops_pipelines.features.views import table_name, tile_table
from mlops_pipelines.monitoring.reports import closed_days, table_of
from mlops_pipelines.spec_loading import hash_of
from mlops_pipelines.standing import Work

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date, datetime

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.lake import Written

TABLE = "feature_report"
ORDER = ("view", "version", "feature")
COLUMNS = {
    "view": "string",
    "version": "string",
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
DAYS_AT_ONCE = 31
OWN_ROW = "event"
# So many of a day's decisions may find a view older than its `max_age`.
STALE_SHARE = 0.01
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Health:
    """A feature, or with `feature` WHOLE_VIEW a view, on one day. Each version of a view is looked at once.

    view: its name, or OWN_ROW for what the event's own row says. version: 8 hex digits. rows: vectors.
    missing: share of values that are null. skew: mean distance from the fresh vector, of numbers in
    standard deviations of the feature, 1 where one of the two is missing or another category; of a view the
    worst of its features. differ: share of values that are not the fresh ones.
    Of a view: covered, the share of vectors whose key had a fact in reach; age_median, age_worst, of its
    newest tile (without windows: of its newest fact) at the decision, hours, of those not much older than
    its `max_age`; stale, the share of decisions that found it older than that, of those since its first
    fact.
    """

    day: str
    view: str
    version: str
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
    """What was found of some days. rewritten: Python functions `module:name` of sets in use whose file is
    another one by now, or gone: their features were not looked at. right: days that were left alone."""

    written: list[Written]
    found: Sequence[Health]
    max_skew: float
    rewritten: Sequence[str]
    right: Sequence[str] = ()

    @property
    def features(self) -> list[Health]:
        """Of single features, the worst skew first."""
        own = [one for one in self.found if one.feature != WHOLE_VIEW]
        return sorted(own, key=lambda one: (-one.skew, -one.missing, one.feature, one.day))

    @property
    def by_day(self) -> dict[str, list[Health]]:
        """Of single features, by day."""
        found: dict[str, list[Health]] = {}
        for one in self.features:
            found.setdefault(one.day, []).append(one)
        return found

    @property
    def oldest(self) -> dict[str, float]:
        """By view, how old it was at worst, hours."""
        found: dict[str, float] = {}
        for one in self.views:
            if one.age_worst is not None:
                found[one.view] = max(found.get(one.view, 0.0), one.age_worst)
        return found

    @property
    def stale_sentence(self) -> str:
        names = sorted({one.view for one in self.stale_views})
        too_old = f"more than {STALE_SHARE:.0%} of a day's decisions found a view too old"
        return f"{too_old}: {', '.join(names)}" if names else f"on no day {too_old}"

    @property
    def views(self) -> list[Health]:
        """Of whole views."""
        return [one for one in self.found if one.feature == WHOLE_VIEW]

    @property
    def skew_sentence(self) -> str:
        names = ", ".join(self.rewritten)
        others = f"; functions that are written otherwise by now were not looked at: {names}" if names else ""
        if not self.features:
            return f"no vectors on these days{others}"
        worst = self.features[0]
        skew = f"worst skew {worst.skew:.4f}, of {worst.feature} on {worst.day}"
        return f"{skew}; at most {self.max_skew:g}{others}"

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


def report_features(
    place: PipelineHome, days: Sequence[str], *, made_by: str = "", force: bool = False
) -> Report:
    """Look at the features of `days` (UTC), and of closed days with new vectors.

    A set with a Python function whose file is another one by now is looked at without its functions.
    made_by: version of what decides on it; days that are right by it, with no fact new anywhere, are left
    alone, unless forced. Raises what `compute_examples` raises.
    """
    lake = place.lake
    reopened = closed_days(place, "features", place.clock.now(), days)
    sets = sets_in_use(place).sets
    as_it_stands = partial(lake.as_it_stands, TABLE, sort_by=ORDER)
    by = _made_by(place, made_by, sets)
    work = Work.on(place, "features", days, reopened, as_it_stands, made_by=by, force=force)
    found: list[Health] = []
    seen: set[tuple[str, str]] = set()
    otherwise: set[str] = set()
    for features in sets:
        unseen = _without(features, seen)
        seen |= {*features.view_versions.items()}
        if gone := rewritten(unseen.from_python):
            otherwise |= {*gone}
            unseen = replace(unseen, from_python={})
        for part in batched(work.days, DAYS_AT_ONCE):
            found += _of_days(place, features.examples, unseen, part)
    written: list[Written] = []
    if work.days and (found or lake.exists(TABLE)):
        rows = [asdict(one) for one in found]
        written = lake.replace(TABLE, table_of(rows, COLUMNS), days=work.days, sort_by=ORDER)
    place.ledger.close_days(place.name, reopened, "features")
    work.record(written)
    if work.right:
        kept = lake.read(TABLE, days=work.left_alone, columns=["day", *COLUMNS])
        found += [Health(**row) for row in kept.to_pylist()]
    return Report(
        work.together(written),
        found,
        place.spec.features.max_skew,
        sorted(otherwise),
        work.left_alone,
    )


def _made_by(place: PipelineHome, made_by: str, sets: Sequence[FeatureSet]) -> str:
    """By what a report is made: a fresh store is another one with each fact, late ones of old days too."""
    if not made_by:
        return ""
    held_against = {
        features.version: [newest_versions(place.lake, features.views), rewritten(features.from_python)]
        for features in sets
    }
    return hash_of([made_by, held_against])


def latest(place: PipelineHome, since: date | None = None) -> list[dict[str, Any]]:
    """The rows of the report about whole views, of days from one on or of the last seven, newest first."""
    import pyarrow.compute as pc

    if not place.lake.exists(TABLE):
        return []
    days = place.lake.days(TABLE)
    wanted = [day for day in days if day >= since.isoformat()] if since else days[-DAYS_SHOWN:]
    rows = place.lake.read(TABLE, days=wanted)
    rows = rows.filter(pc.equal(rows["feature"], WHOLE_VIEW)).drop_columns(["feature"])
    found: list[dict[str, Any]] = rows.sort_by(
        [("day", "descending"), ("view", "ascending"), ("version", "ascending")]
    ).to_pylist()
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


def _without(features: FeatureSet, seen: set[tuple[str, str]]) -> FeatureSet:
    """The set without what another has in the same version."""
    told = {name for name, version in features.view_versions.items() if (name, version) in seen}
    return FeatureSet(
        from_event={} if "from_event" in told else features.from_event,
        from_python={} if "from_python" in told else features.from_python,
        views=tuple(view for view in features.views if table_name(view.pipeline, view.name) not in told),
    )


def _of_days(place: PipelineHome, table: str, features: FeatureSet, days: Sequence[str]) -> Iterator[Health]:
    """What is found of these features in a table of vectors, by day."""
    import numpy as np
    import pyarrow.compute as pc

    if not place.lake.exists(table) or not features.columns:
        return
    logged = place.lake.read(table, days=days)
    if not logged.num_rows:
        return
    fresh = _fresh(place, features, logged)
    places = pc.index_in(logged["event_id"], value_set=fresh["event_id"].combine_chunks())
    old = {view.name: _ages_by_vector(place, view, logged) for view in features.views}
    day_of = logged["day"].to_numpy()
    for day in sorted(set(day_of)):
        rows = np.flatnonzero(day_of == day)
        mine, at = logged.take(rows), places.take(rows)
        one = _Day(day, mine, mine.filter(at.is_valid()), fresh.take(at.drop_null()))
        for kind, own in (("from_event", features.from_event), ("from_python", features.from_python)):
            for name in own:
                yield one.look(name, OWN_ROW, features.view_versions[kind])
        for view in features.views:
            ones = [one.look(column.name, view.name, view.version) for column in view.columns]
            yield from ones
            yield _of_view(view, mine, ones, old[view.name][rows])


@dataclass(frozen=True)
class _Day:
    """Vectors of a day. kept, fresh: of the same events, those whose events are still there."""

    day: str
    logged: pa.Table
    kept: pa.Table
    fresh: pa.Table

    def look(self, name: str, view: str, version: str) -> Health:
        missing = self.logged[name].null_count / self.logged.num_rows
        skew = column_skew(self.kept[name], self.fresh[name])
        return Health(self.day, view, version, name, self.logged.num_rows, missing, *skew)


def _of_view(
    view: CompiledView, logged: pa.Table, ones: Sequence[Health], old: NDArray[np.float64]
) -> Health:
    """old: hours by vector, NaN where nothing is near, infinite before the view's first fact."""
    import numpy as np

    known = old[np.isfinite(old)]
    due = old[~np.isinf(old)]
    stale = np.isnan(due) | (due > view.max_age / _HOUR)
    return Health(
        day=ones[0].day,
        view=view.name,
        version=view.version,
        feature=WHOLE_VIEW,
        rows=logged.num_rows,
        missing=sum(one.missing for one in ones) / len(ones),
        skew=max(one.skew for one in ones),
        differ=max(one.differ for one in ones),
        covered=float(has_facts(view, logged).mean()),
        age_median=float(np.median(known)) if len(known) else None,
        age_worst=float(known.max()) if len(known) else None,
        stale=None if view.static else float(stale.mean()) if len(due) else 0.0,
    )


def _fresh(place: PipelineHome, features: FeatureSet, logged: pa.Table) -> pa.Table:
    """The vectors of the same events from all that is there now, by event; without events that are gone."""
    import pyarrow.compute as pc

    versions = newest_versions(place.lake, features.views)
    days = sorted(logged["day"].unique().to_pylist())
    events = place.lake.read("events", days=days, version=versions["events"])
    events = events.filter(pc.is_in(events["event_id"], value_set=logged["event_id"].combine_chunks()))
    return vectors(place, features, events.sort_by("event_id"), versions)


def _ages_by_vector(place: PipelineHome, view: CompiledView, logged: pa.Table) -> NDArray[np.float64]:
    """`ages` of the view at each decision, in the table that the vector was made of, at its version.

    Infinite before the view's first fact of all: there was nothing to be fresh.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    found = np.full(logged.num_rows, np.nan)
    if view.static:
        return found
    decisions = microseconds(logged["decision_time"])
    lake = place.lake.of(view.pipeline)
    table, column = (tile_table(view), "hour") if view.windowed else (view.source, KNOWN_AT)
    # A tile is known, and read, when its hour is over.
    lag = HOUR_US if view.windowed else 0
    made_of = {text: json.loads(text) for text in logged["made_of"].unique().to_pylist()}
    read_at = {text: versions_at(view.pipeline, versions).get(table) for text, versions in made_of.items()}
    for version in {*read_at.values()} - {None}:
        texts = [text for text, one in read_at.items() if one == version]
        mine = pc.is_in(logged["made_of"], value_set=pa.array(texts, pa.string())).to_numpy()
        asked = decisions[mine]
        # What is older than that is stale, however old it is.
        since, until = moment(int(asked.min())) - view.max_age - 2 * _HOUR, moment(int(asked.max()))
        rows = lake.read(table, columns=[column], version=version, where=(column, since, until))
        found[mine] = ages(asked, np.unique(microseconds(rows[column])) + lag)
    span = lake.span(table, column)
    first = span[0].timestamp() * 1e6 + lag if span else np.inf
    return np.where(np.isnan(found) & (decisions < first), np.inf, found)
