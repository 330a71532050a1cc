"""Outcomes arrived: join them, measure quality, and ask for a retrain when there is reason to."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from typing import Any

import dagster as dg

from mlops_pipelines.ingest import taking
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec_loading import LoadedSpec
from sensors.requests import ask, days_text, request


def build(loaded: LoadedSpec, jobs: dict[str, Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{loaded.spec.name}_label_arrival",
        jobs=[jobs["labels"]],
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=15,
        description="Landed labels start a run that joins them and measures quality; enough of them, or "
        "a fall in quality or changed meaning, become triggers.",
    )
    def label_arrival(
        context: dg.SensorEvaluationContext, home: HomeResource
    ) -> dg.RunRequest | dg.SkipReason:
        place = home.pipeline(loaded)
        now = place.clock.now()
        appended, wrong = ask(context, place, now, "labels", "performance", "concept_drift")
        taking.register_landed(place, ["labels"])
        days = taking.days_with_new_labels(place)
        if not days and wrong:
            raise wrong
        if not days:
            return dg.SkipReason(f"No labels wait. {appended}")
        return request(
            context.instance, loaded, "labels", days, f"Labels or scores to look at: {days_text(days)}."
        )

    return label_arrival
