"""Events, quarantine, labels and references: landed files become tables of accepted rows."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from collections.abc import Iterator
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
from mlops_pipelines.ingest import taking
from mlops_pipelines.resources import HomeResource

EVENTS_LOGIC = 1
LABELS_LOGIC = 1
REFERENCE_LOGIC = 1
CHECK_ADDS_UP = "rows_add_up"
CHECK_FILES = "files_accepted"


def build(stage: Stage) -> list[dg.AssetsDefinition]:
    references = [_reference(stage, name) for name in stage.loaded.spec.references]
    return [_events(stage), _labels(stage), *references]


def _events(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    config = [loaded.spec.events.model_dump(mode="json"), loaded.contract.model_dump(mode="json")]
    events = stage.spec(
        "events",
        description="Contract-checked events, one row an id.",
        kinds={"deltalake", "greatexpectations"},
        group="data",
        logic=EVENTS_LOGIC,
        config=config,
        deps=[stage.dep("landing_events")],
        columns=taking.event_columns(loaded),
    )
    quarantine = stage.spec(
        "quarantine",
        description="Rejected rows of every stream, whole, each with its reasons.",
        kinds={"deltalake", "greatexpectations"},
        group="data",
        logic=EVENTS_LOGIC,
        config=config,
        deps=[stage.dep("landing_events")],
        columns=taking.QUARANTINE_COLUMNS,
    )
    checks = [
        dg.AssetCheckSpec(
            CHECK_ADDS_UP,
            asset=events.key,
            description="accepted + quarantined + duplicates = landed rows",
        ),
        dg.AssetCheckSpec(
            CHECK_FILES, asset=events.key, description="every landed file could be read and kept the contract"
        ),
    ]

    @made(stage, [events, quarantine], pool="ingest", checks=checks)
    def take_events(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        with library_errors():
            place = home.pipeline(loaded)
            taken = taking.take_events(place, partition_days(context))
        _observe_landing(context, stage, taken)
        yield record_days(context, events.key, taken.written, _metadata(taken))
        yield record_days(context, quarantine.key, taken.quarantine, _reject_metadata(taken))
        yield dg.AssetCheckResult(
            asset_key=events.key,
            check_name=CHECK_ADDS_UP,
            passed=taken.adds_up,
            metadata={"sentence": taken.sum_sentence},
        )
        yield dg.AssetCheckResult(
            asset_key=events.key,
            check_name=CHECK_FILES,
            passed=not taken.refused,
            metadata={"files": "\n".join(taken.refused) or "all files accepted"},
        )

    return take_events


def _labels(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    labels = stage.spec(
        "labels",
        description="Outcomes joined to their events by id; a correction is a further row.",
        kinds={"deltalake"},
        group="data",
        logic=LABELS_LOGIC,
        config=[loaded.spec.labels.model_dump(mode="json"), loaded.contract.model_dump(mode="json")],
        deps=[stage.dep("landing_labels"), stage.dep("events")],
        columns=taking.label_columns(loaded),
    )

    @made(stage, [labels], pool="ingest")
    def take_labels(context: dg.AssetExecutionContext, home: HomeResource) -> dg.MaterializeResult[Any]:
        with library_errors():
            place = home.pipeline(loaded)
            taken = taking.take_labels(place, partition_days(context))
        _observe_landing(context, stage, taken)
        return record_days(context, labels.key, taken.written, _metadata(taken))

    return take_labels


def _reference(stage: Stage, name: str) -> dg.AssetsDefinition:
    loaded = stage.loaded
    reference = loaded.spec.references[name]
    static = reference.time is None
    spec = stage.spec(
        name,
        description=f"Accepted rows of the {'static ' if static else ''}reference `{name}`.",
        kinds={"deltalake"},
        group="data",
        logic=REFERENCE_LOGIC,
        config=[reference.model_dump(mode="json"), loaded.contract.model_dump(mode="json")],
        deps=[stage.dep(f"landing_{name}")],
        columns=taking.reference_columns(loaded, name),
        daily=not static,
    )

    @made(stage, [spec], pool="ingest")
    def take_reference(context: dg.AssetExecutionContext, home: HomeResource) -> dg.MaterializeResult[Any]:
        with library_errors():
            place = home.pipeline(loaded)
            taken = taking.take_reference(place, name, [] if static else partition_days(context))
        _observe_landing(context, stage, taken)
        if static:
            version = taken.written[0].content_hash if taken.written else "empty"
            return dg.MaterializeResult(
                asset_key=spec.key,
                metadata=_metadata(taken),
                data_version=dg.DataVersion(version),
            )
        return record_days(context, spec.key, taken.written, _metadata(taken))

    return take_reference


def _observe_landing(context: dg.AssetExecutionContext, stage: Stage, taken: taking.Taken) -> None:
    if taken.files:
        context.log_event(
            dg.AssetObservation(
                stage.key(f"landing_{taken.stream}"),
                metadata={"files": taken.files, "rows": taken.rows, "refused": "\n".join(taken.refused)},
            )
        )


def _metadata(taken: taking.Taken) -> dict[str, Any]:
    return {
        "files": taken.files,
        "landed_rows": taken.rows,
        "accepted": taken.accepted,
        "quarantined": taken.quarantined,
        "duplicates": taken.duplicates,
        "preview": table_preview(taken.preview),
    }


def _reject_metadata(taken: taking.Taken) -> dict[str, Any]:
    metadata: dict[str, Any] = {"quarantined": taken.quarantined, "preview": table_preview(taken.rejects)}
    if taken.reject_reasons:
        from mlops_pipelines.figures import as_markdown, bars

        picture = bars(taken.reject_reasons, title="Reject reasons")
        metadata["reject_reasons"] = dg.MetadataValue.md(as_markdown(picture, "rows by reject reason"))
    return metadata
