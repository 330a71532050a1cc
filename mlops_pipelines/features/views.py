"""Feature views as declared, resolved against the contract: columns, types, names, versions.

Light to import: the definitions of a code location are built from it. Spec and contract are taken to agree,
as `mlops_pipelines.spec_checks` makes sure when they are loaded.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from mlops_pipelines.spec import Aggregate, format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlops_pipelines.ingest.contract import Contract
    from mlops_pipelines.spec import PipelineSpec, View

# Part of every version below: raised by hand when the computation itself changes its answers.
LOGIC_VERSION = 1

Kind = Literal["number", "category"]
_KINDS: Mapping[str, Kind] = {"int": "number", "float": "number", "bool": "number", "string": "category"}
_SUMMED = ("sum", "mean", "std")


@dataclass(frozen=True)
class FeatureColumn:
    """One column of what the model sees: a float64 number, or a category (a string)."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class Partial:
    """What a tile keeps of one source column.

    column: name in the source table. type: contract type. summed, squared: their sum, the sum of their
    squares is asked for, by any aggregate. distinct: the values themselves are.
    """

    column: str
    type: str
    summed: bool
    squared: bool
    distinct: bool
    minimum: bool
    maximum: bool


@dataclass(frozen=True)
class WindowFeature:
    """An aggregate of one source column over one window."""

    name: str
    column: str
    aggregate: Aggregate
    window: timedelta


@dataclass(frozen=True)
class LastFeature:
    """The last known value of one source column."""

    name: str
    column: str
    kind: Kind


@dataclass(frozen=True)
class CompiledView:
    """A view resolved against spec and contract.

    version: hash of the definition, 8 hex digits. keys: event columns; key_types: their contract types.
    source: the table of the facts; source_keys: its key columns, in the order of `keys` (for labels: the
    event columns, joined by event id). within: how old, by its own time, a last value may be; None only
    for a static reference. max_age: how old the newest of it may be at a decision, no part of the version.
    pipeline: the one whose tables it is of and that makes its tiles, where that is another one; no part of
    the version either.
    """

    name: str
    version: str
    keys: tuple[str, ...]
    key_types: tuple[str, ...]
    source: str
    source_keys: tuple[str, ...]
    static: bool
    partials: tuple[Partial, ...]
    windowed: tuple[WindowFeature, ...]
    last: tuple[LastFeature, ...]
    within: timedelta | None
    max_age: timedelta
    pipeline: str | None = None

    def to_json(self) -> str:
        """All of it, to be computed again where the pipeline's files are not, or say otherwise by now."""
        from pydantic import TypeAdapter

        return TypeAdapter(CompiledView).dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> CompiledView:
        """The view that `to_json` wrote. Raises ValueError for any other text."""
        from pydantic import TypeAdapter

        return TypeAdapter(CompiledView).validate_json(text)

    @property
    def id(self) -> str:
        """Name that changes with the definition: `carrier_lateness__1a2b3c4d`; `OWNER__...` if it is of
        another pipeline."""
        return "__".join([*([self.pipeline] if self.pipeline else []), self.name, self.version])

    @property
    def at_owner(self) -> CompiledView:
        """The view as the pipeline has it whose tables it is of."""
        return replace(self, pipeline=None)

    def owner(self, pipeline: str) -> str:
        """The pipeline whose tables it is of; `pipeline`: that which uses it."""
        return self.pipeline or pipeline

    @property
    def longest_window(self) -> timedelta:
        """Longest window of the aggregates; zero if there are none."""
        return max((feature.window for feature in self.windowed), default=timedelta(0))

    @property
    def longest_reach(self) -> timedelta:
        """How far before a moment a fact may lie that a value as of then is made of; static facts apart."""
        return max(self.longest_window, self.within or timedelta(0))

    @property
    def counts(self) -> frozenset[str]:
        """Names of the features that are 0, and not missing, where there are no facts."""
        return frozenset(one.name for one in self.windowed if one.aggregate in ("count", "distinct"))

    @property
    def columns(self) -> tuple[FeatureColumn, ...]:
        """The view's features, in the order of the examples' columns."""
        return (
            *(FeatureColumn(feature.name, "number") for feature in self.windowed),
            *(FeatureColumn(feature.name, feature.kind) for feature in self.last),
        )


def tile_table(view: CompiledView) -> str:
    """Name of the view's tile table, at its owner; a changed definition has another."""
    return f"feature_tiles/{view.at_owner.id}"


def tile_order(view: CompiledView) -> list[str]:
    """Columns by which the tiles of a day are sorted."""
    return ["hour", *view.keys]


def table_name(pipeline: str | None, table: str) -> str:
    """How a table is called among those of several pipelines: `flight_delays:labels`; plain if its own."""
    return table if pipeline is None else f"{pipeline}:{table}"


def compile_views(spec: PipelineSpec, contract: Contract) -> tuple[CompiledView, ...]:
    """All views of the pipeline, resolved, in their order."""
    return tuple(compile_view(view, spec, contract) for view in spec.features.views)


def compile_view(view: View, spec: PipelineSpec, contract: Contract) -> CompiledView:
    """The view resolved against the pipeline's spec and contract."""
    types = {name: rule.type for name, rule in contract.columns_of(view.of).items()}
    key_types = tuple(contract.events.columns[key].type for key in view.keys)
    reference = spec.references.get(view.of)
    static = reference is not None and reference.time is None
    return CompiledView(
        name=view.name,
        version=hash8(_definition(view, spec, types, key_types)),
        keys=view.keys,
        key_types=key_types,
        source=view.of,
        source_keys=view.keys if reference is None else reference.keys,
        static=static,
        partials=tuple(_partials(view, spec, types)),
        windowed=tuple(_windowed(view, spec)),
        last=tuple(
            LastFeature(
                f"{view.name}_{column}_last", _source_column(view, column, spec), _KINDS[types[column]]
            )
            for column in (*view.lasting, *view.last)
        ),
        within=None if static else view.within or max(view.windows, default=timedelta(0)),
        max_age=view.max_age,
    )


def _windowed(view: View, spec: PipelineSpec) -> Iterator[WindowFeature]:
    for column, aggregates in view.aggregate.items():
        for aggregate in aggregates:
            for window in view.windows if aggregate != "last" else ():
                name = f"{view.name}_{column}_{aggregate}_{format_duration(window)}"
                yield WindowFeature(name, _source_column(view, column, spec), aggregate, window)


def _partials(view: View, spec: PipelineSpec, types: Mapping[str, str]) -> Iterator[Partial]:
    for column, aggregates in view.aggregate.items():
        if set(aggregates) != {"last"}:
            yield Partial(
                column=_source_column(view, column, spec),
                type=types[column],
                summed=any(aggregate in _SUMMED for aggregate in aggregates),
                squared="std" in aggregates,
                distinct="distinct" in aggregates,
                minimum="min" in aggregates,
                maximum="max" in aggregates,
            )


def _source_column(view: View, column: str, spec: PipelineSpec) -> str:
    """Name of a contract column in the source table: an outcome is kept as `label`."""
    roles = {
        "labels": {spec.labels.value: "label", spec.labels.id or spec.events.id: "event_id"},
        "events": {spec.events.id: "event_id"},
    }
    return roles.get(view.of, {}).get(column, column)


def _definition(
    view: View, spec: PipelineSpec, types: Mapping[str, str], key_types: tuple[str, ...]
) -> dict[str, object]:
    """Everything the view's values depend on besides the facts, as JSON."""
    # The order of the windows says nothing about any of them.
    windows = sorted(format_duration(window) for window in view.windows)
    return {
        "logic": LOGIC_VERSION,
        "view": view.model_dump(mode="json", exclude={"max_age", "windows"}) | {"windows": windows},
        "source": spec.stream(view.of).model_dump(mode="json", exclude={"landing", "matures_after", "kind"}),
        "types": {column: types[column] for column in (*view.aggregate, *view.last)},
        "key_types": key_types,
    }


def hash8(definition: object) -> str:
    """SHA-256 of a definition as JSON, whatever the order of its keys: 8 hex digits."""
    text = json.dumps(definition, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
