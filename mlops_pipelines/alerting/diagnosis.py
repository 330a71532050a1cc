"""From what the monitors found to incidents: one for each cause, whatever else it moves.

A *finding* is one thing that one monitor says of the present: views are stale, labels are overdue, twelve
features are without values. Many of them follow from others: events whose rows are rejected leave views
stale, stale views skew vectors, skewed vectors drift, and what drifts scores badly. `EXPLAINS` says which
kind can follow from which; a finding follows from another where it does by kind, where both touch the same
thing (a stream, a feature, a stage), and where its days lie within the other's. What follows from nothing is
a *cause*, and becomes an incident; the rest are its symptoms.

All of it is pure. What becomes of an incident over time is in `lifecycle`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlops_pipelines.spec import Severity

Kind = Literal[
    "run_failed",
    "stage_stopped",
    "refused_files",
    "rejected_rows",
    "events_missing",
    "labels_missing",
    "stale_view",
    "parity",
    "skew",
    "inputs_broken",
    "concept_drift",
    "drift",
    "score_drift",
    "feedback",
    "quality",
    "slo",
]
Triage = Literal["data", "features", "model", "labels", "platform"]

KINDS: tuple[Kind, ...] = get_args(Kind)
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")

TRIAGE: Mapping[str, Triage] = {
    "run_failed": "platform",
    "stage_stopped": "platform",
    "refused_files": "data",
    "rejected_rows": "data",
    "events_missing": "data",
    "labels_missing": "labels",
    "stale_view": "features",
    "parity": "features",
    "skew": "features",
    "events_broken": "data",
    "inputs_broken": "data",
    "concept_drift": "model",
    "drift": "data",
    "score_drift": "model",
    "feedback": "labels",
    "quality": "model",
    "slo:freshness": "features",
    "slo:availability": "platform",
    "slo:label_maturity": "labels",
    "slo:quality": "model",
}

# Sharing a part: the two are about the same stream, feature or stage. Otherwise the days alone relate them.
_SHARED, _ANY = True, False
_WORSE_MODEL = {"score_drift": _ANY, "concept_drift": _ANY, "quality": _ANY, "slo:quality": _ANY}
_NO_ROWS = {
    "events_missing": _SHARED,
    "labels_missing": _SHARED,
    "stale_view": _SHARED,
    "skew": _SHARED,
    "events_broken": _SHARED,
    "inputs_broken": _SHARED,
    "drift": _SHARED,
    "feedback": _SHARED,
    "slo:freshness": _ANY,
    "slo:label_maturity": _ANY,
    **_WORSE_MODEL,
}
# A run, or its want, harms what it makes and nothing else.
_OF_RUNS = dict.fromkeys([*_NO_ROWS, "slo:availability"], _SHARED)
# What can follow from what. By kind; an SLO is a kind of its own, `slo:` and its name.
EXPLAINS: Mapping[str, dict[str, bool]] = {
    "run_failed": {"stage_stopped": _SHARED, **_OF_RUNS},
    "stage_stopped": _OF_RUNS,
    "refused_files": {"rejected_rows": _SHARED, **_NO_ROWS},
    "rejected_rows": _NO_ROWS,
    "events_missing": {
        "labels_missing": _SHARED,
        "stale_view": _SHARED,
        "skew": _SHARED,
        "inputs_broken": _SHARED,
        "drift": _SHARED,
        "slo:freshness": _ANY,
    },
    "labels_missing": {
        "stale_view": _SHARED,
        "skew": _SHARED,
        "inputs_broken": _SHARED,
        "drift": _SHARED,
        "feedback": _ANY,
        "slo:freshness": _ANY,
        "slo:label_maturity": _ANY,
        **_WORSE_MODEL,
    },
    "stale_view": {
        "skew": _SHARED,
        "inputs_broken": _SHARED,
        "drift": _SHARED,
        "slo:freshness": _ANY,
        **_WORSE_MODEL,
    },
    "parity": {"skew": _ANY, "drift": _ANY, **_WORSE_MODEL},
    "skew": {"inputs_broken": _SHARED, "drift": _SHARED, **_WORSE_MODEL},
    "events_broken": {
        "stale_view": _SHARED,
        "skew": _SHARED,
        "inputs_broken": _SHARED,
        "drift": _SHARED,
        "slo:freshness": _ANY,
        **_WORSE_MODEL,
    },
    "inputs_broken": {"drift": _SHARED, **_WORSE_MODEL},
    "concept_drift": {"drift": _SHARED, "score_drift": _ANY, "quality": _ANY, "slo:quality": _ANY},
    "drift": {"score_drift": _ANY, "quality": _ANY, "slo:quality": _ANY},
    "score_drift": {},
    "feedback": {"quality": _ANY, "slo:quality": _ANY},
    "quality": {"slo:quality": _ANY},
}
# Of these the days are known on which they do harm. The others go on until they are found no more.
_ENDED = ("refused_files", "rejected_rows")
# Of the days that a finding shows on, so many have to lie within those of its cause.
_WITHIN = 0.5


@dataclass(frozen=True)
class Finding:
    """What a monitor says of the present.

    subject: which one, where there can be several of a kind (a stream, a column, a job); may be empty. title:
    a sentence. days: of events (YYYY-MM-DD, UTC) on which it shows, in order, one at least. parts: what it
    touches: `stream:NAME`, `feature:NAME`, `stage:NAME`, `model`, `decisions`, `views`, `labels`. evidence:
    the figures that led there, plain ones or lists of these. remedy: the command that helps. since: the day
    it goes back to, if that is known.
    """

    kind: Kind
    subject: str
    severity: Severity
    title: str
    days: tuple[str, ...]
    remedy: str
    parts: frozenset[str] = frozenset()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    since: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """By which it is the same one tomorrow."""
        return self.kind, self.subject

    @property
    def cause(self) -> Cause:
        """What may follow from it."""
        first = min(self.since or self.days[0], self.days[0])
        last = self.days[-1] if self.kind in _ENDED else None
        return Cause(self.kind, self.subject, self.parts, first, last)


@dataclass(frozen=True)
class Cause:
    """Something that others may follow from. first, last: its days; last is None while it goes on."""

    kind: str
    subject: str
    parts: frozenset[str]
    first: str
    last: str | None

    def explains(self, effect: Finding) -> bool:
        """Whether a finding can follow from it."""
        kind = _kind_of(self.kind, self.subject)
        shared = EXPLAINS.get(kind, {}).get(_kind_of(effect.kind, effect.subject))
        if shared is None or (shared and not self.parts & effect.parts):
            return False
        # Views of the day before and after hold its rows, too.
        first = _beside(self.first, -1)
        last = _beside(self.last, 1) if self.last else effect.days[-1]
        within = sum(first <= day <= last for day in effect.days)
        return within >= _WITHIN * len(effect.days)


@dataclass(frozen=True)
class Diagnosis:
    """A cause with what follows from it, the most severe first. severity: the worst of all of them."""

    cause: Finding
    symptoms: tuple[Finding, ...]

    @property
    def severity(self) -> Severity:
        return worst(one.severity for one in (self.cause, *self.symptoms))


def diagnose(findings: Sequence[Finding], known: Sequence[Cause] = ()) -> list[Diagnosis]:
    """The causes among the findings, each with its symptoms, the most severe first.

    findings: of one moment, one a key. known: causes that are over, whose effects may still show: a finding
    that follows from one of these is neither a cause nor told again. The order of the arguments does not
    matter.
    """
    found = sorted({one.key: one for one in findings}.values(), key=lambda one: one.key)
    causes = {one.key: one.cause for one in found}
    by = {
        one.key: [key for key, cause in causes.items() if key != one.key and cause.explains(one)]
        for one in found
    }
    lingering = {one.key for one in found if any(cause.explains(one) for cause in known)}
    roots = [one for one in found if not by[one.key] and one.key not in lingering]
    symptoms: dict[tuple[str, str], list[Finding]] = {root.key: [] for root in roots}
    for one in found:
        for key in _origins(one.key, by) & symptoms.keys() - {one.key}:
            symptoms[key].append(one)
    made = [Diagnosis(root, tuple(sorted(symptoms[root.key], key=_gravity))) for root in roots]
    return sorted(made, key=lambda one: (-SEVERITIES.index(one.severity), *_gravity(one.cause)))


def worst(severities: Iterable[Severity]) -> Severity:
    """The greatest of some severities."""
    return max(severities, key=SEVERITIES.index)


def triage_of(kind: str, subject: str) -> Triage:
    """Whom an incident of a kind is for."""
    return TRIAGE[_kind_of(kind, subject)]


def common_sources(
    broken: Mapping[str, frozenset[str]], whole: Mapping[str, frozenset[str]]
) -> dict[str, list[str]]:
    """By which source the most of what is broken can be explained: source to names, each name once.

    broken, whole: by name (of a feature), the sources it is made of. The source of which the most is broken
    and the least is whole comes first, takes its names away, and so on; of equals the first by name. Of what
    no source explains, because more of it is whole than broken, the table is named.
    """
    left = {name: sources | {name} for name, sources in broken.items()}
    spared = Counter(source for sources in whole.values() for source in sources)
    # A column of which something is made that is whole, and of nothing else, is whole itself.
    cleared = {one for sources in whole.values() for one in sources if sources == {one, _table(one)}}
    found: dict[str, list[str]] = {}
    while left:
        made_of = Counter(source for sources in left.values() for source in sources)
        best = min(made_of, key=partial(_rank, made_of, spared, cleared, {*left}))
        found[best] = sorted(name for name, sources in left.items() if best in sources)
        left = {name: sources for name, sources in left.items() if best not in sources}
    return found


def _rank(
    broken: Mapping[str, int], whole: Mapping[str, int], cleared: set[str], names: set[str], one: str
) -> tuple[int, int, str]:
    """Sources of which the most is broken first, then tables, then what is broken itself.

    broken, whole: how much of a source is.
    """
    if one in names:
        return 3, 0, one
    if one not in cleared and broken[one] >= whole[one]:
        return 0, whole[one] - broken[one], one
    return (2 if _table(one) else 1), -broken[one], one


def _table(source: str) -> str:
    return source.rpartition(".")[0]


def _origins(
    key: tuple[str, str], by: Mapping[tuple[str, str], Sequence[tuple[str, str]]]
) -> set[tuple[str, str]]:
    """All from which a finding follows, by one step or several."""
    found: set[tuple[str, str]] = set()
    ahead = [*by[key]]
    while ahead:
        one = ahead.pop()
        if one not in found:
            found.add(one)
            ahead += by[one]
    return found


def _gravity(one: Finding) -> tuple[int, int, str]:
    return -SEVERITIES.index(one.severity), KINDS.index(one.kind), one.subject


def _kind_of(kind: str, subject: str) -> str:
    """An objective is a kind by its name. So are inputs that broke in the event itself: its keys lead to what
    views have, and what else broke may be for want of that."""
    if kind == "slo":
        return f"slo:{subject}"
    return "events_broken" if kind == "inputs_broken" and subject.startswith("events.") else kind


def _beside(day: str, days: int) -> str:
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()
