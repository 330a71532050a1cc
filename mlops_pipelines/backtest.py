"""What policies would have done on history: real decisions, training, gates and label delays, for each the
same.

Days go by one at a time. At each midnight (UTC) a policy sees what was known by then, and its retrain, if one
is admitted, has ended before the next event. All begin with the same model, trained on the first day. People
are not asked, and nobody watches a new champion: it stays until the next one.
"""

from __future__ import annotations

import json
import tempfile
import time
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_pipelines import triggering
from mlops_pipelines.clock import midnight
from mlops_pipelines.errors import UserError
from mlops_pipelines.features.coding import microseconds
from mlops_pipelines.gates import judge
from mlops_pipelines.metrics import REPLICATES, estimate, resampled_days
from mlops_pipelines.monitoring.performance import PREQUENTIAL
from mlops_pipelines.monitoring.reports import drift_bands
from mlops_pipelines.outcomes import LOGGED_IN, from_log, logged
from mlops_pipelines.provenance import lock_hash
from mlops_pipelines.retraining import learn, matured_rows, matured_through, measure, training_rows
from mlops_pipelines.scored import Scored
from mlops_pipelines.spec import Breaker, Budget, Policy, ScheduleTrigger, Triggers
from mlops_pipelines.spec_loading import hash_of, load_policy
from mlops_pipelines.trainers import source_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.evaluation_report import EvaluationReport
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ledger import Ledger, Retrain
    from mlops_pipelines.metrics import Estimate
    from mlops_pipelines.monitoring.concept import JudgedDay
    from mlops_pipelines.monitoring.drift import Level
    from mlops_pipelines.monitoring.performance import DaySums
    from mlops_pipelines.monitoring.reference import Reference
    from mlops_pipelines.spec import (
        ConceptDriftTrigger,
        DriftTrigger,
        Kind,
        PerformanceTrigger,
        PipelineSpec,
        PredictionDriftTrigger,
    )
    from mlops_pipelines.training import Candidate, TrainedModel
    from mlops_pipelines.triggering import Reason

    Floats = NDArray[np.float64]

FOLDER = "backtests"
NEVER, DEFAULT = "never", "default"
CALENDARS = {"weekly": timedelta(days=7), "fortnightly": timedelta(days=14), "monthly": timedelta(days=30)}
OF_ONE_TRIGGER = ("labels", "drift")
# Triggers that ask for retrains after the first.
ASKING = ("labels", "performance", "concept_drift", "drift", "prediction_drift", "schedule")
# What they rest on is not measured again by a backtest.
NOT_TRIED = ("staleness", "contract_change")
NAMES = (NEVER, *CALENDARS, *OF_ONE_TRIGGER, DEFAULT)

DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# What is kept of a retrain is made anew when what makes it changes.
LOGIC = 1
SEED = 17
PROMOTED = "promoted"
# What a week's loss is of.
LOSS: Mapping[Kind, str] = {"binary": "log_loss", "number": "mse", "category": "log_loss"}
# So that a calendar is kept by nothing but the calendar.
_UNBOUNDED = 10**6


@dataclass(frozen=True)
class Tried:
    """A policy to be tried: what asks for a retrain, and what holds one back."""

    name: str
    triggers: Triggers
    policy: Policy


@dataclass(frozen=True)
class Retrained:
    """A retrain of a backtest. at: UTC. outcome: `promoted`, or `rejected` with the gates that stopped it."""

    at: datetime
    kinds: tuple[str, ...]
    model_hash: str
    outcome: str
    seconds: float


@dataclass(frozen=True)
class Tested:
    """What became of a policy.

    all_retrains: oldest first. figures: of scores given before their
    label was known, over all days, with 95 % intervals from a bootstrap of whole days. differences: of the
    same, minus those of the first policy, on the same rows and draws. loss: by the first day of each week,
    of the figure that is a loss. seconds: of its own training and judging, also where they were kept from
    before. age: of the champion's last training row when it scored, mean over the rows.
    """

    tried: Tried
    all_retrains: tuple[Retrained, ...]
    figures: Mapping[str, Estimate | None]
    differences: Mapping[str, Estimate | None]
    loss: Mapping[str, float]
    seconds: float
    age: timedelta

    @property
    def retrains(self) -> tuple[Retrained, ...]:
        """Without what led to the first champion, which all policies have in common."""
        first = next(n for n, one in enumerate(self.all_retrains) if one.outcome == PROMOTED)
        return self.all_retrains[first + 1 :]

    @property
    def promoted(self) -> int:
        """How many of `retrains` were."""
        return sum(one.outcome == PROMOTED for one in self.retrains)


@dataclass(frozen=True)
class Backtest:
    """Policies over the same days, first to last. rows: scored and compared, of `days` days."""

    first: date
    last: date
    rows: int
    days: int
    policies: tuple[Tested, ...]


def policy_of(given: str, spec: PipelineSpec) -> Tried:
    """A policy of `NAMES`, or of a YAML file, which is called as the file is.

    Raises UserError for what is neither, a file with problems, or a trigger the pipeline does not declare.
    """
    path = Path(given)
    if given not in NAMES and path.is_file():
        declared = load_policy(path, spec)
        return Tried(path.stem, declared.triggers, declared.policy.model_copy(update={"mode": "act"}))
    return _named(given, spec)


def _named(name: str, spec: PipelineSpec) -> Tried:
    if name in CALENDARS:
        schedule = ScheduleTrigger(every=CALENDARS[name])
        unbounded = Policy(
            cooldown=timedelta(0),
            budget=Budget(retrains=_UNBOUNDED, per=DAY),
            breaker=Breaker(after=_UNBOUNDED),
        )
        return Tried(name, Triggers(schedule=schedule), unbounded)
    acting = spec.policy.model_copy(update={"mode": "act"})
    if name == NEVER:
        return Tried(name, Triggers(), acting)
    if name == DEFAULT:
        return Tried(name, spec.triggers, acting)
    if name in OF_ONE_TRIGGER:
        if (trigger := getattr(spec.triggers, name)) is None:
            raise UserError(
                f"{spec.name} declares no triggers.{name}, which the policy {name} consists of.",
                expected="a policy of what is declared, or a file",
                remedy="--policy FILE, with `triggers` and `policy` as in a pipeline's YAML",
            )
        return Tried(name, Triggers.model_validate({name: trigger}), acting)
    raise UserError(
        f"There is no policy {name!r}, and no such file.",
        expected=f"one of {', '.join(NAMES)}, or a YAML file with `triggers` and `policy`",
    )


def backtest(
    place: PipelineHome,
    tried: Sequence[Tried],
    first: date,
    last: date,
    *,
    told: Callable[[str], None] = lambda what: None,
) -> Backtest:
    """What each policy would have done from `first` to `last` (UTC days, both included).

    told: is called with each retrain, and with triggers that ask for nothing here. What a retrain makes is
    kept in the pipeline's folder of the home, by what it is made of: another policy, or another run, costs
    only what was never made.
    Raises UserError where the home does not have the days, or no candidate ever passes its gates.
    """
    import pyarrow.compute as pc

    for one in tried:
        for name in NOT_TRIED:
            if getattr(one.triggers, name) is not None:
                told(f"{one.name}  triggers.{name} asks for nothing in a backtest")
        if one.policy.quiet_hours is not None:
            told(f"{one.name}  policy.quiet_hours holds nothing in a backtest, whose steps are days")
    past = _Past(place, first, last)
    courses = [_Course(past, one, told) for one in tried]
    for course in courses:
        course.run()
    outcomes = past.outcomes.filter(pc.greater_equal(past.outcomes["row"], max(c.first_row for c in courses)))
    if outcomes.num_rows == 0:
        raise UserError(f"No event from {first} to {last} was scored before its label was known.")
    scored = [course.scored(outcomes) for course in courses]
    return Backtest(
        first,
        last,
        outcomes.num_rows,
        len(scored[0].days),
        tuple(
            Tested(
                course.tried,
                tuple(course.retrains),
                own,
                differing,
                _by_week(one, past.kind),
                sum(retrain.seconds for retrain in course.retrains),
                course.mean_age(outcomes),
            )
            for course, one, (own, differing) in zip(
                courses, scored, _figures(past.kind, scored), strict=True
            )
        ),
    )


@dataclass(frozen=True)
class _Made:
    """A candidate, made or kept from before. key: names all that it was made of. seconds: of making it."""

    key: str
    at: datetime
    refit: TrainedModel
    twin: TrainedModel
    reference: str
    rows: int
    seconds: float


@dataclass(frozen=True)
class _Champion:
    """A candidate that serves, from the row of `_Past.rows` at `start` on."""

    made: _Made
    report: EvaluationReport
    since: datetime
    start: int

    @cached_property
    def reference(self) -> Reference:
        """What drift is measured from."""
        from mlops_pipelines.monitoring.reference import Reference

        return Reference.from_json(self.made.reference)


class _Past:
    """What a home has of the days, and what retrains on them make: the same for all policies."""

    def __init__(self, place: PipelineHome, first: date, last: date):
        if last < first:
            raise UserError(f"The days end on {last}, before they begin on {first}.")
        self.place = place
        self.midnights = [midnight((first + n * DAY).isoformat()) for n in range((last - first) // DAY + 1)]
        self.days = [day.date().isoformat() for day in self.midnights]
        self.end = self.midnights[-1] + DAY
        self.kind = place.spec.labels.kind
        self._check(first, last)
        self._folder = place.path / FOLDER
        table = place.features.examples
        self._versions = {
            name: v for name in ("labels", table) if (v := place.lake.version(name)) is not None
        }
        examples = place.lake.read(table, days=self.days, version=self._versions[table])
        # By decision time: who serves from a moment on scores all rows from some place on.
        self.rows = examples.drop_columns(["made_of"]).sort_by(
            [("decision_time", "ascending"), ("event_id", "ascending")]
        )
        self._decided = self.rows["decision_time"].to_pylist()
        before = first - place.spec.labels.matures_after - 2 * DAY
        wanted = [day for day in place.lake.days("labels") if before.isoformat() <= day <= self.days[-1]]
        columns = ["day", "event_id", "label", "label_time", "known_at"]
        self.labels = place.lake.read(
            "labels", columns=columns, days=wanted, version=self._versions["labels"]
        )

    def _check(self, first: date, last: date) -> None:
        """Raises UserError unless the home has the days, and enough before them for a first model."""
        place = self.place
        table, lake = place.features.examples, place.lake
        held = lake.days(table) if lake.exists(table) and lake.exists("labels") else []
        known = matured_through(place, place.clock.now())
        if not held or not (held[0] < first.isoformat() and last <= known):
            have = f"{held[0]} to {known}" if held else "no day"
            until = last + place.spec.labels.matures_after + DAY
            to_come = not held or last > known
            raise UserError(
                f"The home has vectors and matured labels of {have}, and {first} to {last} are asked for.",
                expected=f"--from later than {held[0]} and --to by {known}" if held else "a home with days",
                remedy=f"mlops replay {place.name} --until {until}, if its source goes so far"
                if to_come
                else None,
            )

    def place_of(self, moment: datetime) -> int:
        """The first row decided after a moment (UTC): what becomes champion then serves from there on."""
        return bisect_right(self._decided, moment)

    def of_days(self, days: Sequence[str]) -> pa.Table:
        """The rows of some event days."""
        return self.rows.filter(_in(self.rows["day"], days))

    def labels_known(self, after: date, now: datetime) -> int:
        """Labels of days that matured by `now`, later than `after`."""
        import pyarrow.compute as pc

        found = self.labels.filter(
            (pc.field("day") > after.isoformat())
            & (pc.field("day") <= matured_through(self.place, now).isoformat())
            & (pc.field("known_at") <= now)
        )
        return int(found.num_rows)

    def learned(self, now: datetime) -> _Made:
        """The candidate that a retrain at a moment makes."""
        place, training = self.place, self.place.spec.training
        made_of = [
            LOGIC,
            self._versions,
            now,
            training,
            place.features.version,
            lock_hash(),
            place.spec.labels,
            source_hash(training.trainer) if training.trainer else None,
        ]
        key = hash_of(made_of)

        def make() -> dict[str, Any]:
            begun = time.monotonic()
            learned = learn(self._training_rows(now), place.features.columns, training)
            return {
                "refit": learned.candidate.refit.to_files(),
                "twin": learned.candidate.twin.to_files(),
                "reference": learned.reference.to_json(),
                "rows": learned.candidate.refit.rows,
                "seconds": time.monotonic() - begun,
            }

        from mlops_pipelines.training import TrainedModel

        kept = self._kept(f"model-{key}", make)
        refit, twin = (TrainedModel.from_files(kept[name]) for name in ("refit", "twin"))
        return _Made(key, now, refit, twin, kept["reference"], kept["rows"], kept["seconds"])

    def judged(self, made: _Made, champion: _Champion | None) -> tuple[EvaluationReport, float]:
        """The candidate's evaluation beside the champion, and the seconds it took."""
        from mlops_pipelines.evaluation_report import EvaluationReport, TrainedOn
        from mlops_pipelines.training import Incumbent, candidate_of

        place = self.place
        judged_by = [place.spec.gates, place.spec.decision, place.spec.training.seed, place.contract.events]
        judged_by.append(place.lake.version("events"))
        key = hash_of([made.key, champion.made.key if champion else None, judged_by])

        def make() -> dict[str, Any]:
            begun = time.monotonic()
            rows = self._training_rows(made.at)
            candidate: Candidate = candidate_of(made.refit, made.twin, rows, place.spec.training)
            events = place.lake.row_counts("events")
            span = [n for day, n in events.items() if made.refit.first_day <= day <= made.refit.last_day]
            data = TrainedOn(
                version=made.key,
                fault=None,
                matured_through=matured_through(place, made.at).isoformat(),
                last_day=made.refit.last_day,
                labelled=rows.num_rows / sum(span),
            )
            stands = None
            if champion:
                known = champion.made
                stands = Incumbent(known.refit, known.twin, known.key[:12])
            report = measure(place, candidate, stands, data)
            return {"report": report.to_json(), "seconds": time.monotonic() - begun}

        kept = self._kept(f"report-{key}", make)
        return EvaluationReport.from_json(kept["report"]), kept["seconds"]

    def _training_rows(self, now: datetime) -> pa.Table:
        return training_rows(self.place, now, self._versions).drop_columns(["label_known_at"])

    def _kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was made before under this name, or is now."""
        path = self._folder / f"{name}.json"
        if not path.is_file():
            made = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=path.parent, prefix=".", delete=False
            ) as file:
                json.dump(made, file)
            Path(file.name).replace(path)
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept

    @cached_property
    def outcomes(self) -> pa.Table:
        """Rows whose label was known after they were scored: `row` in `rows`, day, decision_time, label."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        from mlops_pipelines.monitoring.performance import scored_labels

        numbered = self.rows.select(["day", "event_id", "decision_time"]).append_column(
            "row", pa.array(np.arange(self.rows.num_rows))
        )
        found = scored_labels(numbered, self.labels, self.place.clock.now())
        later = pc.greater(found["label_known_at"], found["decision_time"])
        return found.filter(later).select(["row", "day", "decision_time", "label"])


class _Course:
    """One policy's course through the days."""

    def __init__(self, past: _Past, tried: Tried, told: Callable[[str], None]):
        self.tried = tried
        self.retrains: list[Retrained] = []
        self._past = past
        self._told = told
        self._champions: list[_Champion] = []
        # What each champion said, as a log has it, of the rows from its start on.
        self._logs: list[list[pa.Table]] = []
        # Of the last champion: the drift of days from what it knows, that of its scores, and the sums of its
        # matured days.
        self._drifts: list[tuple[str, Level, float]] = []
        self._sums: dict[str, DaySums] = {}
        self._judged: dict[str, JudgedDay] = {}

    @property
    def _name(self) -> str:
        return self._past.place.name

    @property
    def _champion(self) -> _Champion | None:
        return self._champions[-1] if self._champions else None

    def run(self) -> None:
        """Raises UserError where no candidate ever passes its gates."""
        from sqlalchemy import URL

        from mlops_pipelines.ledger import Ledger
        from mlops_pipelines.signing import Keys

        with tempfile.TemporaryDirectory() as folder:
            url = URL.create("sqlite", database=f"{folder}/ledger.db")
            ledger = Ledger(url, keys=Keys(Path(folder) / "keys"))
            for now in self._past.midnights:
                self._at(ledger, now)
            ledger.close()
        if self._champion is None:
            tried = f"{len(self.retrains)} retrained and none" if self.retrains else "nothing was retrained:"
            why = " passed its gates" if self.retrains else " labels were too few, or the policy held it back"
            raise UserError(
                f"With the policy {self.tried.name} {tried}{why}.",
                expected="a first champion, which scores",
                remedy="a later --to, by which labels are enough for a first model",
            )
        self._score_until(self._past.end)

    def _at(self, ledger: Ledger, now: datetime) -> None:
        """What a policy does at a midnight."""
        free = triggering.free_keys(ledger, self._name, self._kinds())
        # Looked at on every day, whether or not one may ask: what drifted is measured by it.
        triggering.append_due(ledger, self._name, free, self._reasons(ledger, [*free.keys], now), now)
        if not ledger.has_pending(self._name):
            return
        got = ledger.admit(
            self._name,
            now=now,
            policy=self.tried.policy.model_copy(update={"quiet_hours": None}),
            run_id=now.isoformat(),
            data_mark=matured_through(self._past.place, now).isoformat(),
        )
        from mlops_pipelines.ledger import Admitted

        if isinstance(got, Admitted):
            self._retrain(ledger, got.retrain, now)

    def _kinds(self) -> Iterator[str]:
        if self._champion is None:
            yield "bootstrap"
        declared = self.tried.triggers
        yield from (kind for kind in ASKING if getattr(declared, kind))

    def _reasons(self, ledger: Ledger, kinds: Sequence[str], now: datetime) -> Iterator[Reason]:
        past, declared = self._past, self.tried.triggers
        champion, last = self._champion, ledger.last_candidate(self._name)
        if "bootstrap" in kinds:
            rows = matured_rows(past.place, now)
            yield triggering.bootstrap_reason(rows, past.place.spec.training.min_rows)
        if champion and (declared.drift or declared.prediction_drift):
            # Every day is measured, whether or not it may ask.
            self._measure_drift(drift_bands(declared), champion, now)
        if last is None or champion is None:
            return
        if "labels" in kinds and declared.labels:
            new = past.labels_known(matured_through(past.place, last.watermark), now)
            yield triggering.labels_reason(declared.labels, last, new)
        if "schedule" in kinds and declared.schedule:
            yield triggering.schedule_reason(declared.schedule, last, now)
        since = max(champion.since, last.watermark)
        if "performance" in kinds and declared.performance:
            yield self._performance(declared.performance, champion, since, now)
        if "concept_drift" in kinds and declared.concept_drift:
            yield self._concept_drift(declared.concept_drift, champion, since, now)
        if "drift" in kinds and declared.drift:
            yield self._drift(declared.drift, since)
        if "prediction_drift" in kinds and declared.prediction_drift:
            yield self._prediction_drift(declared.prediction_drift, since)

    def _performance(
        self, trigger: PerformanceTrigger, champion: _Champion, since: datetime, now: datetime
    ) -> Reason:
        from mlops_pipelines.monitoring.performance import quality_drop

        first = max(since, now - trigger.over - self._past.place.spec.labels.matures_after)
        sums = self._sums_since(champion, first.date().isoformat(), now)
        on_holdout = champion.report.metrics.get(trigger.metric)
        drop = quality_drop(sums, on_holdout.value, trigger) if on_holdout else None
        if drop is None:
            return triggering.Reason("performance", False, "it stands")
        urgent = trigger.floor is not None and drop.upper < trigger.floor
        return triggering.Reason("performance", True, drop.sentence, urgent=urgent)

    def _concept_drift(
        self, trigger: ConceptDriftTrigger, champion: _Champion, since: datetime, now: datetime
    ) -> Reason:
        from mlops_pipelines.monitoring.concept import detections

        found = detections(
            self._judge(champion, now), champion.made.refit.hash, since.date().isoformat(), trigger.detectors
        )
        told = "; ".join(one.sentence for one in found)
        return triggering.Reason("concept_drift", bool(found), told or "losses are as surprising as before")

    def _drift(self, trigger: DriftTrigger, since: datetime) -> Reason:
        from mlops_pipelines.monitoring.drift import persistent

        levels = [level for day, level, _ in self._drifts if day >= since.date().isoformat()]
        due = persistent(levels[-trigger.persists[1] :], trigger.persists)
        return triggering.Reason("drift", due, "it persists" if due else "it does not persist")

    def _prediction_drift(self, trigger: PredictionDriftTrigger, since: datetime) -> Reason:
        enough, window = trigger.persists
        of_scores = [excess for day, _, excess in self._drifts if day >= since.date().isoformat()]
        due = sum(excess >= trigger.alarm for excess in of_scores[-window:]) >= enough
        return triggering.Reason("prediction_drift", due, "it persists" if due else "it does not persist")

    def _measure_drift(self, trigger: DriftTrigger, champion: _Champion, now: datetime) -> None:
        """The day that is over, against what the champion knows."""
        from mlops_pipelines.monitoring.drift import drift_of

        day = (now - DAY).date().isoformat()
        mine = self._rows_of(champion, [day], now)
        if mine.num_rows:
            score = "predicted" if self._past.kind == "category" else "score"
            report = drift_of(champion.reference, self._past.of_days([day]), trigger, mine[score])
            self._drifts.append((day, report.level, report.score.excess if report.score else 0.0))

    def _sums_since(self, champion: _Champion, first: str, now: datetime) -> list[DaySums]:
        """What each day from `first` on says of the champion, by the labels known now."""
        from mlops_pipelines.monitoring.performance import maturity, performance_by_day, scored_labels

        past = self._past
        days = [day for day in past.days if first <= day < now.date().isoformat()]
        known = {day: self._sums[day] for day in days if day in self._sums}
        unknown = [day for day in days if day not in known]
        mine = self._rows_of(champion, unknown, now)
        matured = maturity(past.of_days(unknown), past.labels, now, past.place.spec.labels.matures_after)
        scored = scored_labels(mine, past.labels, now)
        found = performance_by_day(scored, matured, champion.made.refit.outcome) if matured else []
        sums = known | {one.day: one.sums for one in found if one.performance.rows}
        self._sums = {day: one for day, one in sums.items() if one.matured}
        return [*sums.values()]

    def _judge(self, champion: _Champion, now: datetime) -> list[JudgedDay]:
        """By how much matured losses surprised the scores, by day, those of the champions before included."""
        from mlops_pipelines.monitoring.concept import judged_day
        from mlops_pipelines.monitoring.estimates import outcomes_by_day
        from mlops_pipelines.monitoring.performance import scored_labels

        past = self._past
        first, last = champion.since.date().isoformat(), matured_through(past.place, now).isoformat()
        days = [day for day in past.days if first <= day <= last and day not in self._judged]
        scored = scored_labels(self._rows_of(champion, days, now), past.labels, now)
        for day, outcomes in outcomes_by_day(scored, past.kind).items():
            self._judged[day] = judged_day(day, champion.made.refit.hash, outcomes)
        return [self._judged[day] for day in sorted(self._judged)]

    def _rows_of(self, champion: _Champion, days: Sequence[str], now: datetime) -> pa.Table:
        """The rows of some days that the champion has scored by now, with its scores."""
        import pyarrow as pa

        self._score_until(now)
        log = pa.concat_tables(self._logs[-1])
        rows = self._past.rows.slice(champion.start, log.num_rows)
        rows = rows.select(["day", "event_id", "decision_time"])
        rows = rows.rename_columns(["day", "event_id", "decided_at"])
        for name in log.column_names:
            rows = rows.append_column(name, log[name])
        return rows.filter(_in(rows["day"], days))

    def _score_until(self, moment: datetime) -> None:
        """Let the champion score what is decided by a moment."""
        import pyarrow as pa

        champion = self._champion
        if champion is None:
            return
        log = self._logs[-1]
        done = champion.start + sum(one.num_rows for one in log)
        stop = self._past.place_of(moment)
        if stop > done or not log:
            refit = champion.made.refit
            scores = refit.predict(self._past.rows.slice(done, stop - done))
            log.append(pa.table(logged(refit.outcome, scores)))

    def _retrain(self, ledger: Ledger, retrain: Retrain, now: datetime) -> None:
        """A retrain and its end: promoted, or rejected by its gates."""
        past, champion = self._past, self._champion
        made = past.learned(now)
        version = str(retrain.seq)
        ledger.record_candidate(
            retrain.id,
            retrain.token,
            dataset_version=made.key,
            model_hash=made.refit.hash,
            mlflow_version=version,
            mlflow_run_id=version,
            cutoff=made.refit.cutoff,
            matured_rows=made.rows,
        )
        report, seconds = past.judged(made, champion)
        verdicts = judge(report, past.place.spec.gates)
        ledger.record_verdicts(retrain.id, retrain.token, [vars(one) for one in verdicts], now)
        failed = [one.gate for one in verdicts if one.outcome == "fail"]
        outcome = f"rejected: {', '.join(failed)}" if failed else PROMOTED
        if not failed:
            ledger.promote(
                self._name,
                retrain_id=retrain.id,
                token=retrain.token,
                expected_sequence=len(self._champions),
                model_hash=made.refit.hash,
                mlflow_version=version,
                at=now,
            )
            self._score_until(now)
            self._champions.append(_Champion(made, report, now, past.place_of(now)))
            self._logs.append([])
            self._drifts, self._sums = [], {}
        ledger.finish_retrain(
            retrain.id, retrain.token, status="rejected" if failed else "promoted", reason=outcome, at=now
        )
        self.retrains.append(
            Retrained(now, retrain.trigger_kinds, made.refit.hash, outcome, made.seconds + seconds)
        )
        self._told(f"{self.tried.name}  {now:%Y-%m-%d}  {', '.join(retrain.trigger_kinds)}: {outcome}")

    @property
    def first_row(self) -> int:
        """The first row that was scored."""
        return self._champions[0].start

    def scored(self, outcomes: pa.Table) -> Scored:
        """The scores of these rows beside what became of them. outcomes: as `_Past.outcomes`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        log = pa.concat_tables([one for log in self._logs for one in log])[LOGGED_IN[self._past.kind]]
        column = log.take(pc.subtract(outcomes["row"], self.first_row))
        outcome, scores = from_log(self._past.kind, column)
        return Scored.of(outcomes, scores, outcome)

    def mean_age(self, outcomes: pa.Table) -> timedelta:
        """How old the champion's last training row was at a decision, mean over the rows."""
        import numpy as np

        rows = outcomes["row"].to_numpy()
        decided = microseconds(outcomes["decision_time"])
        starts = [champion.start for champion in self._champions]
        cutoffs = np.array(
            [(champion.made.refit.cutoff - _EPOCH) // _MICROSECOND for champion in self._champions]
        )
        ages = decided - cutoffs[np.searchsorted(starts, rows, side="right") - 1]
        return timedelta(microseconds=float(ages.mean()))


def _in(column: pa.ChunkedArray, days: Sequence[str]) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.is_in(column, value_set=pa.array(days, pa.string()))


def _figures(
    kind: Kind, scored: Sequence[Scored]
) -> list[tuple[dict[str, Estimate | None], dict[str, Estimate | None]]]:
    """Of each policy its figures, and their differences from those of the first, on the same draws."""
    import numpy as np

    days = len(scored[0].days)
    draws = resampled_days(days, replicates=REPLICATES, seed=SEED)
    weights = np.vstack([np.ones(days), draws])
    measured = [one.measure(weights, PREQUENTIAL[kind]) for one in scored]
    return [
        (
            {name: estimate(values, days) for name, values in one.items()},
            {name: estimate(values - measured[0][name], days) for name, values in one.items()},
        )
        for one in measured
    ]


def _by_week(scored: Scored, kind: Kind) -> dict[str, float]:
    """The mean loss of each week, by its first day, a Monday."""
    import numpy as np

    rows = np.bincount(scored.day_of_row, minlength=len(scored.days))
    losses: dict[str, list[float]] = {}
    for day, n, sums in zip(scored.days, rows, scored.loss_sums(), strict=True):
        monday = date.fromisoformat(day)
        total = losses.setdefault((monday - monday.weekday() * DAY).isoformat(), [0.0, 0.0])
        total[0] += sums[LOSS[kind]]
        total[1] += float(n)
    return {week: loss / n for week, (loss, n) in losses.items()}
