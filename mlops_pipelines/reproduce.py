"""A prediction made again from its facts, link by link, each held against what was recorded.

A link is the same if what is stored has the bytes that were written, and if making it again from what comes
before it gives the same content.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.facts import versions_at
from mlops_pipelines.features.functions import rewritten
from mlops_pipelines.features.in_use import known_set
from mlops_pipelines.features.parity import differing_features, made_again
from mlops_pipelines.features.sets import set_version
from mlops_pipelines.features.tiles import compute_tiles
from mlops_pipelines.features.views import table_name, tile_table
from mlops_pipelines.ingest.taking import PROVENANCE
from mlops_pipelines.lake import content_hash
from mlops_pipelines.retraining import parts_by_day, with_labels
from mlops_pipelines.scoring import EXAMPLE_ORDER, PREDICTION_ORDER, PREDICTION_PROVENANCE
from mlops_pipelines.spec_loading import hash_of
from mlops_pipelines.trace import manifest_of, promotion_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.lake import Lake
    from mlops_pipelines.ledger import Promotion
    from mlops_pipelines.trace import Predicted
    from mlops_pipelines.training import TrainedModel

T = TypeVar("T")


@dataclass(frozen=True)
class Link:
    """One link of the chain. recorded, rebuilt: hashes, hexadecimal. why: what differs, for people."""

    name: str
    same: bool
    recorded: str
    rebuilt: str
    why: str | None = None


class Reproducer:
    """Makes predictions again; what several have in common, such as their model, is made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Any] = {}

    def links(self, found: Predicted) -> Iterator[Link]:
        """Each link of a prediction, from the landed rows to the decision; the first that differs ends it."""
        for link in self._links(found):
            yield link
            if not link.same:
                return

    def _links(self, found: Predicted) -> Iterator[Link]:
        row = found.row
        yield self._once(found, _log, "log", found.day)
        yield self._once(found, _partition, "partition", found.event_day, found.made_of["events"])
        for view in found.features.views:
            made_of = (view.id, json.dumps(found.made_of), *_window(found, view))
            yield self._once(found, partial(_facts, view=view), "facts", *made_of)
            if view.windowed:
                yield self._once(found, partial(_tiles, view=view), "tiles", *made_of)
        yield self._once(
            found, _vectors, "examples", found.features.version, found.day, row["examples_version"]
        )
        yield _vector(found)
        promotion = promotion_of(found)
        links, model = self._once(found, partial(_model, promotion=promotion), "model", promotion.model_hash)
        yield from links
        if model is None:
            return
        score = float(model.predict(found.example)[0])
        yield Link("score", _bits(score) == _bits(row["score"]), _bits(row["score"]), _bits(score))
        decision = score >= row["threshold"]
        yield Link("decision", decision == row["decision"], str(row["decision"]), str(decision))

    def _once(self, found: Predicted, make: Callable[[Predicted], T], *key: object) -> T:
        """What `make` gives for these, made by the first prediction that asks."""
        whole = (found.place.name, *key)
        if whole not in self._made:
            self._made[whole] = make(found)
        made: T = self._made[whole]
        return made


def _log(found: Predicted) -> Link:
    """The day of the log that has the prediction, as it was last written."""
    return _stored(
        "prediction",
        found.place.lake,
        "predictions",
        [found.day],
        None,
        sort_by=PREDICTION_ORDER,
        unhashed=PREDICTION_PROVENANCE,
    )


def _stored(
    name: str,
    lake: Lake,
    table: str,
    days: Sequence[str],
    version: int | None,
    *,
    sort_by: Sequence[str],
    unhashed: Sequence[str] = (),
) -> Link:
    """Whether the files of some days have the bytes, and their rows the content, that were committed."""
    commits = lake.written_by(table, days, version=version)
    recorded = hash_of({day: commit.hashes[day] for day, commit in commits.items()})
    for day, wrong in lake.altered(table, days, version=version).items():
        return Link(name, False, commits[day].files[day], "", wrong)
    found = lake.hashes(table, sort_by=sort_by, unhashed=unhashed, days=days, version=version)
    # A day without rows has no file, and the hash of nothing.
    rebuilt = hash_of({day: found.get(day, commit.hashes[day]) for day, commit in commits.items()})
    return Link(name, recorded == rebuilt, recorded, rebuilt)


def _partition(found: Predicted) -> Link:
    """The day of events, from the rows of the landed files."""
    from mlops_pipelines.ingest.landed_again import events_again

    name, lake, version = "partition", found.place.lake, found.made_of["events"]
    day = found.event_day
    stored = _stored(name, lake, "events", [day], version, sort_by=["event_id"], unhashed=PROVENANCE)
    if not stored.same:
        return stored
    recorded = lake.written_by("events", [day], version=version)[day].hashes[day]
    try:
        again = events_again(found.place, lake.read("events", days=[day], version=version))
    except TerminalError as error:
        return Link(name, False, recorded, "", error.message)
    rebuilt = content_hash(again, sort_by=["event_id"], unhashed=PROVENANCE)
    return Link(name, recorded == rebuilt, recorded, rebuilt)


def _facts(found: Predicted, view: CompiledView) -> Link:
    """The rows that a view reads, of the days of its window."""
    lake, versions = found.place.lake.of(view.pipeline), versions_at(view.pipeline, found.made_of)
    version = versions.get(view.source)
    name = f"facts of {table_name(view.pipeline, view.name)}"
    if version is None:
        return Link(name, True, "", "", "there were none")
    held = lake.days(view.source, version=version)
    if not view.static:
        reached = set(_window(found, view))
        held = [day for day in held if day in reached]
    commits = lake.written_by(view.source, held, version=version)
    recorded = hash_of({day: commit.files.get(day) for day, commit in commits.items()})
    for day, wrong in lake.altered(view.source, held, version=version).items():
        return Link(name, False, commits[day].files[day], "", wrong)
    return Link(name, True, recorded, recorded)


def _tiles(found: Predicted, view: CompiledView) -> Link:
    """The tiles of a view's longest window, from the facts that each was made of."""
    name = f"tiles of {table_name(view.pipeline, view.name)}"
    lake, versions = found.place.lake.of(view.pipeline), versions_at(view.pipeline, found.made_of)
    table, order = tile_table(view), ["hour", *view.keys]
    version = versions.get(table)
    if version is None:
        return Link(name, True, "", "", "there were none")
    days = _window(found, view)
    stored = _stored(name, lake, table, days, version, sort_by=order)
    if not stored.same:
        return stored
    commits = lake.written_by(table, days, version=version)
    rebuilt: dict[str, str] = {}
    by_facts: dict[str, list[str]] = {}
    for day, commit in commits.items():
        by_facts.setdefault(json.dumps(commit.provenance, sort_keys=True), []).append(day)
    for made_of, of_days in by_facts.items():
        tiles = compute_tiles(view.at_owner, lake, of_days, json.loads(made_of))
        parts = parts_by_day(tiles.sort_by([("day", "ascending")])) if tiles.num_rows else {}
        for day in of_days:
            rebuilt[day] = content_hash(parts.get(day, tiles.slice(0, 0)), sort_by=order)
    recorded = {day: commit.hashes[day] for day, commit in commits.items()}
    wrong = [day for day in recorded if recorded[day] != rebuilt[day]]
    why = f"{len(wrong)} days are not what their facts give, first {wrong[0]}" if wrong else None
    return Link(name, not wrong, hash_of(recorded), hash_of(dict(sorted(rebuilt.items()))), why)


def _window(found: Predicted, view: CompiledView) -> list[str]:
    """Days (UTC) that the longest window of a view reaches over, or its last values, before the decision."""
    last = found.decided_at.date()
    first = (found.decided_at - view.longest_reach).date()
    return [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]


def _vectors(found: Predicted) -> Link:
    """The day of examples that has the vector, as it was read."""
    return _stored(
        "examples",
        found.place.lake,
        found.features.examples,
        [found.day],
        found.row["examples_version"],
        sort_by=EXAMPLE_ORDER,
        unhashed=("made_of",),
    )


def _vector(found: Predicted) -> Link:
    """The example, from the event and the tables it was made of."""
    place, features = found.place, found.features
    recorded = _vector_hash(found.example)
    if changed := rewritten(features.from_python):
        return Link("vector", False, recorded, "", f"the file of {', '.join(changed)} is another one by now")
    again = made_again(place, features, found.example)
    rebuilt = _vector_hash(again)
    wrong = differing_features(found.example, again, features)
    return Link("vector", not wrong and recorded == rebuilt, recorded, rebuilt, ", ".join(wrong) or None)


def _vector_hash(example: pa.Table) -> str:
    return content_hash(example, sort_by=EXAMPLE_ORDER, unhashed=("made_of",))


def _training_set(place: PipelineHome, manifest: Mapping[str, Any]) -> tuple[pa.Table, Link]:
    """The training set from the vectors, made again from their tables, and the labels of its versions."""
    import pyarrow as pa

    name, version = "training set", manifest["version"]
    recorded = {part["day"]: part["hash"] for part in manifest["parts"]}
    if wrong := place.home.datasets.altered(place.name, version):
        return pa.table({}), Link(name, False, version, "", wrong)
    features = known_set(place, set_version(manifest["views"]))
    tables, as_of = manifest["tables"], datetime.fromisoformat(manifest["window"][1])
    logged = place.lake.read(features.examples, days=list(recorded), version=tables[features.examples])
    rows = with_labels(place, made_again(place, features, logged), as_of, tables["labels"])
    rows = rows.drop_columns(["label_known_at"]).sort_by([("day", "ascending")])
    rebuilt = {day: content_hash(part, sort_by=EXAMPLE_ORDER) for day, part in parts_by_day(rows).items()}
    days = [day for day in recorded if recorded[day] != rebuilt.get(day)]
    why = f"{len(days)} days are not what their vectors and labels give, first {days[0]}" if days else None
    return rows, Link(name, recorded == rebuilt, hash_of(recorded), hash_of(rebuilt), why)


def _model(found: Predicted, promotion: Promotion) -> tuple[list[Link], TrainedModel | None]:
    """Manifest, training set and model, and the model; None where one of them differs."""
    place = found.place
    retrain = place.ledger.retrain(promotion.retrain_id)
    version = str(retrain.dataset_version)
    try:
        manifest = manifest_of(place, retrain)
    except TerminalError as error:
        return [Link("manifest", False, version, "", error.message)], None
    links = [Link("manifest", True, version, version)]
    rows, link = _training_set(place, manifest)
    links.append(link)
    if not link.same:
        return links, None
    links.append(_stored_model(place, promotion))
    if not links[-1].same:
        return links, None
    model, link = _trained(place, promotion, rows)
    links.append(link)
    return links, model if link.same else None


def _stored_model(place: PipelineHome, promotion: Promotion) -> Link:
    wrong = place.home.registry.check_stored(place.name, promotion.mlflow_version)
    return Link("stored model", wrong is None, promotion.model_hash, promotion.model_hash, wrong)


def _trained(place: PipelineHome, promotion: Promotion, rows: pa.Table) -> tuple[TrainedModel, Link]:
    """The model, trained again from the training set as it was trained."""
    from mlops_pipelines.experiments import platform_difference
    from mlops_pipelines.provenance import platform
    from mlops_pipelines.training import train_again

    loaded = place.home.registry.load(place.name, promotion.mlflow_version, model_hash=promotion.model_hash)
    rebuilt = train_again(rows, loaded.refit).hash
    why = None
    if rebuilt != promotion.model_hash:
        recorded = json.loads(loaded.files["facts.json"]).get("platform", {})
        others = platform_difference(recorded, platform())
        why = f"on another platform: {'; '.join(others)}" if others else "on the same platform"
    return loaded.refit, Link("model", why is None, promotion.model_hash, rebuilt, why)


def _bits(value: float) -> str:
    return struct.pack(">d", value).hex()
