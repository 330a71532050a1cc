"""Where a pipeline stands, from the ledger and the lake."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import UserError
from mlops_pipelines.ingest import taking
from mlops_pipelines.ledger.retrains import RETRAIN_STATUSES
from mlops_pipelines.outcomes import spelled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ledger.landing import FileFact

SCORED_COLUMNS = ["day", "event_id", "decided_at", "model_version"]
LABEL_COLUMNS = ["event_id", "label", "label_time", "known_at"]


def status_of(place: PipelineHome, since: date | None = None, until: date | None = None) -> dict[str, Any]:
    """Counts, the champion, and prequential figures over the days `since` to `until` (both included, UTC).

    events.quarantined: rejected events that wait for a decision; files has the rows of every stream.
    queue: what waits to be taken in, whether a sensor has seen it or not; event_lag_minutes: how far the
    newest event lies behind the clock. refused: what is wrong with each file that was refused as a whole
    and still lies there; unlistable: with landing folders. events.unlabelled: accepted events
    no label has come for; unscored: accepted events no champion has scored. labels.maturity: share of
    accepted events whose label is known or past due, None without events.
    prequential: over scores whose model was champion before the decision and whose label came after it;
    figures are None where they cannot be computed. Times are ISO 8601, UTC.
    """
    ledger = place.ledger
    counts = ledger.counts(place.name)
    files = ledger.file_counts(place.name)
    champion = ledger.champion(place.name)
    watermark = ledger.watermark()
    rows = _rows(place)
    quarantined = _quarantined(place)
    landed, unlistable = landed_unseen(place)
    refusals = taking.refusals(place)
    refused = Counter(file.stream for file in refusals)
    return {
        "pipeline": place.name,
        "watermark": watermark.isoformat() if watermark else None,
        "events": {
            "accepted": rows["events"],
            "quarantined": quarantined["events"],
            "unlabelled": rows["events"] - rows["labelled"],
            "unscored": rows["events"] - rows["predictions"],
        },
        "labels": {
            "joined": rows["labelled"],
            "unmatched": rows["unmatched"],
            "maturity": _maturity(place, rows["events"]),
        },
        "files": {
            stream: {"taken": files[stream].files - files[stream].pending - files[stream].rejected,
                     "waiting": files[stream].pending + len(landed.get(stream, ())),
                     "refused": refused[stream], "quarantined_rows": quarantined[stream]}
            for stream in sorted(place.streams)
        },
        "queue": _queue(place, landed),
        "unlistable": unlistable,
        "refused": [file.why for file in refusals],
        "retrains": {
            "admitted": sum(counts.retrains.values()),
            **{name: counts.retrains[name] for name in RETRAIN_STATUSES},
            "paused": ledger.state(place.name).paused,
        },
        "triggers": dict(counts.triggers),
        "promotions": counts.promotions,
        "predictions": rows["predictions"],
        "champion": {
            "version": champion.mlflow_version if champion else None,
            "since": champion.at.isoformat() if champion else None,
            "frozen": ledger.frozen(place.name),
        },
        "prequential": prequential_figures(place, since, until),
    }  # fmt: skip


def newest_predictions(place: PipelineHome, limit: int) -> list[dict[str, Any]]:
    """The latest predictions, newest decision first within each day of events, the newest day first.

    Days are those of the events (UTC), as the table is cut; where events are decided on another day than
    their own, neighbouring days may overlap in time of decision.
    """
    lake = place.lake
    found: list[dict[str, Any]] = []
    said = {"binary": ["decision"], "number": [], "category": ["predicted"]}[place.spec.labels.kind]
    columns = ["prediction_id", "event_id", "model_version", "score", *said, "explored", "decided_at"]
    for day in reversed(lake.days("predictions")):
        rows = lake.read("predictions", days=[day])
        # Only those of a pipeline that explores say it.
        rows = rows.select([name for name in columns if name in rows.column_names])
        rows = rows.sort_by([("decided_at", "descending"), ("event_id", "descending")])
        found += rows.slice(0, limit - len(found)).to_pylist()
        if len(found) == limit:
            break
    return [{**row, "decided_at": row["decided_at"].isoformat()} for row in found]


def retrain_rows(place: PipelineHome) -> list[dict[str, Any]]:
    """Every retrain with what asked for it, its outcome and the verdicts of its gates, oldest first."""
    return [
        {
            "retrain": retrain.id,
            "admitted_at": retrain.watermark.isoformat(),
            "why": retrain.reason,
            "triggers": list(retrain.trigger_kinds),
            "status": retrain.status,
            "outcome": retrain.outcome,
            "model_version": retrain.mlflow_version,
            "training_set": retrain.dataset_version,
            "verdicts": [
                {"gate": verdict.gate, "outcome": verdict.outcome, "sentence": verdict.sentence}
                for verdict in place.ledger.verdicts(retrain.id)
            ],
        }
        for retrain in place.ledger.retrains(place.name)
    ]


def render(pipeline: str, found: Mapping[str, Any]) -> str:
    """The status as text: one group a line, its figures beside it; of what was refused, a line a file."""
    lines = [pipeline]
    for group, value in found.items():
        if isinstance(value, list):
            lines += [f"  {group:<12} {text.splitlines()[0]}" for text in value]
        elif group == "prequential" and not value["rows"]:
            lines.append(f"  {group:<12} no scores with labels in these days")
        elif group != "pipeline":
            parts = value.items() if isinstance(value, dict) else [("", value)]
            lines.append(f"  {group:<12} " + "  ".join(f"{name} {_cell(one)}".strip() for name, one in parts))
    return "\n".join(lines)


def render_predictions(rows: Sequence[Mapping[str, Any]]) -> str:
    """Predictions as a table of fixed-width columns; beside the score what is said by it, if anything is."""
    said = next((name for name in ("decision", "predicted") if rows and name in rows[0]), "")
    lines = [f"{'decided_at':<26} {'event_id':<28} {'model':>5} {'score':>7} {said:>8}  prediction_id"]
    words: dict[object, str] = {True: "yes", False: "no"}
    lines += [
        f"{row['decided_at']:<26} {row['event_id']:<28} {row['model_version']:>5} "
        f"{spelled(row['score'], in_units=not said):>7} {words.get(row.get(said), row.get(said, '')):>8}  "
        f"{row['prediction_id']}"
        for row in rows
    ]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_cell(one)}" for name, one in value.items()) + ")"
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _rows(place: PipelineHome) -> dict[str, int]:
    lake = place.lake
    counted = {name: sum(lake.row_counts(name).values()) for name in ("events", "predictions")}
    return {
        "events": counted["events"],
        "predictions": counted["predictions"],
        "unmatched": sum(lake.row_counts("labels_unmatched").values()),
        "labelled": _labelled(place),
    }


def landed_unseen(place: PipelineHome) -> tuple[dict[str, list[FileFact]], list[str]]:
    """Files that the ledger does not know yet, by stream; and what is wrong with landing folders."""
    landed, problems = {}, []
    for stream in place.streams:
        try:
            landed[stream] = taking.not_registered(place, stream)
        except UserError as error:
            problems.append(str(error))
    return landed, problems


def _queue(place: PipelineHome, landed: Mapping[str, Sequence[FileFact]]) -> dict[str, float | None]:
    now, minute = place.clock.now(), timedelta(minutes=1)
    queues = taking.queues_of(place.ledger.pending_files(place.name), now, landed).values()
    lag = taking.event_lag(place, now)
    return {
        "files": sum(queue.files for queue in queues),
        "bytes": sum(queue.bytes for queue in queues),
        "oldest_minutes": max((queue.oldest / minute for queue in queues), default=None),
        "event_lag_minutes": None if lag is None else lag / minute,
    }


def _quarantined(place: PipelineHome) -> Counter[str]:
    """Rows in the quarantine that wait for a decision, by stream."""
    from mlops_pipelines.ingest.rejects import waiting_rows

    return Counter(waiting_rows(place)["stream"].to_pylist())


def _labelled(place: PipelineHome) -> int:
    """Events with at least one label; a correction is a further row of the same event."""
    import pyarrow.compute as pc

    if not place.lake.exists("labels"):
        return 0
    return int(pc.count_distinct(place.lake.read("labels", columns=["event_id"])["event_id"]).as_py())


def _maturity(place: PipelineHome, events: int) -> float | None:
    from mlops_pipelines.monitoring.performance import maturity
    from mlops_pipelines.retraining import matured_through

    if not events:
        return None
    lake, now = place.lake, place.clock.now()
    # Up to this day every label is known or past due: only the later days are read.
    last = matured_through(place, now).isoformat()
    counts = lake.row_counts("events")
    matured = sum(rows for day, rows in counts.items() if day <= last)
    days = [day for day in counts if day > last]
    if not days:
        return matured / events
    table = lake.read("events", columns=["day", "event_id", "event_time"], days=days)
    if lake.exists("labels"):
        labels = lake.read("labels", columns=["event_id", "known_at"], days=days)
    else:
        labels = table.select(["event_id", "event_time"]).rename_columns(["event_id", "known_at"]).slice(0, 0)
    found = maturity(table, labels, now, place.spec.labels.matures_after)
    return (matured + sum(day.labelled + day.overdue for day in found)) / events


def prequential_figures(place: PipelineHome, since: date | None, until: date | None) -> dict[str, Any]:
    """Quality of the scores of the days `since` to `until` that were given before their labels were known."""
    from mlops_pipelines.monitoring.performance import (
        PREQUENTIAL,
        prequential,
        prequential_rows,
        scored_labels,
    )
    from mlops_pipelines.outcomes import LOGGED_IN, from_log

    kind = place.spec.labels.kind
    lake = place.lake
    first = (since or place.spec.partitions.start).isoformat()
    last = (until or date.max).isoformat()
    days = [day for day in lake.days("predictions") if first <= day <= last]
    figures: dict[str, Any] = {**dict.fromkeys(PREQUENTIAL[kind]), "rows": 0}
    if days and lake.exists("labels"):
        scored = scored_labels(
            lake.read("predictions", days=days, columns=[*SCORED_COLUMNS, LOGGED_IN[kind]]),
            lake.read("labels", days=days, columns=LABEL_COLUMNS),
            place.clock.now(),
        )
        kept = prequential_rows(scored, place.ledger.promotions(place.name))
        outcome, scores = from_log(kind, kept[LOGGED_IN[kind]])
        figures = prequential(scores, kept["label"].to_numpy(), outcome)
    return {**figures, "since": days[0] if days else None, "until": days[-1] if days else None}
