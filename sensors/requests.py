"""Run requests for a span of days, and whether a job of this pipeline is already on its way."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from mlops_pipelines import triggering
from mlops_pipelines.dagster_events import OVER
from mlops_pipelines.errors import MlopsError, UserError
from mlops_pipelines.ingest.taking import register_landed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.spec_loading import LoadedSpec

UNDER_WAY = [status for status in dg.DagsterRunStatus if status not in OVER]

# Runs of these jobs work on the same tables, so a run of the job is asked for when they have ended.
WAITS_FOR = {
    "ingest": ("ingest", "labels", "score"),
    "score": ("ingest", "labels", "score"),
    "labels": ("ingest", "labels", "monitor"),
    "monitor": ("ingest", "labels", "monitor"),
    "retrain": ("retrain",),
}


def register(
    context: dg.SensorEvaluationContext | dg.ScheduleEvaluationContext,
    place: PipelineHome,
    *,
    everything: bool = False,
) -> UserError | None:
    """Registers what has landed, as `register_landed` does.

    A landing folder that cannot be listed holds up none of the others: what is wrong with it is logged and
    given back, to be raised by a tick that asks for no run.
    """
    try:
        register_landed(place, everything=everything)
    except UserError as error:
        context.log.error(str(error))
        return error
    return None


def ask(
    context: dg.SensorEvaluationContext, place: PipelineHome, now: datetime, *kinds: str
) -> tuple[str, MlopsError | None]:
    """Append triggers for the reasons of these kinds that are due; what was appended, as sentences.

    One that cannot be looked at holds up none of the others: what is wrong with it is logged and given back,
    as by `register`.
    """
    appended: list[str] = []
    wrong: MlopsError | None = None
    for kind in kinds:
        try:
            appended += triggering.append(place, now, kind)
        except MlopsError as error:
            context.log.error(f"Whether there is a reason of the kind {kind} is not known: {error}")
            wrong = wrong or error
    for sentence in appended:
        context.log.info(sentence)
    return " ".join(appended), wrong


def job_name(loaded: LoadedSpec, job: str) -> str:
    return f"{loaded.spec.name}_{job}"


def under_way(instance: dg.DagsterInstance, loaded: LoadedSpec, job: str) -> str | None:
    """Id of an unfinished run that `job` waits for, or None. One query a job, whatever the history."""
    for other in WAITS_FOR[job]:
        runs = instance.get_runs(dg.RunsFilter(job_name=job_name(loaded, other), statuses=UNDER_WAY), limit=1)
        if runs:
            return runs[0].run_id
    return None


def request(
    instance: dg.DagsterInstance, loaded: LoadedSpec, job: str, days: Sequence[str], why: str
) -> dg.RunRequest | dg.SkipReason:
    """A run of `job` for these days (UTC), unless one that it waits for is under way. why: a sentence."""
    run = under_way(instance, loaded, job)
    return dg.SkipReason(f"{why} Run {run} comes first.") if run else span_request(loaded, job, days, why)


def days_text(days: Sequence[str]) -> str:
    """Days in order as a person says them."""
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def span_request(loaded: LoadedSpec, job: str, days: Sequence[str], why: str) -> dg.RunRequest:
    """One run of `job` over the last of `days` (UTC) that follow each other without a gap.

    A run takes partitions as one range, and its steps take up by themselves all that waits: a late row
    of last winter does not make a run over every day since.
    """
    waiting = {date.fromisoformat(day) for day in days}
    first = last = max(waiting)
    while first - timedelta(days=1) in waiting:
        first -= timedelta(days=1)
    tags = {"mlops/reason": why}
    if first == last:
        return dg.RunRequest(job_name=job_name(loaded, job), partition_key=first.isoformat(), tags=tags)
    span = {
        ASSET_PARTITION_RANGE_START_TAG: first.isoformat(),
        ASSET_PARTITION_RANGE_END_TAG: last.isoformat(),
    }
    return dg.RunRequest(job_name=job_name(loaded, job), tags={**tags, **span})
