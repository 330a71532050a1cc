"""What becomes of incidents: opened, worsened, resolved by themselves, and opened again. Pure.

An incident is known by its kind and subject: what is found again tomorrow is the same one, and is told once.
It is resolved when its monitor has looked and no longer finds it, or when another cause turns out to be
behind it. What comes back within `reopen_within` re-opens it: a thing that comes and goes is one incident.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from mlops_pipelines.alerting.diagnosis import SEVERITIES, Cause, Diagnosis, diagnose, triage_of, worst

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    from mlops_pipelines.alerting.diagnosis import Finding, Triage
    from mlops_pipelines.spec import Severity

Event = Literal["opened", "reopened", "worsened", "resolved"]


@dataclass(frozen=True)
class Incident:
    """A cause over time.

    number: counts up within the pipeline. first, last: days of events (UTC) on which it showed. opened_at,
    changed_at, resolved_at: the home's clock, UTC; resolved_at is None while it is open. reopened: how often
    it came back. ending: why it was resolved. symptoms: sentences of what follows from it.
    """

    pipeline: str
    number: int
    kind: str
    subject: str
    severity: Severity
    title: str
    first: str
    last: str
    remedy: str
    opened_at: datetime
    changed_at: datetime
    parts: frozenset[str] = frozenset()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    symptoms: tuple[str, ...] = ()
    resolved_at: datetime | None = None
    reopened: int = 0
    ending: str = ""

    @property
    def id(self) -> str:
        return f"{self.pipeline}-i{self.number}"

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.subject

    @property
    def triage(self) -> Triage:
        """Whom it is for."""
        return triage_of(self.kind, self.subject)

    @property
    def runbook(self) -> str:
        """The page that says what to do."""
        return f"docs/runbooks/{self.kind}.md"

    @property
    def told(self) -> str:
        """The incident for people, a few lines."""
        state = "open" if self.resolved_at is None else f"resolved {self.resolved_at:%Y-%m-%d %H:%M}"
        times = "once" if self.reopened == 1 else f"{self.reopened} times"
        again = f", came back {times}" if self.reopened else ""
        lines = [
            f"{self.opened_at:%Y-%m-%d %H:%M}  {self.id}  {self.kind}: {self.severity}, {self.triage}, "
            f"{state}{again}",
            f"  {self.title}",
            *(f"  then: {one}" for one in self.symptoms),
            f"  Try: {self.remedy}, and {self.runbook}" if self.resolved_at is None else f"  {self.ending}",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it; times ISO 8601, UTC."""
        return {
            **asdict(self),
            "id": self.id,
            "triage": self.triage,
            "status": "open" if self.resolved_at is None else "resolved",
            "runbook": self.runbook,
            "parts": sorted(self.parts),
            "opened_at": self.opened_at.isoformat(),
            "changed_at": self.changed_at.isoformat(),
            "resolved_at": self.resolved_at.isoformat() if self.resolved_at else None,
        }

    @property
    def cause(self) -> Cause:
        """What may still follow from it."""
        return Cause(self.kind, self.subject, self.parts, self.first, self.last if self.resolved_at else None)


@dataclass(frozen=True)
class Change:
    """What becomes of an incident. event: what is told of it; None where nothing is."""

    event: Event | None
    incident: Incident


def changes(
    pipeline: str,
    known: Sequence[Incident],
    findings: Sequence[Finding],
    now: datetime,
    *,
    reopen_within: timedelta,
    unlooked: Collection[str] = (),
    last_number: int = 0,
) -> list[Change]:
    """What the findings of a moment make of the incidents that are known.

    known: those that are open, and those resolved lately, of which an effect may still show. unlooked: kinds
    that could not be looked at: their incidents stay as they are. last_number: the greatest that was given.
    """
    open_ones = {one.key: one for one in known if one.resolved_at is None}
    lately = {one.key: one for one in sorted(known, key=lambda one: one.number) if one.resolved_at}
    # The same cause, found again, is one of these.
    again = {
        key: one for key, one in lately.items() if one.resolved_at and now - one.resolved_at <= reopen_within
    } | open_ones
    told = [_as_before(again[one.key], one) if one.key in again else one for one in findings]
    now_found = {one.key for one in told}
    gone = [one for one in open_ones.values() if one.key not in now_found]
    causes_known = [
        *(one.cause for one in lately.values()),
        *(one.cause if one.kind in unlooked else replace(one.cause, last=one.last) for one in gone),
    ]
    found = diagnose(told, causes_known)
    made: list[Change] = []
    for diagnosis in found:
        before = again.get(diagnosis.cause.key)
        if before is None:
            last_number += 1
            made.append(Change("opened", _opened(pipeline, last_number, diagnosis, now)))
        elif before.resolved_at is None:
            made += _gone_on(before, diagnosis, now)
        else:
            blank = replace(
                before, resolved_at=None, ending="", severity="info", reopened=before.reopened + 1
            )
            made.append(Change("reopened", _as_found(blank, diagnosis, now)))
    causes = {one.cause.key for one in found}
    for key, one in open_ones.items():
        if key not in causes and one.kind not in unlooked:
            made.append(Change("resolved", _resolved(one, told, found, now)))
    return made


def _as_before(known: Incident, one: Finding) -> Finding:
    """A finding with all that its incident is known to touch, from its beginning."""
    first = min(known.first, one.since or one.days[0])
    return replace(one, since=first, parts=one.parts | known.parts)


def _opened(pipeline: str, number: int, diagnosis: Diagnosis, now: datetime) -> Incident:
    cause = diagnosis.cause
    blank = Incident(pipeline, number, cause.kind, cause.subject, "info", "", cause.days[0], "", "", now, now)
    return _as_found(blank, diagnosis, now)


def _as_found(before: Incident, diagnosis: Diagnosis, now: datetime) -> Incident:
    cause = diagnosis.cause
    return replace(
        before,
        # As bad as it was at its worst.
        severity=worst([before.severity, diagnosis.severity]),
        title=cause.title,
        first=min(before.first, cause.days[0]),
        last=max(before.last, cause.days[-1]),
        remedy=cause.remedy,
        changed_at=now,
        parts=before.parts | cause.parts,
        evidence=cause.evidence,
        symptoms=tuple(one.title for one in diagnosis.symptoms),
    )


def _gone_on(before: Incident, diagnosis: Diagnosis, now: datetime) -> list[Change]:
    after = _as_found(before, diagnosis, now)
    if replace(after, changed_at=before.changed_at) == before:
        return []
    worse = SEVERITIES.index(after.severity) > SEVERITIES.index(before.severity)
    return [Change("worsened" if worse else None, after)]


def _resolved(
    one: Incident, findings: Sequence[Finding], found: Sequence[Diagnosis], now: datetime
) -> Incident:
    ending = "what it was found by is gone"
    if any(finding.key == one.key for finding in findings):
        behind = next(
            (
                diagnosis.cause.title
                for diagnosis in found
                if one.key in {symptom.key for symptom in diagnosis.symptoms}
            ),
            "a cause that is over",
        )
        ending = f"it follows from something else: {behind}"
    return replace(one, resolved_at=now, changed_at=now, ending=ending)
