"""Feature sets: all that the vectors of a pipeline are made by, resolved, and named by its content.

A set holds everything that is needed to make its vectors again when the pipeline's YAML says otherwise by
now: a model is fed by the set that it was trained on. Light to import.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - pydantic reads the annotations
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.features.views import (
    LOGIC_VERSION,
    CompiledView,
    FeatureColumn,
    Kind,
    compile_views,
    hash8,
    table_name,
)
from mlops_pipelines.spec_checks import expression_columns
from mlops_pipelines.sql_expressions import judge_expressions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_pipelines.ingest.contract import Contract
    from mlops_pipelines.spec import PipelineSpec
    from mlops_pipelines.spec_loading import LoadedSpec


@dataclass(frozen=True)
class Expression:
    """SQL over the event's own row. columns: those it reads."""

    sql: str
    kind: Kind
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Function:
    """A Python function `module:name` over columns of the event's own row.

    source: SHA-256, 16 hex digits, of the file that holds it.
    """

    function: str
    kind: Kind
    columns: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class FeatureSet:
    """The features of a pipeline: of the event's own row, by SQL and by Python, and of the views."""

    from_event: Mapping[str, Expression]
    from_python: Mapping[str, Function]
    views: tuple[CompiledView, ...]

    @property
    def own(self) -> dict[str, Expression | Function]:
        """Features of the event's own row."""
        return {**self.from_event, **self.from_python}

    def to_json(self) -> str:
        """All of it, for a time when the pipeline's files say otherwise."""
        from pydantic import TypeAdapter

        return TypeAdapter(FeatureSet).dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> FeatureSet:
        """The set that `to_json` wrote. Raises ValueError for any other text."""
        from pydantic import TypeAdapter

        return TypeAdapter(FeatureSet).validate_json(text)

    @cached_property
    def view_versions(self) -> dict[str, str]:
        """Hash (8 hex digits) of each view's definition by name (`OWNER:NAME` if it is of another pipeline),
        of the expressions as `from_event`, and of the functions, with the files that hold them, as
        `from_python` where there are any."""
        expressions = {name: [one.sql, one.kind] for name, one in self.from_event.items()}
        functions = [
            [name, one.function, one.kind, one.columns, one.source] for name, one in self.from_python.items()
        ]
        return {
            "from_event": hash8([LOGIC_VERSION, expressions]),
            **({"from_python": hash8([LOGIC_VERSION, functions])} if functions else {}),
            **{table_name(view.pipeline, view.name): view.version for view in self.views},
        }

    @cached_property
    def version(self) -> str:
        """Hash of the definitions, 8 hex digits."""
        return set_version(self.view_versions)

    @property
    def examples(self) -> str:
        """Name of the table of its vectors; a changed definition has another."""
        return f"examples/set_{self.version}"

    @cached_property
    def columns(self) -> tuple[FeatureColumn, ...]:
        """Every feature, in the order of the examples: of the event's row, then the views."""
        return (
            *(FeatureColumn(name, one.kind) for name, one in self.own.items()),
            *(column for view in self.views for column in view.columns),
        )

    @property
    def windowed(self) -> tuple[CompiledView, ...]:
        """The views that have tiles."""
        return tuple(view for view in self.views if view.windowed)

    def read_columns(self) -> dict[str, set[str]]:
        """By table of the pipeline, the columns that the features read."""
        own = {column for one in self.own.values() for column in one.columns}
        found: dict[str, set[str]] = {"events": own}
        for view in self.views:
            found["events"] |= set(view.keys)
            if view.pipeline is not None:
                continue
            source = found.setdefault(view.source, set())
            source |= {one.column for one in view.partials} | {one.column for one in view.last}
            source |= set() if view.source == "labels" else set(view.source_keys)
        return found


def set_version(view_versions: Mapping[str, str]) -> str:
    """Version of the set whose views have these versions, 8 hex digits."""
    return hash8(dict(view_versions))


def features_of(loaded: LoadedSpec) -> FeatureSet:
    """The features as a pipeline declares them now, with its shared views. Raises as `feature_set` does."""
    return feature_set(loaded.spec, loaded.contract, loaded.shared)


def feature_set(spec: PipelineSpec, contract: Contract, shared: Sequence[CompiledView] = ()) -> FeatureSet:
    """The features of a spec, and of the shared views that it names.

    Raises UserError for an expression that is refused, TerminalError for a function that is not there, and
    for shared views that are not given.
    """
    from mlops_pipelines.features.functions import source_hash

    if spec.features.shared and not shared:
        raise TerminalError(f"The shared views of {spec.name} are missing.", expected="them beside its spec")
    return FeatureSet(
        from_event=_expressions(spec, contract),
        from_python={
            name: Function(one.function, one.type, tuple(one.columns), source_hash(one.function))
            for name, one in spec.features.from_python.items()
        },
        views=(*compile_views(spec, contract), *shared),
    )


def _expressions(spec: PipelineSpec, contract: Contract) -> dict[str, Expression]:
    """The features under `from_event`, in their order: a string is a category, the rest are numbers."""
    found = {}
    for name, judged in judge_expressions(
        spec.features.from_event, expression_columns(spec, contract)
    ).items():
        if judged.kind is None:
            raise UserError(
                f"Feature {name}: the expression {'; '.join(judged.problems)}.",
                expected="a SQL scalar expression over the event's columns",
            )
        found[name] = Expression(spec.features.from_event[name], judged.kind, tuple(judged.columns))
    return found
