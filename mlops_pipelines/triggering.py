"""Reasons to retrain: how near each is, the triggers they become, and what the policy makes of these.

A trigger is appended once for each retrain there has been, however that ended, and one about the champion
once for each champion besides; none while a retrain is in flight. A reason that a retrain did not take away
asks again, at the pace of the policy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import MlopsError
from mlops_pipelines.ingest.taking import contract_version
from mlops_pipelines.policy import Admit, format_moment
from mlops_pipelines.retraining import (
    contracts_passed,
    data_mark,
    held_for_vectors,
    matured_events,
    matured_rows,
    matured_through,
)
from mlops_pipelines.spec import format_duration
from mlops_pipelines.spec_loading import hash_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ledger import Ledger, Promotion, Retrain, Seen
    from mlops_pipelines.policy import Hold, Pending, State
    from mlops_pipelines.spec import LabelsTrigger, ScheduleTrigger

MANUAL = "manual"


@dataclass(frozen=True)
class Reason:
    """A reason to retrain. due: whether it asks for one now. sentence: how near it is.

    evidence: what its trigger says, as JSON can hold it. urgent: its trigger does not wait for the cooldown.
    """

    kind: str
    due: bool
    sentence: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    urgent: bool = False


@dataclass(frozen=True)
class Outlook:
    """What an admission would say now."""

    would_admit: bool
    sentence: str


@dataclass(frozen=True)
class Explanation:
    """Why a pipeline is retrained at `at` (the home's clock, UTC) or is not, and what would ask for it.

    decision: of the policy; None where `sentence` says what has to come before it is asked. pending: the
    triggers that wait. reasons: those that the pipeline declares. mode: of the policy.
    """

    at: datetime
    sentence: str
    decision: Admit | Hold | None
    state: State
    pending: Pending | None
    in_flight: Retrain | None
    reasons: tuple[Reason, ...]
    mode: str

    @property
    def would_admit(self) -> bool:
        return isinstance(self.decision, Admit)


def reasons(place: PipelineHome, now: datetime, *kinds: str) -> list[Reason]:
    """The reasons of these kinds that the pipeline declares, at a moment (UTC)."""
    looked = (_LOOKED_AT[kind](place, now) for kind in kinds)
    return [reason for reason in looked if reason is not None]


def append(place: PipelineHome, now: datetime, *kinds: str) -> list[str]:
    """Append a trigger for each reason of these kinds that is due; what was appended, as sentences."""
    # "bootstrap" is of every pipeline, the others are declared.
    asking = [kind for kind in kinds if getattr(place.spec.triggers, kind, True) is not None]
    if not asking:
        return []
    free = free_keys(place.ledger, place.name, asking)
    return append_due(place.ledger, place.name, free, reasons(place, now, *free.keys), now)


@dataclass(frozen=True)
class Free:
    """Triggers that may be appended: their keys, by kind. seen: where the pipeline stood then."""

    seen: Seen
    keys: Mapping[str, str]


def free_keys(ledger: Ledger, pipeline: str, kinds: Iterable[str]) -> Free:
    """What may be appended of these kinds: nothing while a retrain is in flight, and of each kind one for
    each retrain there has been, and each champion it is about."""
    from mlops_pipelines.ledger import ABOUT_CHAMPION

    seen = ledger.stands(pipeline)
    if seen.in_flight:
        return Free(seen, {})
    about = f":{seen.champion}" if seen.champion else ""
    keys = {kind: f"{kind}:{seen.retrain}{about if kind in ABOUT_CHAMPION else ''}" for kind in kinds}
    return Free(seen, {kind: key for kind, key in keys.items() if not ledger.has_trigger(pipeline, key)})


def append_due(
    ledger: Ledger, pipeline: str, free: Free, found: Iterable[Reason], now: datetime
) -> list[str]:
    """Append a trigger for each of these reasons that is due; what was appended, as sentences.

    Where a retrain was admitted since the reasons were looked at, or the champion changed, none is appended.
    """
    return [
        f"Trigger {free.keys[reason.kind]}: {facts(reason.evidence)}."
        for reason in found
        if reason.due
        and ledger.append_trigger(
            pipeline, reason.kind, free.keys[reason.kind], reason.evidence, now,
            urgent=reason.urgent, seen=free.seen,
        )
    ]  # fmt: skip


def append_manual(place: PipelineHome, *, by: str, reason: str) -> bool:
    """Append a trigger that a person asks for. Whether it is new: said twice in a moment, it is one, unless
    a retrain has answered it in between."""
    now = place.clock.now()
    answered = place.ledger.stands(place.name).retrain
    key = f"{MANUAL}:{now.isoformat()}:{hash_of([by, reason, answered])[:12]}"
    return place.ledger.append_trigger(place.name, MANUAL, key, {"by": by, "reason": reason}, now)


def outlook(place: PipelineHome, now: datetime) -> Outlook:
    """Whether a run asked for now would be admitted, and why."""
    decision, sentence = _decision(place, now)
    return Outlook(isinstance(decision, Admit), sentence)


def explain(place: PipelineHome, now: datetime) -> Explanation:
    """Why the pipeline is retrained at this moment, or is not, and what would ask for it."""
    decision, sentence = _decision(place, now)
    return Explanation(
        now,
        sentence,
        decision,
        place.ledger.state(place.name),
        place.ledger.pending(place.name),
        place.ledger.in_flight(place.name),
        tuple(reason for kind in _LOOKED_AT for reason in _reasons_or_why_not(place, now, kind)),
        place.spec.policy.mode,
    )


def _reasons_or_why_not(place: PipelineHome, now: datetime, kind: str) -> list[Reason]:
    """The reason of a kind, if the pipeline declares it. One that cannot be looked at hides none of the
    others: it says what is wrong."""
    try:
        return reasons(place, now, kind)
    except MlopsError as error:
        return [Reason(kind, False, f"cannot be looked at: {error}")]


def _decision(place: PipelineHome, now: datetime) -> tuple[Admit | Hold | None, str]:
    # Without a trigger nothing is admitted, whatever the data; the mark costs a look at every day of it.
    pending = place.ledger.has_pending(place.name)
    if pending and (sentence := held_for_vectors(place, now)):
        return None, sentence
    mark = data_mark(place, now) if pending else ""
    decision = place.ledger.decision(place.name, now=now, policy=place.spec.policy, data_mark=mark)
    return decision, decision.sentence


def _bootstrap(place: PipelineHome, now: datetime) -> Reason | None:
    """The first model is asked for once enough matured labels are there."""
    if place.ledger.champion(place.name):
        return None
    minimum = place.spec.training.min_rows
    # Rows of the table are cheap to count, and at least as many as events.
    rows = matured_rows(place, now)
    if rows >= minimum:
        rows = matured_events(place, now)
    return bootstrap_reason(rows, minimum)


def bootstrap_reason(rows: int, minimum: int) -> Reason:
    """rows: events of matured days that have a label. minimum: what the first model is to learn from."""
    sentence = f"{rows:,} of {minimum:,} matured labels for the first model"
    return Reason("bootstrap", rows >= minimum, sentence, {"matured_rows": rows, "min_rows": minimum})


def _labels(place: PipelineHome, now: datetime) -> Reason | None:
    """Enough labels matured since the last training set."""
    trigger = place.spec.triggers.labels
    last = place.ledger.last_candidate(place.name)
    if trigger is None:
        return None
    if last is None:
        return Reason("labels", False, "counted from the first training set on")
    return labels_reason(
        trigger, last, matured_rows(place, now, after=matured_through(place, last.watermark))
    )


def labels_reason(trigger: LabelsTrigger, last: Retrain, new: int) -> Reason:
    """new: labels of days that matured since `last`, the latest retrain that got as far as a candidate."""
    sentence = f"{new:,} of {trigger.at_least:,} labels matured since {last.id}"
    evidence = {"new_labels": new, "at_least": trigger.at_least, "since": last.id}
    return Reason("labels", new >= trigger.at_least, sentence, evidence)


def _performance(place: PipelineHome, now: datetime) -> Reason | None:
    """The champion's quality on matured labels has surely fallen."""
    from mlops_pipelines.monitoring import reports

    trigger = place.spec.triggers.performance
    if trigger is None:
        return None
    if (champion := place.ledger.champion(place.name)) is None:
        return _no_champion("performance")
    drop = reports.quality_drop_of(place, champion, trigger, _unanswered_since(place, champion), now)
    if drop is None:
        sentence = f"{trigger.metric} of v{champion.mlflow_version} is not surely {trigger.drop:g} lower yet"
        return Reason("performance", False, sentence)
    return Reason("performance", True, drop["finding"], drop, urgent=drop["below_floor"])


def _concept_drift(place: PipelineHome, now: datetime) -> Reason | None:
    """Matured losses are not what the champion's scores expect."""
    from mlops_pipelines.monitoring import reports

    trigger = place.spec.triggers.concept_drift
    if trigger is None:
        return None
    if (champion := place.ledger.champion(place.name)) is None:
        return _no_champion("concept_drift")
    found = reports.concept_drift_of(place, champion, trigger, _unanswered_since(place, champion))
    if found is None:
        sentence = f"losses surprise v{champion.mlflow_version} as they did before"
        return Reason("concept_drift", False, sentence)
    return Reason("concept_drift", True, found["finding"], found)


def _drift(place: PipelineHome, now: datetime) -> Reason | None:
    """Drift against the champion's reference persists."""
    from mlops_pipelines.monitoring import reports

    trigger = place.spec.triggers.drift
    if trigger is None:
        return None
    if (champion := place.ledger.champion(place.name)) is None:
        return _no_champion("drift")
    days = reports.drift_lately(place, champion, trigger, _unanswered_since(place, champion))
    found = reports.persistent_drift(champion, trigger, days)
    if found is None:
        m, n = trigger.persists
        drifted = sum(day["level"] == "alarm" for day in days)
        sentence = (
            f"{drifted} of the last {len(days)} days drifted from what v{champion.mlflow_version} knows; "
            f"{m} of {n} ask"
        )
        return Reason("drift", False, sentence)
    return Reason("drift", True, found["finding"], found)


def _no_champion(kind: str) -> Reason:
    return Reason(kind, False, "looked at once there is a champion")


def _prediction_drift(place: PipelineHome, now: datetime) -> Reason | None:
    """The champion's scores stay apart from those of its training set."""
    from mlops_pipelines.monitoring import reports

    trigger = place.spec.triggers.prediction_drift
    if trigger is None:
        return None
    if (champion := place.ledger.champion(place.name)) is None:
        return _no_champion("prediction_drift")
    found = reports.persistent_score_drift(place, champion, trigger, _unanswered_since(place, champion))
    if found is None:
        m, n = trigger.persists
        sentence = f"on fewer than {m} of the last {n} days the scores lay {trigger.alarm:g} apart"
        return Reason("prediction_drift", False, sentence)
    return Reason("prediction_drift", True, found["finding"], found)


def _staleness(place: PipelineHome, now: datetime) -> Reason | None:
    """Decisions keep finding features that are too old: what comes is to be learned from as it is."""
    from mlops_pipelines.monitoring import reports

    trigger = place.spec.triggers.staleness
    if trigger is None:
        return None
    if (champion := place.ledger.champion(place.name)) is None:
        return _no_champion("staleness")
    found = reports.persistent_staleness(place, trigger, _unanswered_since(place, champion))
    if found is None:
        m, n = trigger.persists
        share = f"{trigger.at_least:.0%} of the decisions found a view too old"
        return Reason("staleness", False, f"on fewer than {m} of the last {n} days {share}")
    return Reason("staleness", True, found["finding"], found)


def _contract_change(place: PipelineHome, now: datetime) -> Reason | None:
    """Rows that passed a contract of which the last training set has none have matured."""
    last = place.ledger.last_candidate(place.name)
    if place.spec.triggers.contract_change is None:
        return None
    if last is None or last.dataset_version is None:
        return Reason("contract_change", False, "looked at from the first training set on")
    manifest = place.home.datasets.version(place.name, last.dataset_version).manifest
    changed = [
        stream
        for stream in ("events", "labels")
        if contract_version(place.loaded, stream) not in manifest["contracts"].get(stream, [])
    ]
    since = matured_through(place, last.watermark) + timedelta(days=1)
    passed = contracts_passed(place, (since.isoformat(), matured_through(place, now).isoformat()), changed)
    matured = [one for one in changed if contract_version(place.loaded, one) in passed.get(one, ())]
    if not matured:
        waiting = f"rows of {', '.join(changed)} under it have not matured" if changed else "unchanged"
        return Reason("contract_change", False, f"{waiting} since {last.id}")
    sentence = f"rows of {', '.join(matured)} passed a contract that {last.id} knew none of"
    return Reason("contract_change", True, sentence, {"streams": matured, "since": last.id})


def _schedule(place: PipelineHome, now: datetime) -> Reason | None:
    """The last training set is as old as the pipeline lets it be."""
    trigger = place.spec.triggers.schedule
    return schedule_reason(trigger, place.ledger.last_candidate(place.name), now) if trigger else None


def schedule_reason(trigger: ScheduleTrigger, last: Retrain | None, now: datetime) -> Reason:
    """last: the latest retrain that got as far as a candidate."""
    if last is None:
        return Reason("schedule", False, "counted from the first training set on")
    due = last.watermark + trigger.every
    every = format_duration(trigger.every)
    sentence = f"every {every}: next at {format_moment(due)}"
    return Reason("schedule", now >= due, sentence, {"every": every, "since": last.id})


_LOOKED_AT: Mapping[str, Callable[[PipelineHome, datetime], Reason | None]] = {
    "bootstrap": _bootstrap,
    "labels": _labels,
    "performance": _performance,
    "concept_drift": _concept_drift,
    "drift": _drift,
    "prediction_drift": _prediction_drift,
    "staleness": _staleness,
    "contract_change": _contract_change,
    "schedule": _schedule,
}


def _unanswered_since(place: PipelineHome, champion: Promotion) -> datetime:
    """From when on no candidate has learned from the champion's days: a rejected one has seen the rest."""
    last = place.ledger.last_candidate(place.name)
    return max(champion.at, last.watermark) if last else champion.at


def facts(evidence: Mapping[str, Any]) -> str:
    """What a trigger rests on, on one line."""
    return ", ".join(f"{name} {value}" for name, value in evidence.items())
