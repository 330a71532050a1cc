"""What the monitors find becomes incidents, which are told once: one look a minute, no run."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from typing import Any

import dagster as dg

from mlops_pipelines import failed_runs
from mlops_pipelines.clock import WallClock
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec_loading import LoadedSpec


def build(loaded: LoadedSpec, jobs: dict[str, Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{loaded.spec.name}_alerts",
        # A sensor has to have a target; this one starts nothing.
        jobs=[jobs["monitor"]],
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=60,
        description="One incident a cause: opened, worsened, resolved by itself, and told to the sinks.",
    )
    def alerts(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SkipReason:
        from mlops_pipelines.alerting.attending import attend, deliver, withheld

        place = home.pipeline(loaded)
        if not place.ledger.keeps_incidents:
            return dg.SkipReason("The ledger has no incidents yet: mlops ledger upgrade.")
        failed = failed_runs.failed_runs(place, context.instance, 1, past=False)
        parity = failed_runs.checked_parity(place, context.instance)
        changes = attend(place, failed, parity, WallClock().now())
        for change in changes:
            if change.event:
                context.log.info(f"{change.incident.id} {change.event}: {change.incident.title}")
        for problem in deliver(place, WallClock()):
            context.log.warning(problem)
        told = [f"{one.incident.id} {one.event}." for one in changes if one.event]
        open_ones = place.ledger.incidents(place.name)
        silent = ", ".join(withheld(place))
        wakes = f" Told nothing of a replayed home: {silent}." if silent else ""
        return dg.SkipReason(" ".join([*told, f"Open incidents: {len(open_ones)}.{wakes}"]))

    return alerts
