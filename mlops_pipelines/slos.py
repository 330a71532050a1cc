"""Objectives of a pipeline: the share of a window's events that has to be good, and how fast the rest goes.

The *error budget* is what may be bad: `1 - objective` of the window's events. The *burn rate* of some days is
their share of bad events in units of it: at 1 the budget lasts just as long as the window, at 28 a window of
28 days is spent in one. Alerts are those of the SRE workbook (multiwindow, multi-burn-rate), for facts that
come by the day:

- An alert looks at a long span, in which half of the budget went at the rate of that span, and at a short one
  at its end, which says that it goes on: so an alert ends soon after what raised it has. `critical` is 3 days
  and the last one of them, `warning` 7 days and the last 3.
- A burn rate of few events is chance: with an objective of 0.999, one bad event in ten burns a hundred times
  too fast. So the bad events of the long span also have to be more than the objective lets expect, by a
  one-sided binomial test: as many come in one case in a hundred (`critical`) or in twenty (`warning`), if the
  true share is just the objective's. Events of one day share their fate, so the test alone would be too sure;
  of many events it is the burn rate that decides.
- A span is of days that have events: a Sunday without any neither spends nor earns, nor ends an alert.
- An objective so low that not even bad events alone burn fast enough alerts when all of a span are bad.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal

from mlops_pipelines.clock import midnight
from mlops_pipelines.monitoring.feature_health import TABLE as FEATURES
from mlops_pipelines.monitoring.feature_health import WHOLE_VIEW
from mlops_pipelines.monitoring.reports import PERFORMANCE, main_rows
from mlops_pipelines.retraining import matured_through

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.lake import Lake

Alert = Literal["warning", "critical"]
Objective = Literal["freshness", "availability", "label_maturity", "quality"]

DAY = timedelta(days=1)
# The share of a budget that an alert's long span would spend.
SPENT = 0.5
# Two counts that are as good as equal: of shares that floating point cannot tell apart.
_ALMOST = 1e-9


@dataclass(frozen=True)
class Rule:
    """When an alert is raised. long, short: spans in days. chance: how often it alone may do so."""

    alert: Alert
    long: int
    short: int
    chance: float


# The gravest first.
RULES = (Rule("critical", 3, 1, 0.01), Rule("warning", 7, 3, 0.05))
SPANS = (1, 3, 7)


@dataclass(frozen=True)
class SloDay:
    """A day's part of an objective: how many of its events were good. Of `quality` the day itself is the one.

    day: YYYY-MM-DD, UTC. Raises ValueError for what is no count of some out of others, NaN included.
    """

    day: str
    good: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.good <= self.total or self.total == math.inf:
            raise ValueError(f"{self.good} good events of {self.total} on {self.day} are no counts.")

    @property
    def bad(self) -> int:
        return self.total - self.good


@dataclass(frozen=True)
class SloStanding:
    """Where a pipeline stands on an objective, over the days of the window that have events.

    budget_left: 1 when nothing was bad, 0 when all of the budget is spent, below that when more is; None
    without events. burn: burn rate by span (`1d`, `3d`, `7d`), of its last days with events. last_day: the
    last of these, YYYY-MM-DD.
    """

    name: Objective
    objective: float
    good: int
    total: int
    budget_left: float | None
    burn: Mapping[str, float]
    alert: Alert | None
    sentence: str
    last_day: str | None = None


def standing(
    name: Objective, objective: float, window: timedelta, days: Iterable[SloDay], good_are: str
) -> SloStanding:
    """Where a pipeline stands. Pure.

    objective: above 0 and below 1. days: of the window, in any order, each once. good_are: what the good ones
    are, for the sentence.
    """
    counted = sorted((one for one in days if one.total), key=lambda one: one.day)
    good, total = sum(one.good for one in counted), sum(one.total for one in counted)
    if not counted:
        return SloStanding(name, objective, 0, 0, None, {}, None, f"{name}: nothing was counted yet.")
    alert = _alert(objective, window, counted)
    burn = {f"{span}d": burn_rate(objective, counted[-span:]) for span in SPANS}
    left = budget_left(objective, counted)
    sentence = (
        f"{name}: {_percent(good / total)} of {total:,} {good_are}, {counted[0].day} to {counted[-1].day}; "
        f"{100 * objective:g}% are due, {_left(left)}{_worst(counted)}{_burning(alert, burn)}."
    )
    return SloStanding(name, objective, good, total, left, burn, alert, sentence, counted[-1].day)


def budget_left(objective: float, days: Iterable[SloDay]) -> float:
    """The share of the error budget that is left. days: at least one event. Pure."""
    return 1.0 - burn_rate(objective, days)


def burn_rate(objective: float, days: Iterable[SloDay]) -> float:
    """How many times too fast the budget is spent. days: at least one event. Pure."""
    counted = list(days)
    return sum(one.bad for one in counted) / ((1.0 - objective) * sum(one.total for one in counted))


def factor(rule: Rule, window: timedelta) -> float:
    """The burn rate at which a rule's long span spends half of the budget of a window. Pure."""
    return SPENT * (window / DAY) / rule.long


def _alert(objective: float, window: timedelta, days: Sequence[SloDay]) -> Alert | None:
    """The gravest alert that is raised. days: with events, oldest first."""
    for rule in RULES:
        bound = min(factor(rule, window) * (1.0 - objective), 1.0)
        spans = (days[-rule.long :], days[-rule.short :])
        if all(_share_reaches(bound, span) for span in spans) and _beyond_chance(objective, spans[0], rule):
            return rule.alert
    return None


def _share_reaches(bound: float, days: Sequence[SloDay]) -> bool:
    total = sum(one.total for one in days)
    return sum(one.bad for one in days) >= (bound - _ALMOST) * total


def _beyond_chance(objective: float, days: Sequence[SloDay], rule: Rule) -> bool:
    """Whether so many bad events are rarer than `rule.chance`, if their true share is the allowed one."""
    from scipy.special import bdtrc

    bad, total = sum(one.bad for one in days), sum(one.total for one in days)
    # The probability of more than `bad - 1`.
    return bad > 0 and float(bdtrc(bad - 1, total, 1.0 - objective)) <= rule.chance


def _percent(share: float) -> str:
    """Rounded down: 100 % are all of them."""
    return f"{math.floor(1e4 * share + 1e-7) / 100:g}%"


def _left(left: float) -> str:
    if left >= 0:
        return f"{math.floor(100 * left + 1e-7)}% of the error budget is left"
    return f"the error budget is spent {1 - left:.1f} times"


def _worst(days: Sequence[SloDay]) -> str:
    """The days that spent most of it, three at most."""
    worst = sorted((one for one in days if one.bad), key=lambda one: (-one.bad, one.day))[:3]
    return f" (most of it on {', '.join(sorted(one.day for one in worst))})" if worst else ""


def _burning(alert: Alert | None, burn: Mapping[str, float]) -> str:
    rule = next((one for one in RULES if one.alert == alert), None)
    if rule is None:
        return ""
    return f"; {alert}: the last {rule.long} days spent it {burn[f'{rule.long}d']:.1f} times too fast"


# What a day is worth


def fresh_decisions(
    day: str, views: Iterable[Mapping[str, Any]], sources: Mapping[str, str]
) -> SloDay | None:
    """Decisions of a day that found every view fresh; None where a figure is missing, or there is no view.

    views: rows of the feature report about whole views that can be stale, with view, rows and stale. sources:
    the table that each view is of. Pure. The report has the share of each view by itself. Views of one table
    age together: of these the stalest counts. Those of different tables need not, so they are added up: no
    decision counts as good that was not.
    """
    bad: defaultdict[str, float] = defaultdict(float)
    decisions = 0
    for row in views:
        stale, rows = row["stale"], row["rows"]
        if stale is None or not 0.0 <= stale <= 1.0 or rows is None:
            return None
        source = sources.get(row["view"], row["view"])
        bad[source] = max(bad[source], stale * rows)
        decisions = max(decisions, rows)
    if not bad:
        return None
    return SloDay(day, decisions - min(decisions, math.ceil(sum(bad.values()) - 1e-6)), decisions)


def good_day(row: Mapping[str, Any], metric: str, floor: float) -> SloDay | None:
    """Whether a matured day of the performance report had the skill that is asked for; None where it has no
    such figure. Pure."""
    value = row.get(metric)
    if not row["matured"] or value is None or not math.isfinite(value):
        return None
    return SloDay(row["day"], int(value >= floor), 1)


@dataclass(frozen=True)
class LabelDay:
    """The labels of a matured day's events. in_time: known within `matures_after`; late: known later."""

    day: str
    events: int
    in_time: int
    late: int

    @property
    def missing(self) -> int:
        return self.events - self.in_time - self.late


# What a home has


def standings(place: PipelineHome, now: datetime) -> list[SloStanding]:
    """Where a pipeline stands on each objective that it declares, at a moment (the home's clock, UTC)."""
    slos = place.spec.slos
    if slos is None:
        return []
    floor = f"at or above {slos.quality.floor:g} in {slos.quality.metric}" if slos.quality else ""
    good_are: Mapping[Objective, str] = {
        "freshness": "decisions found every view fresh",
        "availability": "events got a prediction",
        "label_maturity": "events had their label in time",
        "quality": f"matured days were {floor}",
    }
    return [
        standing(name, getattr(slos, name).objective, slos.window, days, good_are[name])
        for name, days in slo_days(place, now).items()
    ]


def slo_days(place: PipelineHome, now: datetime) -> dict[Objective, list[SloDay]]:
    """The window's days of each objective that a pipeline declares; only these are read.

    The window ends with the last closed day, of labels and quality with the last matured one. now: UTC.
    """
    slos = place.spec.slos
    if slos is None:
        return {}
    closed = _window(now.astimezone(UTC).date() - DAY, slos.window)
    matured = _window(matured_through(place, now), slos.window)
    found: dict[Objective, list[SloDay]] = {}
    if slos.freshness:
        found["freshness"] = _freshness(place, *closed)
    if slos.availability:
        found["availability"] = scored_days(place, *closed)
    if slos.label_maturity:
        found["label_maturity"] = [
            SloDay(one.day, one.in_time, one.events) for one in label_days(place, *matured)
        ]
    if slos.quality:
        found["quality"] = _quality(place, slos.quality.metric, slos.quality.floor, *matured)
    return found


def label_days(place: PipelineHome, first: date, last: date) -> list[LabelDay]:
    """The labels of the days with events from one to another, both included, which have matured.

    A day is read once a process, and again when its events or labels are others.
    """
    lake = place.lake
    versions = {name: version for name in ("events", "labels") if (version := lake.version(name)) is not None}
    return [
        _label_day(
            _Stored(
                day,
                tuple(
                    file
                    for name, version in versions.items()
                    for file in lake.files(name, days=[day], version=version)
                ),
                place.spec.labels.matures_after,
                lake,
                versions,
            )
        )
        for day in _days(lake, "events", first, last)
    ]


def served_days(place: PipelineHome, first: date, last: date) -> list[str]:
    """Days with events from one to another, both included, that began after there was a champion."""
    ledger = place.ledger
    if ledger.champion(place.name, at=midnight(first) - DAY) is None:
        # All that there are, then, are of the days that are looked at, or of the one before.
        promotions = ledger.promotions(place.name)
        if not promotions:
            return []
        first = promotions[0].at.astimezone(UTC).date() + DAY
    return _days(place.lake, "events", first, last)


def scored_days(place: PipelineHome, first: date, last: date) -> list[SloDay]:
    """Events that have a prediction, of the days from one to another which should have some."""
    events, scored = (place.lake.row_counts(name) for name in ("events", "predictions"))
    return [
        SloDay(day, min(scored.get(day, 0), events[day]), events[day])
        for day in served_days(place, first, last)
    ]


def _freshness(place: PipelineHome, first: date, last: date) -> list[SloDay]:
    days = _days(place.lake, FEATURES, first, last)
    if not days:
        return []
    rows = place.lake.read(
        FEATURES, days=days, columns=["day", "view", "feature", "rows", "stale"]
    ).to_pylist()
    views = {view.name: view for view in place.features.views}
    by_day: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        # Of a view that is not declared any more, no figure says that it never was too old.
        static = views[row["view"]].static if row["view"] in views else row["stale"] is None
        if row["feature"] == WHOLE_VIEW and not static:
            by_day[row["day"]].append(row)
    sources = {name: f"{view.pipeline or ''}:{view.source}" for name, view in views.items()}
    counted = (fresh_decisions(day, by_day[day], sources) for day in days)
    return [one for one in counted if one is not None]


def _quality(place: PipelineHome, metric: str, floor: float, first: date, last: date) -> list[SloDay]:
    days = _days(place.lake, PERFORMANCE, first, last)
    if not days:
        return []
    columns = ["day", "labelled", "matured", metric]
    rows = main_rows(place.lake.read(PERFORMANCE, days=days, columns=columns).to_pylist())
    return [day for row in rows if (day := good_day(row, metric, floor)) is not None]


@dataclass(frozen=True)
class _Stored:
    """A day as it is stored: the same where its files are, whatever the versions of the tables."""

    day: str
    files: tuple[str, ...]
    after: timedelta
    lake: Lake = field(compare=False)
    versions: Mapping[str, int] = field(compare=False)


@lru_cache(maxsize=1024)
def _label_day(of: _Stored) -> LabelDay:
    import pyarrow as pa
    import pyarrow.compute as pc

    read = partial(of.lake.read, days=[of.day])
    events = read("events", columns=["event_id", "event_time"], version=of.versions["events"])
    if "labels" not in of.versions:
        return LabelDay(of.day, events.num_rows, 0, 0)
    labels = read("labels", columns=["event_id", "known_at"], version=of.versions["labels"])
    first = labels.group_by("event_id").aggregate([("known_at", "min")])
    joined = events.join(first, "event_id", join_type="inner")
    due = pc.add(joined["event_time"], pa.scalar(of.after, pa.duration("us")))
    in_time = pc.sum(pc.less_equal(joined["known_at_min"], due), min_count=0).as_py()
    return LabelDay(of.day, events.num_rows, in_time, joined.num_rows - in_time)


def _window(last: date, window: timedelta) -> tuple[date, date]:
    return last - window + DAY, last


def _days(lake: Lake, table: str, first: date, last: date) -> list[str]:
    return [day for day in lake.days(table) if first.isoformat() <= day <= last.isoformat()]
