"""Run requests for a span of days, and whether a job of this pipeline is already on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_pipelines.spec_loading import LoadedSpec

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def job_name(loaded: LoadedSpec, job: str) -> str:
    return f"{loaded.spec.name}_{job}"


def under_way(instance: dg.DagsterInstance, loaded: LoadedSpec, *jobs: str) -> str | None:
    """Id of an unfinished run of one of these jobs, or None. One query a job, whatever the history."""
    for job in jobs:
        runs = instance.get_runs(dg.RunsFilter(job_name=job_name(loaded, job), statuses=UNDER_WAY), limit=1)
        if runs:
            return runs[0].run_id
    return None


def span_request(loaded: LoadedSpec, job: str, days: Sequence[str], reason: str) -> dg.RunRequest:
    """One run of `job` over the span of `days` (first to last, UTC days)."""
    first, last = min(days), max(days)
    tags = {"mlops/reason": reason}
    if first == last:
        return dg.RunRequest(job_name=job_name(loaded, job), partition_key=first, tags=tags)
    span = {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
    return dg.RunRequest(job_name=job_name(loaded, job), tags={**tags, **span})
