"""From accepted rows to scores: tiles, the online store, examples, predictions, for some days.

Each step works on the days it is asked for and on those that late data reopened for it, and closes the
latter; so whoever runs it next, nothing that arrived is forgotten.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_pipelines.features.views import compile_views, feature_columns, tile_table
from mlops_pipelines.spec_checks import columns_by_feature
from mlops_pipelines.spec_loading import hash_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    import pyarrow as pa

    from mlops_pipelines.features.views import FeatureColumn
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.lake import Written
    from mlops_pipelines.ledger import Promotion
    from mlops_pipelines.ledger.landing import Stage
    from mlops_pipelines.spec_loading import LoadedSpec

PREDICTION_COLUMNS = {
    "prediction_id": "string",
    "event_id": "string",
    "decided_at": "timestamp",
    "model_version": "string",
    "model_hash": "string",
    "score": "float",
    "scored_at": "timestamp",
}
EXAMPLE_ORDER = ("decision_time", "event_id")
PREDICTION_ORDER = ("decided_at", "event_id")
MOST_MISSING = 15


@dataclass(frozen=True)
class Tiles:
    """What became of the tiles. written: of each day, over all views; the head has each view's tiles."""

    written: list[Written]
    online_keys: int
    online_as_of: datetime


@dataclass(frozen=True)
class Examples:
    """What became of the examples. missing: of each day, the features that most often lack a value."""

    written: list[Written]
    missing: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """What became of the scores. by_version: of each day with scores, rows by the model's version."""

    written: list[Written]
    by_version: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


def example_columns(loaded: LoadedSpec) -> dict[str, str]:
    """Columns of the examples: name to type."""
    features = {f.name: "float" if f.kind == "number" else "string" for f in _features(loaded)}
    keys = {"event_id": "string", "event_time": "timestamp", "decision_time": "timestamp"}
    return {**keys, **features, "view_versions": "string"}


def reopened_days(place: PipelineHome) -> list[str]:
    """Partitions whose tiles, examples or scores are to be looked at again now."""
    ledger, now = place.ledger, place.clock.now()
    days = {*ledger.reopened_days(place.name, "tiles"), *ledger.reopened_days(place.name, "score", by=now)}
    return sorted({place.partition_of(day) for day in days})


def make_tiles(place: PipelineHome, days: Sequence[str]) -> Tiles:
    """Tiles of every view for `days` (of knowledge time), in the lake and in the online store."""
    from mlops_pipelines.features.tiles import compute_tiles

    reopened = place.ledger.reopened_days(place.name, "tiles")
    wanted = sorted({*days, *reopened})
    versions = source_versions(place)
    written: dict[str, list[Written]] = {}
    for view in compile_views(place.spec, place.contract):
        if not view.windowed:
            continue
        tiles = compute_tiles(view, place.lake, wanted, versions)
        written[view.name] = place.lake.replace(
            tile_table(view), tiles, days=wanted, sort_by=["hour", *view.keys], provenance=versions
        )
    keys, as_of = _write_online(place)
    place.ledger.close_days(place.name, reopened, "tiles")
    return Tiles(_by_day(wanted, written), keys, as_of)


def make_examples(place: PipelineHome, days: Sequence[str]) -> Examples:
    """The vector of every event of `days` that has none and whose decision time has come.

    Raises what `compute_examples` raises.
    """
    import pyarrow.compute as pc

    from mlops_pipelines.features.point_in_time import compute_examples

    now = place.clock.now()
    wanted = sorted({*days, *place.ledger.reopened_days(place.name, "score", by=now)})
    lake = place.lake
    # Before anything is read: an example names the versions it was made of.
    versions = source_versions(place)
    fresh = _rows_not_in(place, "events", "examples", wanted, version=versions["events"])
    if fresh is None:
        return Examples([])
    # As of a moment that is not over, a vector would lack what may still become known by then.
    fresh = fresh.filter(pc.less(fresh["decision_time"], now))
    if fresh.num_rows == 0 and not lake.exists("examples"):
        return Examples([])
    made = compute_examples(place.spec, place.contract, lake, fresh, versions) if fresh.num_rows else None
    written = lake.update(
        "examples", wanted, _adding(made), sort_by=EXAMPLE_ORDER, unhashed=("made_of",), provenance=versions
    )
    return Examples(written, _missing_by_day(place, wanted))


def score(place: PipelineHome, days: Sequence[str]) -> Scored:
    """Score what no champion has scored yet, each event by the champion before its decision time.

    Events that have no example yet keep their day open until their decision time has come.
    """
    import pyarrow as pa

    now = place.clock.now()
    reopened = place.ledger.reopened_days(place.name, "score", by=now)
    wanted = sorted({*days, *reopened})
    lake = place.lake
    unscored = _rows_not_in(place, "examples", "predictions", wanted)
    if unscored is None:
        _keep_open(place, wanted, now)
        place.ledger.close_days(place.name, reopened, "score")
        return Scored([])
    promotions = place.ledger.promotions(place.name)
    by_promotion: dict[int, list[int]] = {}
    for row, champion in enumerate(champions_before(promotions, unscored["decision_time"].to_pylist())):
        if champion is not None:
            by_promotion.setdefault(champion, []).append(row)
    parts = [
        _score_with(place, promotions[champion], unscored.take(rows), now)
        for champion, rows in sorted(by_promotion.items())
    ]
    made = pa.concat_tables(parts) if parts else None
    if made is not None:
        # Recorded before the scores are: a run that dies in between leaves days to measure, not gaps.
        stages: tuple[Stage, ...] = ("drift", "monitor")
        for stage in stages:
            place.ledger.reopen_days(place.name, made["day"].unique().to_pylist(), stage, now)
    written: list[Written] = []
    if made is not None or lake.exists("predictions"):
        written = lake.update(
            "predictions",
            wanted,
            _adding(made),
            sort_by=PREDICTION_ORDER,
            unhashed=("scored_at", "model_version"),
        )
    _keep_open(place, wanted, now)
    place.ledger.close_days(place.name, reopened, "score")
    return Scored(written, _scores_by_version(place, wanted) if written else {})


def _keep_open(place: PipelineHome, days: Sequence[str], now: datetime) -> None:
    """Reopen the days whose events wait for their decision time, from the first of these on.

    With the patience that the backlog's `age` allows, so that what comes due together is one run.
    """
    waiting = _rows_not_in(place, "events", "examples", days)
    if waiting is None or waiting.num_rows == 0:
        return
    first = waiting.group_by("day").aggregate([("decision_time", "min")]).to_pylist()
    for one in first:
        due = one["decision_time_min"] + place.spec.triggers.backlog.age
        place.ledger.reopen_days(place.name, [one["day"]], "score", max(now, due))


def champions_before(promotions: Sequence[Promotion], moments: Sequence[datetime]) -> list[int | None]:
    """Position in `promotions` of the champion that served strictly before each moment; None if none did.

    promotions: in order of their time. Pure.
    """
    starts = [promotion.at for promotion in promotions]
    found = (bisect_left(starts, moment) for moment in moments)
    return [position - 1 if position else None for position in found]


def prediction_id(event_id: str, model_hash: str) -> str:
    """Durable name of one score: 16 hex digits of the event's id and the model's hash."""
    return hashlib.sha256(f"{event_id}\n{model_hash}".encode()).hexdigest()[:16]


def source_versions(place: PipelineHome) -> dict[str, int | None]:
    """Newest version of every table that features are made of; None where there is no such table."""
    views = compile_views(place.spec, place.contract)
    # Labels first: no label may be pinned without its event.
    tables = ["labels", "events", *place.spec.references, *(tile_table(v) for v in views if v.windowed)]
    return {table: place.lake.version(table) for table in tables}


def feature_sources(loaded: LoadedSpec) -> dict[str, list[tuple[str, str]]]:
    """Source columns (asset, column) of each feature, those of its key first."""
    spec = loaded.spec
    own = columns_by_feature(spec, loaded.contract)
    sources = {name: [("events", column) for column in columns] for name, columns in own.items()}
    for view in compile_views(loaded.spec, loaded.contract):
        keys = [("events", key) for key in view.keys]
        columns = [(one.name, one.column) for one in view.windowed]
        columns += [(one.name, one.column) for one in view.last]
        sources |= {name: [*keys, (view.source, column)] for name, column in columns}
    return sources


def _features(loaded: LoadedSpec) -> Sequence[FeatureColumn]:
    return feature_columns(loaded.spec, loaded.contract)


def _rows_not_in(
    place: PipelineHome, table: str, made: str, days: Sequence[str], *, version: int | None = None
) -> pa.Table | None:
    """Rows of `table` whose event the table `made` does not have yet; None without `table`.

    What was made of an event that stands on another day by now stays what was made of it.
    """
    import pyarrow.compute as pc

    if not place.lake.exists(table):
        return None
    rows = place.lake.read(table, days=days, version=version)
    if not place.lake.exists(made):
        return rows

    def without(days: Sequence[str]) -> pa.Table:
        known = place.lake.read(made, columns=["event_id"], days=days)["event_id"].combine_chunks()
        return rows.filter(pc.invert(pc.is_in(rows["event_id"], value_set=known)))

    rows = without(days)
    return without(place.lake.days_that_share(made, rows, "event_id", place.spec.ids_unique_within))


def _adding(made: pa.Table | None) -> Callable[[pa.Table | None], pa.Table]:
    """A change of a table that keeps what is there and adds rows of other events."""

    def add(current: pa.Table | None) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        if made is None or current is None:
            return current if made is None else made
        known = pc.is_in(made["event_id"], value_set=current["event_id"].combine_chunks())
        return pa.concat_tables([current, made.filter(pc.invert(known))], promote_options="default")

    return add


def _score_with(place: PipelineHome, champion: Promotion, examples: pa.Table, now: datetime) -> pa.Table:
    import pyarrow as pa

    from mlops_pipelines.retraining import model_of

    model = model_of(place, champion).refit
    rows = examples.num_rows
    moments = pa.timestamp("us", tz="UTC")
    ids = [prediction_id(event, champion.model_hash) for event in examples["event_id"].to_pylist()]
    return pa.table(
        {
            "day": examples["day"],
            "prediction_id": pa.array(ids, pa.string()),
            "event_id": examples["event_id"],
            "decided_at": examples["decision_time"],
            "model_version": pa.array([champion.mlflow_version] * rows, pa.string()),
            "model_hash": pa.array([champion.model_hash] * rows, pa.string()),
            "score": pa.array(model.predict(examples), pa.float64()),
            "scored_at": pa.array([now] * rows, moments),
        }
    )


def _write_online(place: PipelineHome) -> tuple[int, datetime]:
    """Bring the online store to the last full hour of the home's clock."""
    from mlops_pipelines.features.online import online_rows

    as_of = place.clock.now().replace(minute=0, second=0, microsecond=0)
    views = compile_views(place.spec, place.contract)
    place.store.apply(views)
    versions = source_versions(place)
    keys = 0
    for view in views:
        if versions[view.source] is None:
            continue
        rows = online_rows(view, place.lake, as_of, place.store.written_as_of(view), versions)
        keys += place.store.write_online(view, rows, as_of)
    return keys, as_of


def _by_day(days: Sequence[str], written: Mapping[str, list[Written]]) -> list[Written]:
    """One entry a day over all views: the hash over theirs, changed if one did."""
    from mlops_pipelines.lake import Written

    views: dict[str, dict[str, Written]] = {day: {} for day in days}
    for view, ones in sorted(written.items()):
        for one in ones:
            views[one.day][view] = one
    return [
        Written(
            day,
            hash_of({view: one.content_hash for view, one in ones.items()}),
            rows=sum(one.rows for one in ones.values()),
            rows_before=sum(one.rows_before for one in ones.values()),
            changed=any(one.changed for one in ones.values()),
            version=max((one.version for one in ones.values()), default=-1),
            head=[{"view": view, "tiles": one.rows} for view, one in ones.items()],
        )
        for day, ones in views.items()
    ]


def _missing_by_day(place: PipelineHome, days: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    features = [feature.name for feature in _features(place.loaded)]
    rows = place.lake.read("examples", days=days, columns=["day", *features])
    counted = rows.group_by("day").aggregate([([], "count_all"), *((name, "count") for name in features)])
    found = {}
    for day in counted.to_pylist():
        shares = [(1 - day[f"{name}_count"] / day["count_all"], name) for name in features]
        shares.sort(key=lambda one: (-one[0], one[1]))
        found[day["day"]] = [
            {"feature": name, "missing": f"{share:.1%}"} for share, name in shares[:MOST_MISSING] if share
        ]
    return found


def _scores_by_version(place: PipelineHome, days: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    rows = place.lake.read("predictions", days=days, columns=["day", "model_version"])
    counted = rows.group_by(["day", "model_version"]).aggregate([([], "count_all")]).to_pylist()
    found: dict[str, list[dict[str, Any]]] = {}
    for one in sorted(counted, key=lambda one: int(one["model_version"])):
        found.setdefault(one["day"], []).append(
            {"model_version": one["model_version"], "rows": one["count_all"]}
        )
    return found
