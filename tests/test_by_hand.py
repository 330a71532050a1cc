"""Dagster's own command line on a home: one partition, a range of them, and a model made by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mlops_pipelines.home import Home
from tests.loop import advance, at, small_home
from tests.small_flights import NAME, loaded

if TYPE_CHECKING:
    from mlops_pipelines.home import PipelineHome

DAGSTER = Path(sys.executable).with_name("dagster")
MODULE = "tests.small_flights.definitions"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> PipelineHome:
    home = tmp_path_factory.mktemp("home")
    advance(small_home(home), at(4))
    return Home.open(home).pipeline(loaded())


def materialize(place: PipelineHome, *arguments: str) -> None:
    folder = place.home.path
    done = subprocess.run(
        [DAGSTER, "asset", "materialize", "-m", MODULE, *arguments],
        env={**os.environ, "MLOPS_HOME": str(folder), "DAGSTER_HOME": str(place.home.dagster)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def recorded(place: PipelineHome, asset: str) -> dict[str, dg.AssetMaterialization]:
    """The latest materialization of each partition."""
    from dagster._core.instance.ref import InstanceRef

    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(place.home.dagster))) as instance:
        records = instance.fetch_materializations(dg.AssetKey([NAME, asset]), limit=100).records
    return {
        record.partition_key or "": record.asset_materialization
        for record in reversed(records)
        if record.asset_materialization is not None
    }


@pytest.mark.parametrize("asset", ["events", "examples"])
def test_one_partition_that_is_right_already_is_verified_and_left_alone(
    place: PipelineHome, asset: str
) -> None:
    version = place.lake.version(asset)
    materialize(place, "--select", f"{NAME}/{asset}", "--partition", "2013-01-02")
    found = recorded(place, asset)
    assert list(found) == ["2013-01-02"]
    assert found["2013-01-02"].metadata["changed"].value is False
    assert place.lake.version(asset) == version


def test_a_range_is_one_run_and_each_partition_has_its_own_facts(place: PipelineHome) -> None:
    days = ["2013-01-01", "2013-01-02", "2013-01-03"]
    chosen = ",".join(f"{NAME}/{asset}" for asset in ("feature_tiles", "examples", "predictions"))
    materialize(place, "--select", chosen, "--partition-range", f"{days[0]}...{days[-1]}")
    tiles = recorded(place, "feature_tiles")
    assert sorted(tiles) == days
    assert len({one.metadata["content_hash"].value for one in tiles.values()}) == 3
    for day, one in recorded(place, "examples").items():
        said = {
            name: one.metadata[name].value for name in ("dagster/partition_row_count", "added", "preview")
        }
        assert said["dagster/partition_row_count"] == place.lake.row_counts(place.features.examples).get(
            day, 0
        )
        assert said["added"] == 0
        assert [other for other in days if f"| {other} |" in said["preview"]] == [day]
