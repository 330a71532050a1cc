"""Once a night: bring up to date what late data reopened. Once a day: measure what waits."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from typing import Any

import dagster as dg

from mlops_pipelines import scoring
from mlops_pipelines.monitoring import feature_health, feedback_report, reports
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec_loading import LoadedSpec
from sensors.requests import days_text, register, request


def build_late_data(loaded: LoadedSpec, jobs: dict[str, Any]) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{loaded.spec.name}_late_data",
        cron_schedule="0 3 * * *",
        execution_timezone="UTC",
        job=jobs["score"],
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Finds files in old folders; tiles, examples and scores of days that late data reopened.",
    )
    def late_data(context: dg.ScheduleEvaluationContext, home: HomeResource) -> dg.RunRequest | dg.SkipReason:
        place = home.pipeline(loaded)
        # The sensors list recent folders only.
        problem = register(context, place, everything=True)
        days = scoring.reopened_days(place)
        if not days and problem:
            raise problem
        if not days:
            return dg.SkipReason("No day is reopened by late data.")
        return request(context.instance, loaded, "score", days, f"Late data reopened {days_text(days)}.")

    return late_data


def build_monitoring(loaded: LoadedSpec, jobs: dict[str, Any]) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{loaded.spec.name}_daily_monitoring",
        cron_schedule="0 6 * * *",
        execution_timezone="UTC",
        job=jobs["monitor"],
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Features, drift and performance of days that no sensor has had measured.",
    )
    def daily_monitoring(
        context: dg.ScheduleEvaluationContext, home: HomeResource
    ) -> dg.RunRequest | dg.SkipReason:
        place = home.pipeline(loaded)
        now = place.clock.now()
        waiting = (
            reports.days_to_measure,
            reports.days_to_judge,
            feedback_report.days_to_audit,
            feature_health.days_to_look_at,
        )
        days = sorted({day for ask in waiting for day in ask(place, now)})
        if not days:
            return dg.SkipReason("No day waits to be measured.")
        return request(context.instance, loaded, "monitor", days, f"To be measured: {days_text(days)}.")

    return daily_monitoring
