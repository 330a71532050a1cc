"""The rules of admission and promotion once more, in plain words: what ledger and policy are held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops_pipelines.spec import Policy

P = "flights"
START = datetime(2013, 1, 1, tzinfo=UTC)


def at(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


@dataclass
class ModelRetrain:
    """What the model remembers of a retrain. Times are seconds since START."""

    number: int
    run: str
    token: str
    mark: str
    admitted: int
    triggers: set[str]
    state: str = "running"
    losses: int = 0
    ended: int | None = None
    model: str | None = None
    judged: dict[str, dict[str, str]] = field(default_factory=dict)
    promoted_model: str | None = None
    old_tokens: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return f"{P}-{self.number:05d}"


@dataclass
class Model:
    """The rules of admission and promotion in plain words: lists that are walked from the start."""

    rules: Policy
    now: int = 0
    mark: int = 0
    paused: bool = False
    pending: dict[str, bool] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    retrains: list[ModelRetrain] = field(default_factory=list)
    promotions: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def open(self) -> ModelRetrain | None:
        return next((r for r in self.retrains if r.state in ("running", "lost")), None)

    def tokens(self) -> Fraction:
        """Level of the budget's bucket now, by walking all admissions."""
        size = Fraction(self.rules.budget.retrains)
        rate = size / int(self.rules.budget.per.total_seconds())
        level, last = size, 0
        for admitted in [r.admitted for r in self.retrains]:
            level = min(size, level + rate * max(0, admitted - last)) - 1
            # A clock that was set back gives nothing back.
            last = max(last, admitted)
        return min(size, level + rate * max(0, self.now - last))

    def failures(self) -> tuple[int, int]:
        """How many retrains failed in a row, and when the last of them did."""
        count, when = 0, 0
        for retrain in self.retrains:
            if retrain.state == "promoted":
                count, when = 0, 0
            elif retrain.state in ("failed", "rejected"):
                assert retrain.ended is not None
                count, when = count + 1, max(when, retrain.ended)
        return count, when

    def timed_holds(self) -> set[str]:
        holds = set()
        if self.tokens() < 1:
            holds.add("budget")
        count, when = self.failures()
        breaker = self.rules.breaker
        if count >= breaker.after:
            backoff = int(breaker.backoff.total_seconds())
            if self.now < when + backoff * 2 ** (count - breaker.after):
                holds.add("breaker")
        ends = [r.ended for r in self.retrains if r.ended is not None]
        cooldown = int(self.rules.cooldown.total_seconds())
        if ends and self.now < max(ends) + cooldown and not any(self.pending.values()):
            holds.add("cooldown")
        return holds

    def is_quiet(self) -> bool:
        """By minutes on a clock's face: from the first to now are fewer than from the first to the end."""
        if self.rules.quiet_hours is None:
            return False
        day = 24 * 60
        first, end = (moment.hour * 60 + moment.minute for moment in self.rules.quiet_hours)
        return (self.now // 60 - first) % day < (end - first) % day

    def verdict(self) -> set[str]:
        """What admission must answer: the holds that may be named, "take up" or "admit"."""
        retrain = self.open
        if retrain is None and not self.pending:
            return {"nothing_pending"}
        if self.paused or self.rules.mode == "observe":
            return {"paused"} if self.paused else {"observe"}
        if retrain is not None:
            return {"in_flight"} if retrain.state == "running" else {"take up"}
        if self.timed_holds() or self.is_quiet():
            # What ends in quiet hours is held to their end.
            return self.timed_holds() | ({"quiet_hours"} if self.rules.quiet_hours else set())
        if any(r.mark == str(self.mark) and r.state != "failed" for r in self.retrains):
            return {"nothing_new"}
        return {"admit"}
