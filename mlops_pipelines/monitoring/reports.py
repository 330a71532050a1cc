"""The daily reports: drift of the inputs, and what the scores were worth; and what follows from them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from mlops_pipelines.clock import midnight
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.in_use import set_of, sets_in_use
from mlops_pipelines.monitoring import drift as drifting
from mlops_pipelines.monitoring.concept import JudgedDay, judged_day
from mlops_pipelines.monitoring.performance import FIGURES_OF
from mlops_pipelines.monitoring.reference import SCORE, Reference
from mlops_pipelines.outcomes import BASELINE, COLUMN_TYPES, IN_UNITS, LOGGED_IN, SKILLS, Outcome
from mlops_pipelines.spec import DriftTrigger
from mlops_pipelines.standing import Work

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import pyarrow as pa

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.lake import Written
    from mlops_pipelines.ledger import Promotion
    from mlops_pipelines.ledger.landing import Stage
    from mlops_pipelines.monitoring.drift import DriftReport
    from mlops_pipelines.monitoring.estimates import Estimate, Expected, Outcomes
    from mlops_pipelines.monitoring.performance import DayMaturity, DayPerformance, DaySums
    from mlops_pipelines.spec import (
        ConceptDriftTrigger,
        Detector,
        Kind,
        PerformanceTrigger,
        PredictionDriftTrigger,
        StalenessTrigger,
        Triggers,
    )

# Of scores that are probabilities: what they expect of themselves, and what came of it.
_EXPECTED = {
    "expected": "float",
    "expected_rate": "float",
    "surprise": "float",
    "calm": "float",
    "slope_gap": "float",
    "blocks": "string",
    "estimate": "float",
    "estimate_low": "float",
    "estimate_high": "float",
    "estimate_days": "int",
    "estimate_note": "string",
}
# When the day's labels came.
_DELAYS = {"delay_median": "float", "delay_p90": "float", "delay_p99": "float", "known_by": "string"}
DRIFT, PERFORMANCE = "drift_report", "performance_report"
DRIFT_ORDER, PERFORMANCE_ORDER = ("feature",), ("model_hash",)
# MLflow's number of a model says nothing of a day.
UNHASHED = ("model_version",)
OVERALL = "*"
DRIFT_COLUMNS = {
    "model_version": "string",
    "model_hash": "string",
    "feature": "string",
    "rows": "int",
    "importance": "float",
    "weight": "float",
    "psi": "float",
    "noise": "float",
    "ordinary": "float",
    "excess": "float",
    "missing": "float",
    "missing_before": "float",
    "test": "string",
    "effect": "float",
    "p": "float",
    "p_adjusted": "float",
    "strange": "float",
    "broken": "string",
    "breaks": "string",
    "level": "string",
    "sentence": "string",
}
# What days are added up by: the share of 1; the mean squared error of the mean that was learned from; the
# rows by class, as JSON.
_ADDED_UP: Mapping[Kind, tuple[str, str]] = {
    "binary": ("prevalence", "float"),
    "number": ("base_mse", "float"),
    "category": ("counts", "string"),
}
# Figures of a day that are told first.
TOLD: Mapping[Kind, tuple[str, ...]] = {
    "binary": ("log_loss", "log_loss_skill", "roc_auc", "average_precision"),
    "number": ("rmse", "mae", "r2"),
    "category": ("log_loss", "log_loss_skill", "accuracy", "roc_auc"),
}
# Evidently's page is 5 MB: it is drawn when something alarms, and once a week on this day.
PAGE_WEEKDAY = 6
# Of fewer rows its indices and its verdict say nothing: they know no sample size.
PAGE_ROWS = 50
# Days of the training window its page compares with, spread evenly: enough rows to sample from.
PAGE_REFERENCE_DAYS = 14
# Those that drifted most, weighted by importance: nobody scrolls through eighty histograms.
PAGE_FEATURES = 10
# Share of missing values from which the few that are there show no shape.
PAGE_MISSING = 0.99


@dataclass(frozen=True)
class Drift:
    """What became of the drift reports of some days.

    days: what was found of each day. features: of each such day. picture: PNG, of the last day measured now.
    page: Evidently's, of the last day that deserved one, or None. right: days that were left alone.
    """

    written: list[Written]
    days: Mapping[str, Mapping[str, Any]]
    features: Mapping[str, Sequence[Mapping[str, Any]]]
    picture: bytes | None = None
    page: Page | None = None
    right: Sequence[str] = ()

    @property
    def beside_ours(self) -> list[dict[str, str]]:
        """Of each feature on Evidently's page, its index beside ours; for people."""
        if self.page is None:
            return []
        ours = {one["feature"]: one["psi"] for one in self.features[self.page.day]}
        return [
            {"day": self.page.day, "feature": name, "psi": ours[name], "Evidently's psi": f"{theirs:.3f}"}
            for name, theirs in self.page.indices.items()
        ]


@dataclass(frozen=True)
class Page:
    """Evidently's page of a day. path: below the address of MLflow's pages. indices: its own, by feature."""

    path: str
    day: str
    indices: Mapping[str, float]


@dataclass(frozen=True)
class Performance:
    """What became of the performance reports of some days.

    figures: of each day, of the model with the most labels there. models: of each day, a row a model.
    right: days that were left alone.
    """

    written: list[Written]
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    models: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    right: Sequence[str] = ()


def performance_columns(kind: Kind) -> dict[str, str]:
    """Columns of the performance report: name to type."""
    name, type_ = _ADDED_UP[kind]
    return {
        "model_version": "string",
        "model_hash": "string",
        "rows": "int",
        "predictions": "int",
        "labelled": "int",
        "overdue": "int",
        "matured": "bool",
        **_DELAYS,
        name: type_,
        **dict.fromkeys(FIGURES_OF[kind], "float"),
        "reason": "string",
        **({} if kind == "number" else _EXPECTED),
    }


def days_to_measure(place: PipelineHome, now: datetime) -> list[str]:
    """Closed days that were scored and whose drift has not been measured since."""
    return [*closed_days(place, "drift", now)]


def closed_days(place: PipelineHome, stage: Stage, now: datetime, days: Sequence[str] = ()) -> dict[str, int]:
    """Days that wait for a stage and are over, and those of `days` that wait, each with its revision."""
    waiting = place.ledger.reopened_days(place.name, stage)
    return {day: revision for day, revision in waiting.items() if _closes(day) <= now or day in days}


def days_to_judge(place: PipelineHome, now: datetime) -> list[str]:
    """Days with new scores or labels, and days that matured since they were last judged."""
    ledger = place.ledger
    return sorted(
        {*ledger.reopened_days(place.name, "monitor"), *ledger.reopened_days(place.name, "mature", by=now)}
    )


def report_drift(
    place: PipelineHome, days: Sequence[str], *, made_by: str = "", force: bool = False
) -> Drift:
    """Measure the drift of `days`, and of days that were scored and not measured yet.

    made_by: version of what decides on it; days that are right by it are left alone, unless forced.
    """
    lake = place.lake
    reopened = closed_days(place, "drift", place.clock.now(), days)
    as_it_stands = partial(lake.as_it_stands, DRIFT, sort_by=DRIFT_ORDER, unhashed=UNHASHED)
    work = Work.on(
        place, "drift", days, reopened, as_it_stands,
        made_by=made_by, force=force, of=sorted(one.examples for one in sets_in_use(place).sets),
    )  # fmt: skip
    reports = {day: report for day in work.days if (report := _drift_of(place, day)) is not None}
    rows = [row for day, (champion, report) in reports.items() for row in _drift_rows(day, champion, report)]
    written: list[Written] = []
    if work.days and (reports or lake.exists(DRIFT)):
        written = lake.replace(
            DRIFT, table_of(rows, DRIFT_COLUMNS), days=work.days, sort_by=DRIFT_ORDER, unhashed=UNHASHED
        )
    place.ledger.close_days(place.name, reopened, "drift")
    work.record(written)
    page = _page(place, reports)
    latest = max(reports, default="")
    if work.right:
        rows += lake.read(DRIFT, days=work.left_alone).to_pylist()
    return Drift(
        work.together(written),
        days={
            row["day"]: {"model": f"v{row['model_version']}", "level": row["level"],
                         "unexplained_psi": row["excess"], "finding": row["sentence"]}
            for row in rows
            if row["feature"] == OVERALL
        },
        features=_features_by_day(rows),
        picture=_drift_picture(latest, reports[latest][1]) if latest else None,
        page=page,
        right=work.left_alone,
    )  # fmt: skip


def _features_by_day(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, str]]]:
    """What was found of each feature, by day, the most important first; for people."""
    found: dict[str, list[dict[str, str]]] = {row["day"]: [] for row in rows}
    for row in sorted(rows, key=lambda row: (-(row.get("importance") or 0.0), row["feature"])):
        if row["feature"] not in (OVERALL, SCORE):
            found[row["day"]].append(
                {"feature": row["feature"], "psi": f"{row['psi']:.3f}",
                 "explained": f"{row['noise'] + row['ordinary']:.3f}", "weight": f"{row['weight']:.2f}",
                 "missing": f"{row['missing']:.1%}", "test": row["test"],
                 "effect": _shown_or_dash(row["effect"]), "p": _shown_or_dash(row["p_adjusted"]),
                 "breaks": row["breaks"] or ""}
            )  # fmt: skip
    return found


def _shown_or_dash(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.2g}"


def report_performance(
    place: PipelineHome, days: Sequence[str], *, made_by: str = "", force: bool = False
) -> Performance:
    """Judge the scores of `days`, and of days with scores or labels that were not judged since.

    made_by: version of what decides on it; days that are right by it are left alone, unless forced.
    """
    import pyarrow.compute as pc

    from mlops_pipelines.monitoring.estimates import expected_by_day, outcomes_by_day
    from mlops_pipelines.monitoring.label_delays import delays_by_day
    from mlops_pipelines.monitoring.performance import maturity, performance_by_day, scored_labels

    now = place.clock.now()
    reopened = place.ledger.reopened_days(place.name, "monitor")
    maturing = place.ledger.reopened_days(place.name, "mature", by=now)
    waiting = {*reopened, *maturing}
    lake = place.lake
    if not lake.exists("events") or not {*days, *waiting}:
        return Performance([])
    as_it_stands = partial(lake.as_it_stands, PERFORMANCE, sort_by=PERFORMANCE_ORDER, unhashed=UNHASHED)
    work = Work.on(place, "monitor", days, waiting, as_it_stands, made_by=made_by, force=force, of=["events"])
    wanted = work.days
    events = lake.read("events", days=wanted, columns=["day", "event_id", "event_time"])
    kind = place.spec.labels.kind
    logged = LOGGED_IN[kind]
    labels = _read(place, "labels", wanted,
                   {"event_id": "string", "label": COLUMN_TYPES[kind], "label_time": "timestamp",
                    "known_at": "timestamp"})  # fmt: skip
    predictions = _read(place, "predictions", wanted,
                        {"day": "string", "event_id": "string", "decided_at": "timestamp",
                         "model_version": "string", "model_hash": "string",
                         logged: "string" if kind == "category" else "float"})  # fmt: skip
    matured = maturity(events, labels, now, place.spec.labels.matures_after)
    scored = scored_labels(predictions, labels, now)
    rows: list[dict[str, Any]] = []
    promotions = {promotion.model_hash: promotion for promotion in place.ledger.promotions(place.name)}
    for model_hash in predictions["model_hash"].unique().to_pylist():
        mine = predictions.filter(pc.equal(predictions["model_hash"], model_hash))
        counts = {row["values"]: row["counts"] for row in mine["day"].value_counts().to_pylist()}
        with_label = scored.filter(pc.equal(scored["model_hash"], model_hash))
        of_its = [one for one in matured if one.day in counts]
        found = performance_by_day(with_label, of_its, _outcome_of(place, promotions[model_hash]))
        expected, outcomes = expected_by_day(mine, kind), outcomes_by_day(with_label, kind)
        rows += [
            _performance_row(one, promotions[model_hash])
            | {"predictions": counts[one.day]}
            | _surprise_row(one.day, expected.get(one.day), outcomes.get(one.day))
            for one in found
        ]
    rows = _with_estimates(place, rows, now)
    unscored = {one.day for one in matured} - {row["day"] for row in rows}
    rows += [_maturity_row(one) for one in matured if one.day in unscored]
    delays = {one.day: one.row for one in delays_by_day(events, labels, now)}
    rows = [row | delays[row["day"]] for row in rows]
    written = lake.replace(
        PERFORMANCE,
        table_of(rows, performance_columns(kind)),
        days=wanted,
        sort_by=PERFORMANCE_ORDER,
        unhashed=UNHASHED,
    )
    for one in matured:
        if not one.matured:
            place.ledger.reopen_days(place.name, [one.day], "mature", _matures(place, one.day))
    place.ledger.reopen_days(place.name, [one.day for one in matured if one.matured], "feedback", now)
    place.ledger.close_days(place.name, reopened, "monitor")
    place.ledger.close_days(place.name, maturing, "mature")
    work.record(written)
    if work.right:
        rows += lake.read(PERFORMANCE, days=work.left_alone).to_pylist()
    by_day = {day: [row for row in rows if row["day"] == day] for day in sorted({row["day"] for row in rows})}
    return Performance(
        work.together(written),
        figures={day: _figures(of_day, kind) for day, of_day in by_day.items()},
        models={day: [_shown(row, kind) for row in of_day] for day, of_day in by_day.items()},
        pictures=_performance_pictures(rows, kind),
        right=work.left_alone,
    )


def quality_drop_of(
    place: PipelineHome, champion: Promotion, trigger: PerformanceTrigger, since: datetime, now: datetime
) -> dict[str, Any] | None:
    """Evidence that the champion's quality on days from `since` on has surely fallen by more than is borne.

    None without such evidence. Raises TerminalError if the champion's evaluation lacks the metric.
    """
    from mlops_pipelines.monitoring.performance import quality_drop

    lake = place.lake
    if not lake.exists(PERFORMANCE):
        return None
    first = max(since, now - trigger.over - place.spec.labels.matures_after).date().isoformat()
    days = [day for day in lake.days(PERFORMANCE) if day >= first]
    rows = lake.read(PERFORMANCE, days=days).to_pylist()
    sums = [_sums(row) for row in rows if row["model_hash"] == champion.model_hash and row["labelled"]]
    # With days for less than half of the window nothing is sure, and the registry need not be asked.
    if 2 * timedelta(days=len(sums)) < trigger.over:
        return None
    drop = quality_drop(sums, _holdout_skill(place, champion, trigger.metric), trigger)
    if drop is None:
        return None
    return {
        "champion": champion.mlflow_version,
        "value": round(drop.value, 4),
        "finding": drop.sentence,
        "days": [*drop.worst],
        "below_floor": trigger.floor is not None and drop.upper < trigger.floor,
    }


def concept_drift_of(
    place: PipelineHome, champion: Promotion, trigger: ConceptDriftTrigger, since: datetime
) -> dict[str, Any] | None:
    """Evidence that matured losses surprise the champion's scores otherwise than before, or None."""
    from mlops_pipelines.monitoring.concept import detections

    judged = _judged_days(place)
    found = detections(judged, champion.model_hash, since.date().isoformat(), trigger.detectors)
    if not found:
        return None
    return {
        "champion": champion.mlflow_version,
        "detectors": [one.detector for one in found],
        "day": found[0].day,
        "finding": "; ".join(one.sentence for one in found),
    }


def concept_drift_now(place: PipelineHome, detectors: Sequence[Detector]) -> dict[str, Any] | None:
    """What the detectors find on the last matured days, whichever model scored them, and the days that carry
    it, or None."""
    from mlops_pipelines.monitoring.concept import ongoing

    found, days = ongoing(_judged_days(place), detectors)
    if not found:
        return None
    return {
        "detectors": [one.detector for one in found],
        "days": days,
        "finding": "; ".join(one.sentence for one in found),
    }


def _judged_days(place: PipelineHome) -> list[JudgedDay]:
    """The last matured days, oldest first."""
    from mlops_pipelines.monitoring.concept import MOST_DAYS

    lake = place.lake
    if not lake.exists(PERFORMANCE):
        return []
    days = lake.days(PERFORMANCE)[-2 * MOST_DAYS :]
    rows = [row for row in lake.read(PERFORMANCE, days=days).to_pylist() if _is_judged(row)]
    return [
        JudgedDay(row["day"], row["model_hash"], json.loads(row["blocks"]), row["calm"], row["slope_gap"])
        for row in main_rows(rows)
    ]


def _is_judged(row: Mapping[str, Any]) -> bool:
    """Whether a day's labels have matured and say by how much they surprised the scores."""
    figures = (row.get("surprise"), row.get("slope_gap"))
    return bool(row["matured"]) and all(one is not None and math.isfinite(one) for one in figures)


def _sums(row: Mapping[str, Any]) -> DaySums:
    """The day's part of a figure over several days."""
    from mlops_pipelines.monitoring.performance import DaySums

    labelled = row["labelled"]

    def summed(name: str) -> float:
        return float((row.get(name) or 0.0) * labelled)

    return DaySums(
        row["day"],
        labelled,
        round(summed("prevalence")),
        summed("log_loss"),
        summed("brier"),
        row["matured"],
        summed("mse"),
        summed("base_mse"),
        json.loads(row["counts"]) if row.get("counts") else {},
        None if row.get("surprise") is None else summed("surprise"),
    )


def _outcome_of(place: PipelineHome, promotion: Promotion) -> Outcome:
    """What the scores of a promoted model are of; a binary one has nothing to say and is not read."""
    from mlops_pipelines.retraining import model_of

    binary = place.spec.labels.kind == "binary"
    return Outcome() if binary else model_of(place, promotion).refit.outcome


def _holdout_skill(place: PipelineHome, champion: Promotion, metric: str) -> float:
    """The skill that the champion had on its holdout, from the report it was promoted on."""
    from mlops_pipelines.retraining import report_of

    figure = report_of(place, place.ledger.retrain(champion.retrain_id)).metrics.get(metric)
    if figure is None:
        raise TerminalError(
            f"The evaluation of {place.name} version {champion.mlflow_version} has no {metric}.",
            remedy="retrain, or watch a metric that the report has",
        )
    return figure.value


def _performance_row(found: DayPerformance, promotion: Promotion) -> dict[str, Any]:
    one = found.performance
    return {
        **_maturity_row(found.maturity),
        "model_version": promotion.mlflow_version,
        "model_hash": promotion.model_hash,
        "labelled": one.rows,
        "prevalence": one.prevalence,
        "base_mse": one.base_mse,
        "counts": json.dumps(one.counts) if one.counts else None,
        **one.figures,
        "reason": "; ".join(sorted(set(one.reasons.values()))),
    }


def _surprise_row(day: str, expected: Expected | None, outcomes: Outcomes | None) -> dict[str, Any]:
    """What a day's scores expect of themselves, and by how much their losses are more; {} of numbers."""
    if expected is None:
        return {}
    row: dict[str, Any] = {"expected": expected.loss, "expected_rate": expected.rate}
    if outcomes is None:
        return row
    judged = judged_day(day, "", outcomes)
    return {
        **row,
        "surprise": float(outcomes.surprises.mean()),
        "calm": judged.calm,
        "slope_gap": judged.slope_gap,
        "blocks": json.dumps([round(block, 6) for block in judged.blocks]),
    }


def _with_estimates(
    place: PipelineHome, rows: Sequence[Mapping[str, Any]], now: datetime
) -> list[dict[str, Any]]:
    """The rows, each with the log loss that its labels were to show, as estimated when its day closed."""
    from mlops_pipelines.monitoring.estimates import MOST_DAYS, estimate

    days = {row["day"] for row in rows if row.get("expected") is not None}
    if not days:
        return [dict(row) for row in rows]
    # Twice as many days as an estimate rests on: not every one has scores.
    first = (_closes(min(days)) - 2 * MOST_DAYS * timedelta(days=1)).date().isoformat()
    lake, before = place.lake, list[dict[str, Any]]()
    if lake.exists(PERFORMANCE):
        known = [day for day in lake.days(PERFORMANCE) if first <= day < max(days) and day not in days]
        before = lake.read(PERFORMANCE, days=known).to_pylist()
    of_days = main_rows([row for row in (*before, *rows) if _is_judged(row)])
    made = []
    for row in rows:
        if row.get("expected") is None:
            made.append(dict(row))
            continue
        asked = min(now, _closes(row["day"]))
        gaps = [one["surprise"] for one in of_days if _matures(place, one["day"]) <= asked]
        found = estimate(row["expected"], gaps)
        estimated = {
            "estimate": found.value,
            "estimate_low": found.low,
            "estimate_high": found.high,
            "estimate_days": found.days,
            "estimate_note": _estimate_note(row, found),
        }
        made.append({**row, **estimated})
    return made


def rows_of(place: PipelineHome, table: str, days: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a report of some days; [] of none, for which there need be no table."""
    rows: list[dict[str, Any]] = place.lake.read(table, days=days).to_pylist() if days else []
    return rows


def main_rows(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of each day the row of the model with the most labels there, oldest first."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["labelled"]):
        found[row["day"]] = row
    return [found[day] for day in sorted(found)]


def _estimate_note(row: Mapping[str, Any], found: Estimate) -> str:
    """Why a day's labels showed what the estimate did not expect; empty where they did not."""
    if not row["matured"] or row.get("surprise") is None:
        return ""
    truth = row["log_loss"]
    if found.covers(truth) is not False:
        return ""
    came = row["prevalence"] if row.get("prevalence") is not None else row["accuracy"]
    side = "above" if truth > found.value else "below"
    return (
        f"the log loss was {truth:.3f}, {side} what was estimated: {came:.0%} came true where the scores "
        f"expected {row['expected_rate']:.0%}"
    )


def _maturity_row(found: DayMaturity) -> dict[str, Any]:
    return {
        "day": found.day,
        "model_version": "",
        "model_hash": "",
        "rows": found.events,
        "predictions": 0,
        "labelled": 0,
        "overdue": found.overdue,
        "matured": found.matured,
        "reason": "no champion has scored this day",
    }


def _figures(rows: Sequence[Mapping[str, Any]], kind: Kind) -> dict[str, Any]:
    """Plain figures, which Dagster draws over the partitions."""
    row = max(rows, key=lambda one: one["labelled"])
    told = (*TOLD[kind], "overdue", "delay_median", "delay_p99")
    figures = {name: row[name] for name in told if row.get(name) is not None}
    if row.get("estimate") is not None:
        figures["estimated_log_loss"] = row["estimate"]
    return {"labelled": row["labelled"], "matured": row["matured"], **figures}


def _shown(row: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    def figure(name: str) -> str:
        value = row.get(name)
        return "–" if value is None else f"{value:.5g}" if name in IN_UNITS else f"{value:.3f}"

    return {
        "model": f"v{row['model_version']}" if row["model_version"] else "–",
        "events": row["rows"],
        "decisions": row["predictions"],
        "labelled scores": row["labelled"],
        "matured": "yes" if row["matured"] else "not yet",
        **{name: figure(name) for name in TOLD[kind]},
        **_estimate_shown(row),
        "note": "; ".join(said for said in (row["reason"], row.get("estimate_note")) if said),
    }


def _estimate_shown(row: Mapping[str, Any]) -> dict[str, str]:
    """The estimate for people; {} of numbers, of which there is none."""
    if row.get("estimate") is None:
        return {}
    interval = "too few matured days for an interval"
    if row["estimate_low"] is not None:
        interval = f"{row['estimate_low']:.3f} to {row['estimate_high']:.3f}"
    return {"estimated log_loss": f"{row['estimate']:.3f} ({interval})"}


def _performance_pictures(rows: Sequence[Mapping[str, Any]], kind: Kind) -> dict[str, bytes]:
    """Skill by day and model, and how many labels of matured days were there by which age."""
    from mlops_pipelines.monitoring.label_delays import curve

    skill = SKILLS[kind][0]
    skills = {
        f"{row['day']} v{row['model_version']}": row[skill]
        for row in sorted(rows, key=lambda row: row["day"], reverse=True)
        if row.get(skill) is not None
    }
    by_age = curve({row["day"]: row for row in rows if row["matured"]}.values())
    if not skills and not by_age:
        return {}
    from mlops_pipelines.figures import bars

    pictures = {}
    if skills:
        title, unit = f"{skill} by day and model", f"1 - loss / loss of {BASELINE[kind]}"
        pictures["skill_by_day"] = bars(skills, title=title, unit=unit)
    if by_age:
        title = "Events with a label by their age, matured days"
        pictures["labels_by_age"] = bars(by_age, title=title, unit="share of the events", limit=len(by_age))
    return pictures


def _read(place: PipelineHome, name: str, days: Sequence[str], columns: Mapping[str, str]) -> pa.Table:
    """Columns of a table in some days; no rows where there is no such table yet."""
    import pyarrow as pa

    if place.lake.exists(name):
        return place.lake.read(name, days=days, columns=list(columns))
    types = {"string": pa.string(), "int": pa.int8(), "float": pa.float64(),
             "timestamp": pa.timestamp("us", tz="UTC")}  # fmt: skip
    return pa.schema([(column, types[kind]) for column, kind in columns.items()]).empty_table()


def drift_lately(
    place: PipelineHome, champion: Promotion, trigger: DriftTrigger, since: datetime
) -> list[dict[str, Any]]:
    """The last days from `since` on that the trigger looks at, against this champion, as reported."""
    return _drift_since(place, champion, OVERALL, since, trigger.persists[1])


def persistent_drift(
    champion: Promotion, trigger: DriftTrigger, overall: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Evidence that drift against this champion persists on the days of `drift_lately`, or None."""
    if not drifting.persistent([row["level"] for row in overall], trigger.persists):
        return None
    return {
        "champion": champion.mlflow_version,
        "days": [row["day"] for row in overall if row["level"] == "alarm"],
        "finding": next(row["sentence"] for row in reversed(overall) if row["level"] == "alarm"),
    }


def persistent_score_drift(
    place: PipelineHome, champion: Promotion, trigger: PredictionDriftTrigger, since: datetime
) -> dict[str, Any] | None:
    """Evidence that the champion's scores stay apart from those of its training set, or None."""
    rows = _drift_since(place, champion, SCORE, since, trigger.persists[1])
    days = [row["day"] for row in rows if row["excess"] >= trigger.alarm]
    if len(days) < trigger.persists[0]:
        return None
    worst = max(row["excess"] for row in rows)
    finding = f"the scores' unexplained PSI was {worst:.2f} at most, on {len(days)} of {len(rows)} days at "
    return {
        "champion": champion.mlflow_version,
        "days": days,
        "finding": f"{finding}least {trigger.alarm:g}",
    }


def persistent_staleness(
    place: PipelineHome, trigger: StalenessTrigger, since: datetime
) -> dict[str, Any] | None:
    """Evidence that decisions keep finding views that are too old, or None."""
    from mlops_pipelines.monitoring.feature_health import WHOLE_VIEW

    lake, (enough, window) = place.lake, trigger.persists
    if not lake.exists("feature_report"):
        return None
    days = [day for day in lake.days("feature_report") if day >= since.date().isoformat()][-window:]
    columns = ["day", "view", "feature", "stale"]
    rows = lake.read("feature_report", days=days, columns=columns).to_pylist()
    stale = [
        row for row in rows if row["feature"] == WHOLE_VIEW and (row["stale"] or 0.0) >= trigger.at_least
    ]
    on = sorted({row["day"] for row in stale})
    if len(on) < enough:
        return None
    views = ", ".join(sorted({row["view"] for row in stale}))
    share = f"{trigger.at_least:.0%} of the decisions or more found {views} too old"
    return {"days": on, "finding": f"on {len(on)} of the last {len(days)} days {share}"}


def drift_bands(triggers: Triggers) -> DriftTrigger:
    """By what drift is measured; a trigger that is not declared asks for no retrain."""
    return triggers.drift or DriftTrigger()


def _drift_since(
    place: PipelineHome, champion: Promotion, feature: str, since: datetime, window: int
) -> list[dict[str, Any]]:
    """What was found of a feature against this champion, on the last days from `since` on, oldest first."""
    lake = place.lake
    if not lake.exists(DRIFT):
        return []
    days = [day for day in lake.days(DRIFT) if day >= since.date().isoformat()][-window:]
    columns = ["day", "feature", "model_hash", "excess", "level", "sentence"]
    rows = lake.read(DRIFT, days=days, columns=columns).to_pylist()
    mine = (row for row in rows if (row["feature"], row["model_hash"]) == (feature, champion.model_hash))
    return sorted(mine, key=lambda row: str(row["day"]))


def reference_of(place: PipelineHome, champion: Promotion) -> Reference:
    """The bins and histograms of a champion's training set, which are stored with it.

    Raises TerminalError where they are gone.
    """
    from mlops_pipelines.retraining import REFERENCE_FILE, model_of

    stored = model_of(place, champion).files.get(REFERENCE_FILE)
    if stored is None:
        raise TerminalError(
            f"v{champion.mlflow_version} of {place.name} has no {REFERENCE_FILE} in the registry any more.",
            expected="the bins and histograms of its training set, which were stored with it",
            remedy="mlops restore BACKUP --home NEW, of a backup that has it",
        )
    return Reference.from_json(stored)


def _drift_of(place: PipelineHome, day: str) -> tuple[Promotion, DriftReport] | None:
    """The day against the reference of the champion that scored last on it; None if none scored."""
    import pyarrow.compute as pc

    trigger = drift_bands(place.spec.triggers)
    lake = place.lake
    if not lake.exists("predictions"):
        return None
    score = "predicted" if place.spec.labels.kind == "category" else "score"
    scored = lake.read("predictions", days=[day], columns=["event_id", "model_hash", score])
    if scored.num_rows == 0:
        return None
    champion = place.ledger.promotion_of(place.name, model_hash=scored["model_hash"][-1].as_py())
    if champion is None:
        raise TerminalError(f"The model that scored {day} never was champion of {place.name}.")
    examples = lake.read(set_of(place, champion).examples, days=[day])
    reference = reference_of(place, champion)
    by_it = scored.filter(pc.equal(scored["model_hash"], champion.model_hash))
    return champion, drifting.drift_of(reference, examples, trigger, by_it[score])


def _drift_rows(day: str, champion: Promotion, report: DriftReport) -> list[dict[str, Any]]:
    model = {"day": day, "model_version": champion.mlflow_version, "model_hash": champion.model_hash,
             "rows": report.rows}  # fmt: skip
    overall = {**model, "feature": OVERALL, "excess": report.overall, "level": report.level,
               "sentence": report.sentence}  # fmt: skip
    scores = [report.score] if report.score else []
    return [
        overall,
        *(
            {
                **model,
                **{name: value for name, value in asdict(drift).items() if name != "name"},
                "feature": drift.name,
                "excess": drift.excess,
                "broken": ", ".join(one.kind for one in report.breaks if one.feature == drift.name),
                "breaks": "; ".join(one.sentence for one in report.breaks if one.feature == drift.name),
            }
            for drift in (*report.features, *scores)
        ),
    ]


def _drift_picture(day: str, report: DriftReport) -> bytes | None:
    """The features that count most; of each, how much chance and an ordinary day explain."""
    if not report.features:
        return None
    from mlops_pipelines.figures import bars

    shown = sorted(report.features, key=lambda drift: (-drift.contribution, -drift.psi))
    return bars(
        {drift.name: drift.psi for drift in shown},
        title=f"PSI by feature, {day}",
        unit="nats (pale: explained)",
        paler={drift.name: drift.explained for drift in shown},
    )


def _page(place: PipelineHome, reports: Mapping[str, tuple[Promotion, DriftReport]]) -> Page | None:
    """Evidently's page of the last of the days that alarmed or ended a week; None if none of them did.

    It is kept with the run of the champion.
    """
    import tempfile
    from pathlib import Path

    drawn = [
        day
        for day, (_, report) in reports.items()
        if report.rows >= PAGE_ROWS
        and (report.level == "alarm" or date.fromisoformat(day).weekday() == PAGE_WEEKDAY)
    ]
    if not drawn:
        return None
    from mlops_pipelines.monitoring.evidently_page import draw

    day = max(drawn)
    champion, report = reports[day]
    lake = place.lake
    fed = set_of(place, champion)
    kinds = {feature.name: feature for feature in fed.columns}
    # Of a feature without values there is nothing to see, and the report says that it has none.
    shown = [drift for drift in report.features if max(drift.missing, drift.missing_before) < PAGE_MISSING]
    features = [kinds[drift.name] for drift in shown][:PAGE_FEATURES]
    if not features:
        return None
    names = [feature.name for feature in features]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / f"{day}.html"
        indices = draw(
            lake.read(fed.examples, days=_reference_days(place, champion, fed.examples), columns=names),
            lake.read(fed.examples, days=[day], columns=names),
            features,
            page,
        )
        path = place.home.registry.log_page(place.name, champion.mlflow_version, page, "drift")
    return Page(path, day, indices)


def _reference_days(place: PipelineHome, champion: Promotion, table: str) -> list[str]:
    """At most PAGE_REFERENCE_DAYS of the days the champion learned from, spread evenly."""
    retrain = place.ledger.retrain(champion.retrain_id)
    last = retrain.cutoff or champion.at
    first = (last - place.spec.training.window).date().isoformat()
    days = [day for day in place.lake.days(table) if first <= day <= last.date().isoformat()]
    return days[:: -(-len(days) // PAGE_REFERENCE_DAYS)]


def _closes(day: str) -> datetime:
    return midnight(day) + timedelta(days=1)


def _matures(place: PipelineHome, day: str) -> datetime:
    """When every label of the day is known or past due."""
    return _closes(day) + place.spec.labels.matures_after


def table_of(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pa.Table:
    """Rows of a report with `day` and these columns, of the types string, int, float and bool."""
    import pyarrow as pa

    types = {"string": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    schema = pa.schema([("day", pa.string()), *((name, types[kind]) for name, kind in columns.items())])
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
