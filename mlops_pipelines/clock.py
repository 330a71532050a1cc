"""Time enters the library here: the wall clock, or the watermark of a replay."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Clock(Protocol):
    def now(self) -> datetime:
        """Current time, timezone-aware UTC."""
        ...


class WallClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass(frozen=True)
class FixedClock:
    """A clock that stands at one moment, such as the watermark of a replay.

    at: timezone-aware UTC.
    """

    at: datetime

    def now(self) -> datetime:
        return self.at


def days_through(first: date, last: date) -> list[str]:
    """The days (YYYY-MM-DD) from one to another, both included."""
    return [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]


def usual_step(days: Sequence[str], unknown: timedelta = timedelta(days=1)) -> timedelta:
    """How far apart days lie at most, by habit: the second longest step between them, so that one outage is
    no habit. unknown: of fewer than three days. days: YYYY-MM-DD, in order, each once. Pure."""
    steps = sorted(date.fromisoformat(later) - date.fromisoformat(one) for one, later in pairwise(days))
    return steps[-2] if len(steps) > 1 else unknown


def midnight(day: date | str) -> datetime:
    """First moment of a day (UTC), given as a date or as YYYY-MM-DD; of a datetime, that of its day."""
    return datetime.combine(date.fromisoformat(day) if isinstance(day, str) else day, time(), UTC)
