"""What every asset of a pipeline shares: its key, its partitions, its owners, its record of a run."""

from __future__ import annotations

import math
import random
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

import dagster as dg

from mlops_pipelines import markdown
from mlops_pipelines.errors import QUOTES, MlopsError, TransientError, UserError, quotes_foreign
from mlops_pipelines.features.catalogue import described
from mlops_pipelines.features.sets import features_of
from mlops_pipelines.features.views import table_name
from mlops_pipelines.ingest.contract import MASKED
from mlops_pipelines.lineage import column_sources
from mlops_pipelines.spec_loading import hash_of
from mlops_pipelines.standing import FORCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mlops_pipelines.features.sets import FeatureSet
    from mlops_pipelines.lake import Written
    from mlops_pipelines.spec_loading import LoadedSpec

SINGLE_RUN = dg.BackfillPolicy.single_run()


@dataclass(frozen=True)
class Stage:
    """Declares the assets of one pipeline alike."""

    loaded: LoadedSpec

    @property
    def name(self) -> str:
        return self.loaded.spec.name

    def key(self, asset: str) -> dg.AssetKey:
        """Key of an asset; `OWNER:ASSET` is one of another pipeline."""
        pipeline, _, own = asset.rpartition(":")
        return dg.AssetKey([pipeline or self.name, own])

    @cached_property
    def partitions(self) -> dg.DailyPartitionsDefinition:
        span = self.loaded.spec.partitions
        return dg.DailyPartitionsDefinition(
            start_date=span.start.isoformat(),
            end_date=span.end.isoformat() if span.end else None,
            end_offset=0 if span.end else 1,  # today's partition exists from its first event on
        )

    def lineage(self, asset: str) -> dict[str, dg.TableColumnLineage]:
        """Metadata of a materialization: which columns those of the asset's table are made of."""
        sources = column_sources(self.loaded, asset)
        by_column = {
            column: [dg.TableColumnDep(self.key(of), name) for of, name in columns]
            for column, columns in sources.items()
        }
        return {"dagster/column_lineage": dg.TableColumnLineage(by_column)}

    @cached_property
    def features(self) -> FeatureSet:
        return features_of(self.loaded)

    @property
    def tiles(self) -> dict[str, timedelta]:
        """The assets of the tiles that vectors are made of, its own and of other pipelines, each with the
        longest window over them."""
        longest = {"feature_tiles": timedelta(0)}
        for view in self.features.views:
            asset = table_name(view.pipeline, "feature_tiles")
            longest[asset] = max(view.longest_window, longest.get(asset, timedelta(0)))
        return longest

    def dep(self, asset: str, back: timedelta | None = None) -> dg.AssetDep:
        """Dependency on an asset; `back`: how far before its own partition it reads, if it does."""
        if back is None:
            return dg.AssetDep(self.key(asset))
        with warnings.catch_warnings():
            # The first days look back beyond the first partition. The parameter is marked as beta in
            # Dagster 1.13; this can go when it no longer is.
            warnings.simplefilter("ignore", dg.BetaWarning)
            mapping = dg.TimeWindowPartitionMapping(
                start_offset=-math.ceil(back / timedelta(days=1)), allow_nonexistent_upstream_partitions=True
            )
        return dg.AssetDep(self.key(asset), partition_mapping=mapping)

    def spec(
        self,
        asset: str,
        *,
        description: str,
        kinds: set[str],
        group: str,
        logic: int,
        config: object,
        deps: Iterable[dg.AssetDep] = (),
        columns: Mapping[str, str] | None = None,
        daily: bool = True,
        skippable: bool = False,
    ) -> dg.AssetSpec:
        """An asset of this pipeline.

        logic: hand-kept version of its code; config: the slice of the YAML it depends on. Together
        they are its `code_version`, so that a deploy does not make everything stale.
        columns: name to type, of the table it makes.
        """
        return dg.AssetSpec(
            self.key(asset),
            deps=list(deps),
            description=description,
            group_name=f"{self.name}_{group}",
            owners=list(self.loaded.spec.owners),
            kinds=kinds,
            code_version=f"{logic}-{hash_of(config)[:12]}",
            partitions_def=self.partitions if daily else None,
            skippable=skippable,
            metadata=table_schema(columns, described(self.loaded, asset)) if columns else {},
        )


@contextmanager
def library_errors() -> Iterator[None]:
    """Say to Dagster what the library's errors mean: a transient one is tried again, others end the step."""
    try:
        yield
    except TransientError as error:
        wait = 1 + random.random()  # noqa: S311 - spreads retries, guards nothing
        raise dg.RetryRequested(max_retries=2, seconds_to_wait=wait) from error
    except MlopsError as error:
        metadata = {QUOTES: quotes_foreign(error)}
        raise dg.Failure(description=str(error), metadata=metadata, allow_retries=False) from error


def made(
    stage: Stage,
    specs: Sequence[dg.AssetSpec],
    *,
    pool: str,
    checks: Sequence[dg.AssetCheckSpec] = (),
    can_subset: bool = False,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Decorates the step that makes the assets of `specs`; a range of partitions is one run of it."""
    daily = any(spec.partitions_def for spec in specs)
    return dg.multi_asset(
        name=f"{stage.name}__{specs[0].key.path[-1]}",
        specs=list(specs),
        check_specs=list(checks),
        can_subset=can_subset,
        backfill_policy=SINGLE_RUN if daily else None,
        pool=f"{stage.name}_{pool}",
    )


def partition_days(context: dg.AssetExecutionContext) -> list[str]:
    """Days this run was asked for, in order."""
    return sorted(context.partition_keys)


class Asked(TypedDict):
    """What a step that can make days again was asked for. made_by: version of its code and configuration."""

    days: list[str]
    made_by: str
    force: bool


def asked(context: dg.AssetExecutionContext, spec: dg.AssetSpec) -> Asked:
    """The days of this run; with the tag `mlops/force` also those that are right are made again."""
    force = context.run.tags.get(FORCE, "false")
    if force not in ("true", "false"):
        raise UserError(f"The run has the tag {FORCE} with {force!r}.", expected="true, or false")
    return {"days": partition_days(context), "made_by": spec.code_version or "", "force": force == "true"}


def data_version(written: Sequence[Written]) -> dg.DataVersion:
    """Content hash of one partition; of several, the hash over each one's day and hash.

    Dagster gives all partitions of a single run one data version; each partition's own content hash
    stands in its metadata.
    """
    if len(written) == 1:
        return dg.DataVersion(written[0].content_hash)
    return dg.DataVersion(hash_of([[one.day, one.content_hash] for one in written]))


def record_days(
    context: dg.AssetExecutionContext,
    key: dg.AssetKey,
    written: Sequence[Written],
    *,
    run: Mapping[str, Any] | None = None,
    by_day: Mapping[str, Mapping[str, Any]] | None = None,
    every_day: Mapping[str, Any] | None = None,
    hidden: frozenset[str] = frozenset(),
    right: Sequence[str] | None = None,
) -> dg.MaterializeResult[Any]:
    """The materialization of the days of this run, and of days beyond it that late data touched.

    run: what there is to say of the run as a whole: every partition of it says so, after `run_`.
    by_day: what there is to say of one day. every_day: what holds for each. hidden: columns whose values
    are masked in the preview. right: days that were right already and were not made again, of an asset that
    can make days again.
    """
    asked = set(partition_days(context))
    if right:
        context.log.info(
            f"{len(right)} of {len(asked)} days are right already and were left alone. "
            f"A run with the tag {FORCE}=true makes them again."
        )
    for one in written:
        facts = {**written_facts(one, hidden), **(every_day or {}), **(by_day or {}).get(one.day, {})}
        if right is not None:
            facts["recomputed"] = one.day not in right
        if one.day in asked:
            context.add_asset_metadata(facts, asset_key=key, partition_key=one.day)
        elif one.changed:
            context.log_event(materialization(key, one, facts, "Reopened: late data, or another definition."))
    return dg.MaterializeResult(
        asset_key=key,
        metadata={f"run_{name}": value for name, value in (run or {}).items()},
        data_version=data_version([one for one in written if one.day in asked]),
    )


def materialization(
    key: dg.AssetKey, one: Written, metadata: Mapping[str, Any], description: str
) -> dg.AssetMaterialization:
    """One day that a step changed without being asked for it."""
    return dg.AssetMaterialization(
        key,
        partition=one.day,
        metadata=metadata,
        tags={"dagster/data_version": one.content_hash},
        description=description,
    )


def table_schema(
    columns: Mapping[str, str], descriptions: Mapping[str, str] | None = None
) -> dict[str, dg.TableSchema]:
    """Metadata of an asset: the columns, name to type, of the table it makes, each with its description."""
    said = descriptions or {}
    shown = [dg.TableColumn(name, kind, said.get(name)) for name, kind in columns.items()]
    return {"dagster/column_schema": dg.TableSchema(columns=shown)}


def written_facts(one: Written, hidden: frozenset[str] = frozenset()) -> dict[str, Any]:
    """What a table holds of one day, and what this run changed of it. hidden: columns to mask."""
    head = [
        {name: MASKED if name in hidden and value is not None else value for name, value in row.items()}
        for row in one.head
    ]
    return {
        "dagster/partition_row_count": one.rows,
        "added": one.rows - one.rows_before,
        "changed": one.changed,
        "content_hash": one.content_hash,
        "table_version": one.version,
        "preview": table_preview(head),
    }


def table_preview(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue[Any]:
    """Rows as a Markdown table, the first columns first."""
    if not rows:
        return dg.MetadataValue.md("_no rows_")

    columns = list(rows[0])
    cells = [[str(row[column])[:240].replace("\n", " ") for column in columns] for row in rows]
    return dg.MetadataValue.md(markdown.table(columns, cells))
