"""Runs that failed: why, and what helps. Read from Dagster's own store of runs, which keeps them all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from mlops_pipelines.alerting.monitors import CheckedParity, FailedRun
from mlops_pipelines.errors import QUOTES, TRY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagster._core.execution.plan.objects import UserFailureData

    from mlops_pipelines.home import PipelineHome

JOBS = ("ingest", "score", "labels", "monitor", "backfill", "retrain")


def failed_runs(
    place: PipelineHome, instance: dg.DagsterInstance, limit: int, *, past: bool
) -> list[FailedRun]:
    """The runs of a pipeline that failed, the newest first, at most `limit` of each of its jobs.

    past: those, too, whose job has succeeded since; without them their logs are not read either.
    """
    found: list[FailedRun] = []
    for job in JOBS:
        name = f"{place.name}_{job}"
        failed = dg.RunsFilter(job_name=name, statuses=[dg.DagsterRunStatus.FAILURE])
        done = dg.RunsFilter(job_name=name, statuses=[dg.DagsterRunStatus.SUCCESS])
        records = instance.get_run_records(failed, limit=limit)
        latest = instance.get_run_records(done, limit=1) if records else []
        for record in records:
            later = [one.dagster_run.run_id for one in latest if one.storage_id > record.storage_id]
            over = later[0] if later else None
            if past or over is None:
                found.append(_failed_run(instance, record, over, job))
    return sorted(found, key=lambda one: one.at, reverse=True)


def checked_parity(place: PipelineHome, instance: dg.DagsterInstance) -> CheckedParity | None:
    """What the check `parity` said last; None before it was run."""
    key = dg.AssetCheckKey(dg.AssetKey([place.name, "feature_report"]), "parity")
    # Not one that is only planned: what was found before stands until it is looked at again.
    ended = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
    found = instance.event_log_storage.get_asset_check_execution_history(key, limit=1, status=ended)
    evaluated = found[0].event.dagster_event if found and found[0].event else None
    if evaluated is None:
        return None
    evaluation = evaluated.asset_check_evaluation_data
    said = evaluation.metadata.get("sentence")
    return CheckedParity(evaluation.passed, str(said.value) if said else "")


def _failed_run(
    instance: dg.DagsterInstance, record: dg.RunRecord, over_by: str | None, job: str
) -> FailedRun:
    run = record.dagster_run
    step, cause, ours = _cause(instance, run.run_id)
    told, _, remedy = cause.partition(TRY)
    ended = record.end_time or record.update_timestamp.replace(tzinfo=UTC).timestamp()
    return FailedRun(
        run.run_id,
        job,
        datetime.fromtimestamp(ended, UTC),
        _days(run.tags),
        step,
        " ".join(told.split()),
        remedy.strip() or f"look at the run {run.run_id} in the UI (mlops dev)",
        over_by,
        ours,
    )


def _cause(instance: dg.DagsterInstance, run_id: str) -> tuple[str, str, bool]:
    """The step that failed first, why, and whether the library says so, which shows no sensitive value; of a
    run whose process was lost, what Dagster says of it."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = entry.dagster_event
        failure = event.step_failure_data if event else None
        if event and failure:
            said = failure.user_failure_data
            error = failure.error
            while error and error.cause:
                error = error.cause
            cause = (said.description if said else None) or (error.message if error else None)
            ours = bool(said and said.description and not _quotes(said))
            return event.step_key or "", cause or "it does not say why", ours
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE):
        return (
            "",
            entry.user_message or (entry.dagster_event and entry.dagster_event.message) or "it was lost",
            True,
        )
    return "", "its process was lost", True


def _quotes(said: UserFailureData) -> bool:
    entry = said.metadata.get(QUOTES)
    return bool(entry and entry.value)


def _days(tags: Mapping[str, str]) -> str:
    if ASSET_PARTITION_RANGE_START_TAG in tags:
        return f"{tags[ASSET_PARTITION_RANGE_START_TAG]} to {tags[ASSET_PARTITION_RANGE_END_TAG]}"
    return tags.get(PARTITION_NAME_TAG, "")
