"""Feature tiles, examples and predictions: each event's vector as of its decision, and its score."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from collections.abc import Iterator, Mapping, Sequence
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
from mlops_pipelines import scoring, watching
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.settings import settings

TILES_LOGIC = 1
EXAMPLES_LOGIC = 1
CHECK_EVERY_SET = "every_set"
CHECK_EVERY_VIEW = "every_view"
PREDICTIONS_LOGIC = 1


def build(stage: Stage) -> list[dg.AssetsDefinition]:
    return [_tiles(stage), _examples(stage), _predictions(stage)]


def _tiles(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    spec = loaded.spec
    references = [stage.dep(name) for name in spec.references]
    tiles = stage.spec(
        "feature_tiles",
        description="Partial aggregates by view, key and hour of knowledge time; also written to the "
        "online store.",
        kinds={"deltalake", "duckdb", "feast"},
        group="features",
        logic=TILES_LOGIC,
        config=[view.version for view in stage.features.views if view.pipeline is None],
        deps=[stage.dep("events"), stage.dep("labels", back=spec.labels.matures_after), *references],
    )

    every_view = dg.AssetCheckSpec(
        CHECK_EVERY_VIEW, asset=tiles.key, description="tiles are made of every view in use"
    )

    @made(stage, [tiles], pool="ingest", checks=[every_view])
    def feature_tiles(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        with library_errors():
            made = scoring.make_tiles(home.pipeline(loaded), **asked(context, tiles))
        online = {"online_keys": made.online_keys, "online_as_of": str(made.online_as_of)}
        yield record_days(context, tiles.key, made.written, run=online, right=made.right)
        yield _check(tiles.key, CHECK_EVERY_VIEW, made.failed, "No vectors are made of a view without tiles.")

    return feature_tiles


def _examples(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    examples = stage.spec(
        "examples",
        description="Each event's feature vector as of its decision time, computed once.",
        kinds={"deltalake", "duckdb"},
        group="features",
        logic=EXAMPLES_LOGIC,
        config=stage.features.version,
        deps=[stage.dep("events"), *(stage.dep(tiles, back=back) for tiles, back in stage.tiles.items())],
        columns=scoring.example_columns(loaded),
    )
    every_set = dg.AssetCheckSpec(
        CHECK_EVERY_SET,
        asset=examples.key,
        description="vectors are made by every feature set in use, also by those of changed definitions",
    )

    @made(stage, [examples], pool="ingest", checks=[every_set])
    def compute_examples(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        with library_errors():
            made = scoring.make_examples(home.pipeline(loaded), partition_days(context))
        by_day = {
            one.day: {"missing_share": table_preview(made.missing.get(one.day, ()))} for one in made.written
        }
        lineage = stage.lineage("examples")
        yield record_days(context, examples.key, made.written, by_day=by_day, every_day=lineage)
        yield _check(
            examples.key,
            CHECK_EVERY_SET,
            made.failed,
            "Until a set works, events of a champion that was trained on it are not scored.",
        )

    return compute_examples


def _check(key: dg.AssetKey, name: str, failed: Mapping[str, str], sentence: str) -> dg.AssetCheckResult:
    """Whether nothing failed. failed: why, by the id or version of what did. sentence: what follows."""
    causes = [f"{one}: {why.splitlines()[0]}" for one, why in failed.items()]
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=name,
        passed=not failed,
        description=f"{causes[0]} {sentence}" if causes else None,
        metadata={"failed": table_preview([{"which": one, "error": why} for one, why in failed.items()])},
    )


def _traces(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue[Any]:
    """Links to the traces of some predictions; the page asks for the id of any other."""
    address = settings().pages_ui
    links = [f"[{row['prediction_id']}]({address}/trace/{row['prediction_id']})" for row in rows]
    return dg.MetadataValue.md(" · ".join([*links, f"[another]({address})"]))


def _predictions(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    predictions = stage.spec(
        "predictions",
        description="Scores by the champion of each decision's moment; an id already scored is never "
        "scored again.",
        kinds={"deltalake", "lightgbm"},
        group="serving",
        logic=PREDICTIONS_LOGIC,
        config=loaded.spec.name,
        deps=[stage.dep("examples")],
        columns=scoring.prediction_columns(loaded),
    )

    @made(stage, [predictions], pool="ingest")
    def score(context: dg.AssetExecutionContext, home: HomeResource) -> dg.MaterializeResult[Any]:
        with library_errors():
            made = scoring.score(home.pipeline(loaded), partition_days(context))
            watching.shadow(home.pipeline(loaded))
        if made.unfed:
            context.log.warning(
                f"{made.unfed} events came so late that the features of their champion are out of use."
            )
        by_day: dict[str, dict[str, Any]] = {
            day: {"by_model_version": table_preview(rows)} for day, rows in made.by_version.items()
        }
        for one in made.written:
            by_day.setdefault(one.day, {})["traces"] = _traces(one.head)
        return record_days(context, predictions.key, made.written, by_day=by_day)

    return score
