"""Time enters the library here: the wall clock, or the watermark of a replay."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Protocol


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


def midnight(day: date | str) -> datetime:
    """First moment of a day (UTC), given as a date or as YYYY-MM-DD; of a datetime, that of its day."""
    return datetime.combine(date.fromisoformat(day) if isinstance(day, str) else day, time(), UTC)
