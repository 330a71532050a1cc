"""One look at a pipeline: what the monitors find becomes incidents, and what is due is told."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from mlops_pipelines.alerting import lifecycle, monitors
from mlops_pipelines.clock import WallClock, midnight
from mlops_pipelines.errors import TerminalError, TransientError, UserError
from mlops_pipelines.ledger import Look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_pipelines.alerting.lifecycle import Change, Event, Incident
    from mlops_pipelines.alerting.monitors import CheckedParity, FailedRun, Found
    from mlops_pipelines.alerting.notices import Notice
    from mlops_pipelines.clock import Clock
    from mlops_pipelines.home import PipelineHome

# Incidents that are over, so long: what still shows of them is theirs.
LINGERS = timedelta(days=30)
# A message that was begun so long ago is tried anew: whoever began it is gone.
LEASE = timedelta(minutes=5)
MOST_AT_ONCE = 20
# What was seen by a look at which some monitor could not, before since when, by the wall clock.
UNLOOKED = "some could not look since "
# A tick ends long before Dagster cuts it; what was not begun is taken up when its lease is over.
LONGEST = timedelta(seconds=20)


def attend(
    place: PipelineHome,
    failed: Sequence[FailedRun],
    parity: CheckedParity | None,
    wall_now: datetime,
) -> list[Change]:
    """Look, and put down what became of the incidents and who is to be told.

    Where nothing moved since the last look, nothing is read anew. wall_now: the machine's clock, UTC.
    """
    if not place.ledger.keeps_incidents:
        return []
    now = place.clock.now()
    text = monitors.seen(place, now, failed, parity)
    last = place.ledger.last_look(place.name)
    if last and last.seen == text:
        place.ledger.looked(place.name, Look(now, wall_now, text))
        return []
    since = _unlooked_since(last) or wall_now
    found = monitors.look(place, now, failed, parity, unlooked_for=wall_now - since)
    # What could not be looked at is looked at again by the next tick.
    look = Look(now, wall_now, f"{UNLOOKED}{since.isoformat()}" if found.unlooked else text)

    def decide(known: Sequence[Incident], last_number: int) -> list[Change]:
        return _changes(place, known, found, now, last_number)

    return place.ledger.settle_incidents(
        place.name,
        decide,
        since=_since(place, now),
        told_to=lambda change: _told_to(place, change, now),
        look=look,
    )


def _unlooked_since(last: Look | None) -> datetime | None:
    """Since when some monitor could not look, by the wall clock; None where all could at the last look."""
    if last is None or not last.seen.startswith(UNLOOKED):
        return None
    return datetime.fromisoformat(last.seen.removeprefix(UNLOOKED))


def as_they_stand(
    place: PipelineHome, failed: Sequence[FailedRun], parity: CheckedParity | None, *, past: bool = False
) -> list[Incident]:
    """The incidents that a look would leave open now, oldest first; nothing is put down.

    past: those that are resolved as well.
    """
    now = place.clock.now()
    known = place.ledger.incidents(place.name, since=_since(place, now))
    found = monitors.look(place, now, failed, parity)
    last = place.ledger.last_incident(place.name)
    shown = place.ledger.incidents(place.name, since=midnight("1970-01-01")) if past else known
    after = {one.number: one for one in shown}
    for change in _changes(place, known, found, now, last):
        after[change.incident.number] = change.incident
    return [after[number] for number in sorted(after) if past or after[number].resolved_at is None]


def _since(place: PipelineHome, now: datetime) -> datetime:
    return now - max(LINGERS, place.spec.alerts.reopen_within)


def _changes(
    place: PipelineHome, known: Sequence[Incident], found: Found, now: datetime, last_number: int
) -> list[Change]:
    return lifecycle.changes(
        place.name,
        known,
        found.findings,
        now,
        reopen_within=place.spec.alerts.reopen_within,
        unlooked=found.unlooked,
        last_number=last_number,
    )


def _notice(place: PipelineHome, event: Event, one: Incident, now: datetime) -> Notice:
    """What people are told, without values of sensitive columns."""
    from mlops_pipelines.alerting.notices import Notice, masked
    from mlops_pipelines.features.in_use import recorded_sets
    from mlops_pipelines.lineage import hidden_names

    notice = Notice(
        pipeline=one.pipeline,
        incident=one.id,
        event=event,
        kind=one.kind,
        subject=one.subject,
        severity=one.severity,
        triage=one.triage,
        title=one.title,
        evidence=one.evidence,
        symptoms=one.symptoms,
        remedy=one.remedy,
        runbook=one.runbook,
        at=now,
    )
    return masked(notice, hidden_names(place.loaded, recorded_sets(place).sets))


def withheld(place: PipelineHome) -> list[str]:
    """Sinks that are told nothing of this home, whose clock is no wall clock: a replay wakes nobody."""
    from mlops_pipelines.alerting.sinks import name_of

    if isinstance(place.clock, WallClock):
        return []
    return [name_of(one) for one in place.spec.alerts.sinks if one.file is None]


def _told_to(place: PipelineHome, change: Change, now: datetime) -> dict[str, str]:
    """By sink, what it is told of a change."""
    from mlops_pipelines.alerting.sinks import name_of, takes

    silent = withheld(place)
    wanted = [
        one
        for one in place.spec.alerts.sinks
        if takes(one, change.incident.severity) and name_of(one) not in silent
    ]
    if change.event is None or not wanted:
        return {}
    body = _notice(place, change.event, change.incident, now).to_json()
    return {name_of(one): body for one in wanted}


def deliver(place: PipelineHome, clock: Clock) -> list[str]:
    """Send what is due, each to its sink; what was wrong, as sentences. clock: the machine's.

    What fails for now, or for want of a setting, is tried again later, what fails for good never: a sink
    that is away holds up none of the others.
    """
    from mlops_pipelines.alerting.notices import Notice
    from mlops_pipelines.alerting.sinks import name_of, next_attempt, send

    sinks = {name_of(one): one for one in place.spec.alerts.sinks}
    problems = []
    held_up = set[tuple[int, str]]()
    begin = clock.now()
    for one in place.ledger.claim_deliveries(place.name, begin, LEASE, MOST_AT_ONCE):
        if clock.now() - begin > LONGEST:
            break
        if (one.incident, one.sink) in held_up:
            continue  # that it is over is told after that it began
        try:
            if one.sink not in sinks:
                raise UserError(
                    f"The pipeline has no sink {one.sink} any more.", expected="one of alerts.sinks"
                )
            send(sinks[one.sink], Notice.from_json(one.body), place.home.path)
        except (TransientError, UserError) as error:
            # What somebody has to set or to mend is often there soon.
            after = error.after if isinstance(error, TransientError) else None
            due = next_attempt(one.attempts + 1, clock.now(), after)
            place.ledger.record_delivery(one, delivered_at=None, problem=str(error), due_at=due)
            held_up.add((one.incident, one.sink))
            problems.append(str(error))
        except TerminalError as error:
            place.ledger.record_delivery(one, delivered_at=None, problem=str(error), due_at=None)
            problems.append(str(error))
        else:
            place.ledger.record_delivery(one, delivered_at=clock.now(), due_at=None)
    return problems
