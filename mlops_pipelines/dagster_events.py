"""Decisions on models as events of the asset `champion`: for Dagster's pages, and as a memory of the records.

What people decide at the command line happens in no run; it is told to Dagster afterwards. And the other way
round: retrains that are asked for by a report to Dagster.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypedDict

import dagster as dg

from mlops_pipelines import promoting
from mlops_pipelines.audit import CROWNING, Head, as_written
from mlops_pipelines.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlops_pipelines.audit import Record
    from mlops_pipelines.home import Home, PipelineHome

CHECK_APPROVED = "approved"
# A run of such a status changes nothing any more.
OVER = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
_NUMBER, _HASH = "record", "record_hash"
# Events that are read at once.
_PAGE = 100
RETRAIN_REQUESTS, EXTERNAL = "retrain_requests", "external"
# Of what somebody else reports so much is kept.
_SAID = 500


def tell(place: PipelineHome, instance: dg.DagsterInstance | None = None) -> None:
    """Tell Dagster of the records that it was not told of yet, the oldest first: each is an observation.

    instance: of the run or sensor that tells; without it the home's own. A champion that no run has made is
    materialized as well, and where people decide the check `approved` says whether a candidate waits.
    """
    home, pipeline = place.home, place.name
    key = dg.AssetKey([pipeline, "champion"])
    with opened(home) if instance is None else nullcontext(instance) as told_to:
        untold = _untold(home, pipeline, told_to, key)
        for record, content in untold:
            metadata = _metadata(record, content)
            if content["kind"] in CROWNING and content["authority"] != "gates":
                told_to.report_runless_asset_event(
                    dg.AssetMaterialization(
                        key,
                        description=f"{content['kind']} by {content['by']}: {content['why']}",
                        metadata={**metadata, "sequence": content["sequence"]},
                        tags={"dagster/data_version": content["model_hash"]},
                    )
                )
            # Last: what was observed is not told again.
            told_to.report_runless_asset_event(dg.AssetObservation(key, metadata=metadata))
        if untold and place.spec.promotion.approval == "human":
            told_to.report_runless_asset_event(
                dg.AssetCheckEvaluation(key, CHECK_APPROVED, **approved(place))
            )


def catch_up(place: PipelineHome, instance: dg.DagsterInstance) -> str | None:
    """Make registry and Dagster say what was decided by somebody who did not live to; what hinders it, or
    None. Costs one look where nobody was.

    instance: of the sensor that looks.
    """
    if not _untold(place.home, place.name, instance, dg.AssetKey([place.name, "champion"])):
        return None
    # Dagster is told last: the next tick looks again.
    if (hindered := promoting.try_to_heal(place.home, place.name)) is None:
        tell(place, instance)
    return hindered


def take_requests(
    place: PipelineHome, instance: dg.DagsterInstance, cursor: str | None
) -> tuple[list[str], str | None]:
    """Append a trigger for each retrain request that was reported after `cursor`; what was appended, as
    sentences, and the cursor from there.

    A cursor that cannot be read begins anew: what was taken before is not taken twice.
    """
    after = int(cursor) if cursor and cursor.isdecimal() else None
    wanted = dg.AssetRecordsFilter(dg.AssetKey([place.name, RETRAIN_REQUESTS]), after_storage_id=after)
    appended = []
    for one in instance.fetch_materializations(wanted, limit=_PAGE, ascending=True).records:
        cursor = str(one.storage_id)
        # A store of events that was made anew counts from 1 again.
        key = f"{EXTERNAL}:{one.storage_id}:{one.timestamp}"
        reported = one.asset_materialization
        evidence = {"description": reported.description or ""} if reported else {}
        for name, value in (reported.metadata if reported else {}).items():
            evidence[name] = str(value.value)[:_SAID]
        if place.ledger.append_trigger(place.name, EXTERNAL, key, evidence, place.clock.now()):
            appended.append(f"Trigger {key}, reported to Dagster.")
    return appended, cursor


class Approved(TypedDict):
    """What the check `approved` says, evaluated by a run or beside one."""

    passed: bool
    severity: dg.AssetCheckSeverity
    description: str
    metadata: dict[str, int]


def approved(place: PipelineHome) -> Approved:
    """Whether no candidate of a pipeline waits for people; if one does, until when, and what helps."""
    waiting = place.ledger.waiting(place.name)
    return {
        "passed": not waiting,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": " ".join(promoting.sentence_of(one) for one in waiting) or "No candidate waits.",
        "metadata": {"waiting": len(waiting)},
    }


def heads(home: Home, pipeline: str) -> list[Head]:
    """What Dagster's events remember of the records."""
    with opened(home) as instance:
        return list(_heads(instance, dg.AssetKey([pipeline, "champion"])))


def _untold(
    home: Home, pipeline: str, instance: dg.DagsterInstance, key: dg.AssetKey
) -> list[tuple[Record, Mapping[str, Any]]]:
    """Records later than the last one that Dagster was told of, and what they say; without those that are not
    as they were written."""
    untold = _later(home, pipeline, instance, key)
    return [(one, content) for one in untold if (content := as_written(one, home.keys)) is not None]


def _later(home: Home, pipeline: str, instance: dg.DagsterInstance, key: dg.AssetKey) -> list[Record]:
    if home.ledger.last_record(pipeline) is None:
        return []
    for head in _heads(instance, key):
        record = home.ledger.record(pipeline, head.number)
        # Another hash: told by a ledger that is gone, in whose place an older one was restored.
        if record is not None and record.hash == head.hash:
            return home.ledger.records(pipeline, after=head.number)
    return home.ledger.records(pipeline)


def _heads(instance: dg.DagsterInstance, key: dg.AssetKey) -> Iterator[Head]:
    """What events remember, the newest first; read as far as somebody asks for them."""
    cursor, more = None, True
    while more:
        page = instance.fetch_observations(dg.AssetRecordsFilter(key), limit=_PAGE, cursor=cursor)
        for one in page.records:
            metadata = one.asset_observation.metadata if one.asset_observation else {}
            if _NUMBER in metadata and _HASH in metadata:
                number, hash_ = metadata[_NUMBER].value, str(metadata[_HASH].value)
                yield Head(f"Dagster (event {one.storage_id})", int(str(number)), hash_)
        cursor, more = page.cursor, page.has_more


def _metadata(record: Record, told: Mapping[str, Any]) -> dict[str, str | int]:
    """What an event says of a record."""
    return {
        _NUMBER: record.number,
        _HASH: record.hash,
        "decision": told["kind"],
        "by": told["by"],
        "why": told["why"],
        **({"mlflow_version": told["mlflow_version"]} if told.get("mlflow_version") else {}),
    }


def opened(home: Home) -> dg.DagsterInstance:
    """The Dagster instance of a home. Raises UserError where its settings are gone."""
    settings = home.dagster / "dagster.yaml"
    if not settings.exists():
        where = settings.readlink() if settings.is_symlink() else settings
        raise UserError(
            f"The home {home.path} has no settings for Dagster: {where} does not exist.",
            expected="a link to the dagster.yaml of the project, which may have been moved",
            remedy="mlops dev, which links it anew",
        )
    return dg.DagsterInstance.from_config(str(home.dagster))
