"""Looking out for files that land, for a moment: sooner than the next tick would."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_pipelines.clock import WallClock

if TYPE_CHECKING:
    from datetime import timedelta

    from mlops_pipelines.home import PipelineHome

_LOOKS_EVERY = 0.1  # seconds


def lands_soon(place: PipelineHome, patience: timedelta) -> bool:
    """Whether something lands in a local folder of today's within `patience`; it waits no longer than that.

    A home that keeps the time of a replay waits for nothing.
    """
    clock = place.clock
    roots = [place.landing(stream) for stream in place.streams]
    local = [root for root in roots if isinstance(root, Path)]
    if not isinstance(clock, WallClock) or not local:
        return False

    def seen() -> list[int]:
        today = clock.now().date().isoformat()
        return [_changed_at(folder) for root in local for folder in (root, root / today)]

    before, until = seen(), time.monotonic() + patience.total_seconds()
    while time.monotonic() < until:
        time.sleep(_LOOKS_EVERY)
        if seen() != before:
            return True
    return False


def _changed_at(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0  # there is none yet, or none that can be looked at: who lists it says so
