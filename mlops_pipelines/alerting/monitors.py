"""What the monitors say of the present, as findings. Each looks at the newest that there is: an old report
that nothing newer contradicts still stands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any

from mlops_pipelines.alerting.diagnosis import Finding, Kind, common_sources
from mlops_pipelines.clock import days_through, midnight, usual_step
from mlops_pipelines.errors import MlopsError, TransientError
from mlops_pipelines.monitoring.drift import BREAK
from mlops_pipelines.retention import REPORTS
from mlops_pipelines.spec import ConceptDriftTrigger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from mlops_pipelines.features.sets import FeatureSet
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ledger import Promotion
    from mlops_pipelines.spec import Severity

# A day that can be worked on and is not, so long after: its schedule has come and gone.
STOPPED_AFTER = timedelta(hours=36)
# Days that say what is usual.
USUAL_DAYS = 28
# A step between arrivals that is taken for usual before there are enough of them.
UNKNOWN_STEP = timedelta(days=7)
DAY = timedelta(days=1)
# Days that matured so long ago at most can still be told to lack labels.
LABELS_WEEK = timedelta(days=7)
# So many of a matured day's events usually have a label; half as many is an outage.
_OUTAGE = 0.5
# Share of a day's rows out of a feature's range that no season brings from one day to the next.
_MOST = 0.9
# So unlikely a number of rejected rows by chance.
_CHANCE = 1e-6
# What a job's stages make, by the job that a person restarts.
STAGES: Mapping[str, tuple[str, ...]] = {
    "score": ("tiles", "score"),
    "labels": ("labels",),
    "monitor": ("features", "drift", "monitor", "mature", "feedback"),
}
# What these are about, besides what they touch.
_ABOUT: Mapping[str, tuple[str, ...]] = {
    "score_drift": ("model",),
    "concept_drift": ("model",),
    "quality": ("model",),
    "slo:quality": ("model",),
    "slo:availability": ("decisions",),
    "slo:freshness": ("views",),
    "slo:label_maturity": ("labels",),
}


@dataclass(frozen=True)
class FailedRun:
    """A run that failed.

    at: when it ended, by the wall clock, UTC. days: what it was to work on, where it is cut by days. step:
    where it failed; empty where its process was lost. cause: a sentence. remedy: the command that helps.
    over_by: the run of the same job that has succeeded since; None while nothing has. ours: whether the cause
    is in the library's own words, which show no sensitive value.
    """

    run_id: str
    job: str
    at: datetime
    days: str
    step: str
    cause: str
    remedy: str
    over_by: str | None
    ours: bool = True


@dataclass(frozen=True)
class CheckedParity:
    """The last time that logged vectors were made again. holds: whether they were the same bits."""

    holds: bool
    sentence: str


@dataclass(frozen=True)
class Found:
    """What was found. unlooked: by kind, why it could not be looked at."""

    findings: tuple[Finding, ...]
    unlooked: Mapping[Kind, str]


def look(
    place: PipelineHome,
    now: datetime,
    failed: Sequence[FailedRun] = (),
    parity: CheckedParity | None = None,
    *,
    unlooked_for: timedelta = timedelta(0),
) -> Found:
    """What the monitors of a pipeline say at a moment (the home's clock, UTC).

    failed, parity: what Dagster's storage has, the newest first. One monitor that cannot look hides none of
    the others: it is a finding itself, where it may pass by itself once it has lasted. unlooked_for: how long
    some monitor could not look, by the wall clock.
    """
    scene = _Scene(place, now, failed, parity)
    found: list[Finding] = []
    unlooked: dict[Kind, str] = {}
    broken: dict[Kind, str] = {}
    for kind, monitor in _MONITORS.items():
        try:
            found += monitor(scene)
        except TransientError as error:
            unlooked[kind] = str(error)
            if unlooked_for > STOPPED_AFTER:
                broken[kind] = str(error)
        except MlopsError as error:
            unlooked[kind] = broken[kind] = str(error)
        except Exception as error:  # One monitor's own fault must not silence the others.
            unlooked[kind] = broken[kind] = f"an error of its own, {type(error).__name__}"
    if broken:
        kinds = ", ".join(kind.replace("_", " ") for kind in broken)
        found.append(
            scene.finding(
                "stage_stopped",
                "monitors",
                "warning",
                f"It cannot be looked at whether there is {kinds}: {next(iter(broken.values()))}",
                remedy=f"mlops health {place.name}",
                kinds=sorted(broken),
            )
        )
    return Found(tuple(found), unlooked)


def seen(
    place: PipelineHome, now: datetime, failed: Sequence[FailedRun], parity: CheckedParity | None
) -> str:
    """What there is to look at, as a short text: where it is the same, so are the findings."""
    tables = ("events", "labels", "predictions", *REPORTS)
    champion = place.ledger.champion(place.name)
    counts = place.ledger.file_counts(place.name, (now.date() - timedelta(days=1)).isoformat())
    return json.dumps(
        [
            f"{now:%Y-%m-%dT%H}",
            {name: place.lake.version(name) for name in tables},
            {stream: [one.files, one.pending, one.rejected] for stream, one in sorted(counts.items())},
            champion.sequence if champion else 0,
            sorted(one.run_id for one in failed if one.over_by is None),
            parity.holds if parity else None,
        ]
    )


class _Scene:
    """A pipeline at a moment, each part of it read once."""

    def __init__(
        self,
        place: PipelineHome,
        now: datetime,
        failed: Sequence[FailedRun],
        parity: CheckedParity | None,
    ) -> None:
        self.place, self.now, self.failed, self.parity = place, now, failed, parity
        self.today = now.date().isoformat()
        self.champion: Promotion | None = place.ledger.champion(place.name)
        self._reports: dict[tuple[str, int], list[dict[str, Any]]] = {}

    @cached_property
    def features(self) -> FeatureSet:
        """The champion's; before there is one, those of the YAML."""
        from mlops_pipelines.features.in_use import set_of

        return set_of(self.place, self.champion) if self.champion else self.place.features

    @cached_property
    def lineage(self) -> dict[str, frozenset[str]]:
        return lineage(self.features)

    def finding(
        self,
        kind: Kind,
        subject: str,
        severity: Severity,
        title: str,
        *,
        remedy: str,
        days: Iterable[str] = (),
        parts: Iterable[str] = (),
        since: str = "",
        **evidence: Any,
    ) -> Finding:
        """days: by default today. evidence: without what is None."""
        shown = tuple(sorted(days)) or (self.today,)
        parts = {*parts, *_ABOUT.get(f"slo:{subject}" if kind == "slo" else kind, ())}
        known = {name: value for name, value in evidence.items() if value is not None}
        return Finding(kind, subject, severity, title, shown, remedy, frozenset(parts), known, since)

    def is_late(self, day: str, since: datetime) -> bool:
        """Whether a closed day can be worked on for so long that its schedule has come and gone."""
        closed = midnight(day) + timedelta(days=1)
        return day < self.today and self.now - max(since, closed) > STOPPED_AFTER

    def report(self, name: str, days: int) -> list[dict[str, Any]]:
        """Rows of the last days of a report, oldest first; none where there is none."""
        from mlops_pipelines.monitoring.reports import rows_of

        if (name, days) not in self._reports:
            wanted = [day for day in self.place.lake.days(name) if day <= self.today][-days:]
            rows = rows_of(self.place, name, wanted)
            self._reports[name, days] = sorted(rows, key=lambda row: str(row["day"]))
        return self._reports[name, days]

    def touched(self, *streams: str) -> set[str]:
        """A stream, and the features that are made of it; labels are not known without their events."""
        if "events" in streams:
            streams = (*streams, "labels")
        names = {name for name, sources in self.lineage.items() if sources & {*streams}}
        return {*(f"stream:{one}" for one in streams), *(f"feature:{name}" for name in names)}


def lineage(features: FeatureSet) -> dict[str, frozenset[str]]:
    """Of each feature what it is made of: its table, and columns as `TABLE.COLUMN`, those of its key too."""
    from mlops_pipelines.scoring import feature_sources

    return {
        name: frozenset({sources[-1][0], *(f"{table}.{column}" for table, column in sources)})
        for name, sources in feature_sources(features).items()
        if sources
    }


def _failed_runs(scene: _Scene) -> list[Finding]:
    """The last run of each job, unless it was made up for; of one step that fails in several, the last."""
    latest = {run.job: run for run in reversed(scene.failed) if run.over_by is None}
    by_step = {_step_of(scene, run): run for run in sorted(latest.values(), key=lambda run: run.at)}
    return [
        scene.finding(
            "run_failed",
            step,
            "critical" if run.job in {"ingest", "score"} else "warning",
            f"The last run of {run.job} failed: {run.cause if run.ours else 'with an error of its own'}",
            remedy=run.remedy if run.ours else f"mlops incidents {scene.place.name}",
            days=[day for day in run.days.split(" to ") if day],
            parts=_parts_of_job(scene, run.job),
            run=run.run_id,
            step=run.step,
        )
        for step, run in by_step.items()
    ]


def _step_of(scene: _Scene, run: FailedRun) -> str:
    return run.step.removeprefix(f"{scene.place.name}__") or run.job


def _parts_of_job(scene: _Scene, job: str) -> set[str]:
    """What is not made while a job stands still."""
    reports = {f"stage:{stage}" for stage in STAGES["monitor"]}
    if job == "monitor":
        return reports
    if job == "labels":
        return {"labels", "stage:labels", "stage:monitor", "stage:mature", "stage:feedback"} | scene.touched(
            "labels"
        )
    if job not in {"ingest", "score"}:
        return set()
    made = {f"stage:{stage}" for stage in STAGES["score"]} | {"model", "decisions", "views"}
    features = {f"feature:{name}" for name in scene.lineage}
    return {*made, *features, *(f"stream:{name}" for name in scene.place.streams)}


def _stopped(scene: _Scene) -> list[Finding]:
    place, now = scene.place, scene.now
    waiting = place.ledger.waiting_since(place.name, by=now)
    hours = STOPPED_AFTER // timedelta(hours=1)
    found = []
    for job, stages in STAGES.items():
        late = {
            stage: [day for day, since in waiting.get(stage, {}).items() if scene.is_late(day, since)]
            for stage in stages
            if stage != "score" or scene.champion
        }
        if job == "score":
            late["decisions"] = _unscored(scene)
        days = sorted({day for of_stage in late.values() for day in of_stage})
        if days:
            found.append(
                scene.finding(
                    "stage_stopped",
                    job,
                    "warning" if job == "monitor" else "critical",
                    f"{job} has left {_number(len(days), 'day')} for more than {hours} hours, the oldest "
                    f"{days[0]}",
                    remedy=f"mlops health {place.name}",
                    since=days[0],
                    waiting=[f"{stage}: {len(ones)} days" for stage, ones in late.items() if ones],
                    parts=_parts_of_job(scene, job),
                )
            )
    return found


def _unscored(scene: _Scene) -> list[str]:
    """Days that should have been scored and of which at least one event in a hundred was not."""
    from mlops_pipelines.slos import scored_days

    today = scene.now.date()
    return [
        one.day
        for one in scored_days(scene.place, today - timedelta(days=USUAL_DAYS), today - timedelta(days=1))
        if one.bad > 0.01 * one.total and scene.is_late(one.day, midnight(one.day))
    ]


def _refused(scene: _Scene) -> list[Finding]:
    from mlops_pipelines.ingest.taking import refusals

    by_stream: dict[str, list[Any]] = {}
    for one in refusals(scene.place):
        by_stream.setdefault(one.stream, []).append(one)
    return [
        scene.finding(
            "refused_files",
            stream,
            "critical" if stream == "events" else "warning",
            f"{_number(len(files), 'file')} of {stream} refused: {files[-1].why.splitlines()[0]}",
            remedy=f"mlops status {scene.place.name}",
            days=_arrival_days([one.path for one in files], scene.today),
            parts=scene.touched(stream),
            files=[one.path for one in files[-3:]],
        )
        for stream, files in by_stream.items()
    ]


def _rejected(scene: _Scene) -> list[Finding]:
    from scipy.special import bdtrc

    found = []
    since = (scene.now.date() - timedelta(days=2 * USUAL_DAYS)).isoformat()
    for stream, days in scene.place.ledger.rows_by_arrival(scene.place.name, since).items():
        known = [one for one in days if one.day <= scene.today and one.rows]
        if not known:
            continue
        *before, last = known
        share = last.quarantined / last.rows
        # The middle of them: days of a fault that goes on make no habit.
        usual = median([one.quarantined / one.rows for one in before[-USUAL_DAYS:]] or [0.0])
        if share - usual < BREAK or bdtrc(last.quarantined - 1, last.rows, max(usual, 1e-4)) >= _CHANCE:
            continue
        found.append(
            scene.finding(
                "rejected_rows",
                stream,
                "critical" if share >= 0.5 else "warning",
                f"{share:.0%} of the rows of {stream} that arrived on {last.day} broke the contract; usually "
                f"{usual:.1%}",
                remedy=f"mlops quarantine list {scene.place.name}",
                days=days_through(date.fromisoformat(last.day), scene.now.date()),
                parts=scene.touched(stream),
                rows=last.rows,
                rejected=last.quarantined,
                usual=usual,
            )
        )
    return found


def _silent(scene: _Scene, kind: Kind, stream: str, row: str) -> list[Finding]:
    """Whether no rows of a stream have arrived for twice as long as is usual."""
    ledger, name = scene.place.ledger, scene.place.name
    newest = ledger.newest_arrival(name, stream, scene.today)
    if newest is None:
        return []
    since = (date.fromisoformat(newest) - timedelta(days=4 * USUAL_DAYS)).isoformat()
    arrived = ledger.rows_by_arrival(name, since).get(stream, ())
    days = [one.day for one in arrived if one.accepted and one.day <= scene.today]
    if not days:
        return []
    usual = usual_step(days[-USUAL_DAYS - 1 :], unknown=UNKNOWN_STEP).days
    newest = days[-1]
    gap = (scene.now.date() - date.fromisoformat(newest)).days
    if gap < 2 * usual:
        return []
    return [
        scene.finding(
            kind,
            "",
            "critical",
            f"No {row} has arrived since {newest}, for {gap} days; usually every {_number(usual, 'day')}",
            remedy=f"mlops status {scene.place.name}",
            days=days_through(date.fromisoformat(newest), scene.now.date())[1:],
            parts=scene.touched(stream),
            newest=newest,
            gap_days=gap,
            usual_gap_days=usual,
        )
    ]


def _events_missing(scene: _Scene) -> list[Finding]:
    return _silent(scene, "events_missing", "events", "event")


def _labels_missing(scene: _Scene) -> list[Finding]:
    return _silent(scene, "labels_missing", "labels", "label") or _unlabelled(scene)


def _unlabelled(scene: _Scene) -> list[Finding]:
    """Whether days that matured within the last week have far fewer labels than is usual."""
    from mlops_pipelines.retraining import matured_through
    from mlops_pipelines.slos import label_days

    last = matured_through(scene.place, scene.now)
    known = [one for one in label_days(scene.place, last - LABELS_WEEK + DAY, last) if one.events]
    shares = {one.day: 1 - one.missing / one.events for one in known}
    before = _usual_shares(scene.place, (last - LABELS_WEEK).isoformat())
    usual = median(before or [*shares.values()][:-1] or [1.0])
    never = not any((*before, *shares.values()))
    short = [day for day in shares if shares[day] < _OUTAGE * usual or never]
    if not short:
        return []
    worst = min(short, key=lambda day: (shares[day], day))
    others = f", and {_number(len(short) - 1, 'other day')} of that week fall short" if short[1:] else ""
    return [
        scene.finding(
            "labels_missing",
            "",
            "critical" if not shares[worst] else "warning",
            f"{shares[worst]:.0%} of the events of {worst} have a label, which is past due{others}; "
            f"{'none ever came' if never else f'usually {usual:.0%} have'}",
            remedy=f"mlops report performance {scene.place.name}",
            days=short,
            parts=scene.touched("labels"),
            events=sum(one.events for one in known if one.day in short),
            labels=sum(one.events - one.missing for one in known if one.day in short),
            usual=usual,
        )
    ]


def _usual_shares(place: PipelineHome, last: str) -> list[float]:
    """Of events by day up to one, how many have a label: by the rows of both, corrections counted as well."""
    events, labels = place.lake.row_counts("events"), place.lake.row_counts("labels")
    # Three times as long as an outage that is not to become the usual.
    days = sorted(day for day in events if day <= last and events[day])[-3 * USUAL_DAYS :]
    return [min(1.0, labels.get(day, 0) / events[day]) for day in days]


def _feature_rows(scene: _Scene) -> list[dict[str, Any]]:
    from mlops_pipelines.monitoring.feature_health import OWN_ROW

    views = {(view.name, view.version) for view in scene.features.views}
    own = {(OWN_ROW, version) for version in scene.features.view_versions.values()}
    rows = scene.report("feature_report", 1)
    return [row for row in rows if (row["view"], row["version"]) in views | own]


def _stale_views(scene: _Scene) -> list[Finding]:
    from mlops_pipelines.features.views import table_name
    from mlops_pipelines.monitoring.feature_health import STALE_SHARE, WHOLE_VIEW

    source = {view.name: table_name(view.pipeline, view.source) for view in scene.features.views}
    by_source: dict[str, list[dict[str, Any]]] = {}
    for row in _feature_rows(scene):
        if row["feature"] == WHOLE_VIEW and (row["stale"] or 0.0) > STALE_SHARE:
            by_source.setdefault(source[row["view"]], []).append(row)
    found = []
    for name, rows in by_source.items():
        worst = max(rows, key=lambda row: row["stale"])
        views = sorted(row["view"] for row in rows)
        found.append(
            scene.finding(
                "stale_view",
                name,
                "warning",
                f"{worst['stale']:.0%} of the decisions of {worst['day']} found {_some(views)}, of {name}, "
                f"too old",
                remedy=f"mlops features health {scene.place.name}",
                days=[worst["day"]],
                parts=scene.touched(name),
                views=views,
                oldest_hours=worst["age_worst"],
                stale=worst["stale"],
            )
        )
    return found


def _skew(scene: _Scene) -> list[Finding]:
    from mlops_pipelines.monitoring.feature_health import WHOLE_VIEW

    most = scene.place.spec.features.max_skew
    rows = [row for row in _feature_rows(scene) if row["feature"] != WHOLE_VIEW and row["skew"] > most]
    skewed = {row["feature"]: row for row in rows}
    found = []
    for source, names in _by_source(scene, skewed).items():
        worst = max((skewed[name] for name in names), key=lambda row: row["skew"])
        found.append(
            scene.finding(
                "skew",
                source,
                "warning",
                f"{_some(names)} of {worst['day']} are up to {worst['skew']:.2f} from what a fresh store "
                f"gives, {most:g} at most is asked for",
                remedy=f"mlops parity {scene.place.name}",
                days=[worst["day"]],
                parts={f"feature:{name}" for name in names},
                features=names,
                worst=worst["skew"],
            )
        )
    return found


def _parity(scene: _Scene) -> list[Finding]:
    if scene.parity is None or scene.parity.holds:
        return []
    return [
        scene.finding(
            "parity",
            "",
            "critical",
            f"Logged vectors are not what their facts give: {scene.parity.sentence}",
            remedy=f"mlops parity {scene.place.name}",
        )
    ]


def _drift_rows(scene: _Scene, days: int) -> list[dict[str, Any]]:
    """Of the last days that were measured, what was found against the champion."""
    rows = scene.report("drift_report", days)
    return [row for row in rows if scene.champion and row["model_hash"] == scene.champion.model_hash]


def _broken(scene: _Scene) -> list[Finding]:
    # By whichever model the day was measured: one that came since may know the fault as usual.
    rows = {row["feature"]: row for row in scene.report("drift_report", 1) if _is_fault(row)}
    found = []
    for source, names in _by_source(scene, rows).items():
        worst = max((rows[name] for name in names), key=lambda row: row["weight"] or 0.0)
        what = source if source in names else f"{_number(len(names), 'feature')} made of {source}"
        found.append(
            scene.finding(
                "inputs_broken",
                source,
                "warning" if worst["weight"] else "info",
                f"{what} broke on {worst['day']}: {worst['breaks']}",
                remedy=f"mlops quarantine list {scene.place.name}",
                days=[worst["day"]],
                parts={f"feature:{name}" for name in names},
                features=names,
                weight=worst["weight"],
            )
        )
    return found


def _is_fault(row: Mapping[str, Any]) -> bool:
    """Whether a feature's break is a fault of somebody: a season, too, leaves the range that was learned."""
    kinds = (row.get("broken") or "").split(", ")
    return "missing" in kinds or "category" in kinds or ("range" in kinds and row["strange"] >= _MOST)


def _by_source(scene: _Scene, named: Collection[str]) -> dict[str, list[str]]:
    sources = scene.lineage
    return common_sources(
        {name: sources.get(name, frozenset()) for name in named},
        {name: of for name, of in sources.items() if name not in named},
    )


def _drifted(scene: _Scene) -> list[Finding]:
    from mlops_pipelines.monitoring import reports

    trigger, champion = reports.drift_bands(scene.place.spec.triggers), scene.champion
    if champion is None:
        return []
    overall = reports.drift_lately(scene.place, champion, trigger, champion.at)
    found = reports.persistent_drift(champion, trigger, overall)
    if found is None:
        return []
    rows = [row for row in _drift_rows(scene, trigger.persists[1]) if row["day"] in found["days"]]
    moved = {
        row["feature"]: round(row["weight"] * row["excess"], 3)
        for row in rows
        if row["feature"] != reports.OVERALL
        and row["weight"]
        and row["weight"] * row["excess"] >= trigger.watch
    }
    return [
        scene.finding(
            "drift",
            "",
            "warning",
            f"Inputs drift from what v{champion.mlflow_version} knows: {found['finding']}",
            remedy=f"mlops policy explain {scene.place.name}",
            days=found["days"],
            parts={f"feature:{name}" for name in moved},
            features=sorted(moved, key=lambda name: -moved[name]),
            champion=champion.mlflow_version,
        )
    ]


def _score_drift(scene: _Scene) -> list[Finding]:
    from mlops_pipelines.monitoring import reports

    trigger, champion = scene.place.spec.triggers.prediction_drift, scene.champion
    if trigger is None or champion is None:
        return []
    found = reports.persistent_score_drift(scene.place, champion, trigger, champion.at)
    if found is None:
        return []
    return [
        scene.finding(
            "score_drift",
            "",
            "warning",
            f"Scores of v{champion.mlflow_version} drift: {found['finding']}",
            remedy=f"mlops policy explain {scene.place.name}",
            days=found["days"],
            champion=champion.mlflow_version,
        )
    ]


def _concept(scene: _Scene) -> list[Finding]:
    from mlops_pipelines.monitoring import reports

    trigger = scene.place.spec.triggers.concept_drift or ConceptDriftTrigger()
    found = reports.concept_drift_now(scene.place, trigger.detectors)
    if found is None:
        return []
    return [
        scene.finding(
            "concept_drift",
            "",
            "warning",
            f"Outcomes are not what the scores expect: {found['finding']}",
            remedy=f"mlops policy explain {scene.place.name}",
            days=found["days"],
            parts=scene.touched("labels"),
            detectors=found["detectors"],
        )
    ]


def _quality(scene: _Scene) -> list[Finding]:
    from mlops_pipelines.monitoring import reports

    trigger, champion = scene.place.spec.triggers.performance, scene.champion
    if trigger is None or champion is None:
        return []
    drop = reports.quality_drop_of(scene.place, champion, trigger, champion.at, scene.now)
    if drop is None:
        return []
    return [
        scene.finding(
            "quality",
            "",
            "critical" if drop["below_floor"] else "warning",
            f"Quality of v{champion.mlflow_version} has fallen: {drop['finding']}",
            remedy=f"mlops policy explain {scene.place.name}",
            days=drop["days"],
            metric=trigger.metric,
            value=drop["value"],
            champion=champion.mlflow_version,
        )
    ]


def _feedback(scene: _Scene) -> list[Finding]:
    from mlops_pipelines.monitoring.feedback_report import audit_of

    audited = audit_of(scene.place)
    if audited is None or audited.audit.verdict not in {"selective", "collapsing"}:
        return []
    audit = audited.audit
    # The sentence names classes, which are values of the label.
    hidden = scene.place.spec.labels.value in scene.place.contract.sensitive_columns("labels")
    told = "" if hidden else f": {audit.sentence}"
    return [
        scene.finding(
            "feedback",
            "",
            "critical" if audit.verdict == "collapsing" else "warning",
            f"Labels depend on what the model says ({audit.verdict}){told}",
            remedy=f"mlops health {scene.place.name}",
            parts={"stream:labels"},
            verdict=audit.verdict,
            coverage=audit.coverage,
            spread=audit.spread,
            rows=audit.rows,
            labelled=audit.labelled,
        )
    ]


def _slos(scene: _Scene) -> list[Finding]:
    from mlops_pipelines.slos import standings

    return [
        scene.finding(
            "slo",
            one.name,
            one.alert,
            one.sentence,
            remedy=f"mlops health {scene.place.name}",
            days=[one.last_day] if one.last_day else [],
            objective=one.objective,
            good=one.good,
            total=one.total,
            budget_left=one.budget_left,
        )
        for one in standings(scene.place, scene.now)
        if one.alert
    ]


_MONITORS: Mapping[Kind, Callable[[_Scene], list[Finding]]] = {
    "run_failed": _failed_runs,
    "stage_stopped": _stopped,
    "refused_files": _refused,
    "rejected_rows": _rejected,
    "events_missing": _events_missing,
    "labels_missing": _labels_missing,
    "stale_view": _stale_views,
    "parity": _parity,
    "skew": _skew,
    "inputs_broken": _broken,
    "concept_drift": _concept,
    "drift": _drifted,
    "score_drift": _score_drift,
    "feedback": _feedback,
    "quality": _quality,
    "slo": _slos,
}


def _arrival_days(paths: Sequence[str], today: str) -> list[str]:
    """Days named by landing folders; today for a file that lies in none."""
    found = set()
    for path in paths:
        try:
            found.add(date.fromisoformat(path.partition("/")[0]).isoformat())
        except ValueError:
            found.add(today)
    return sorted(found)


def _number(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    """Names as a person says them, three at most."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
