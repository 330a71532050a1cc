"""Feature health, drift and performance: were the inputs right, did they change, what were scores worth."""

# Dagster reads the annotations of what it decorates, so they are not put off.

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import dagster as dg

from assets.stage import (
    Stage,
    asked,
    library_errors,
    made,
    partition_days,
    record_days,
    table_preview,
)
from mlops_pipelines import dagster_events, promoting, watching
from mlops_pipelines.features.parity import Parity, parity
from mlops_pipelines.monitoring import feature_health, feedback, reports
from mlops_pipelines.monitoring import feedback_report as auditing
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.settings import settings

CHECK_PARITY = "parity"
CHECK_SKEW = "skew"
CHECK_FRESHNESS = "freshness"
CHECK_WATCH = "watch"
CHECK_FEEDBACK = "feedback"
MOST_SHOWN = 20
FEATURES_LOGIC = 1
DRIFT_LOGIC = 3
PERFORMANCE_LOGIC = 4
FEEDBACK_LOGIC = 1


def build(stage: Stage) -> list[dg.AssetsDefinition]:
    return [_features(stage), _drift(stage), _performance(stage), _feedback(stage)]


def _drift(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    trigger = reports.drift_bands(loaded.spec.triggers)
    spec = stage.spec(
        "drift_report",
        description="Inputs of a day against the reference stored with the champion.",
        kinds={"deltalake", "evidently"},
        group="monitoring",
        logic=DRIFT_LOGIC,
        config=trigger.model_dump(mode="json"),
        deps=[stage.dep("examples"), stage.dep("predictions")],
        columns=reports.DRIFT_COLUMNS,
    )

    @made(stage, [spec], pool="monitor")
    def drift_report(context: dg.AssetExecutionContext, home: HomeResource) -> dg.MaterializeResult[Any]:
        with library_errors():
            made = reports.report_drift(home.pipeline(loaded), **asked(context, spec))
        run: dict[str, Any] = {
            "levels": table_preview([{"day": day, **found} for day, found in made.days.items()])
        }
        if made.picture:
            from mlops_pipelines.figures import as_markdown

            run["psi_by_feature"] = dg.MetadataValue.md(as_markdown(made.picture, "PSI by feature"))
        if made.page:
            run["evidently"] = dg.MetadataValue.url(settings().registry_ui + made.page.path)
            run["evidently_beside_ours"] = table_preview(made.beside_ours)
        by_day = {
            day: {**found, "features": table_preview(made.features[day])} for day, found in made.days.items()
        }
        return record_days(context, spec.key, made.written, run=run, by_day=by_day, right=made.right)

    return drift_report


def _features(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    spec = stage.spec(
        "feature_report",
        description="Health of the features of a day: skew, freshness, missing values, known keys.",
        kinds={"deltalake", "duckdb"},
        group="monitoring",
        logic=FEATURES_LOGIC,
        config=stage.features.version,
        deps=[stage.dep("examples"), *(stage.dep(tiles) for tiles in stage.tiles)],
        columns=feature_health.COLUMNS,
    )
    checks = [
        dg.AssetCheckSpec(name, asset=spec.key, description=description)
        for name, description in (
            (CHECK_PARITY, "the vectors, made again from what they were made of, are the same bits"),
            (CHECK_SKEW, "the vectors are near to those that a fully fresh store would have given"),
            (CHECK_FRESHNESS, "decisions find every view as fresh as its max_age says"),
        )
    ]

    @made(stage, [spec], pool="monitor", checks=checks)
    def feature_report(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        place = home.pipeline(loaded)
        with library_errors():
            made = feature_health.report_features(place, **asked(context, spec))
        run: dict[str, Any] = {"views": table_preview([_of_view(one) for one in made.views])}
        if made.views:
            from mlops_pipelines.figures import as_markdown, bars

            picture = bars(made.oldest, title="Oldest at a decision, by view", unit="hours")
            run["age_by_view"] = dg.MetadataValue.md(as_markdown(picture, "hours by view"))
        by_day = {
            day: {
                "worst_skew": max(one.skew for one in ones),
                "missing": sum(one.missing for one in ones) / len(ones),
            }
            for day, ones in made.by_day.items()
        }
        yield record_days(context, spec.key, made.written, run=run, by_day=by_day, right=made.right)
        with library_errors():
            found = parity(place, sorted({*partition_days(context), *by_day}))
        yield _parity(found, spec.key)
        skewed = [
            {"day": one.day, "feature": one.feature, "skew": f"{one.skew:.4f}", "differ": f"{one.differ:.1%}"}
            for one in made.features
            if one.skew
        ]
        skew = {
            "sentence": made.skew_sentence,
            "worst": max((one.skew for one in made.features), default=0.0),
            "features": table_preview(skewed[:MOST_SHOWN]),
        }
        yield _warning(spec.key, CHECK_SKEW, made.within_skew, skew)
        freshness = {
            "sentence": made.stale_sentence,
            "worst": max((one.stale or 0.0 for one in made.views), default=0.0),
            "views": table_preview([_of_view(one) for one in made.stale_views]),
        }
        yield _warning(spec.key, CHECK_FRESHNESS, not made.stale_views, freshness)

    return feature_report


def _of_view(one: feature_health.Health) -> dict[str, Any]:
    """Health of a view for people."""

    def hours(value: float | None) -> str:
        return "–" if value is None else f"{value:.1f} h"

    return {
        "day": one.day,
        "view": one.view,
        "version": one.version,
        "known keys": f"{one.covered:.1%}",
        "missing": f"{one.missing:.1%}",
        "age (median)": hours(one.age_median),
        "age (worst)": hours(one.age_worst),
        "too old": "–" if one.stale is None else f"{one.stale:.1%}",
        "worst skew": f"{one.skew:.4f}",
    }


def _parity(found: Parity, key: dg.AssetKey) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=CHECK_PARITY,
        passed=found.holds,
        metadata={
            "sentence": found.sentence,
            "compared": found.compared,
            "differ": found.differ,
            "differences": table_preview(
                [{**asdict(one), "key": json.dumps(one.key)} for one in found.differences]
            ),
        },
    )


def _warning(key: dg.AssetKey, name: str, passed: bool, found: dict[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=found,
    )


def _watch(key: dg.AssetKey, found: watching.Watched | None) -> dg.AssetCheckResult:
    """What the watch found; a champion that it rolled back fails the check."""
    rolled_back = f" Version {found.predecessor} serves again." if found and found.rolled_back else ""
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=CHECK_WATCH,
        passed=found is None or not found.worse,
        description=f"{found.sentence}{rolled_back}" if found else "No champion is watched.",
        metadata={"rows": found.rows, "days": found.days} if found else {},
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
        columns=reports.performance_columns(loaded.spec.labels.kind),
    )

    check = dg.AssetCheckSpec(
        CHECK_WATCH,
        asset=spec.key,
        description="a new champion is not worse than the one before it on the same matured rows",
    )

    @made(stage, [spec], pool="monitor", checks=[check] if loaded.spec.promotion.watch else [])
    def performance_report(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        with library_errors():
            made = reports.report_performance(home.pipeline(loaded), **asked(context, spec))
        run = {}
        for name, picture in made.pictures.items():
            from mlops_pipelines.figures import as_markdown

            run[name] = dg.MetadataValue.md(as_markdown(picture, name))
        by_day = {
            day: {**figures, "models": table_preview(made.models[day])}
            for day, figures in made.figures.items()
        }
        yield record_days(context, spec.key, made.written, run=run, by_day=by_day, right=made.right)
        place = home.pipeline(loaded)
        if loaded.spec.promotion.watch:
            with library_errors():
                found = watching.watch_over(place)
                dagster_events.tell(place, context.instance)
            yield _watch(spec.key, found)
        # Whoever moved an alias by hand told nobody.
        if place.ledger.champion(place.name) and (hindered := promoting.try_to_heal(place.home, place.name)):
            context.log.warning(hindered)

    return performance_report


def _feedback(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    spec = stage.spec(
        "feedback_report",
        description="How the labels of a matured day came to exist: by score, by slice, at random.",
        kinds={"deltalake"},
        group="monitoring",
        logic=FEEDBACK_LOGIC,
        config=loaded.spec.exploration.model_dump(mode="json") if loaded.spec.exploration else None,
        deps=[stage.dep("performance_report"), stage.dep("examples")],
        columns=auditing.COLUMNS,
    )
    check = dg.AssetCheckSpec(
        CHECK_FEEDBACK, asset=spec.key, description="labels do not depend on what the model says"
    )

    @made(stage, [spec], pool="monitor", checks=[check])
    def feedback_report(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        place = home.pipeline(loaded)
        with library_errors():
            made = auditing.report_feedback(place, **asked(context, spec))
            training_sets = auditing.entropies(place) if made.by_day else []
        by_day = {
            day: {
                "rows": sum(one.rows for one in buckets if one.part == "score"),
                "labelled": sum(one.labelled for one in buckets if one.part == "score"),
            }
            for day, buckets in made.by_day.items()
        }
        run: dict[str, Any] = {"training_sets": table_preview(training_sets)}
        if made.audited and made.audited.audit.slices:
            from mlops_pipelines.figures import as_markdown, bars

            rates = feedback.by_value(made.audited.audit)
            picture = bars(rates, title="Rows that got a label, by slice", unit="share")
            run["labelled_by_slice"] = dg.MetadataValue.md(as_markdown(picture, "share labelled by slice"))
        yield record_days(context, spec.key, made.written, run=run, by_day=by_day, right=made.right)
        yield _audited(spec.key, made.audited)

    return feedback_report


def _audited(key: dg.AssetKey, audited: auditing.Audited | None) -> dg.AssetCheckResult:
    if audited is None:
        return _warning(key, CHECK_FEEDBACK, True, {"sentence": "no champion has matured days yet"})
    audit = audited.audit
    found = {
        "model": f"v{audited.champion.mlflow_version}",
        "verdict": audit.verdict,
        "sentence": audit.sentence,
        "rows": audit.rows,
        "labelled": audit.labelled,
        "explored": audit.explored,
        **({"coverage": audit.coverage} if audit.coverage is not None else {}),
        **({"spread": audit.spread} if audit.spread is not None else {}),
    }
    return _warning(key, CHECK_FEEDBACK, audit.verdict in feedback.SOUND, found)
