"""What the loop costs: how long the runs of a pipeline took, from Dagster's own store of runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from mlops_pipelines.clock import WallClock
from mlops_pipelines.dagster_events import OVER, opened
from mlops_pipelines.failed_runs import JOBS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_pipelines.home import PipelineHome

SPAN = timedelta(days=7)


@dataclass(frozen=True)
class Cost:
    """What runs took that ended within a span, whether they succeeded or not.

    since: the machine's clock, UTC. runs, seconds: by job, of jobs with such a run; from a run's start to its
    end. retrains: seconds by retrain, of its last run.
    """

    since: datetime
    runs: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    retrains: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def cost_of(place: PipelineHome, span: timedelta = SPAN, now: datetime | None = None) -> Cost:
    """What the runs of a pipeline took that ended in the last `span`; those in flight are not counted.

    now: the machine's clock, UTC, which runs are timed by; also on a replayed home. Only runs that Dagster
    has noted something of since then are read.
    """
    since = (now or WallClock().now()).astimezone(UTC) - span
    runs: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    of_retrains: dict[str, float] = {}
    with opened(place.home) as instance:
        for job in JOBS:
            wanted = dg.RunsFilter(job_name=f"{place.name}_{job}", statuses=[*OVER], updated_after=since)
            for record in instance.get_run_records(wanted):
                took = _took(record, since)
                if took is None:
                    continue
                runs[job] += 1
                seconds[job] += took
                if job == "retrain":
                    of_retrains[record.dagster_run.run_id] = took
    # Each of them has had a run since then, so they are among the last so many.
    latest = place.ledger.retrains(place.name, limit=len(of_retrains)) if of_retrains else []
    retrains = {one.id: of_retrains[one.run_id] for one in latest if one.run_id in of_retrains}
    return Cost(since, dict(runs), dict(seconds), retrains)


def _took(record: dg.RunRecord, since: datetime) -> float | None:
    """Seconds from a run's start to its end; None where it never started, or ended before `since`."""
    if record.start_time is None or record.end_time is None or record.end_time < since.timestamp():
        return None
    return max(record.end_time - record.start_time, 0.0)
