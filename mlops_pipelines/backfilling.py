"""A backfill by hand: one run over any days, started by Dagster's daemon like any other run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from mlops_pipelines.clock import WallClock
from mlops_pipelines.dagster_events import OVER, opened
from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.home import PROJECT
from mlops_pipelines.standing import FORCE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import date

    from mlops_pipelines.home import PipelineHome

_LOOK_EVERY = 1.0  # seconds
# A daemon says every 30 seconds that it is alive; Dagster itself misses one after half an hour.
_DAEMON_BEATS = 90.0  # seconds


@dataclass(frozen=True)
class Made:
    """What a backfill came to in one asset: days (partitions) it went over, days that it made again, and days
    whose content is another one now. Facts are taken in or scored, and never made again.
    """

    asset: str
    days: int
    made_again: int
    changed: int


def launch(place: PipelineHome, first: date, last: date, *, force: bool) -> str:
    """Ask Dagster for a run of the job `backfill` over the days from `first` to `last` (UTC); its id.

    It waits in the queue until a daemon starts it. Raises UserError for days that are no partitions of the
    pipeline.
    """
    span = place.spec.partitions
    end = (
        min(place.clock.now().date(), span.end - timedelta(days=1)) if span.end else place.clock.now().date()
    )
    if not span.start <= first <= last <= end:
        raise UserError(
            f"{first} to {last} are no days of {place.name}.",
            expected=f"from {span.start} to {end} at most, the first one first",
        )
    run_id = str(uuid4())
    tags = {
        ASSET_PARTITION_RANGE_START_TAG: first.isoformat(),
        ASSET_PARTITION_RANGE_END_TAG: last.isoformat(),
        FORCE: "true" if force else "false",
        "mlops/reason": f"A backfill of {first} to {last}, asked for by hand.",
    }
    command = [
        sys.executable, "-m", "dagster", "job", "launch", "-w", str(PROJECT / "workspace.yaml"),
        "-j", f"{place.name}_backfill", "--tags", json.dumps(tags), "--run-id", run_id,
    ]  # fmt: skip
    homes = {"DAGSTER_HOME": str(place.home.dagster), "MLOPS_HOME": str(place.home.path)}
    done = subprocess.run(  # noqa: S603 - fixed arguments, checked days, no shell
        command, check=False, capture_output=True, text=True, env={**os.environ, **homes}
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise TerminalError(
            f"Dagster did not take the run: {said[-1] if said else 'it does not say why'}",
            remedy="dg check defs",
        )
    return run_id


def status(place: PipelineHome, run_id: str) -> tuple[str, bool]:
    """Of a run: its status, such as QUEUED, and whether a daemon is there that starts runs."""
    with opened(place.home) as instance:
        run = instance.get_run_by_id(run_id)
        beats = [one.last_heartbeat for one in instance.get_daemon_statuses().values()]
        latest = max((beat.timestamp for beat in beats if beat), default=0.0)
        silent = WallClock().now().timestamp() - latest
        return run.status.value if run else "DELETED", silent < _DAEMON_BEATS


def follow(place: PipelineHome, run_id: str, told: Callable[[str], None]) -> str:
    """Wait until a run is over; its status, such as SUCCESS. told: is given each step's end, and each new
    status.
    """
    seen: set[str] = set()

    def tell(what: str) -> None:
        if what not in seen:
            seen.add(what)
            told(what)

    with opened(place.home) as instance:
        while True:
            run = instance.get_run_by_id(run_id)
            if run is None:
                raise TerminalError(f"The run {run_id} was deleted while it was waited for.")
            for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_SUCCESS):
                tell(f"done: {(entry.step_key or '').partition('__')[2]}")
            tell(run.status.value.lower())
            if run.status in OVER:
                return run.status.value
            time.sleep(_LOOK_EVERY)


def made(place: PipelineHome, run_id: str) -> list[Made]:
    """What a run made, by asset, in order of their names."""
    found: dict[str, Counter[str]] = {}
    with opened(place.home) as instance:
        for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
            one = entry.asset_materialization
            if one is not None:
                count = found.setdefault(one.asset_key.path[-1], Counter())
                count["days"] += 1
                count["made_again"] += _says(one.metadata, "recomputed")
                count["changed"] += _says(one.metadata, "changed")
    return [Made(asset, n["days"], n["made_again"], n["changed"]) for asset, n in sorted(found.items())]


def _says(metadata: Mapping[str, dg.MetadataValue[Any]], name: str) -> bool:
    return name in metadata and metadata[name].value is True
