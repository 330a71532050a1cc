"""Events piled up: take them in and score them, as one run over just the days concerned."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from typing import Any

import dagster as dg

from mlops_pipelines import scoring
from mlops_pipelines.ingest import taking
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec_loading import LoadedSpec
from sensors.requests import days_text, request


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
        if waiting.due:
            return request(context.instance, loaded, "ingest", waiting.days, waiting.sentence)
        left = scoring.reopened_days(place)
        if not left:
            return dg.SkipReason(waiting.sentence)
        # A vector is made once: what has landed is taken in before it.
        job = "ingest" if waiting.files else "score"
        days = sorted({*left, *waiting.days})
        return request(context.instance, loaded, job, days, f"To be scored: {days_text(left)}.")

    return backlog
