"""Events piled up: take them in and score them, as one run over just the days concerned."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from typing import Any

import dagster as dg

from mlops_pipelines.ingest import taking
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec_loading import LoadedSpec
from sensors.requests import span_request, under_way


def build(loaded: LoadedSpec, jobs: dict[str, Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{loaded.spec.name}_backlog",
        jobs=[jobs["ingest"]],
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=5,
        description="Rows, bytes or age of what has landed beyond a bound start one ingest run.",
    )
    def backlog(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.RunRequest | dg.SkipReason:
        place = home.pipeline(loaded)
        taking.register_landed(place)
        waiting = taking.backlog(place, place.clock.now())
        if not waiting.due:
            return dg.SkipReason(waiting.sentence)
        run = under_way(context.instance, loaded, "ingest", "labels", "score")
        if run:
            return dg.SkipReason(f"{waiting.sentence} Run {run} is already taking in.")
        return span_request(loaded, "ingest", waiting.days, waiting.sentence)

    return backlog
