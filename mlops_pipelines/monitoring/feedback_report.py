"""The audit of how labels come to exist, on a home's matured days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from mlops_pipelines.features.in_use import set_of
from mlops_pipelines.monitoring import feedback
from mlops_pipelines.monitoring.reports import UNHASHED, reference_of, table_of
from mlops_pipelines.standing import Work

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import pyarrow as pa

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.lake import Written
    from mlops_pipelines.ledger import Promotion
    from mlops_pipelines.monitoring.feedback import Audit, Counted

FEEDBACK = "feedback_report"
ORDER = ("model_hash", "part", "name", "bucket")
COLUMNS = {
    "model_version": "string",
    "model_hash": "string",
    "part": "string",
    "name": "string",
    "bucket": "string",
    "rows": "int",
    "labelled": "int",
}
# Matured days of the champion that a verdict is over.
OVER = timedelta(days=28)
# Those that matter most: what the others cover follows from them.
FEATURES = 10
# Champions whose training sets are told beside each other.
CHAMPIONS = 10


@dataclass(frozen=True)
class Feedback:
    """What became of the audit of some days.

    by_day: what was counted. audited: the last days of a champion, None without any. right: days left alone.
    """

    written: list[Written]
    by_day: Mapping[str, Sequence[Counted]]
    audited: Audited | None
    right: Sequence[str] = ()


@dataclass(frozen=True)
class Audited:
    """The verdict on the labels of a champion's last matured days."""

    champion: Promotion
    audit: Audit


def days_to_audit(place: PipelineHome, now: datetime) -> list[str]:
    """Days that have matured and whose labels were not counted since."""
    return [*place.ledger.reopened_days(place.name, "feedback", by=now)]


def report_feedback(
    place: PipelineHome, days: Sequence[str], *, made_by: str = "", force: bool = False
) -> Feedback:
    """Count the labels of `days`, of those that have matured, and of days that matured and were not counted.

    made_by: version of what decides on it; days that are right by it are left alone, unless forced.
    """
    lake = place.lake
    waiting = place.ledger.reopened_days(place.name, "feedback", by=place.clock.now())
    as_it_stands = partial(lake.as_it_stands, FEEDBACK, sort_by=ORDER, unhashed=UNHASHED)
    work = Work.on(
        place, "feedback", days, waiting, as_it_stands, made_by=made_by, force=force, of=["labels"]
    )
    counted = {day: found for day in work.days if (found := _count(place, day)) is not None}
    rows = [
        {"day": day, "model_version": champion.mlflow_version, "model_hash": champion.model_hash, **vars(one)}
        for day, (champion, buckets) in counted.items()
        for one in buckets
    ]
    written: list[Written] = []
    if work.days and (rows or lake.exists(FEEDBACK)):
        written = lake.replace(
            FEEDBACK, table_of(rows, COLUMNS), days=work.days, sort_by=ORDER, unhashed=UNHASHED
        )
    place.ledger.close_days(place.name, waiting, "feedback")
    work.record(written)
    by_day = {day: buckets for day, (_, buckets) in counted.items()}
    if work.right:
        rows = lake.read(FEEDBACK, days=work.left_alone).to_pylist()
        of_right = {day: [row for row in rows if row["day"] == day] for day in work.left_alone}
        by_day |= {day: feedback.summed(map(_counted, found)) for day, found in of_right.items()}
    return Feedback(work.together(written), by_day, audit_of(place), work.left_alone)


def _counted(row: Mapping[str, Any]) -> Counted:
    """A row of the report."""
    return feedback.Counted(row["part"], row["name"], row["bucket"], row["rows"], row["labelled"])


def audit_of(place: PipelineHome) -> Audited | None:
    """The verdict on the last matured days, as `newest_audit` takes it; None before there are any."""
    lake = place.lake
    if not lake.exists(FEEDBACK):
        return None
    first = (place.clock.now() - place.spec.labels.matures_after - OVER).date().isoformat()
    rows = lake.read(FEEDBACK, days=[day for day in lake.days(FEEDBACK) if day >= first]).to_pylist()
    by_model: dict[str, list[Counted]] = {}
    for row in rows:
        by_model.setdefault(row["model_hash"], []).append(_counted(row))
    champions = _champions(place)
    found = feedback.newest_audit(
        [by_model.get(one.model_hash, []) for one in champions],
        lambda number: reference_of(place, champions[number]),
    )
    return Audited(champions[found[0]], found[1]) if found else None


def entropies(place: PipelineHome) -> list[dict[str, Any]]:
    """How evenly the training sets of the last champions spread over features and scores, newest first."""
    found = []
    for champion in _champions(place)[:CHAMPIONS]:
        reference = reference_of(place, champion)
        found.append(
            {
                "model": f"v{champion.mlflow_version}",
                "rows": reference.rows,
                "features": f"{feedback.reference_entropy(reference):.3f}",
                "scores": f"{feedback.entropy(reference.score.counts):.3f}",
            }
        )
    return found


def _champions(place: PipelineHome) -> list[Promotion]:
    """Each model that was champion and is kept, by its last promotion, the newest first."""
    by_model = {one.model_hash: one for one in place.ledger.promotions(place.name)}
    return [
        one
        for one in sorted(by_model.values(), key=lambda one: -one.sequence)
        if place.ledger.freed(place.name, "model", one.mlflow_version) is None
    ]


def _count(place: PipelineHome, day: str) -> tuple[Promotion, list[Counted]] | None:
    """The day's rows by the champion of its last decision; None without one, or before it has matured."""
    import pyarrow.compute as pc

    from mlops_pipelines.retraining import matured_through

    lake, spec = place.lake, place.spec
    if day > matured_through(place, place.clock.now()).isoformat() or not lake.exists("predictions"):
        return None
    score = "predicted" if spec.labels.kind == "category" else "score"
    predictions = lake.read("predictions", days=[day])
    if not predictions.num_rows:
        return None
    champion = place.ledger.promotion_of(place.name, model_hash=predictions["model_hash"][-1].as_py())
    if champion is None:
        return None
    reference = reference_of(place, champion)
    weighed = sorted(reference.features, key=lambda one: (-one.importance, one.name))[:FEATURES]
    features = [one.name for one in weighed]
    slices = list(spec.gates.slices.by) if spec.gates.slices else []
    mine = predictions.filter(pc.equal(predictions["model_hash"], champion.model_hash))
    # Predictions of before the pipeline explored do not say that they are explored.
    marked = "explored" in mine.column_names
    rows = mine.select(["event_id", score, *(["explored"] if marked else [])])
    rows = _with_columns(rows, lake.read(set_of(place, champion).examples, days=[day]), features)
    rows = _with_columns(rows, lake.read("events", days=[day]), slices)
    known = lake.read("labels", days=[day], columns=["event_id"])["event_id"].unique()
    labelled = pc.is_in(rows["event_id"], value_set=known).to_numpy()
    explored = pc.fill_null(rows["explored"], False).to_numpy() if marked else None
    return champion, feedback.count(
        rows, labelled, reference, scores=score, slices=slices, features=features, explored=explored
    )


def _with_columns(rows: pa.Table, table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The rows whose event another table of the day has, with columns of it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    places = pc.index_in(rows["event_id"], value_set=table["event_id"].combine_chunks())
    inside = pc.is_valid(places)
    rows, places = rows.filter(inside), places.filter(inside)
    for name in names:
        if name not in rows.column_names:
            rows = rows.append_column(pa.field(name, table[name].type), table[name].take(places))
    return rows
