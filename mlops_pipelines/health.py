"""The loop, clock by clock: how far each step lies behind the home's clock, and whether that is normal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlops_pipelines.clock import WallClock, midnight, usual_step
from mlops_pipelines.features.facts import KNOWN_AT
from mlops_pipelines.features.views import tile_table
from mlops_pipelines.ingest import taking
from mlops_pipelines.monitoring.feature_health import TABLE as FEATURE_REPORT
from mlops_pipelines.monitoring.feature_health import WHOLE_VIEW
from mlops_pipelines.monitoring.feedback_report import FEEDBACK
from mlops_pipelines.monitoring.reports import DRIFT, PERFORMANCE
from mlops_pipelines.policy import format_moment
from mlops_pipelines.retraining import matured_through
from mlops_pipelines.slos import label_days, scored_days, standings
from mlops_pipelines.status import landed_unseen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlops_pipelines.alerting.lifecycle import Incident
    from mlops_pipelines.cost import Cost
    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ledger import Promotion
    from mlops_pipelines.slos import SloStanding

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
# From being asked for to its end, a run takes less while all is well.
RUN = HOUR
# The schedule `daily_monitoring` runs at 06:00 UTC on the days before.
MONITORED = 6 * HOUR + RUN
RETRAIN = DAY
# Incidents are looked for once a minute.
LOOKED = HOUR / 4
# Days that figures are of which are no clocks.
LOOKED_BACK = 28 * DAY
LABELS_LOOKED_BACK = 7 * DAY
REPORTS = (FEATURE_REPORT, DRIFT, PERFORMANCE, FEEDBACK)


@dataclass(frozen=True)
class LoopClock:
    """How far a step of the loop has come.

    at: event, decision or knowledge time, UTC, that it has come to; where it has made nothing yet, the moment
    from which on it could have; None where there is nothing for it to do. normal: how far behind it may lie;
    None where it has no pace of its own. said: what else there is to say.
    """

    name: str
    at: datetime | None
    normal: timedelta | None
    said: str

    def behind(self, now: datetime) -> timedelta | None:
        """How far behind it lies at `now`, never less than nothing."""
        return None if self.at is None else max(now - self.at, timedelta(0))


@dataclass(frozen=True)
class Ranking:
    """late: clocks that lie further behind than is normal. oldest: the one that lies furthest behind;
    slowest: the one that does so most in units of what is normal for it. Of those that have a pace; None
    without any.
    """

    late: tuple[str, ...]
    oldest: str | None
    slowest: str | None


@dataclass(frozen=True)
class Serving:
    """The champion: since when it serves, and through what moment its training set reaches, UTC."""

    version: str
    since: datetime
    learned_through: datetime | None


@dataclass(frozen=True)
class LoopHealth:
    """A pipeline at `at`, the home's clock, UTC.

    files_waiting: landed and not taken in, of all streams. unscored: accepted events of closed days of the
    last 28 that no champion has scored, since there is one. pending: triggers by kind. in_flight: retrain.
    unlistable: what is wrong with landing folders. incidents: that are open. untold: by sink, why it did not
    get a message. last_days: by report, its last day, YYYY-MM-DD.
    """

    pipeline: str
    at: datetime
    clocks: tuple[LoopClock, ...]
    files_waiting: int
    unscored: int
    champion: Serving | None
    pending: Mapping[str, int]
    in_flight: str | None
    unlistable: tuple[str, ...]
    last_days: Mapping[str, str] = field(default_factory=dict)
    slos: tuple[SloStanding, ...] = ()
    cost: Cost | None = None
    incidents: tuple[Incident, ...] = ()
    untold: Mapping[str, str] = field(default_factory=dict)

    @property
    def ranking(self) -> Ranking:
        return ranking(self.clocks, self.at)

    @property
    def healthy(self) -> bool:
        """Whether no clock is late, every landing folder can be listed, and no incident is critical."""
        critical = any(one.severity == "critical" for one in self.incidents)
        return not (self.ranking.late or self.unlistable or critical)

    def behind(self, name: str) -> timedelta | None:
        """How far a clock lies behind; None where it has nothing to do, or there is no such clock."""
        return next((one.behind(self.at) for one in self.clocks if one.name == name), None)


def ranking(clocks: Sequence[LoopClock], now: datetime) -> Ranking:
    """Which clocks are late, which one is the oldest and which one the slowest. Pure."""
    paced = [
        (behind, behind / one.normal, one.name)
        for one in clocks
        if one.normal and (behind := one.behind(now)) is not None
    ]
    return Ranking(
        tuple(name for _, share, name in paced if share > 1),
        max(paced, key=lambda one: one[0])[2] if paced else None,
        max(paced, key=lambda one: one[1])[2] if paced else None,
    )


def health_of(place: PipelineHome, *, with_cost: bool = True) -> LoopHealth:
    """The health of a pipeline by the home's clock.

    Of the lake only statistics, a few newest days and what objectives are about are read. with_cost:
    Dagster's store of runs is asked as well.
    """
    now, ledger = place.clock.now(), place.ledger
    landed, unlistable = landed_unseen(place)
    queues = taking.queues_of(ledger.pending_files(place.name), now, landed)
    champion, pending = ledger.champion(place.name), ledger.pending(place.name)
    retrain = ledger.in_flight(place.name)
    today = now.astimezone(UTC).date()
    events = place.lake.row_counts("events")
    step = usual_step([day for day in sorted(events) if day <= today.isoformat()][-LOOKED_BACK.days :])
    unscored = sum(one.bad for one in scored_days(place, today - LOOKED_BACK, today - DAY))
    last_days = {
        name: day for name in REPORTS if (day := _last_day(place, name, now, of_matured=name == PERFORMANCE))
    }
    clocks = [
        _events(place, now, step),
        _waiting(place, now, queues),
        _features(place, now),
        _predictions(place, now, step, champion, unscored),
        _labels(place, now, step),
        *_monitors(place, now, step, champion, last_days),
        *_alerts(place, now),
    ]
    if retrain:
        clocks.append(LoopClock("retrain", retrain.started_at, RETRAIN, f"{retrain.id} is {retrain.status}"))
    serving = None
    if champion:
        serving = Serving(champion.mlflow_version, champion.at, ledger.retrain(champion.retrain_id).cutoff)
    kinds = dict(pending.kinds) if pending else {}
    clocks.append(_model(serving, kinds))
    cost = None
    if with_cost:
        from mlops_pipelines.cost import cost_of

        cost = cost_of(place)
    return LoopHealth(
        place.name,
        now,
        tuple(clocks),
        sum(queue.files for queue in queues.values()),
        unscored,
        serving,
        kinds,
        retrain.id if retrain else None,
        tuple(problem.splitlines()[0] for problem in unlistable),
        last_days,
        tuple(standings(place, now)),
        cost,
        tuple(ledger.incidents(place.name)),
        ledger.undelivered(place.name),
    )


def _events(place: PipelineHome, now: datetime, step: timedelta) -> LoopClock:
    lag = taking.event_lag(place, now)
    if lag is None:
        return LoopClock("events", None, None, "none has been taken in yet")
    arrived = place.lake.span("events", "arrived_at")
    said = f"the last arrived {format_moment(min(arrived[1], now))}" if arrived else ""
    return LoopClock("events", now - lag, step, said)


def _waiting(place: PipelineHome, now: datetime, queues: Mapping[str, taking.Queue]) -> LoopClock:
    normal = place.spec.triggers.backlog.age + RUN
    if not queues:
        return LoopClock("waiting", None, normal, "nothing waits to be taken in")
    said = ", ".join(f"{queue.files} of {stream}" for stream, queue in sorted(queues.items()))
    oldest = max(queue.oldest for queue in queues.values())
    return LoopClock("waiting", now - oldest, normal, f"files: {said}")


def _features(place: PipelineHome, now: datetime) -> LoopClock:
    """Of all views the one that is nearest to its `max_age`, or furthest beyond it."""
    found = [
        (newest, view)
        for view in place.features.views
        if not view.static and (newest := _newest(place, view, now)) is not None
    ]
    if not found:
        return LoopClock("features", None, None, "no view has facts yet")
    newest, view = max(found, key=lambda one: (now - one[0]) / one[1].max_age)
    said = f"{view.name} of {len(found)} views"
    worst = _oldest_at_a_decision(place)
    if worst:
        said += f"; at a decision of {worst['day']} {worst['view']} was {worst['age_worst']:.1f} h old"
    return LoopClock("features", newest, view.max_age, said)


def _newest(place: PipelineHome, view: CompiledView, now: datetime) -> datetime | None:
    """Until when the newest tile of a view reaches (without windows: when its newest fact was known)."""
    lake = place.lake.of(view.pipeline)
    span = lake.span(tile_table(view), "hour") if view.windowed else lake.span(view.source, KNOWN_AT)
    return None if span is None else min(span[1] + (HOUR if view.windowed else timedelta(0)), now)


def _oldest_at_a_decision(place: PipelineHome) -> dict[str, Any] | None:
    """The view that was oldest at a decision of the last day that was looked at."""
    lake = place.lake
    columns = ["day", "view", "feature", "age_worst"]
    rows: list[dict[str, Any]] = []
    if days := lake.days(FEATURE_REPORT)[-1:]:
        rows = lake.read(FEATURE_REPORT, days=days, columns=columns).to_pylist()
    aged = [row for row in rows if row["feature"] == WHOLE_VIEW and row["age_worst"] is not None]
    return max(aged, key=lambda row: row["age_worst"], default=None)


def _predictions(
    place: PipelineHome, now: datetime, step: timedelta, champion: Promotion | None, unscored: int
) -> LoopClock:
    if champion is None:
        return LoopClock("predictions", None, None, "there is no champion yet")
    decided = place.lake.span("predictions", "decided_at")
    said = f"{unscored:,} accepted events of closed days are unscored" if unscored else "none is missing"
    normal = step + place.spec.triggers.backlog.age + RUN
    return LoopClock("predictions", min(decided[1], now) if decided else champion.at, normal, said)


def _labels(place: PipelineHome, now: datetime, step: timedelta) -> LoopClock:
    events = place.lake.span("events", "event_time")
    if events is None:
        return LoopClock("labels", None, None, "there are no events to have any")
    known = place.lake.span("labels", KNOWN_AT)
    last = matured_through(place, now)
    days = label_days(place, last - LABELS_LOOKED_BACK + DAY, last)
    said = f"matured through {last}"
    if days:
        total, missing = sum(one.events for one in days), sum(one.missing for one in days)
        late = sum(one.late for one in days)
        said += f"; of {total:,} events of {days[0].day} to then {missing:,} have none, {late:,} came late"
    if known is None:
        said += "; none has come yet"
    # The label of an event is known by then, and events come at their own pace.
    normal = step + place.spec.labels.matures_after
    return LoopClock("labels", min(known[1] if known else events[0], now), normal, said)


def _monitors(
    place: PipelineHome,
    now: datetime,
    step: timedelta,
    champion: Promotion | None,
    last_days: Mapping[str, str],
) -> Iterator[LoopClock]:
    """A clock for each report that there is something for: until when the days are reported on."""
    events = place.lake.span("events", "event_time")
    matures = place.spec.labels.matures_after
    closed, matured = now.astimezone(UTC).date() - DAY, matured_through(place, now)
    with_events = {day for day, rows in place.lake.row_counts("events").items() if rows}
    begins = {
        FEATURE_REPORT: events[0] if events else None,
        DRIFT: champion.at if champion else None,
        PERFORMANCE: events[0] + matures if events else None,
        # Days that matured before it was there are not audited.
        FEEDBACK: None,
    }
    for name, begin in begins.items():
        of_matured = name in (PERFORMANCE, FEEDBACK)
        normal = step + MONITORED + (matures if of_matured else timedelta(0))
        if name in last_days:
            day, through = last_days[name], (matured if of_matured else closed).isoformat()
            # Days without events have nothing to be reported on.
            reached = day if any(day < one <= through for one in with_events) else max(day, through)
            yield LoopClock(name, min(midnight(reached) + DAY, now), normal, f"the last day is {day}")
        elif begin is not None:
            yield LoopClock(name, min(begin, now), normal, "there is none yet")


def _alerts(place: PipelineHome, now: datetime) -> Iterator[LoopClock]:
    """When incidents were looked for last; of a home that keeps the machine's time."""
    looked = place.ledger.last_look(place.name)
    if isinstance(place.clock, WallClock) and looked:
        yield LoopClock("alerts", min(looked.wall_at, now), LOOKED, "incidents were looked for")


def _last_day(place: PipelineHome, report: str, now: datetime, *, of_matured: bool) -> str | None:
    """The last day that a report is of; of performance the last one whose labels had matured then."""
    days = place.lake.days(report)
    if not of_matured:
        return days[-1] if days else None
    last = matured_through(place, now).isoformat()
    lately = [day for day in days if day <= last][-LABELS_LOOKED_BACK.days :]
    rows = place.lake.read(report, days=lately, columns=["day", "matured"]).to_pylist() if lately else []
    return max((row["day"] for row in rows if row["matured"]), default=None)


def _model(serving: Serving | None, pending: Mapping[str, int]) -> LoopClock:
    waits = ", ".join(f"{count} {kind}" for kind, count in pending.items())
    asked = f"; triggers that wait: {waits}" if waits else ""
    if serving is None:
        return LoopClock("model", None, None, f"there is no champion yet{asked}")
    learned = serving.learned_through
    through = f", learned from labels through {format_moment(learned)}" if learned else ""
    return LoopClock("model", serving.since, None, f"v{serving.version}{through}{asked}")


def as_json(found: LoopHealth) -> dict[str, Any]:
    """For machines: times ISO 8601, UTC, durations in seconds."""
    ranked, cost = found.ranking, found.cost

    def seconds(span: timedelta | None) -> float | None:
        return None if span is None else span.total_seconds()

    return {
        "pipeline": found.pipeline,
        "at": found.at.isoformat(),
        "healthy": found.healthy,
        "late": list(ranked.late),
        "oldest": ranked.oldest,
        "slowest": ranked.slowest,
        "clocks": {
            one.name: {
                "at": one.at.isoformat() if one.at else None,
                "behind_seconds": seconds(one.behind(found.at)),
                "normal_seconds": seconds(one.normal),
                "late": one.name in ranked.late,
                "said": one.said,
            }
            for one in found.clocks
        },
        "files_waiting": found.files_waiting,
        "unlistable": list(found.unlistable),
        "unscored": found.unscored,
        "champion": found.champion
        and {
            "version": found.champion.version,
            "since": found.champion.since.isoformat(),
            "learned_through": found.champion.learned_through and found.champion.learned_through.isoformat(),
        },
        "triggers_pending": dict(found.pending),
        "retrain_in_flight": found.in_flight,
        "incidents": [one.to_json() for one in found.incidents],
        "untold": dict(found.untold),
        "slos": [
            {"name": one.name, "objective": one.objective, "good": one.good, "total": one.total,
             "budget_left": one.budget_left, "burn": dict(one.burn), "alert": one.alert,
             "sentence": one.sentence}
            for one in found.slos
        ],
        "cost": cost
        and {"since": cost.since.isoformat(), "seconds": dict(cost.seconds), "runs": dict(cost.runs),
             "retrains": dict(cost.retrains)},
    }  # fmt: skip


def render(found: LoopHealth) -> str:
    """The health as text: a line a clock, then objectives and what the runs took. Pure."""
    ranked = found.ranking
    late = f"late: {', '.join(ranked.late)}" if ranked.late else "no clock is late"
    bad = Counter(one.severity for one in found.incidents)
    open_ones = ", ".join(f"{bad[one]} {one}" for one in ("critical", "warning", "info") if bad[one])
    incidents = f"; open incidents: {open_ones}" if open_ones else ""
    head = f"{found.pipeline} at {format_moment(found.at)}: {late}{incidents}"
    lines = [head, f"  {'clock':<18}  {'has come to':<16}  {'behind':>8}  {'normal':>8}"]
    for one in found.clocks:
        behind = one.behind(found.at)
        at = f"{one.at.astimezone(UTC):%Y-%m-%d %H:%M}" if one.at else "–"
        lines.append(
            f"  {one.name:<18}  {at:<16}  {spelled(behind):>8}  {spelled(one.normal):>8}  "
            f"{_marked(one, ranked)}".rstrip()
        )
    lines += [f"  {problem}" for problem in found.unlistable]
    if found.incidents:
        told = [f"  {one.id}  {one.severity}, {one.triage}: {one.title}" for one in found.incidents]
        lines += ["", "incidents", *told]
    lines += [f"  {sink} did not get a message: {why.splitlines()[0]}" for sink, why in found.untold.items()]
    if found.slos:
        lines += ["", "objectives", *(f"  {one.sentence}" for one in found.slos)]
    if found.cost is not None:
        lines += ["", _cost_line(found.cost)]
    return "\n".join(lines)


def spelled(span: timedelta | None) -> str:
    """A duration in its two largest units: `3d 4h`, `5h 10m`, `12m`, `40s`; a dash for None."""
    if span is None:
        return "–"
    seconds = int(span.total_seconds())
    for size, unit, below, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 60, "")):
        if seconds >= size:
            rest = seconds % size // below
            return f"{seconds // size}{unit}" + (f" {rest}{smaller}" if rest and smaller else "")
    return f"{seconds}s"


def _marked(one: LoopClock, ranked: Ranking) -> str:
    marks = [
        word
        for word, is_it in (
            ("late", one.name in ranked.late),
            ("oldest", one.name == ranked.oldest),
            ("slowest", one.name == ranked.slowest),
        )
        if is_it
    ]
    return "; ".join(said for said in (", ".join(marks), one.said) if said)


def _cost_line(cost: Cost) -> str:
    since = f"runs that ended since {format_moment(cost.since)} (the machine's clock)"
    if not cost.runs:
        return f"{since}: none"
    jobs = sorted(cost.seconds, key=lambda job: -cost.seconds[job])
    of_jobs = ", ".join(f"{job} {cost.seconds[job]:,.0f} s in {cost.runs[job]}" for job in jobs)
    each = f"; a retrain {cost.seconds['retrain'] / cost.runs['retrain']:,.0f} s" if "retrain" in jobs else ""
    return f"{since}: {cost.total:,.0f} s: {of_jobs}{each}"
