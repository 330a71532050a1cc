"""LearningLoop: the YAML a user writes, and the Dagster definitions it becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

import assets
import sensors
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec import PipelineSpec
from mlops_pipelines.spec_loading import load_spec

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mlops_pipelines.spec_loading import LoadedSpec


# One object for all pipelines: definitions that are merged must agree on it.
HOME = HomeResource()


class LearningLoop(dg.Component):
    """One model kept fresh and safe: datasets, features, training, gates, promotion and monitoring."""

    def __init__(self, loaded: LoadedSpec):
        self.loaded = loaded

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return PipelineSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> LearningLoop:
        # The attributes have their shape; reading the file again checks the fields against each
        # other and the contract, with line numbers.
        return cls(load_spec(context.path / "defs.yaml" if context.path.is_dir() else context.path))

    def build_defs(self, context: dg.ComponentLoadContext | None = None) -> dg.Definitions:
        return build_definitions(self.loaded)


def build_definitions(loaded: LoadedSpec, home: HomeResource | None = None) -> dg.Definitions:
    """The assets, checks, jobs, sensors and schedules of one pipeline, all under its name."""
    resources: dict[str, Any] = {"home": home or HOME}
    graph = assets.build(loaded)
    return dg.Definitions(
        assets=graph.assets,
        jobs=list(graph.jobs.values()),
        sensors=sensors.build_sensors(loaded, graph.jobs),
        schedules=sensors.build_schedules(loaded, graph.jobs),
        resources=resources,
        # A process for each step costs more than the steps (seconds a run).
        executor=dg.in_process_executor,
    )
