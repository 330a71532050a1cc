"""Decisions on models as events of the asset `champion`: for Dagster's pages, and as a memory of the records.

What people decide at the command line happens in no run; it is told to Dagster afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from mlops_pipelines.audit import CROWNING, Head

if TYPE_CHECKING:
    from mlops_pipelines.audit import Record
    from mlops_pipelines.home import Home

_NUMBER, _HASH = "record", "record_hash"
# Events that are read at once.
_PAGE = 500


def record_metadata(record: Record) -> dict[str, str | int]:
    """What an event says of a record."""
    told = record.content
    return {
        _NUMBER: record.number,
        _HASH: record.hash,
        "decision": told["kind"],
        "by": told["by"],
        "why": told["why"],
        **({"mlflow_version": told["mlflow_version"]} if told.get("mlflow_version") else {}),
    }


def tell(home: Home, pipeline: str) -> None:
    """Tell Dagster of the records that no event of it names yet."""
    key = dg.AssetKey([pipeline, "champion"])
    with _opened(home) as instance:
        known = {head.number for head in _heads(instance, key)}
        for record in home.ledger.records(pipeline):
            if record.number in known:
                continue
            metadata = record_metadata(record)
            told = record.content
            if told["kind"] in CROWNING:
                instance.report_runless_asset_event(
                    dg.AssetMaterialization(
                        key,
                        description=f"{told['kind']} by {told['by']}: {told['why']}",
                        metadata={**metadata, "sequence": told["sequence"]},
                        tags={"dagster/data_version": told["model_hash"]},
                    )
                )
            else:
                instance.report_runless_asset_event(dg.AssetObservation(key, metadata=metadata))


def heads(home: Home, pipeline: str) -> list[Head]:
    """What Dagster's events remember of the records."""
    with _opened(home) as instance:
        return _heads(instance, dg.AssetKey([pipeline, "champion"]))


def _heads(instance: dg.DagsterInstance, key: dg.AssetKey) -> list[Head]:
    found = []
    for fetch in (instance.fetch_materializations, instance.fetch_observations):
        cursor, more = None, True
        while more:
            page = fetch(dg.AssetRecordsFilter(key), limit=_PAGE, cursor=cursor)
            for one in page.records:
                event = one.asset_materialization or one.asset_observation
                metadata = event.metadata if event else {}
                if _NUMBER in metadata and _HASH in metadata:
                    number, hash_ = metadata[_NUMBER].value, str(metadata[_HASH].value)
                    found.append(Head(f"Dagster (event {one.storage_id})", int(str(number)), hash_))
            cursor, more = page.cursor, page.has_more
    return found


def _opened(home: Home) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(home.dagster))
