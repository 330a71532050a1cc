"""Which column is made of which: from the landed file to the input of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_pipelines.features.sets import features_of
from mlops_pipelines.ingest.intake import landed_names
from mlops_pipelines.ingest.taking import sensitive_columns
from mlops_pipelines.scoring import feature_sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlops_pipelines.features.sets import FeatureSet
    from mlops_pipelines.spec_loading import LoadedSpec

Sources = dict[str, list[tuple[str, str]]]


def column_sources(loaded: LoadedSpec, asset: str) -> Sources:
    """By column of an asset's table, those it is made of: asset and column; of the model, by its inputs.

    Assets of another pipeline are named as `table_name` does; a landing folder is `landing_STREAM`. Left
    out are columns that say when and from which file a row came.
    """
    features = feature_sources(features_of(loaded))
    if asset == "examples":
        return features
    if asset in ("training_set", "model"):
        above = {"training_set": "examples", "model": "training_set"}[asset]
        sources = {feature: [(above, feature)] for feature in features}
        return sources if asset == "model" else {**sources, "label": [("labels", "label")]}
    return {
        column: [(f"landing_{asset}", landed_column(loaded, asset, column))]
        for column in (*_roles(loaded, asset), *landed_names(loaded, asset).values())
    }


def sensitive_features(loaded: LoadedSpec, features: FeatureSet) -> frozenset[str]:
    """Features of a set that are made of a column whose values a contract has masked, or found by one.

    Of a pipeline whose views are not used any more the contract is not known: all that is of it counts.
    """

    def hidden(table: str, column: str) -> bool:
        owner, _, stream = table.rpartition(":")
        of = loaded.owners.get(owner) if owner else loaded
        return of is None or stream not in of.contract.streams or column in sensitive_columns(of, stream)

    return frozenset(
        name for name, sources in feature_sources(features).items() if any(hidden(*one) for one in sources)
    )


def hidden_names(loaded: LoadedSpec, sets: Iterable[FeatureSet] = ()) -> frozenset[str]:
    """Names of all whose values are masked: columns as they land and as tables name them, and features of
    the YAML and of these sets."""
    columns = {
        name
        for stream in loaded.contract.streams
        for name in (*loaded.contract.sensitive_columns(stream), *sensitive_columns(loaded, stream))
    }
    features = (sensitive_features(loaded, one) for one in (features_of(loaded), *sets))
    return frozenset(columns.union(*features))


def landed_columns(loaded: LoadedSpec, stream: str) -> dict[str, str]:
    """Columns of a stream as they land: name to type."""
    return {name: rule.type for name, rule in loaded.contract.columns_of(stream).items()}


def landed_column(loaded: LoadedSpec, name: str, column: str) -> str:
    """The name under which a column of a table, `TABLE` or `OWNER:TABLE`, lands."""
    pipeline, _, table = name.rpartition(":")
    loaded = loaded.owners[pipeline] if pipeline else loaded
    names = {canonical: landed for landed, canonical in landed_names(loaded, table).items()}
    return {**names, **_roles(loaded, table)}.get(column, column)


def _roles(loaded: LoadedSpec, table: str) -> Mapping[str, str]:
    """Columns of a table that are named by what they are for, each with its name as it lands."""
    spec = loaded.spec
    if table == "events":
        return {"event_time": spec.events.time, "decision_time": spec.events.decide_at or spec.events.time}
    if table == "labels":
        return {"label": spec.labels.value, "label_time": spec.labels.time}
    reference = spec.references.get(table)
    return {"ref_time": reference.time} if reference and reference.time else {}
