"""Every input of a model leads, column by column, to a column that lands: what the UI draws as lineage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mlops_pipelines.component import build_definitions
from mlops_pipelines.lineage import column_sources, landed_columns
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.scoring import feature_columns
from tests.loop import advance, ask, at, small_home
from tests.small_flights import NAME, loaded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlops_pipelines.home import PipelineHome

Column = tuple[str, str]
JOBS = {"ingest": "2013-01-09", "labels": "2013-01-08", "retrain": None}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> PipelineHome:
    place = small_home(tmp_path_factory.mktemp("home"))
    advance(place, at(10))
    ask(place, "lineage")
    return place


@pytest.fixture(scope="module")
def made(place: PipelineHome) -> dict[str, dg.AssetMaterialization]:
    """The latest materialization of each asset."""
    definitions = build_definitions(place.loaded, HomeResource(path=str(place.home.path)))
    found = {}
    with dg.DagsterInstance.ephemeral() as instance:
        for job, day in JOBS.items():
            run = definitions.resolve_job_def(f"{NAME}_{job}")
            done = run.execute_in_process(partition_key=day, instance=instance)
            for event in done.get_asset_materialization_events():
                one = event.materialization
                found[one.asset_key.path[-1]] = one
    return found


def test_from_each_input_of_a_model_the_records_lead_to_columns_that_land(
    made: Mapping[str, dg.AssetMaterialization],
) -> None:
    lineage = {
        asset: one.metadata["dagster/column_lineage"].value.deps_by_column
        for asset, one in made.items()
        if "dagster/column_lineage" in one.metadata
    }
    assert list(lineage["model"]) == list(feature_columns(loaded()))

    def landed(asset: str, column: str) -> Iterable[Column]:
        if asset.startswith("landing_"):
            yield asset, column
        else:
            for one in lineage[asset][column]:
                yield from landed(one.asset_key.path[-1], one.column_name)

    for feature in lineage["model"]:
        ends = set(landed("model", feature))
        assert ends
        assert all(column in landed_columns(loaded(), of.removeprefix("landing_")) for of, column in ends)
    assert set(landed("training_set", "label")) == {("landing_labels", "late")}
    assert ("landing_events", "scheduled_departure") in set(landed("events", "event_time"))


def test_each_asset_of_a_chain_has_the_columns_that_the_next_names(place: PipelineHome) -> None:
    definitions = build_definitions(place.loaded, HomeResource(path=str(place.home.path)))
    graph = definitions.resolve_asset_graph()

    def columns(asset: str) -> set[str]:
        schema = graph.get(dg.AssetKey([NAME, asset])).metadata["dagster/column_schema"]
        return {column.name for column in schema.columns}

    for asset in ("events", "labels", *loaded().spec.references, "examples", "training_set", "model"):
        sources = column_sources(loaded(), asset)
        assert set(sources) <= columns(asset)
        for of, column in {one for found in sources.values() for one in found}:
            assert column in columns(of)


def test_beside_a_column_stands_how_it_is_made_and_of_what_lands(place: PipelineHome) -> None:
    definitions = build_definitions(place.loaded, HomeResource(path=str(place.home.path)))
    schema = definitions.resolve_asset_graph().get(dg.AssetKey([NAME, "model"])).metadata
    said = {column.name: column.description for column in schema["dagster/column_schema"].columns}
    assert said["tail_lateness_late_mean_6h"] == (
        "mean of labels.late over 6h by tailnum ← landed events.tailnum, labels.late"
    )
    assert all(said.values())
