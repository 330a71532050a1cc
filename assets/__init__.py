"""What is made: the assets, checks and jobs of a pipeline, one file a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets import intake, landing, learning, monitoring, scoring
from assets.stage import Stage

if TYPE_CHECKING:
    from mlops_pipelines.spec_loading import LoadedSpec


@dataclass(frozen=True)
class Graph:
    """The assets of a pipeline and the jobs that run them, by what they do."""

    assets: list[dg.AssetsDefinition | dg.AssetSpec]
    jobs: dict[str, Any]


def build(loaded: LoadedSpec) -> Graph:
    """The whole graph of one pipeline."""
    stage = Stage(loaded)
    references = list(loaded.spec.references)
    takes = ["events", "quarantine", "labels", *references]
    serves = ["feature_tiles", "examples", "predictions"]
    judged = ["performance_report", "feedback_report"]
    measures = ["feature_report", "drift_report", *judged]
    daily = [
        name for name in takes if name not in loaded.spec.references or loaded.spec.references[name].time
    ]
    jobs = {
        "ingest": _job(stage, "ingest", [*takes, *serves], priority=10, description="Take in and score."),
        "score": _job(stage, "score", serves, priority=9, description="Score days that late data reopened."),
        "labels": _job(stage, "labels", ["labels", *judged], priority=5,
                       description="Take in outcomes and measure quality."),
        "monitor": _job(stage, "monitor", measures, priority=1,
                        description="Measure features, drift and quality."),
        "backfill": _job(stage, "backfill", [*daily, *serves, *measures], priority=0,
                         description="All that is made of a day, for any days; what is right is left alone."),
        "retrain": _job(stage, "retrain", ["training_set", "model", "evaluation_report", "champion"],
                        priority=loaded.spec.policy.priority - 10,
                        description="Train, evaluate and, through the gates, promote."),
    }  # fmt: skip
    return Graph(
        assets=[
            *landing.build(stage),
            *intake.build(stage),
            *scoring.build(stage),
            *learning.build(stage),
            *monitoring.build(stage),
        ],
        jobs=jobs,
    )


def _job(stage: Stage, name: str, assets: list[str], *, priority: int, description: str) -> Any:
    tags = {"mlops/pipeline": stage.name, "dagster/priority": str(priority)}
    if name == "retrain":
        # A second attempt is a new admission, never an automatic re-execution (ARCHITECTURE.md).
        tags["dagster/max_retries"] = "0"
        # One at a time on a machine: it takes all cores (dagster.yaml).
        tags["mlops/learns"] = "yes"
    return dg.define_asset_job(
        f"{stage.name}_{name}",
        selection=dg.AssetSelection.assets(*(stage.key(asset) for asset in assets)),
        tags=tags,
        description=description,
    )
