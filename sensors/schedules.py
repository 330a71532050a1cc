"""Once a night: bring up to date what late data reopened. Once a day: measure what waits."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from typing import Any

import dagster as dg

from mlops_pipelines import scoring
from mlops_pipelines.monitoring import reports
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec_loading import LoadedSpec
from sensors.requests import span_request, under_way


def build_late_data(loaded: LoadedSpec, jobs: dict[str, Any]) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{loaded.spec.name}_late_data",
        cron_schedule="0 3 * * *",
        execution_timezone="UTC",
        job=jobs["score"],
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Tiles, examples and scores of days that late data reopened.",
    )
    def late_data(context: dg.ScheduleEvaluationContext, home: HomeResource) -> dg.RunRequest | dg.SkipReason:
        days = scoring.reopened_days(home.pipeline(loaded))
        if not days:
            return dg.SkipReason("No day is reopened by late data.")
        run = under_way(context.instance, loaded, "ingest", "score")
        if run:
            return dg.SkipReason(f"{days[0]} to {days[-1]} are reopened. Run {run} brings them up to date.")
        return span_request(loaded, "score", days, f"late data for {days[0]} to {days[-1]}")

    return late_data


def build_monitoring(loaded: LoadedSpec, jobs: dict[str, Any]) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{loaded.spec.name}_daily_monitoring",
        cron_schedule="0 6 * * *",
        execution_timezone="UTC",
        job=jobs["monitor"],
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Drift and performance of closed days that no sensor has measured.",
    )
    def daily_monitoring(
        context: dg.ScheduleEvaluationContext, home: HomeResource
    ) -> dg.RunRequest | dg.SkipReason:
        place = home.pipeline(loaded)
        days = reports.days_to_measure(place, place.clock.now())
        if not days:
            return dg.SkipReason("Every closed day is measured.")
        run = under_way(context.instance, loaded, "labels", "monitor")
        if run:
            return dg.SkipReason(f"{days[0]} to {days[-1]} wait. Run {run} comes first.")
        return span_request(loaded, "monitor", days, f"daily monitoring of {days[0]} to {days[-1]}")

    return daily_monitoring
