"""A Feast offline store over a pipeline's lake: vectors as of any moment, by what was known then.

Feast loads it by its name. Its own stores join on the time that a value is about, and so see what came
late; here a value counts from when it was known, as it does for examples, whose code this is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.repo_config import FeastConfigBaseModel

from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.features.coding import microseconds
from mlops_pipelines.features.facts import newest_versions
from mlops_pipelines.features.point_in_time import Probes, view_values
from mlops_pipelines.features.views import CompiledView
from mlops_pipelines.ingest.values import is_text
from mlops_pipelines.lake import Lake

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

NAME = f"{__name__}.LakeOfflineStore"
TIME = "event_timestamp"
DEFINITION = "definition"


class LakeOfflineStoreConfig(FeastConfigBaseModel):
    """lake: folder of the pipeline's tables."""

    type: Literal["mlops_pipelines.features.offline.LakeOfflineStore"] = NAME  # type: ignore[assignment]
    lake: str


class LakeOfflineStore(OfflineStore):
    """Reads views that `FeatureStore.apply` registered, at the newest versions of their tables."""

    # It is what is always done here.
    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(  # noqa: PLR0917 - Feast calls it so
        config: Any,
        feature_views: Sequence[Any],
        feature_refs: Sequence[str],
        entity_df: pa.Table | pd.DataFrame,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        **_: Any,
    ) -> RetrievalJob:
        """The features of each row of `entity_df` as of its event_timestamp, in the order of the rows.

        entity_df: Arrow or pandas, with the keys, event_timestamp (UTC where it says no zone) and, if the
        rows are events, event_id: an event is not its own last event. What is missing is null.
        Raises UserError for a column that is not there or of another type.
        """
        lake = Lake(Path(config.offline_store.lake))
        rows = (
            entity_df
            if isinstance(entity_df, pa.Table)
            else pa.Table.from_pandas(entity_df, preserve_index=False)
        )
        wanted: dict[str, list[str]] = {}
        for ref in feature_refs:
            of, feature = ref.split(":", 1)
            wanted.setdefault(of, []).append(feature)
        compiled = [(view.projection.name_to_use(), _compiled(view)) for view in feature_views]

        def read() -> pa.Table:
            at = microseconds(_column(rows, TIME))
            ids = rows["event_id"] if "event_id" in rows.column_names else None
            columns = {name: rows[name] for name in rows.column_names}
            for name, view in compiled:
                probes = Probes(
                    [_key(rows, *key) for key in zip(view.keys, view.key_types, strict=True)], at, ids
                )
                values = view_values(view, lake, probes, newest_versions(lake, [view]))
                columns |= {
                    f"{name}__{feature}" if full_feature_names else feature: values[feature]
                    for feature in wanted.get(name, ())
                }
            return pa.table(columns)

        names = sorted({key for _, view in compiled for key in view.keys})
        return _Job(read, list(feature_refs), names, full_feature_names=full_feature_names)

    @staticmethod
    def pull_latest_from_table_or_query(*_: Any, **__: Any) -> RetrievalJob:
        """Raises TerminalError: nothing is copied to the online store by Feast."""
        raise _written_by_the_run()

    @staticmethod
    def pull_all_from_table_or_query(*_: Any, **__: Any) -> RetrievalJob:
        """Raises TerminalError, as `pull_latest_from_table_or_query` does."""
        raise _written_by_the_run()


class _Job(RetrievalJob):
    """What is computed when it is asked for."""

    def __init__(
        self, read: Callable[[], pa.Table], features: list[str], keys: list[str], *, full_feature_names: bool
    ) -> None:
        self._read = read
        self._full = full_feature_names
        self._metadata = RetrievalMetadata(features=features, keys=keys)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._read()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._read().to_pandas()
        return frame

    @property
    def full_feature_names(self) -> bool:
        return self._full

    @property
    def on_demand_feature_views(self) -> list[Any]:
        return []

    @property
    def metadata(self) -> RetrievalMetadata:
        return self._metadata


def _compiled(view: Any) -> CompiledView:
    text = view.tags.get(DEFINITION)
    if text is None:
        raise TerminalError(
            f"The view {view.name} is registered without its definition.",
            expected="a view that this project registered",
            remedy="materialize feature_tiles",
        )
    return CompiledView.from_json(text)


def _column(rows: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in rows.column_names:
        raise UserError(f"There is no column {name}.", expected=f"it beside {', '.join(rows.column_names)}")
    column = rows[name]
    if name == TIME and not pa.types.is_timestamp(column.type):
        raise UserError(f"The column {name} is {column.type}.", expected="timestamps")
    if name == TIME and column.null_count:
        raise UserError(f"The column {name} has rows without a value.", expected="a moment for every row")
    return column


def _key(rows: pa.Table, name: str, kind: str) -> pa.ChunkedArray:
    column = _column(rows, name)
    value_type = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    fits = pa.types.is_integer(value_type) if kind == "int" else is_text(value_type)
    if fits:
        return column
    if column.null_count < len(column):
        wanted = "whole numbers" if kind == "int" else "texts"
        raise UserError(f"The column {name} is {column.type}.", expected=wanted)
    return pa.nulls(len(column), pa.int64() if kind == "int" else pa.string())


def _written_by_the_run() -> TerminalError:
    return TerminalError(
        "Feast copies no values to the online store here.",
        expected="the run that writes tiles to write them",
        remedy="materialize feature_tiles",
    )
