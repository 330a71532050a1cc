"""What a pipeline has in its home, gathered for `retention.decide`, and what that frees, freed.

Whatever is freed stops being named first and loses its bytes afterwards, so that a home is whole wherever
this is cut short, and the same again does the rest.
"""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlops_pipelines import promoting
from mlops_pipelines.batches import batched
from mlops_pipelines.clock import WallClock
from mlops_pipelines.features.in_use import known_sets, users_of
from mlops_pipelines.features.sets import FeatureSet, set_version
from mlops_pipelines.features.views import tile_table
from mlops_pipelines.ingest.remote import RemotePath
from mlops_pipelines.model_versions import StoredVersions
from mlops_pipelines.retention import (
    LEARNED_FROM,
    Horizons,
    Landed,
    Model,
    Online,
    Plan,
    Scores,
    Things,
    TrainingSet,
    Vectors,
    decide,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.lake import Lake
    from mlops_pipelines.retention import Table

# As many days of a table as are read at once: memory does not grow with the history.
_DAYS_AT_ONCE = 31
# A file that no version of a table holds, and that is older than this, was left by a writer that died.
_LEFT_BEHIND = timedelta(days=1)
_TILES = "feature_tiles/"
_EXAMPLES = "examples/"


def plan_for(place: PipelineHome) -> Plan:
    """What `free` would free now, and why the rest is kept. Nothing is changed."""
    return decide(things(place), horizons(place))


def horizons(place: PipelineHome) -> Horizons:
    """From when on the pipeline keeps things, by the home's clock."""
    now = place.clock.now()
    retrain = place.ledger.in_flight(place.name)
    return Horizons.of(place.spec, now, min(now, retrain.watermark) if retrain else now)


def free(place: PipelineHome) -> Plan:
    """Free what is older than its retention and that nothing kept names; what became of everything.

    The caller holds the home: a run beside it could be reading what nothing names yet. Raises what the
    stores raise; whatever was done until then needs not be done again.
    """
    since, now = horizons(place), place.clock.now()
    there = things(place)
    plan = decide(there, since)
    ledger = place.ledger
    if since.predictions is not None and _any_older(plan):
        ledger.record_freed(place.name, "predictions", [since.predictions], now)
    if since.reports is not None and plan.freed("reports"):
        ledger.record_freed(place.name, "reports", [since.reports], now)
    ledger.record_freed(place.name, "model", plan.freed("models"), now)
    ledger.record_freed(place.name, "dataset", plan.freed("training sets"), now)
    landed = {*plan.freed("landed")}
    ledger.record_freed(place.name, "landed", [one.digest for one in there.landed if one.path in landed], now)

    if values := plan.freed("online values"):
        place.store.forget(values)
    for (_, table), days in plan.cut.items():
        place.lake.remove_days(table, days, {"freed_at": now.isoformat()})
    # Both also finish what an earlier call was cut short in, so they are called whatever is freed now.
    stored, gone = _stored_versions(place), plan.freed("models")
    going = [one for one in stored.of(place.name) if one.version in gone]
    promoting.keep_heads(place.home, place.name, [one.tags for one in going])
    stored.free(place.name, going)
    place.home.datasets.free(place.name, plan.freed("training sets"))
    for path in (*(file.path for file in plan.files), *(place.path / name for name in landed)):
        _unlink(path)
    return plan


def things(place: PipelineHome) -> Things:
    """What the pipeline has, and what names it. Raises what its stores raise."""
    tables = place.lake.tables()
    sets = {pipeline: [*_sets(place, pipeline)] for pipeline in _pipelines(place)}
    views = _views(place, sets)
    in_use = {view for owner, view in users_of(place.ledger) if owner == place.name}
    in_use |= {view.at_owner.id for view in place.features.views if view.owner(place.name) == place.name}
    tiles = [name for name in tables if name.startswith(_TILES)]
    vectors = tuple(one for pipeline in sets for one in _vectors(place, pipeline))
    return Things(
        place.name,
        scores=tuple(_scores(place)),
        vectors=vectors,
        models=tuple(_models(place)),
        training_sets=tuple(_training_sets(place)),
        landed=tuple(_landed(place, vectors)) if place.spec.retention.landing else (),
        files={(place.name, name): _files(place.lake, name) for name in tables},
        tile_sources={(place.name, name): _sources(place, name) for name in tiles},
        reach={(place.name, tile_table(view)): view.longest_window for view in views.values()},
        retired=frozenset(
            (place.name, f"{_EXAMPLES}set_{one.version}")
            for one in place.ledger.feature_sets(place.name)
            if one.state == "retired" and one.version != place.features.version
        ),
        unused=frozenset((place.name, name) for name in tiles if name.removeprefix(_TILES) not in in_use),
        online=tuple(_online(place, views, in_use)),
        learned=_learned_by_others(place, sorted({*sets} - {place.name})),
        looks_back=timedelta(days=1)
        + max((view.longest_reach for view in views.values()), default=timedelta(0)),
    )


def _any_older(plan: Plan) -> bool:
    """Whether there are predictions, or vectors, whose making is not kept any more."""
    older = ((one.kind, one.kept) for one in plan.judged if one.kind in ("predictions", "vectors"))
    return any(kept in (None, LEARNED_FROM) for _, kept in older)


def _pipelines(place: PipelineHome) -> list[str]:
    """Every pipeline that has tables in the home, this one first."""
    others = {lake.parent.name for lake in place.path.parent.glob("*/lake")} - {place.name}
    return [place.name, *sorted(others)]


def _sets(place: PipelineHome, pipeline: str) -> Iterator[FeatureSet]:
    if pipeline == place.name:
        yield from known_sets(place)
    else:
        for known in place.ledger.feature_sets(pipeline):
            yield FeatureSet.from_json(known.definition)


def _views(place: PipelineHome, sets: Mapping[str, list[FeatureSet]]) -> dict[str, CompiledView]:
    """Every view of this pipeline's tables that any set ever had, as its own."""
    return {
        view.at_owner.id: view.at_owner
        for pipeline, features in sets.items()
        for one in features
        for view in one.views
        if view.owner(pipeline) == place.name
    }


def _files(lake: Lake, name: str) -> tuple[Any, ...]:
    return (*lake.stored(name), *lake.left_behind(name, WallClock().now() - _LEFT_BEHIND))


def _grouped(lake: Lake, name: str, by: list[str], *aggregates: Any) -> Iterator[dict[str, Any]]:
    """The rows of a table by day and other columns, some weeks at a time."""
    columns = list(dict.fromkeys(["day", *by, *(one for one, _ in aggregates if isinstance(one, str))]))
    for days in batched(lake.days(name), _DAYS_AT_ONCE):
        rows = lake.read(name, columns=columns, days=days)
        yield from rows.group_by(["day", *by]).aggregate([([], "count_all"), *aggregates]).to_pylist()


def _scores(place: PipelineHome) -> Iterator[Scores]:
    for one in _grouped(place.lake, "predictions", ["model_version", "feature_set", "examples_version"]):
        table = (place.name, f"{_EXAMPLES}set_{one['feature_set']}")
        yield Scores(one["day"], one["model_version"], table, one["examples_version"], one["count_all"])


def _vectors(place: PipelineHome, pipeline: str) -> Iterator[Vectors]:
    """Those of a pipeline, and of another one those that name this pipeline's tables."""
    lake = place.lake.of(pipeline)
    known: dict[str, dict[Table, int | None]] = {}
    for name in lake.tables():
        if name.startswith(_EXAMPLES):
            for one in _grouped(lake, name, ["made_of"], ("decision_time", "min")):
                text = one["made_of"]
                made_of = known.setdefault(text, _named(pipeline, json.loads(text)))
                if pipeline == place.name or any(owner == place.name for owner, _ in made_of):
                    decided = one["decision_time_min"].date()
                    yield Vectors((pipeline, name), one["day"], decided, made_of, one["count_all"])


def _named(pipeline: str, versions: Mapping[str, int | None]) -> dict[Table, int | None]:
    """Versions by table, of whatever pipeline: `OWNER:TABLE` is another one's."""
    named = {}
    for name, version in versions.items():
        owner, _, table = name.rpartition(":")
        named[owner or pipeline, table] = version
    return named


def _sources(place: PipelineHome, tiles: str) -> dict[int, dict[Table, int | None]]:
    """By commit of a tile table, what its tiles were made of."""
    return {
        commit.version: _named(
            place.name,
            {
                name: version
                for name, version in commit.provenance.items()
                if not name.startswith(_TILES) and (version is None or isinstance(version, int))
            },
        )
        for commit in place.lake.commits(tiles)
    }


def _models(place: PipelineHome) -> Iterator[Model]:
    ledger, now = place.ledger, place.clock.now()
    retrains = {one.id: one for one in ledger.retrains(place.name)}
    serves = {one.mlflow_version: "people decide on it" for one in ledger.waiting(place.name)}
    promotions = ledger.promotions(place.name)
    for at, promotion in enumerate(promotions):
        until = promotions[at + 1].at if at + 1 < len(promotions) else now
        if until >= now - place.spec.lateness:
            serves[promotion.mlflow_version] = "champion when events were decided that may still arrive"
    if promotions[1:]:
        serves[promotions[-2].mlflow_version] = "the one before the champion"
    if promotions:
        serves[promotions[-1].mlflow_version] = "the champion"
    for one in _stored_versions(place).of(place.name):
        retrain = retrains.get(one.tags.get("retrain_id", ""))
        why = serves.get(one.version)
        if retrain is not None and retrain.finished_at is None:
            why = why or "of a retrain in flight"
        ended = retrain.finished_at if retrain and retrain.finished_at else one.at
        yield Model(one.version, ended, one.tags.get("dataset_version"), one.bytes, why)


def _stored_versions(place: PipelineHome) -> StoredVersions:
    return StoredVersions(place.home.mlflow_uri, place.home.path / "mlflow")


def _training_sets(place: PipelineHome) -> Iterator[TrainingSet]:
    datasets, retrain = place.home.datasets, place.ledger.in_flight(place.name)
    versions = datasets.versions(place.name)
    serves = dict.fromkeys(versions[-1:], "the newest one")
    if retrain and retrain.dataset_version:
        serves[retrain.dataset_version] = "of a retrain in flight"
    for version in versions:
        manifest = datasets.version(place.name, version).manifest
        yield TrainingSet(
            version,
            datetime.fromisoformat(manifest["created_at"]),
            {(place.name, table): at for table, at in manifest["tables"].items()},
            {part["file"]: part["bytes"] for part in manifest["parts"]},
            serves.get(version),
            _learned(place, place.name, manifest),
        )


def _learned(place: PipelineHome, pipeline: str, manifest: Mapping[str, Any]) -> frozenset[tuple[Table, int]]:
    """Versions of the tables that the vectors of a training set were made of, of whatever pipeline."""
    examples = f"{_EXAMPLES}set_{set_version(manifest['views'])}"
    found: set[tuple[Table, int]] = set()
    texts: set[str] = set()
    for days in batched([part["day"] for part in manifest["parts"]], _DAYS_AT_ONCE):
        rows = place.lake.of(pipeline).read(
            examples, columns=["made_of"], days=days, version=manifest["tables"][examples]
        )
        texts.update(rows["made_of"].unique().to_pylist())
    for text in texts:
        named = _named(pipeline, json.loads(text)).items()
        found |= {(table, version) for table, version in named if version is not None}
    return frozenset(found)


def _learned_by_others(place: PipelineHome, pipelines: Iterable[str]) -> frozenset[tuple[Table, int]]:
    datasets = place.home.datasets
    return frozenset(
        (table, version)
        for pipeline in pipelines
        for name in datasets.versions(pipeline)
        for table, version in _learned(place, pipeline, datasets.version(pipeline, name).manifest)
        if table[0] == place.name
    )


def _online(place: PipelineHome, views: Mapping[str, CompiledView], in_use: set[str]) -> Iterator[Online]:
    if not (place.home.path / "feast" / "registry.db").is_file():
        return
    for view in views.values():
        if made_of := place.store.held(view).all:
            versions = {((place.name, name), at) for one in made_of for name, at in one.versions.items()}
            noted = tuple((table, version) for table, version in versions if version is not None)
            yield Online(view.id, view.id in in_use, noted)


def _landed(place: PipelineHome, vectors: Sequence[Vectors]) -> Iterator[Landed]:
    """Files below the pipeline's own folder; those at a URL are not ours to free."""
    last = _last_rows(place, vectors)
    for stream in place.streams:
        folder = place.landing(stream)
        if isinstance(folder, RemotePath):
            continue
        known = place.ledger.registered_files(place.name, stream)
        for file in sorted(folder.glob("*/*")):
            path = file.relative_to(folder).as_posix()
            digest, status = known.get(path, (None, "pending"))
            yield Landed(
                file.relative_to(place.path).as_posix(),
                digest or "",
                file.parent.name,
                last.get(digest or "", ""),
                file.stat().st_size,
                waits=digest is None or status != "taken",
            )


def _last_rows(place: PipelineHome, vectors: Sequence[Vectors]) -> dict[str, str]:
    """By a file's digest, the latest day that a row of it belongs to, accepted or rejected.

    Also in the versions of the events that the vectors of kept predictions were made of: a file that says the
    same anew may stand for it by now.
    """
    last: defaultdict[str, str] = defaultdict(str)
    for name in (*place.streams, "labels_unmatched", "quarantine"):
        if place.lake.exists(name):
            for one in _grouped(place.lake, name, ["file_digest"]):
                last[one["file_digest"]] = max(last[one["file_digest"]], one["day"])
    since, events = horizons(place).predictions or "", (place.name, "events")
    seen = {(one.day, one.made_of.get(events)) for one in vectors if one.day >= since}
    for day, version in seen:
        if version is not None:
            rows = place.lake.read("events", columns=["file_digest"], days=[day], version=version)
            for digest in rows["file_digest"].unique().to_pylist():
                last[digest] = max(last[digest], day)
    return last


def _unlink(path: Path) -> None:
    """Remove a file, and its folder if that is empty then."""
    path.unlink(missing_ok=True)
    try:
        path.parent.rmdir()
    except OSError:
        return
