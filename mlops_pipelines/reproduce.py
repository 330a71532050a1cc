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
from typing import TYPE_CHECKING, Any

from mlops_pipelines.clock import days_through
from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.features.facts import versions_at
from mlops_pipelines.features.functions import rewritten
from mlops_pipelines.features.in_use import known_set
from mlops_pipelines.features.parity import differing_features, made_again
from mlops_pipelines.features.sets import set_version
from mlops_pipelines.features.tiles import compute_tiles
from mlops_pipelines.features.views import table_name, tile_order, tile_table
from mlops_pipelines.ingest.taking import PROVENANCE
from mlops_pipelines.lake import content_hash
from mlops_pipelines.outcomes import logged
from mlops_pipelines.retraining import model_of, parts_by_day, with_labels
from mlops_pipelines.scoring import EXAMPLE_ORDER, PREDICTION_ORDER, PREDICTION_PROVENANCE
from mlops_pipelines.spec_loading import hash_of
from mlops_pipelines.trace import BrokenLinkError, find_prediction, manifest_of, promotion_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.lake import Lake
    from mlops_pipelines.ledger import Promotion
    from mlops_pipelines.trace import Predicted
    from mlops_pipelines.training import TrainedModel


@dataclass(frozen=True)
class Link:
    """One link of the chain. recorded, rebuilt: hashes, hexadecimal. why: what differs, for people."""

    name: str
    same: bool
    recorded: str
    rebuilt: str
    why: str | None = None


def reproduce(
    places: Iterable[PipelineHome], prediction_id: str, again: Reproducer | None = None
) -> Iterator[Link]:
    """Each link of the prediction of this id, of whatever pipeline of a home; the first that differs ends it.

    again: what made others. Raises UserError if there is no such prediction.
    """
    try:
        found = find_prediction(places, prediction_id)
    except BrokenLinkError as error:
        yield Link(error.link, False, error.recorded, error.found, error.message)
        return
    yield from (again or Reproducer()).links(found)


class Reproducer:
    """Makes predictions again; what several have in common, such as their model, is made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Link] = {}
        self._models: dict[tuple[str, str], tuple[list[Link], TrainedModel | None]] = {}
        # By table, facts and day: windows of several predictions share most days.
        self._tiles: dict[tuple[str, str, str, str], str] = {}

    def links(self, found: Predicted) -> Iterator[Link]:
        """Each link of a prediction, from the landed rows to the decision; the first that differs ends it."""
        for link in self._links(found):
            yield link
            if not link.same:
                return

    def _links(self, found: Predicted) -> Iterator[Link]:
        row = found.row
        yield self._once("prediction", found, _log, found.day)
        yield self._once("partition", found, _partition, found.event_day, found.made_of["events"])
        for view in found.features.views:
            of, made_of = table_name(view.pipeline, view.name), (view.id, json.dumps(found.made_of))
            days = _days_before(found, view.longest_reach)
            yield self._once(f"facts of {of}", found, partial(_facts, view=view), *made_of, *days)
            if view.windowed:
                days = _days_before(found, view.longest_window)
                make = partial(_tiles, view=view, rebuilt=self._tiles)
                yield self._once(f"tiles of {of}", found, make, *made_of, *days)
        at = row["examples_version"]
        yield self._once("examples", found, _vectors, found.features.version, found.day, at)
        yield _tried("vector", partial(_vector, found))
        links, model = self._model(found)
        yield from links
        if model is None:
            return
        again = {
            name: one[0].as_py() for name, one in logged(model.outcome, model.predict(found.example)).items()
        }
        recorded, rebuilt = _bits(row["score"]), _bits(again["score"])
        if "probabilities" in again:
            recorded, rebuilt = (hash_of([one["score"], one["probabilities"]]) for one in (row, again))
        yield Link("score", recorded == rebuilt, recorded, rebuilt)
        if "predicted" in again:
            decision, made = row["predicted"], again["predicted"]
        elif "decision" in row:
            decision, made = row["decision"], again["score"] >= row["threshold"]
        else:
            return  # a number is all there is
        yield Link("decision", decision == made, str(decision), str(made))

    def _once(
        self, name: str, found: Predicted, make: Callable[[Predicted, str], Link], *key: object
    ) -> Link:
        """The link that `make` gives for these, made by the first prediction that asks."""
        whole = (found.place.name, name, *key)
        if whole not in self._made:
            self._made[whole] = _tried(name, partial(make, found, name))
        return self._made[whole]

    def _model(self, found: Predicted) -> tuple[list[Link], TrainedModel | None]:
        """What `_model` gives, made by the first prediction of a model that asks."""
        try:
            promotion = promotion_of(found)
        except TerminalError as error:
            return [Link("promotion", False, found.row["model_hash"], "", error.message)], None
        key = (found.place.name, promotion.model_hash)
        if key not in self._models:
            self._models[key] = _model(found.place, promotion)
        return self._models[key]


def _tried(name: str, make: Callable[[], Link]) -> Link:
    """A link, or that it cannot be made any more."""
    try:
        return make()
    except TerminalError as error:
        return _not_made(name, error)


def _not_made(name: str, error: TerminalError, recorded: str = "") -> Link:
    """What cannot be made any more differs. Raises what the user has to mend first: it says nothing of it."""
    if isinstance(error, UserError):
        raise error
    return Link(name, False, recorded, "", error.message)


def _log(found: Predicted, name: str) -> Link:
    """The day of the log that has the prediction, as it was last written."""
    return _stored(
        name,
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
    for wrong in lake.altered(table, days, version=version).values():
        return Link(name, False, wrong.recorded, wrong.found, wrong.why)
    found = lake.hashes(table, sort_by=sort_by, unhashed=unhashed, days=days, version=version)
    # A day without rows has no file, and the hash of nothing.
    rebuilt = hash_of({day: found.get(day, commit.hashes[day]) for day, commit in commits.items()})
    return Link(name, recorded == rebuilt, recorded, rebuilt)


def _partition(found: Predicted, name: str) -> Link:
    """The day of events, from the rows of the landed files."""
    from mlops_pipelines.ingest.landed_again import events_again

    lake, version = found.place.lake, found.made_of["events"]
    day = found.event_day
    stored = _stored(name, lake, "events", [day], version, sort_by=["event_id"], unhashed=PROVENANCE)
    if not stored.same:
        return stored
    recorded = lake.written_by("events", [day], version=version)[day].hashes[day]
    try:
        again = events_again(found.place, lake.read("events", days=[day], version=version))
    except TerminalError as error:
        return _not_made(name, error, recorded)
    rebuilt = content_hash(again, sort_by=["event_id"], unhashed=PROVENANCE)
    return Link(name, recorded == rebuilt, recorded, rebuilt)


def _facts(found: Predicted, name: str, view: CompiledView) -> Link:
    """The rows that a view reads, of the days of its window."""
    lake, versions = found.place.lake.of(view.pipeline), versions_at(view.pipeline, found.made_of)
    version = versions.get(view.source)
    if version is None:
        return Link(name, True, "", "", "there were none")
    held = lake.days(view.source, version=version)
    if not view.static:
        reached = set(_days_before(found, view.longest_reach))
        held = [day for day in held if day in reached]
    commits = lake.written_by(view.source, held, version=version)
    recorded = hash_of({day: commit.files.get(day) for day, commit in commits.items()})
    for wrong in lake.altered(view.source, held, version=version).values():
        return Link(name, False, wrong.recorded, wrong.found, wrong.why)
    return Link(name, True, recorded, recorded)


def _tiles(
    found: Predicted, name: str, view: CompiledView, rebuilt: dict[tuple[str, str, str, str], str]
) -> Link:
    """The tiles of a view's longest window, from the facts that each was made of.

    rebuilt: hashes of those made already; the others are added.
    """
    lake, versions = found.place.lake.of(view.pipeline), versions_at(view.pipeline, found.made_of)
    table, order = tile_table(view), tile_order(view)
    version = versions.get(table)
    if version is None:
        return Link(name, True, "", "", "there were none")
    days = _days_before(found, view.longest_window)
    stored = _stored(name, lake, table, days, version, sort_by=order)
    if not stored.same:
        return stored
    commits = lake.written_by(table, days, version=version)
    keys = {
        day: (str(lake.root), table, json.dumps(commit.provenance, sort_keys=True), day)
        for day, commit in commits.items()
    }
    by_facts: dict[str, list[str]] = {}
    for day, (*_, made_of, _) in keys.items():
        if keys[day] not in rebuilt:
            by_facts.setdefault(made_of, []).append(day)
    for made_of, of_days in by_facts.items():
        tiles = compute_tiles(view.at_owner, lake, of_days, json.loads(made_of))
        parts = parts_by_day(tiles.sort_by([("day", "ascending")])) if tiles.num_rows else {}
        for day in of_days:
            rebuilt[keys[day]] = content_hash(parts.get(day, tiles.slice(0, 0)), sort_by=order)
    recorded = {day: commit.hashes[day] for day, commit in commits.items()}
    made = {day: rebuilt[keys[day]] for day in sorted(recorded)}
    wrong = [day for day in recorded if recorded[day] != made[day]]
    why = f"{len(wrong)} days are not what their facts give, first {wrong[0]}" if wrong else None
    return Link(name, not wrong, hash_of(recorded), hash_of(made), why)


def _days_before(found: Predicted, reach: timedelta) -> list[str]:
    """Days (UTC) from so long before the decision to its own."""
    return days_through((found.decided_at - reach).date(), found.decided_at.date())


def _vectors(found: Predicted, name: str) -> Link:
    """The day of examples that has the vector, as it was read."""
    return _stored(
        name,
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


def _model(place: PipelineHome, promotion: Promotion) -> tuple[list[Link], TrainedModel | None]:
    """Manifest, training set and model, and the model; None where one of them differs."""
    retrain = place.ledger.retrain(promotion.retrain_id)
    version, model = str(retrain.dataset_version), None
    links: list[Link] = []
    name = "manifest"
    try:
        manifest = manifest_of(place, retrain)
        links.append(Link(name, True, version, version))
        name = "training set"
        rows, link = _training_set(place, manifest)
        links.append(link)
        if links[-1].same:
            name = "stored model"
            links.append(_stored_model(place, promotion))
        if links[-1].same:
            name = "model"
            model, link = _trained(place, promotion, rows)
            links.append(link)
    except TerminalError as error:
        links.append(_not_made(name, error))
    return links, model if links[-1].same else None


def _stored_model(place: PipelineHome, promotion: Promotion) -> Link:
    wrong = place.home.registry.check_stored(place.name, promotion.mlflow_version)
    return Link(
        "stored model", wrong is None, promotion.model_hash, "" if wrong else promotion.model_hash, wrong
    )


def _trained(place: PipelineHome, promotion: Promotion, rows: pa.Table) -> tuple[TrainedModel, Link]:
    """The model, trained again from the training set as it was trained."""
    from mlops_pipelines.training import train_again

    loaded = model_of(place, promotion)
    rebuilt = train_again(rows, loaded.refit).hash
    why = None
    if rebuilt != promotion.model_hash:
        why = _why_another(loaded.facts)
    return loaded.refit, Link("model", why is None, promotion.model_hash, rebuilt, why)


def _why_another(recorded: Mapping[str, Any]) -> str:
    """Why training again may have given another model, by what was recorded of the first."""
    from mlops_pipelines.experiments import platform_difference
    from mlops_pipelines.provenance import platform
    from mlops_pipelines.trainers import source_hash

    trainer = recorded["training"]["trainer"]
    if not recorded["reproducible"]:
        return f"it was marked as not reproducible: {trainer} gave two models when it was trained"
    if trainer and source_hash(trainer) != recorded["trainer_source"]:
        return f"the file of {trainer} is another one by now"
    others = platform_difference(recorded["platform"], platform())
    return f"on another platform: {'; '.join(others)}" if others else "on the same platform"


def _bits(value: float) -> str:
    return struct.pack(">d", value).hex()
