"""Events piled up: take them in and score them, as one run over just the days concerned."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from typing import Any

import dagster as dg

from mlops_pipelines import scoring
from mlops_pipelines.ingest import taking
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec_loading import LoadedSpec
from sensors.requests import span_request, under_way


def build(loaded: LoadedSpec, jobs: dict[str, Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{loaded.spec.name}_backlog",
        jobs=[jobs["ingest"], jobs["score"]],
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=5,
        description="Rows, bytes or age of what has landed beyond a bound start one ingest run; days that "
        "late data, or a run that died, left behind start one that scores them.",
    )
    def backlog(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.RunRequest | dg.SkipReason:
        place = home.pipeline(loaded)
        taking.register_landed(place)
        waiting = taking.backlog(place, place.clock.now())
        left = [] if waiting.due else scoring.reopened_days(place)
        if not waiting.due and not left:
            return dg.SkipReason(waiting.sentence)
        run = under_way(context.instance, loaded, "ingest", "labels", "score")
        if run:
            return dg.SkipReason(f"{waiting.sentence} Run {run} comes first.")
        if left:
            return span_request(loaded, "score", left, f"{left[0]} to {left[-1]} were left to be scored")
        return span_request(loaded, "ingest", waiting.days, waiting.sentence)

    return backlog
