"""From accepted rows to scores: tiles, the online store, examples, predictions, for some days.

Each step works on the days it is asked for and on those that late data reopened for it, and closes the
latter; so whoever runs it next, nothing that arrived is forgotten.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from mlops_pipelines import outcomes
from mlops_pipelines.batches import batched
from mlops_pipelines.clock import days_through
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.facts import newest_versions
from mlops_pipelines.features.in_use import (
    known_set,
    recorded_sets,
    set_of,
    sets_in_use,
    vectors,
    without_tiles,
)
from mlops_pipelines.features.sets import features_of
from mlops_pipelines.features.views import table_name, tile_order, tile_table
from mlops_pipelines.provenance import code_commit
from mlops_pipelines.spec_loading import hash_of
from mlops_pipelines.standing import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.features.in_use import InUse
    from mlops_pipelines.features.sets import FeatureSet
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.lake import Written
    from mlops_pipelines.ledger import Promotion
    from mlops_pipelines.ledger.landing import Stage
    from mlops_pipelines.spec import Decision, Kind
    from mlops_pipelines.spec_loading import LoadedSpec

    Floats = NDArray[np.float64]

PREDICTION_COLUMNS = {
    "prediction_id": "string",
    "event_id": "string",
    "decided_at": "timestamp",
    "model_version": "string",
    "model_hash": "string",
    "feature_set": "string",
    "score": "float",
    "examples_version": "int",
    "scored_at": "timestamp",
}
# What stands beside the score: of a binary label what was decided by it; of a category the most likely class,
# whose probability the score is, and the probabilities of all, JSON by class.
SCORE_COLUMNS: Mapping[Kind, Mapping[str, str]] = {
    "binary": {"decision": "bool", "threshold": "float"},
    "number": {},
    "category": {"predicted": "string", "probabilities": "string"},
}
# What a score does not depend on: when it was made, MLflow's number, which version of the table was read.
PREDICTION_PROVENANCE = ("scored_at", "model_version", "examples_version")
EXAMPLE_ORDER = ("decision_time", "event_id")
PREDICTION_ORDER = ("decided_at", "event_id")
MOST_MISSING = 15
DAYS_AT_ONCE = 92
# What a run of the same definitions on the same data would fail at again.
_TRIED_AGAIN = timedelta(days=1)


@dataclass(frozen=True)
class Tiles:
    """What became of the tiles. written: of each day, over all views; the head has each view's tiles.

    failed: why there are no tiles of a view, by its id. right: days that were left alone.
    """

    written: list[Written]
    online_keys: int
    online_as_of: datetime
    failed: Mapping[str, str]
    right: Sequence[str] = ()


@dataclass(frozen=True)
class Examples:
    """What became of the examples. missing: of each day, the features that most often lack a value.

    failed: why there are no vectors by a set, by its version.
    """

    written: list[Written]
    missing: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """What became of the scores. by_version: of each day with scores, rows by the model's version.

    unfed: events that were not scored because their champion's features are out of use by now.
    """

    written: list[Written]
    by_version: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    unfed: int = 0


def feature_columns(loaded: LoadedSpec) -> dict[str, str]:
    """Columns that a model is fed: name to type."""
    made = features_of(loaded).columns
    return {one.name: "float" if one.kind == "number" else "string" for one in made}


def prediction_columns(loaded: LoadedSpec) -> dict[str, str]:
    """Columns of the predictions: name to type."""
    explored = {"explored": "bool"} if loaded.spec.exploration else {}
    return {**PREDICTION_COLUMNS, **SCORE_COLUMNS[loaded.spec.labels.kind], **explored}


def example_columns(loaded: LoadedSpec) -> dict[str, str]:
    """Columns of the examples: name to type."""
    keys = {"event_id": "string", "event_time": "timestamp", "decision_time": "timestamp"}
    return {**keys, **feature_columns(loaded), "view_versions": "string"}


def reopened_days(place: PipelineHome) -> list[str]:
    """Partitions whose tiles, examples or scores are to be looked at again now.

    All of them where features are defined otherwise than they were, or a model begins to need others. What
    is to be scored waits for views of other pipelines, until these have made their tiles.
    """
    ledger, now = place.ledger, place.clock.now()
    use = sets_in_use(place)
    days = {*ledger.reopened_days(place.name, "tiles", by=now)}
    if without_tiles(place, use.lent) and days >= {*ledger.reopened_days(place.name, "tiles")}:
        # None failed and was put off. Whatever day is asked for, it is made for all.
        days |= {(place.lake.days("events") or [now.date().isoformat()])[-1]}
    if not without_tiles(place, [view for view in use.views if view.pipeline]):
        days |= {*ledger.reopened_days(place.name, "score", by=now)}
    return sorted({place.partition_of(day) for day in days})


def make_tiles(place: PipelineHome, days: Sequence[str], *, made_by: str = "", force: bool = False) -> Tiles:
    """Tiles of every view in use for `days` (of knowledge time), in the lake and in the online store.

    Of a view that begins to be used, those of all that is known. What other pipelines use of this one is
    made here too, and nothing of theirs. made_by: version of the code; days that are right by it are left
    alone, unless forced.
    """
    use = sets_in_use(place)
    reopened = place.ledger.reopened_days(place.name, "tiles")
    tiled = sorted(view.id for view in use.made if view.windowed)
    work = Work.on(
        place,
        "tiles",
        days,
        reopened,
        partial(_tiles_as_they_stand, place, use),
        made_by=made_by and hash_of([made_by, tiled]),
        force=force,
    )
    written, failed = write_tiles(place, use, work.days)
    keys, as_of = _write_online(place, use, failed)
    if failed:
        again = as_of + _TRIED_AGAIN
        place.ledger.reopen_days(place.name, [as_of.date().isoformat()], "tiles", again, reopened)
    else:
        work.record(written)
    place.ledger.close_days(place.name, reopened, "tiles")
    return Tiles(work.together(written), keys, as_of, failed, work.left_alone)


def _tiles_as_they_stand(place: PipelineHome, use: InUse, days: Sequence[str]) -> list[Written]:
    views = [view for view in use.made if view.windowed]
    found = {
        view.id: place.lake.as_it_stands(tile_table(view), days, sort_by=tile_order(view)) for view in views
    }
    return _by_day(days, found)


def write_tiles(place: PipelineHome, use: InUse, days: Sequence[str]) -> tuple[list[Written], dict[str, str]]:
    """Tiles of every view in use for just these days, of new views of all days, in the lake.

    And why there are none of a view, by its id: it counts as new until there are.
    """
    from mlops_pipelines.features.tiles import compute_tiles

    written: dict[str, list[Written]] = {}
    failed: dict[str, str] = {}
    windowed = {view.id: view for view in use.made if view.windowed}
    kept = place.ledger.kept_tiles(place.name)
    # Before anything is made: what is not in use any more falls behind with this run.
    place.ledger.record_kept_tiles(place.name, kept & {*windowed})
    for view in windowed.values():
        versions = newest_versions(place.lake, [view])
        made = days if view.id in kept else sorted({*days, *known_days(place, view.source)})
        try:
            tiles = compute_tiles(view, place.lake, made, versions)
        except TerminalError as error:
            failed[view.id] = str(error)
            continue
        written[view.id] = place.lake.replace(
            tile_table(view), tiles, days=made, sort_by=tile_order(view), provenance=versions
        )
    place.ledger.record_kept_tiles(place.name, {*windowed} - {*failed})
    all_days = sorted({*days, *(one.day for ones in written.values() for one in ones)})
    return _by_day(all_days, written), failed


def make_examples(place: PipelineHome, days: Sequence[str]) -> Examples:
    """The vector of every event of `days` that has none and whose decision time has come, by each set in use.

    A set that fails keeps no other from its vectors: a definition that does not work leaves the champion fed.
    Raises TerminalError if every set fails: as `compute_examples` does, or for a view without tiles.
    """
    use = sets_in_use(place)
    now = place.clock.now()
    wanted = sorted({*days, *place.ledger.reopened_days(place.name, "score", by=now)})
    written: dict[str, list[Written]] = {}
    missing: dict[str, Sequence[Mapping[str, Any]]] = {}
    failed: dict[str, str] = {}
    for part in batched(wanted, DAYS_AT_ONCE):
        for features in use.sets:
            if features.version in failed:
                continue
            try:
                _require_tiles(place, features)
                made = _make_examples(place, features, part, now)
            except TerminalError as error:
                failed[features.version] = str(error)
                if len(failed) == len(use.sets):
                    raise
            else:
                written.setdefault(features.version, []).extend(made)
        missing |= _missing_by_day(place, part)
    return Examples(_as_one(written), missing, failed)


def _require_tiles(place: PipelineHome, features: FeatureSet) -> None:
    lacking = without_tiles(place, features.views) if place.lake.exists("events") else {}
    for owner, views in lacking.items():
        raise TerminalError(
            f"The views {', '.join(views)} of {owner} have no tiles yet.",
            expected="the tiles of all that is known, before an example is made of them",
            remedy=f"materialize {owner}/feature_tiles first{', in the same run' * (owner == place.name)}; "
            "its check every_view says what failed",
        )


def _make_examples(
    place: PipelineHome, features: FeatureSet, days: Sequence[str], now: datetime
) -> list[Written]:
    import pyarrow.compute as pc

    lake = place.lake
    # Before anything is read: an example names the versions it was made of.
    versions = newest_versions(lake, features.views)
    fresh = rows_not_in(place, "events", features.examples, days, version=versions["events"])
    if fresh is None:
        return []
    # As of a moment that is not over, a vector would lack what may still become known by then.
    fresh = fresh.filter(pc.less(fresh["decision_time"], now))
    if fresh.num_rows == 0 and not lake.exists(features.examples):
        return []
    made = vectors(place, features, fresh, versions) if fresh.num_rows else None
    # Recorded before the vectors are: a run that dies in between leaves days to look at, not gaps.
    place.ledger.reopen_days(place.name, fresh["day"].unique().to_pylist(), "features", now)
    return lake.update(
        features.examples,
        days,
        with_new_rows(made),
        sort_by=EXAMPLE_ORDER,
        unhashed=("made_of",),
        provenance={**versions, "code": asdict(code_commit())},
    )


def score(place: PipelineHome, days: Sequence[str]) -> Scored:
    """Score what no champion has scored yet, each event by the champion before its decision time.

    Events that have no example yet keep their day open until their decision time has come. Those whose
    predictions were freed for their age are not scored again.
    """
    import pyarrow as pa

    now = place.clock.now()
    reopened = place.ledger.reopened_days(place.name, "score", by=now)
    wanted = sorted({*days, *reopened})
    lake = place.lake
    promotions = place.ledger.promotions(place.name)
    unscored, unfed = _unscored(place, promotions, place.ledger.not_freed(place.name, wanted))
    parts = [
        _score_with(place, promotions[at], examples, version, now)
        for at, (examples, version) in sorted(unscored.items())
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
            with_new_rows(made),
            sort_by=PREDICTION_ORDER,
            unhashed=PREDICTION_PROVENANCE,
            provenance={"code": asdict(code_commit())},
        )
    _keep_open(place, wanted, now, reopened)
    place.ledger.close_days(place.name, reopened, "score")
    return Scored(written, _scores_by_version(place, wanted) if written else {}, unfed)


def _unscored(
    place: PipelineHome, promotions: Sequence[Promotion], days: Sequence[str]
) -> tuple[dict[int, tuple[pa.Table, int]], int]:
    """Examples without a score by the position of their champion, each by the set it was trained on.

    With the version of the table they stand in. And how many more there are by the set of the YAML, of
    champions whose sets are out of use by now.
    """
    sets = [reign.feature_set for reign in place.ledger.reigns(place.name)]
    in_use = {features.version for features in recorded_sets(place).sets}
    unscored: dict[int, tuple[pa.Table, int]] = {}
    fed: set[str] = set()
    out_of_use: set[str] = set()
    for version in dict.fromkeys([place.features.version, *sets]):
        table = known_set(place, version).examples
        at = place.lake.version(table)
        examples = rows_not_in(place, table, "predictions", days, version=at)
        if examples is None or at is None:
            continue
        ids = examples["event_id"].to_pylist()
        theirs: dict[int, list[int]] = {}
        for row, champion in enumerate(champions_before(promotions, examples["decision_time"].to_pylist())):
            if champion is None:
                continue
            if sets[champion] == version:
                theirs.setdefault(champion, []).append(row)
                fed.add(ids[row])
            elif version == place.features.version and sets[champion] not in in_use:
                out_of_use.add(ids[row])
        unscored |= {champion: (examples.take(rows), at) for champion, rows in theirs.items()}
    return unscored, len(out_of_use - fed)


def _keep_open(place: PipelineHome, days: Sequence[str], now: datetime, worked_on: Mapping[str, int]) -> None:
    """Reopen the days whose events lack a vector by a set in use. worked_on: as `reopen_days` takes it.

    From the first of their decisions on, with the patience that the backlog's `age` allows, so that what
    comes due together is one run. A set that could have made the vector, and did not, fails: it is tried
    again a day later.
    """
    import pyarrow.compute as pc

    age = place.spec.triggers.backlog.age
    for features in sets_in_use(place).sets:
        waiting = rows_not_in(place, "events", features.examples, days)
        if waiting is None or waiting.num_rows == 0:
            continue
        of_others = without_tiles(place, [view for view in features.views if view.pipeline])
        overdue = pc.less(waiting["decision_time"], now - age)
        if not of_others:
            stuck = waiting.filter(overdue)["day"].unique().to_pylist()
            place.ledger.reopen_days(place.name, stuck, "score", now + _TRIED_AGAIN, worked_on)
            waiting = waiting.filter(pc.invert(overdue))
        first = waiting.group_by("day").aggregate([("decision_time", "min")]).to_pylist()
        for one in first:
            due = max(one["decision_time_min"], now) + age
            place.ledger.reopen_days(place.name, [one["day"]], "score", due, worked_on)


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


def known_days(place: PipelineHome, source: str) -> list[str]:
    """All days, from the first to the last, on which something became known in a table."""
    span = place.lake.span(source, "known_at")
    if span is None:
        return []
    first, last = (moment.date() for moment in span)
    return days_through(first, last)


def feature_sources(features: FeatureSet) -> dict[str, list[tuple[str, str]]]:
    """Source columns (table, column) of each feature, those of its key first.

    Tables of another pipeline are named as `table_name` does.
    """
    sources = {name: [("events", column) for column in one.columns] for name, one in features.own.items()}
    for view in features.views:
        keys = [("events", key) for key in view.keys]
        if view.pipeline and view.source in ("events", "labels"):
            keys += [(table_name(view.pipeline, "events"), key) for key in view.keys]
        source = table_name(view.pipeline, view.source)
        columns = [(one.name, one.column) for one in view.windowed]
        columns += [(one.name, one.column) for one in view.last]
        sources |= {name: [*keys, (source, column)] for name, column in columns}
    return sources


def rows_not_in(
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


def with_new_rows(made: pa.Table | None) -> Callable[[pa.Table | None], pa.Table]:
    """A change of a table that keeps what is there and adds rows of other events."""

    def add(current: pa.Table | None) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        if made is None or current is None:
            return current if made is None else made
        known = pc.is_in(made["event_id"], value_set=current["event_id"].combine_chunks())
        return pa.concat_tables([current, made.filter(pc.invert(known))], promote_options="default")

    return add


def _score_with(
    place: PipelineHome, champion: Promotion, examples: pa.Table, version: int, now: datetime
) -> pa.Table:
    """Scores of examples, which stand in this version of their table, as rows of the predictions."""
    import pyarrow as pa

    from mlops_pipelines.retraining import model_of

    model = model_of(place, champion).refit
    rows = examples.num_rows
    moments = pa.timestamp("us", tz="UTC")
    ids = [prediction_id(event, champion.model_hash) for event in examples["event_id"].to_pylist()]
    scores = model.predict(examples)
    return pa.table(
        {
            "day": examples["day"],
            "prediction_id": pa.array(ids, pa.string()),
            "event_id": examples["event_id"],
            "decided_at": examples["decision_time"],
            "model_version": pa.array([champion.mlflow_version] * rows, pa.string()),
            "model_hash": pa.array([champion.model_hash] * rows, pa.string()),
            "feature_set": pa.array([set_of(place, champion).version] * rows, pa.string()),
            **outcomes.logged(model.outcome, scores),
            **(_decided(scores, place.spec.decision) if model.outcome.kind == "binary" else {}),
            **_explored(place, examples["event_id"]),
            "examples_version": pa.array([version] * rows, pa.int64()),
            "scored_at": pa.array([now] * rows, moments),
        }
    )


def _explored(place: PipelineHome, events: pa.ChunkedArray) -> dict[str, pa.Array]:
    """Which events are to be labelled whatever their score, where the pipeline explores."""
    import pyarrow as pa

    from mlops_pipelines.monitoring.feedback import is_explored

    if place.spec.exploration is None:
        return {}
    chosen = is_explored(events.to_pylist(), place.spec.exploration.share, place.name)
    return {"explored": pa.array(chosen, pa.bool_())}


def _decided(scores: Floats, decision: Decision) -> dict[str, pa.Array]:
    import pyarrow as pa

    return {
        "decision": pa.array(scores >= decision.at_least, pa.bool_()),
        "threshold": pa.array([decision.at_least] * len(scores), pa.float64()),
    }


def _write_online(place: PipelineHome, use: InUse, failed: Mapping[str, str]) -> tuple[int, datetime]:
    """Bring the online store to the moment of the home's clock, but for views whose tiles failed."""
    from mlops_pipelines.features.online import bring_to
    from mlops_pipelines.features.store import Snapshot

    as_of = place.clock.now()
    # Those of other pipelines as well: Feast then finds all of this one's views in its project.
    place.store.apply(list({view.id: view for view in (*use.views, *use.made)}.values()))
    keys = 0
    for view in use.made:
        if view.id in failed:
            continue
        made_of = Snapshot(as_of, newest_versions(place.lake, [view]))
        keys += bring_to(made_of, view, place.lake, place.store)
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


def _as_one(written: Mapping[str, list[Written]]) -> list[Written]:
    """One entry a day, that of the first set; where there are others, the hash of a day is over all."""
    days: dict[str, dict[str, Written]] = {}
    for version, ones in written.items():
        for one in ones:
            days.setdefault(one.day, {})[version] = one
    return [
        one
        if len(ones) == 1
        else replace(
            one,
            content_hash=hash_of({v: w.content_hash for v, w in ones.items()}),
            changed=any(w.changed for w in ones.values()),
        )
        for ones in days.values()
        for one in list(ones.values())[:1]
    ]


def _missing_by_day(place: PipelineHome, days: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    if not place.lake.exists(place.features.examples):
        return {}
    features = [feature.name for feature in place.features.columns]
    rows = place.lake.read(place.features.examples, days=days, columns=["day", *features])
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
