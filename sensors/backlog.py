"""Events piled up: take them in and score them, as one run over just the days concerned."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import dagster as dg

from mlops_pipelines import scoring
from mlops_pipelines.ingest import taking
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec_loading import LoadedSpec
from sensors.requests import days_text, request

MINUTE = timedelta(minutes=1)


def build(loaded: LoadedSpec, jobs: dict[str, Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{loaded.spec.name}_backlog",
        jobs=[jobs["ingest"], jobs["score"]],
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=5,
        description="Rows, bytes or age of what has landed beyond a bound start one ingest run; days that "
        "late data, or a run that died, left behind start one that scores them.",
    )
    def backlog(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SensorResult | dg.SkipReason:
        place = home.pipeline(loaded)
        now = place.clock.now()
        taking.register_landed(place)
        waiting = taking.backlog(place, now)
        if waiting.due:
            asked = request(context.instance, loaded, "ingest", waiting.days, waiting.sentence)
        elif left := scoring.reopened_days(place):
            # A vector is made once: what has landed is taken in before it.
            job = "ingest" if waiting.queues else "score"
            days = sorted({*left, *waiting.days})
            asked = request(context.instance, loaded, job, days, f"To be scored: {days_text(left)}.")
        else:
            asked = dg.SkipReason(waiting.sentence)
        if isinstance(asked, dg.SkipReason):
            return asked
        lag = taking.event_lag(place, now)
        return dg.SensorResult(run_requests=[asked], asset_events=_queue_figures(loaded, waiting.queues, lag))

    return backlog


def _queue_figures(
    loaded: LoadedSpec, queues: Mapping[str, taking.Queue], event_lag: timedelta | None
) -> list[dg.AssetObservation]:
    """How much waits in each landing zone and for how long, and how far the events lie behind."""
    name = loaded.spec.name
    found = [
        dg.AssetObservation(
            dg.AssetKey([name, f"landing_{stream}"]),
            metadata={
                "queue_files": queue.files,
                "queue_bytes": queue.bytes,
                "queue_oldest_minutes": queue.oldest / MINUTE,
            },
        )
        for stream, queue in queues.items()
    ]
    if event_lag is not None:
        lag = {"event_lag_minutes": event_lag / MINUTE}
        found.append(dg.AssetObservation(dg.AssetKey([name, "events"]), metadata=lag))
    return found
