"""The trace of one prediction: from the landed row to the score, and on to the retrain that it fed.

Everything is read as of the versions that were recorded when the prediction was made, so that the trace says
what was seen then and not what is known now. What the contract calls sensitive is masked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.features.in_use import known_set
from mlops_pipelines.features.sets import set_version
from mlops_pipelines.features.views import table_name, tile_table
from mlops_pipelines.ingest.contract import MASKED
from mlops_pipelines.ingest.taking import sensitive_columns
from mlops_pipelines.lake import text_from
from mlops_pipelines.lineage import sensitive_features
from mlops_pipelines.provenance import Commit
from mlops_pipelines.retraining import model_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from mlops_pipelines.features.sets import FeatureSet
    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ledger import Promotion, Retrain
    from mlops_pipelines.training import TrainedModel

_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Predicted:
    """A prediction and what it stands on.

    row: of the predictions. example: the vector it was made of, a table of one row; event: the event as it
    was then, likewise. features: the set that made the vector. made_of: versions of the tables behind it.
    """

    place: PipelineHome
    row: Mapping[str, Any]
    example: pa.Table
    event: pa.Table
    features: FeatureSet
    made_of: Mapping[str, int | None]

    @property
    def day(self) -> str:
        """The partition it stands in, YYYY-MM-DD."""
        return str(self.row["day"])

    @property
    def event_id(self) -> str:
        return str(self.row["event_id"])

    @property
    def event_day(self) -> str:
        """The partition that the event stood in then, YYYY-MM-DD."""
        return str(self.event["day"][0])

    @property
    def decided_at(self) -> datetime:
        """UTC."""
        moment: datetime = self.row["decided_at"]
        return moment.astimezone(UTC)


class BrokenLinkError(TerminalError):
    """What a prediction stands on is not what was written.

    link: its name among those of `reproduce`. recorded, found: SHA-256.
    """

    def __init__(self, message: str, link: str, recorded: str, found: str) -> None:
        super().__init__(
            message,
            expected="the bytes that were written",
            remedy="mlops restore, from a backup that has them",
        )
        self.link, self.recorded, self.found = link, recorded, found


def find_prediction(places: Iterable[PipelineHome], prediction_id: str) -> Predicted:
    """The prediction of this id, of whatever pipeline of a home.

    Raises UserError if there is none, BrokenLinkError if it, its vector or its event is not what was written,
    TerminalError if what it was made of is gone.
    """
    if not _ID.fullmatch(prediction_id):
        raise UserError(
            f"{prediction_id!r} is no id of a prediction.",
            expected="16 hex digits",
            remedy="mlops predictions PIPELINE",
        )
    looked = list(places)
    for place in looked:
        row = _row_of(place, prediction_id)
        if row is not None:
            return _predicted(place, row)
    for place in looked:
        # It may have stood where the log was altered.
        _require_unaltered_log(place)
    freed = [
        gone.error(place.name).message for place in looked if (gone := place.ledger.freed_before(place.name))
    ]
    raise UserError(
        " ".join(
            [
                f"There is no prediction {prediction_id} of {' or '.join(place.name for place in looked)}.",
                *freed,
            ]
        ),
        expected="the id of a prediction that is kept in this home",
        remedy="mlops predictions PIPELINE",
    )


def _require_unaltered_log(place: PipelineHome) -> None:
    if place.lake.exists("predictions"):
        _require_unaltered(place, "prediction", "predictions", place.lake.days("predictions"))


def _require_unaltered(
    place: PipelineHome, link: str, table: str, days: Sequence[str], version: int | None = None
) -> None:
    """Before its rows are read: what was altered may read as something else, or not at all."""
    for day, wrong in place.lake.altered(table, days, version=version).items():
        raise BrokenLinkError(
            f"The {table} of {place.name} of {day} were altered: {wrong.why}.",
            link,
            wrong.recorded,
            wrong.found,
        )


def _row_of(place: PipelineHome, prediction_id: str) -> dict[str, Any] | None:
    lake = place.lake
    if not lake.exists("predictions"):
        return None
    # The ids are hashes, so each day is looked at, its ids alone; then the day that has it.
    where = text_from("prediction_id", prediction_id)
    try:
        days = lake.read("predictions", columns=["day"], where=where)["day"].to_pylist()
    except TerminalError:
        _require_unaltered_log(place)
        raise
    if not days:
        return None
    _require_unaltered(place, "prediction", "predictions", days[:1])
    row: dict[str, Any] = lake.read("predictions", days=days[:1], where=where).to_pylist()[0]
    return row


def _predicted(place: PipelineHome, row: Mapping[str, Any]) -> Predicted:
    features = known_set(place, row["feature_set"])
    at = row["event_id"]
    example = _one(place, "examples", features.examples, row["day"], at, row["examples_version"])
    made_of = json.loads(example["made_of"][0].as_py())
    event = _one(place, "partition", "events", example["day"][0].as_py(), at, made_of["events"])
    return Predicted(place, row, example, event, features, made_of)


def _one(  # noqa: PLR0917 - a link and where it lies
    place: PipelineHome, link: str, table: str, day: str, event_id: str, version: int
) -> pa.Table:
    _require_unaltered(place, link, table, [day], version)
    where = text_from("event_id", event_id)
    found = place.lake.read(table, days=[day], version=version, where=where)
    if found.num_rows != 1:
        raise TerminalError(
            f"The event {event_id} is not in {table} of {day} at version {version}.",
            expected="one row, as when the prediction was made",
            remedy=f"mlops parity {place.name}",
        )
    return found


def trace(found: Predicted) -> dict[str, Any]:
    """The whole chain as JSON, in the order in which it came to be; times are UTC, in ISO 8601.

    Raises TerminalError if something that the prediction names is gone.
    """
    place = found.place
    promotion = promotion_of(found)
    retrain = place.ledger.retrain(promotion.retrain_id)
    manifest = manifest_of(place, retrain)
    model = model_of(place, promotion)
    facts = model.facts
    labels = _labels(found)
    return {
        "prediction": _prediction(found),
        "event": _event(found),
        "landed": landed_row(place, "events", found.event),
        "vector": _vector(found),
        "views": [_view(found, view) for view in found.features.views],
        "model": _model(promotion, model.refit),
        "training_set": _training_set(manifest),
        "code": {
            "commit": facts["commit"]["sha"],
            "changed": facts["commit"]["dirty"],
            "lock": facts.get("lock"),
            "platform": facts.get("platform"),
        },
        "retrain": _retrain(place, retrain),
        "verdicts": [
            {"gate": one.gate, "outcome": one.outcome, "sentence": one.sentence}
            for one in place.ledger.verdicts(retrain.id)
        ],
        "promotion": {
            "sequence": promotion.sequence,
            "at": promotion.at.isoformat(),
            "authority": promotion.kind,
            "approved_by": promotion.by,
            "reason": promotion.reason,
            "replaced": promotion.previous,
        },
        "labels": labels,
        "fed": list(_fed(found, labels)),
    }


def _prediction(found: Predicted) -> dict[str, Any]:
    row = found.row
    commit = found.place.lake.written_by("predictions", [found.day]).get(found.day)
    return {
        "id": row["prediction_id"],
        "pipeline": found.place.name,
        "event_id": found.event_id,
        "decided_at": found.decided_at.isoformat(),
        "score": row["score"],
        **{name: row[name] for name in ("decision", "threshold", "predicted") if name in row},
        **({"probabilities": json.loads(row["probabilities"])} if "probabilities" in row else {}),
        "scored_at": row["scored_at"].isoformat(),
        "partition": found.day,
        "table_version": commit and commit.version,
        "content_hash": commit and commit.hashes[found.day],
        "code": commit and commit.provenance.get("code"),
    }


def _event(found: Predicted) -> dict[str, Any]:
    place, version, day = found.place, found.made_of["events"], found.event_day
    commit = place.lake.written_by("events", [day], version=version)[day]
    own = {"day", "event_id", "file_digest", "file_row"}
    hidden = sensitive_columns(place.loaded, "events")
    values = {
        name: MASKED if name in hidden and value is not None else _plain(value)
        for name, value in found.event.to_pylist()[0].items()
        if name not in own
    }
    return {
        "partition": day,
        "table_version": version,
        "content_hash": commit.hashes[day],
        "contract": commit.provenance.get("contract"),
        "values": values,
    }


def landed_row(place: PipelineHome, stream: str, row: pa.Table) -> dict[str, Any]:
    """The landed file and the row of it that a row of a stream's table, a table of one row, came from.

    there: whether the file still lies there. file is None if the ledger does not know one of this digest.
    """
    from mlops_pipelines.ingest.landing import is_there

    digest = row["file_digest"][0].as_py()
    file = place.ledger.files_taken(place.name, stream, [digest]).get(digest)
    return {
        "stream": stream,
        "file": file and f"{place.landing(stream)}/{file.path}",
        "sha256": digest,
        "row": row["file_row"][0].as_py(),
        "arrived_at": _plain(row["arrived_at"][0].as_py()),
        "there": bool(file) and is_there(place.landing(stream), file.path if file else ""),
    }


def _vector(found: Predicted) -> dict[str, Any]:
    commit = found.place.lake.written_by(
        found.features.examples, [found.day], version=found.row["examples_version"]
    )[found.day]
    hidden = sensitive_features(found.place.loaded, found.features)
    values = found.example.to_pylist()[0]
    return {
        "feature_set": found.features.version,
        "table": found.features.examples,
        "table_version": found.row["examples_version"],
        "partition": found.day,
        "content_hash": commit.hashes[found.day],
        "code": commit.provenance.get("code"),
        "values": {
            one.name: MASKED if one.name in hidden and values[one.name] is not None else values[one.name]
            for one in found.features.columns
        },
        "from_event": {name: one.sql for name, one in found.features.from_event.items()},
        "from_python": {name: one.function for name, one in found.features.from_python.items()},
    }


def _view(found: Predicted, view: CompiledView) -> dict[str, Any]:
    hidden = sensitive_columns(found.place.loaded, "events")
    key = {name: MASKED if name in hidden else found.event[name][0].as_py() for name in view.keys}
    source = table_name(view.pipeline, view.source)
    told: dict[str, Any] = {
        "view": table_name(view.pipeline, view.name),
        "version": view.version,
        "key": key,
        "source": source,
        "source_version": found.made_of.get(source),
        "features": [column.name for column in view.columns],
    }
    if view.windowed:
        told |= _tiles(found, view)
    return told


def _tiles(found: Predicted, view: CompiledView) -> dict[str, Any]:
    """The tiles of the key in the longest window before the decision."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from mlops_pipelines.features.facts import versions_at
    from mlops_pipelines.features.tiles import read_tiles

    until = found.decided_at.replace(minute=0, second=0, microsecond=0)
    since = until - view.longest_window
    lake, versions = found.place.lake.of(view.pipeline), versions_at(view.pipeline, found.made_of)
    tiles = read_tiles(view, lake, versions, since, until)
    for name in view.keys:
        value = found.event[name][0].as_py()
        tiles = tiles.filter(pc.equal(tiles[name], pa.scalar(value, tiles[name].type)))
    hours = tiles["hour"].to_pylist()
    return {
        "tiles": len(hours),
        "tiles_from": since.isoformat(),
        "tiles_before": until.isoformat(),
        "newest_tile": max(hours).isoformat() if hours else None,
        "tile_table": table_name(view.pipeline, tile_table(view)),
        "tile_version": versions.get(tile_table(view)),
    }


def promotion_of(found: Predicted) -> Promotion:
    """The promotion whose champion scored: the last one before the decision, by the model's hash."""
    of_model = [
        one
        for one in found.place.ledger.promotions(found.place.name)
        if one.model_hash == found.row["model_hash"] and one.at < found.decided_at
    ]
    if not of_model:
        raise TerminalError(
            f"No promotion before {found.decided_at.isoformat()} made the model "
            f"{found.row['model_hash'][:12]} champion.",
            expected="the champion that scored it",
            remedy=f"mlops status {found.place.name}",
        )
    return of_model[-1]


def code_of(found: Predicted) -> Commit:
    """The commit that trained the prediction's model."""
    promotion = promotion_of(found)
    model = model_of(found.place, promotion)
    return Commit(**model.facts["commit"])


def manifest_of(place: PipelineHome, retrain: Retrain) -> Mapping[str, Any]:
    """The manifest of the training set of a retrain. Raises TerminalError if it is gone or altered."""
    return place.home.datasets.version(place.name, str(retrain.dataset_version)).manifest


def _model(promotion: Promotion, model: TrainedModel) -> dict[str, Any]:
    return {
        "version": promotion.mlflow_version,
        "hash": promotion.model_hash,
        "rows": model.rows,
        "first_day": model.first_day,
        "last_day": model.last_day,
        "cutoff": model.cutoff.isoformat(),
        "params": dict(model.params),
    }


def _training_set(manifest: Mapping[str, Any]) -> dict[str, Any]:
    parts = manifest["parts"]
    return {
        "version": manifest["version"],
        "rows": sum(part["rows"] for part in parts),
        "days": len(parts),
        "first_day": parts[0]["day"],
        "last_day": parts[-1]["day"],
        "window": manifest["window"],
        "matured_through": manifest["matured_through"],
        "tables": manifest["tables"],
        "feature_set": set_version(manifest["views"]),
        "contracts": manifest["contracts"],
        "signed_by": manifest["signature"]["key"],
        "commit": manifest["commit"]["sha"],
        "changed": manifest["commit"]["dirty"],
    }


def _retrain(place: PipelineHome, retrain: Retrain) -> dict[str, Any]:
    return {
        "id": retrain.id,
        "why": retrain.reason,
        "admitted_at": retrain.watermark.isoformat(),
        "run": retrain.run_id,
        "triggers": [
            {"kind": one.kind, "at": one.created_at.isoformat(), "evidence": one.evidence}
            for one in place.ledger.triggers_of(retrain.id)
        ],
        "outcome": retrain.outcome,
    }


def _labels(found: Predicted) -> list[dict[str, Any]]:
    """Every version of the event's label, as they became known."""
    lake = found.place.lake
    if not lake.exists("labels"):
        return []
    where = text_from("event_id", found.event_id)
    # A moved event's labels stand on its new day.
    days = {
        found.event_day,
        *lake.days_that_share("labels", found.event, "event_id", found.place.spec.ids_unique_within),
    }
    rows = lake.read("labels", days=sorted(days), where=where).sort_by([("known_at", "ascending")])
    return [
        {
            "label": row["label"][0].as_py(),
            "label_time": _plain(row["label_time"][0].as_py()),
            "known_at": _plain(row["known_at"][0].as_py()),
            "landed": landed_row(found.place, "labels", row),
        }
        for row in (rows.slice(place, 1) for place in range(rows.num_rows))
    ]


def _fed(found: Predicted, labels: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The retrains whose training set has this event, with its label as it was known then.

    Of a training set that was freed it is not known whether it had it: that is told, with the moment.
    """
    if not labels:
        return
    place, known = found.place, datetime.fromisoformat(labels[0]["known_at"])
    for retrain in reversed(place.ledger.retrains(place.name)):
        if retrain.dataset_version is None or retrain.watermark < known:
            continue
        if gone := place.ledger.freed(place.name, "dataset", retrain.dataset_version):
            yield {
                "retrain": retrain.id,
                "training_set": retrain.dataset_version,
                "freed_at": gone.at.isoformat(),
                "label": None,
                "model_version": retrain.mlflow_version,
                "outcome": retrain.outcome,
            }
            continue
        manifest = manifest_of(place, retrain)
        if found.day not in {part["day"] for part in manifest["parts"]}:
            continue
        table = f"examples/set_{set_version(manifest['views'])}"
        where = text_from("event_id", found.event_id)
        version = manifest["tables"][table]
        if place.lake.read(
            table, columns=["event_id"], days=[found.day], version=version, where=where
        ).num_rows:
            as_of = [one for one in labels if datetime.fromisoformat(one["known_at"]) <= retrain.watermark]
            yield {
                "retrain": retrain.id,
                "training_set": retrain.dataset_version,
                "freed_at": None,
                "label": as_of[-1]["label"],
                "model_version": retrain.mlflow_version,
                "outcome": retrain.outcome,
            }


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
