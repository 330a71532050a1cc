"""A day is over: measure its features and drift, and ask for a retrain when drift persists."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from typing import Any

import dagster as dg

from mlops_pipelines.monitoring import feature_health, reports
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec_loading import LoadedSpec
from sensors.requests import ask, days_text, request


def build(loaded: LoadedSpec, jobs: dict[str, Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{loaded.spec.name}_drift",
        jobs=[jobs["monitor"]],
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Closed days with vectors or scores are measured; drift or staleness that persists and a "
        "changed contract become triggers.",
    )
    def drift(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.RunRequest | dg.SkipReason:
        place = home.pipeline(loaded)
        now = place.clock.now()
        kinds = ("drift", "prediction_drift", "staleness", "contract_change")
        appended, wrong = ask(context, place, now, *kinds)
        days = sorted({*reports.days_to_measure(place, now), *feature_health.days_to_look_at(place, now)})
        if not days and wrong:
            raise wrong
        if not days:
            return dg.SkipReason(f"No closed day waits to be measured. {appended}")
        return request(context.instance, loaded, "monitor", days, f"To be measured: {days_text(days)}.")

    return drift
