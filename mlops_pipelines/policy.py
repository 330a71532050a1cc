"""Admit a retrain or hold it back: a pure decision over what the ledger knows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from mlops_pipelines.spec import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import time

    from mlops_pipelines.spec import Breaker, Budget, Policy

HoldReason = Literal[
    "nothing_pending", "observe", "paused", "in_flight", "cooldown", "budget", "breaker", "nothing_new",
    "quiet_hours",
]  # fmt: skip

_MICROSECOND = timedelta(microseconds=1)
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class PendingTrigger:
    """A reason to retrain that still waits.

    created_at: the home's clock, UTC. urgent: it does not wait for the cooldown; all else holds it too.
    """

    id: int
    kind: str
    key: str
    created_at: datetime
    urgent: bool = False


@dataclass(frozen=True)
class Pending:
    """The reasons to retrain that wait, taken together: one retrain answers them all.

    first: the oldest, which it serves; the others fold into it. kinds: how many there are of each kind, the
    first one included. urgent: whether any of them is. more: whether there are more than were counted.
    """

    first: PendingTrigger
    kinds: Mapping[str, int]
    urgent: bool
    more: bool = False

    @classmethod
    def of(cls, triggers: Iterable[PendingTrigger]) -> Pending | None:
        """All of these; None if there are none."""
        ordered = sorted(triggers, key=lambda one: (one.created_at, one.kind, one.key))
        if not ordered:
            return None
        kinds = Counter(one.kind for one in ordered)
        return cls(ordered[0], kinds, any(one.urgent for one in ordered))


@dataclass(frozen=True)
class Bucket:
    """The token bucket of the retrain budget as the last admission left it.

    spent: tokens missing from a full bucket at `as_of` (exact, so that a hold ends when it says).
    as_of: the home's clock, UTC; None if nothing was ever admitted.
    """

    spent: Fraction = Fraction(0)
    as_of: datetime | None = None


@dataclass(frozen=True)
class State:
    """What the ledger knows of one pipeline, as far as the policy asks.

    paused: who holds all retrains back, and why. in_flight: id of the retrain whose run is alive; lost: of
    the one whose run was lost.
    last_retrain, last_finished_at: the retrain that finished last, and when.
    failures, last_failed, last_failed_at: failed, rejected and rolled-back retrains since the last promoted
    one, and which of them ended so last.
    tried_by: a retrain that was carried through on the very data a new one would see.
    """

    paused: str | None = None
    in_flight: str | None = None
    lost: str | None = None
    last_retrain: str | None = None
    last_finished_at: datetime | None = None
    bucket: Bucket = field(default_factory=Bucket)
    failures: int = 0
    last_failed: str | None = None
    last_failed_at: datetime | None = None
    tried_by: str | None = None


@dataclass(frozen=True)
class Admit:
    """A retrain may start, and answers all that waits.

    serves: id of the trigger it is for; None where `takes_up` names a lost retrain, which goes on with the
    triggers it has.
    """

    serves: int | None
    sentence: str
    takes_up: str | None = None


@dataclass(frozen=True)
class Hold:
    """No retrain may start.

    until: when the hold ends by itself, UTC; None if it waits for something to happen.
    """

    reason: HoldReason
    until: datetime | None
    sentence: str


_NOTHING = Hold("nothing_pending", None, "nothing to do: no trigger is pending")


def decide(pending: Pending | None, state: State, policy: Policy, now: datetime) -> Admit | Hold:
    """Whether a retrain may start now, and why, or what it waits for.

    A lost retrain goes before any trigger. All pending triggers fold into one retrain. Of several holds
    that end by themselves the last to end is named, or the quiet hours that it ends in, so `until` is the
    moment to ask again.
    """
    if pending is None and state.lost is None and state.in_flight is None:
        return _NOTHING
    if state.paused is not None:
        return Hold("paused", None, f"held: retraining was paused by {state.paused}")
    decision = _decide_in_act_mode(pending, state, policy, now)
    if policy.mode == "observe":
        sentence = f"held: policy.mode is observe, so nothing starts; in mode act: {decision.sentence}"
        return Hold("observe", None, sentence)
    return decision


def charge(bucket: Bucket, budget: Budget, now: datetime) -> Bucket:
    """The bucket after a retrain was admitted at `now`."""
    as_of = now if bucket.as_of is None else max(now, bucket.as_of)
    return Bucket(_spent(bucket, budget, now) + 1, as_of)


def _decide_in_act_mode(pending: Pending | None, state: State, policy: Policy, now: datetime) -> Admit | Hold:
    if state.in_flight is not None:
        return Hold("in_flight", None, f"held: retrain {state.in_flight} is in flight")
    if state.lost is not None:
        return Admit(None, f"retrain {state.lost} lost its run and is taken up again", takes_up=state.lost)
    if pending is None:
        return _NOTHING
    holds = [
        hold
        for hold in (
            _breaker_hold(state, policy.breaker),
            _budget_hold(state.bucket, policy.budget),
            None if pending.urgent else _cooldown_hold(state, policy.cooldown),
        )
        if hold is not None and hold.until is not None and now < hold.until
    ]
    last = max(holds, key=lambda hold: hold.until or now, default=None)
    if held := _quiet_hold(last, policy.quiet_hours, now) or last:
        return held
    if state.tried_by is not None:
        sentence = f"held: no new data since retrain {state.tried_by}, which tried the same training set"
        return Hold("nothing_new", None, sentence)
    return _admit(pending, trial=state.failures >= policy.breaker.after)


def _breaker_hold(state: State, breaker: Breaker) -> Hold | None:
    """The breaker's backoff: `backoff`, doubled for every failed trial, from the last failure on."""
    if state.failures < breaker.after or state.last_failed_at is None:
        return None
    until = _later(state.last_failed_at, breaker.backoff, 2 ** (state.failures - breaker.after))
    why = f"breaker open after {state.failures} failed or rejected {_retrains(state.failures)} in a row"
    return _hold_until("breaker", until, f"{why}, the last {state.last_failed}; then one trial")


def _budget_hold(bucket: Bucket, budget: Budget) -> Hold | None:
    """The moment a whole token is back in the bucket."""
    missing = min(bucket.spent, Fraction(budget.retrains)) - (budget.retrains - 1)
    if bucket.as_of is None or missing <= 0:
        return None
    refill = missing * (budget.per // _MICROSECOND) / budget.retrains
    until = _later(bucket.as_of, _MICROSECOND, -(-refill.numerator // refill.denominator))
    spent = f"budget of {budget.retrains} {_retrains(budget.retrains)} per {format_duration(budget.per)}"
    return _hold_until("budget", until, f"{spent} is spent")


def _cooldown_hold(state: State, cooldown: timedelta) -> Hold | None:
    if state.last_finished_at is None:
        return None
    why = f"cooldown of {format_duration(cooldown)} after retrain {state.last_retrain}"
    return _hold_until("cooldown", _later(state.last_finished_at, cooldown), why)


def _quiet_hold(last: Hold | None, hours: tuple[time, time] | None, now: datetime) -> Hold | None:
    """The end of the quiet hours, where what else holds ends within them, or nothing does now."""
    moment = last.until if last and last.until else now
    if hours is None or moment == _END_OF_TIME:
        return None
    start, end = hours
    of_day = moment.astimezone(UTC).time()
    quiet = start <= of_day < end if start < end else of_day >= start or of_day < end
    if not quiet:
        return None
    until = datetime.combine(moment.astimezone(UTC).date(), end, UTC)
    if until <= moment:
        until = _later(until, timedelta(days=1))
    before = "" if last is None else f", in which ends: {last.sentence}"
    return _hold_until("quiet_hours", until, f"quiet hours from {start:%H:%M} to {end:%H:%M} UTC{before}")


def _admit(pending: Pending, *, trial: bool) -> Admit:
    served = pending.first
    sentence = f"admitted for a {served.kind} trigger of {format_moment(served.created_at)}"
    folded = Counter(pending.kinds) - Counter([served.kind])
    if folded:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(folded.items()))
        over = "over " if pending.more else ""
        sentence += f", with {over}{folded.total()} more folded in ({kinds})"
    if trial:
        sentence += ", as the breaker's one trial"
    return Admit(served.id, sentence)


def _spent(bucket: Bucket, budget: Budget, now: datetime) -> Fraction:
    """Tokens missing from the bucket at `now`; it refills at `retrains` per `per`."""
    if bucket.as_of is None:
        return Fraction(0)
    elapsed = max(now - bucket.as_of, timedelta(0)) // _MICROSECOND
    refilled = Fraction(elapsed * budget.retrains, budget.per // _MICROSECOND)
    return max(Fraction(0), min(bucket.spent, Fraction(budget.retrains)) - refilled)


def _hold_until(reason: HoldReason, until: datetime, why: str) -> Hold:
    return Hold(reason, until, f"held until {format_moment(until)}: {why}")


def _later(start: datetime, step: timedelta, times: int = 1) -> datetime:
    """`start + times * step`, or the end of time where that lies beyond it."""
    microseconds = (step // _MICROSECOND) * times
    if microseconds > (_END_OF_TIME - start) // _MICROSECOND:
        return _END_OF_TIME
    return start + timedelta(microseconds=microseconds)


def format_moment(moment: datetime) -> str:
    """`2013-03-04 00:00 UTC`; seconds only where there are any, a part of one rounded up."""
    if moment.microsecond and _END_OF_TIME - moment > timedelta(seconds=1):
        moment = moment.replace(microsecond=0) + timedelta(seconds=1)
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC" if moment.second else "%Y-%m-%d %H:%M UTC")


def _retrains(count: int) -> str:
    return "retrain" if count == 1 else "retrains"
