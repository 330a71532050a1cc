"""Events, quarantine, labels and references: landed files become tables of accepted rows."""

# Dagster reads the annotations of what it decorates, so they are not put off.

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg

from assets.stage import (
    Stage,
    library_errors,
    made,
    materialization,
    partition_days,
    record_days,
    table_preview,
    written_facts,
)
from mlops_pipelines.ingest import rejects, taking
from mlops_pipelines.lake import Written
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec_loading import LoadedSpec

EVENTS_LOGIC = 1
LABELS_LOGIC = 1
REFERENCE_LOGIC = 1
CHECK_ADDS_UP = "rows_add_up"
CHECK_FILES = "files_accepted"
CHECK_SHARE = "reject_share_usual"


def build(stage: Stage) -> list[dg.AssetsDefinition]:
    references = [_reference(stage, name) for name in stage.loaded.spec.references]
    return [_events(stage), _labels(stage), *references]


def _events(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    events = stage.spec(
        "events",
        description="Contract-checked events, one row an id.",
        kinds={"deltalake", "greatexpectations"},
        group="data",
        logic=EVENTS_LOGIC,
        config=[loaded.spec.events, taking.contract_version(loaded, "events")],
        deps=[stage.dep("landing_events")],
        columns=taking.event_columns(loaded),
    )
    streams = loaded.contract.streams
    quarantine = stage.spec(
        "quarantine",
        description="Rejected rows of every stream, whole, each with its reasons.",
        kinds={"deltalake", "greatexpectations"},
        group="data",
        logic=EVENTS_LOGIC,
        config=[loaded.spec.events, *(taking.contract_version(loaded, stream) for stream in streams)],
        deps=[stage.dep(f"landing_{stream}") for stream in streams],
        columns=taking.QUARANTINE_COLUMNS,
    )

    # One of the two may be chosen by hand; what is taken in is the same.
    @made(stage, [events, quarantine], pool="ingest", checks=_checks(events), can_subset=True)
    def take_events(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        with library_errors():
            taken = taking.take_events(home.pipeline(loaded), partition_days(context))
        if events.key in context.selected_asset_keys:
            yield from _record(context, stage, events, taken)
        if quarantine.key in context.selected_asset_keys:
            yield record_days(context, quarantine.key, _masked(loaded, taken.quarantine), run=_rejects(taken))

    return take_events


def _labels(stage: Stage) -> dg.AssetsDefinition:
    loaded = stage.loaded
    labels = stage.spec(
        "labels",
        description="Outcomes joined to their events by id; a correction is a further row.",
        kinds={"deltalake", "greatexpectations"},
        group="data",
        logic=LABELS_LOGIC,
        config=[loaded.spec.labels, taking.contract_version(loaded, "labels")],
        deps=[stage.dep("landing_labels"), stage.dep("events")],
        columns=taking.label_columns(loaded),
    )

    @made(stage, [labels], pool="ingest", checks=_checks(labels))
    def take_labels(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        with library_errors():
            taken = taking.take_labels(home.pipeline(loaded), partition_days(context))
        yield from _record(context, stage, labels, taken)

    return take_labels


def _reference(stage: Stage, name: str) -> dg.AssetsDefinition:
    loaded = stage.loaded
    static = loaded.spec.references[name].time is None
    reference = stage.spec(
        name,
        description=f"Accepted rows of the {'static ' if static else ''}reference `{name}`.",
        kinds={"deltalake", "greatexpectations"},
        group="data",
        logic=REFERENCE_LOGIC,
        config=[loaded.spec.references[name], taking.contract_version(loaded, name)],
        deps=[stage.dep(f"landing_{name}")],
        columns=taking.reference_columns(loaded, name),
        daily=not static,
    )

    @made(stage, [reference], pool="ingest", checks=_checks(reference))
    def take_reference(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        days = [] if static else partition_days(context)
        with library_errors():
            taken = taking.take_reference(home.pipeline(loaded), name, days)
        yield from _record(context, stage, reference, taken)

    return take_reference


def _checks(spec: dg.AssetSpec) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(
            CHECK_ADDS_UP,
            asset=spec.key,
            description="accepted + quarantined + duplicates = landed rows, for every file",
        ),
        dg.AssetCheckSpec(
            CHECK_FILES,
            asset=spec.key,
            description="no file lies in the landing folder that could not be read, or broke the contract",
        ),
        dg.AssetCheckSpec(
            CHECK_SHARE,
            asset=spec.key,
            description="no more than twice as many rows are rejected as is usual, and ten",
        ),
    ]


def _record(
    context: dg.AssetExecutionContext, stage: Stage, spec: dg.AssetSpec, taken: taking.Taken
) -> Iterator[Any]:
    """The observation of the landing folder, the materialization of the table, and its checks."""
    hidden = taking.sensitive_columns(stage.loaded, taken.stream)
    counts = _counts(taken) | {"contract": taking.contract_version(stage.loaded, taken.stream)}
    if taken.files:
        context.log_event(
            dg.AssetObservation(
                stage.key(f"landing_{taken.stream}"),
                metadata={
                    "files": len(taken.files), "rows": taken.rows, "refused": "\n".join(taken.refused)
                },
            )
        )  # fmt: skip
    if taken.stream != "events":  # whose step makes the quarantine
        rejects = {f"run_{name}": value for name, value in _rejects(taken).items()}
        for one in _masked(stage.loaded, taken.quarantine):
            if one.changed:
                facts = {**rejects, **written_facts(one)}
                context.log_event(
                    materialization(stage.key("quarantine"), one, facts, f"Rejects of {taken.stream}.")
                )
    lineage = stage.lineage(taken.stream)
    if spec.partitions_def:
        yield record_days(context, spec.key, taken.written, run=counts, every_day=lineage, hidden=hidden)
    else:
        written = taken.written[0] if taken.written else None  # all of it is one day of the table
        yield dg.MaterializeResult(
            asset_key=spec.key,
            metadata={
                **{f"run_{name}": value for name, value in counts.items()},
                **(written_facts(written, hidden) if written else {}),
                **lineage,
            },
            data_version=dg.DataVersion(written.content_hash if written else "empty"),
        )
    yield dg.AssetCheckResult(
        asset_key=spec.key,
        check_name=CHECK_ADDS_UP,
        passed=taken.adds_up,
        metadata={"sentence": taken.sum_sentence},
    )
    yield dg.AssetCheckResult(
        asset_key=spec.key,
        check_name=CHECK_FILES,
        passed=not taken.refusals,
        metadata={
            "refused": table_preview([{"file": file.path, "why": file.why} for file in taken.refusals])
        },
    )
    share = taken.reject_share
    yield dg.AssetCheckResult(
        asset_key=spec.key,
        check_name=CHECK_SHARE,
        passed=not share.has_jumped,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"sentence": share.sentence, "rejected": share.rejected, "rows": share.rows},
    )


def _masked(loaded: LoadedSpec, days: Sequence[Written]) -> list[Written]:
    """Days of the quarantine with their first rows as people may see them."""
    return [replace(one, head=[rejects.as_shown(row, loaded.contract) for row in one.head]) for one in days]


def _counts(taken: taking.Taken) -> dict[str, Any]:
    return {
        "files": len(taken.files),
        "landed_rows": taken.rows,
        "accepted": taken.accepted,
        "quarantined": taken.quarantined,
        "duplicates": taken.duplicates,
    }


def _rejects(taken: taking.Taken) -> dict[str, Any]:
    metadata: dict[str, Any] = {"quarantined": taken.quarantined}
    if taken.reject_reasons:
        from mlops_pipelines.figures import as_markdown, bars

        picture = bars(taken.reject_reasons, title=f"Reject reasons of {taken.stream}")
        metadata["reject_reasons"] = dg.MetadataValue.md(as_markdown(picture, "rows by reject reason"))
    return metadata
