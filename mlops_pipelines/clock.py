"""Time enters the library here: the wall clock, or the watermark of a replay."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
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
