"""Drift and performance: what changed in the inputs, and what the scores were worth."""

# Dagster reads the annotations of what it decorates, so they are not put off.

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg

from assets.stage import (
    Stage,
    library_errors,
    made,
    partition_days,
    record_days,
    table_preview,
)
from mlops_pipelines.home import PipelineHome
from mlops_pipelines.monitoring import reports
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.settings import settings

CHECK_PARITY = "parity"
DRIFT_LOGIC = 1
PERFORMANCE_LOGIC = 1


def build(stage: Stage) -> list[dg.AssetsDefinition]:
    return [_drift(stage), _performance(stage)]


def _drift(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    trigger = loaded.spec.triggers.drift
    spec = stage.spec(
        "drift_report",
        description="Inputs of a day against the reference stored with the champion.",
        kinds={"deltalake", "evidently"},
        group="monitoring",
        logic=DRIFT_LOGIC,
        config=trigger.model_dump(mode="json") if trigger else None,
        deps=[stage.dep("examples"), stage.dep("predictions")],
        columns=reports.DRIFT_COLUMNS,
    )

    parity = dg.AssetCheckSpec(
        CHECK_PARITY,
        asset=spec.key,
        description="the vectors of these days, made again from what they were made of, are the same bits",
    )

    @made(stage, [spec], pool="monitor", checks=[parity])
    def drift_report(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        place = home.pipeline(loaded)
        with library_errors():
            made = reports.report_drift(place, partition_days(context))
        run: dict[str, Any] = {
            "levels": table_preview([{"day": day, **found} for day, found in made.days.items()])
        }
        if made.picture:
            from mlops_pipelines.figures import as_markdown

            run["psi_by_feature"] = dg.MetadataValue.md(as_markdown(made.picture, "PSI by feature"))
        if made.page:
            run["evidently"] = dg.MetadataValue.url(settings().registry_ui + made.page)
        by_day = {
            day: {**found, "features": table_preview(made.features[day])} for day, found in made.days.items()
        }
        yield record_days(context, spec.key, made.written, run=run, by_day=by_day)
        with library_errors():
            yield _parity(place, sorted({*partition_days(context), *made.days}), spec.key)

    return drift_report


def _parity(place: PipelineHome, days: Sequence[str], key: dg.AssetKey) -> dg.AssetCheckResult:
    from mlops_pipelines.features.parity import parity

    found = parity(place, days)
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=CHECK_PARITY,
        passed=found.holds or found.nothing_there,
        metadata={
            "sentence": found.sentence,
            "compared": found.compared,
            "differ": found.differ,
            "differences": table_preview(
                [{**asdict(one), "key": json.dumps(one.key)} for one in found.differences]
            ),
        },
    )


def _performance(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    spec = stage.spec(
        "performance_report",
        description="What the scores of a day were worth once their labels were known.",
        kinds={"deltalake"},
        group="monitoring",
        logic=PERFORMANCE_LOGIC,
        config=loaded.spec.labels.model_dump(mode="json"),
        deps=[stage.dep("predictions"), stage.dep("labels")],
        columns=reports.PERFORMANCE_COLUMNS,
    )

    @made(stage, [spec], pool="monitor")
    def performance_report(
        context: dg.AssetExecutionContext, home: HomeResource
    ) -> dg.MaterializeResult[Any]:
        with library_errors():
            made = reports.report_performance(home.pipeline(loaded), partition_days(context))
        run = {}
        for name, picture in made.pictures.items():
            from mlops_pipelines.figures import as_markdown

            run[name] = dg.MetadataValue.md(as_markdown(picture, name))
        by_day = {
            day: {**figures, "models": table_preview(made.models[day])}
            for day, figures in made.figures.items()
        }
        return record_days(context, spec.key, made.written, run=run, by_day=by_day)

    return performance_report
