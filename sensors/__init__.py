"""When it is made: one file a trigger. Ticks only append; runs decide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sensors import alerts, backlog, drift, label_arrival, retraining, schedules

if TYPE_CHECKING:
    import dagster as dg

    from mlops_pipelines.spec_loading import LoadedSpec


def build_sensors(loaded: LoadedSpec, jobs: dict[str, Any]) -> list[dg.SensorDefinition]:
    return [module.build(loaded, jobs) for module in (backlog, label_arrival, drift, retraining, alerts)]


def build_schedules(loaded: LoadedSpec, jobs: dict[str, Any]) -> list[dg.ScheduleDefinition]:
    return [schedules.build_late_data(loaded, jobs), schedules.build_monitoring(loaded, jobs)]
