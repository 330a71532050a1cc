"""What others drop: external assets, one for each landing folder, and one for requests to retrain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from assets.stage import table_schema
from mlops_pipelines.dagster_events import RETRAIN_REQUESTS
from mlops_pipelines.lineage import landed_columns

if TYPE_CHECKING:
    from assets.stage import Stage


def build(stage: Stage) -> list[dg.AssetSpec]:
    spec = stage.loaded.spec
    folders = {"events": spec.events.landing, "labels": spec.labels.landing}
    folders |= {name: reference.landing for name, reference in spec.references.items()}
    requests = dg.AssetSpec(
        stage.key(RETRAIN_REQUESTS),
        description="Retrains that other systems ask for: materializations that they report to Dagster; the "
        "sensor `retraining` makes each a trigger.",
        group_name=f"{stage.name}_landing",
        owners=list(spec.owners),
    )
    return [
        requests,
        *(
            dg.AssetSpec(
                stage.key(f"landing_{stream}"),
                description=f"Files that producers finish under `{folder}`, in folders by day of arrival.",
                group_name=f"{stage.name}_landing",
                owners=list(spec.owners),
                kinds={"parquet"},
                metadata=table_schema(landed_columns(stage.loaded, stream)),
            )
            for stream, folder in folders.items()
        ),
    ]
