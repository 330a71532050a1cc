"""Triggers wait: ask for a retrain run. Asking twice is harmless; the run itself is admitted or not."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from typing import Any

import dagster as dg

from mlops_pipelines import dagster_events, promoting, triggering
from mlops_pipelines import retraining as library
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec_loading import LoadedSpec
from sensors.requests import ask, job_name, under_way


def build(loaded: LoadedSpec, jobs: dict[str, Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{loaded.spec.name}_retraining",
        jobs=[jobs["retrain"]],
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=15,
        description="Asks for a retrain run when the policy would admit one; ends what waited too long for "
        "approval, and makes the registry say what was decided.",
    )
    def retraining(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.RunRequest | dg.SkipReason:
        place = home.pipeline(loaded)
        now = place.clock.now()
        if ended := promoting.expire_waits(place):
            context.log.info(f"Nobody decided on version {', '.join(ended)} in time.")
        if hindered := dagster_events.catch_up(place, context.instance):
            context.log.warning(hindered)
        reported, cursor = dagster_events.take_requests(place, context.instance, context.cursor)
        for sentence in reported:
            context.log.info(sentence)
        _, wrong = ask(context, place, now, "bootstrap", "schedule")
        if cursor != context.cursor:
            context.update_cursor(cursor)
        held_by = library.run_in_flight(place)
        if held_by is not None and _run_is_over(context.instance, held_by):
            context.log.warning(library.take_back(place, held_by, now))
        run = under_way(context.instance, loaded, "retrain")
        if run:
            return dg.SkipReason(f"Run {run} is already on its way.")
        outlook = triggering.outlook(place, now)
        if not outlook.would_admit and wrong:
            raise wrong
        if not outlook.would_admit:
            return dg.SkipReason(outlook.sentence)
        return dg.RunRequest(job_name=job_name(loaded, "retrain"), tags={"mlops/reason": outlook.sentence})

    return retraining


def _run_is_over(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run that holds a retrain has ended without concluding it; a deleted run has."""
    run = instance.get_run_by_id(run_id)
    return run is None or run.status in dagster_events.OVER
