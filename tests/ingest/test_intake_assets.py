"""The assets of the intake: what a run of them says about the files it was given."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets import intake
from assets.stage import Stage
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import rejects, taking
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec_loading import LoadedSpec
from tests.small_flights import loaded

if TYPE_CHECKING:
    from pathlib import Path

FIRST = datetime(2013, 1, 1, tzinfo=UTC)
SECOND = datetime(2013, 1, 2, tzinfo=UTC)
STREAMS = ("events", "labels", "weather", "planes")


@pytest.fixture
def place(tmp_path: Path) -> PipelineHome:
    place = Home.create(tmp_path).pipeline(loaded())
    place.prepare()
    return place


def take(place: PipelineHome, stream: str) -> dg.ExecuteInProcessResult:
    """A run that takes a stream in."""
    taking.register_landed(place)
    key = dg.AssetKey([place.name, stream])
    assets = [asset for asset in intake.build(Stage(place.loaded)) if key in asset.keys]
    return dg.materialize(
        assets,
        partition_key="2013-01-01" if stream != "planes" else None,
        resources={"home": HomeResource(path=str(place.home.path))},
    )


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


@pytest.mark.parametrize("stream", STREAMS)
def test_a_refused_file_of_any_stream_is_seen(place: PipelineHome, stream: str) -> None:
    folder = place.landing(stream) / "2013-01-01"
    folder.mkdir()
    pq.write_table(Flights().rows(stream, FIRST, SECOND), folder / "good.parquet")
    result = take(place, stream)
    assert result.success
    assert checks(result) == {"rows_add_up": True, "files_accepted": True, "reject_share_usual": True}
    (folder / "bad.parquet").write_bytes(b"nonsense")
    result = take(place, stream)
    assert result.success
    assert checks(result) == {"rows_add_up": True, "files_accepted": False, "reject_share_usual": True}
    (seen,) = result.get_asset_observation_events()
    assert seen.asset_key == dg.AssetKey([place.name, f"landing_{stream}"])


def test_rejects_of_every_stream_are_told_of_the_day_of_the_quarantine_they_are_in(
    place: PipelineHome,
) -> None:
    folder = place.landing("weather") / "2013-01-01"
    folder.mkdir()
    weather = Flights().rows("weather", FIRST, SECOND)
    hot = pa.array([1000.0] * 3 + weather["temp"].to_pylist()[3:])
    pq.write_table(
        weather.set_column(weather.schema.get_field_index("temp"), "temp", hot), folder / "a.parquet"
    )
    result = take(place, "weather")
    (made,) = [
        event.materialization
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey([place.name, "quarantine"])
    ]
    assert made.partition == "2013-01-01"
    assert made.metadata["dagster/partition_row_count"].value == 3
    assert made.metadata["run_quarantined"].value == 3
    assert made.tags["dagster/data_version"] == made.metadata["content_hash"].value


def test_sensitive_values_are_masked_in_previews(place: PipelineHome) -> None:
    rules = place.contract.references["weather"]
    columns = rules.columns | {"temp": rules.columns["temp"].model_copy(update={"sensitive": True})}
    weather = rules.model_copy(update={"columns": columns})
    references = place.contract.references | {"weather": weather}
    hidden = PipelineHome(place.home, with_contract(references=references))
    folder = place.landing("weather") / "2013-01-01"
    folder.mkdir()
    rows = Flights().rows("weather", FIRST, SECOND)
    hot = pa.array([1234.5, *rows["temp"].to_pylist()[1:]])
    pq.write_table(rows.set_column(rows.schema.get_field_index("temp"), "temp", hot), folder / "a.parquet")
    result = take(hidden, "weather")
    previews = {
        event.asset_key.path[-1]: str(event.materialization.metadata["preview"].value)
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    assert set(previews) == {"weather", "quarantine"}
    assert all(rejects.MASKED in text for text in previews.values())
    assert "1234.5" not in previews["quarantine"]
    assert str(rows["temp"][1].as_py()) not in previews["weather"]


def code_versions(pipeline: LoadedSpec) -> dict[str, Any]:
    return {
        spec.key.path[-1]: spec.code_version
        for asset in intake.build(Stage(pipeline))
        for spec in asset.specs
    }


def with_contract(**changes: Any) -> LoadedSpec:
    real = loaded()
    return LoadedSpec(spec=real.spec, contract=real.contract.model_copy(update=changes), path=real.path)


def test_a_rule_of_one_stream_leaves_the_code_version_of_the_others_alone() -> None:
    before = code_versions(loaded())
    rules = loaded().contract.labels
    late = rules.columns["late"].model_copy(update={"nullable": True})
    other = rules.model_copy(update={"columns": {**rules.columns, "late": late}})
    after = code_versions(with_contract(labels=other))
    assert {name for name in before if before[name] != after[name]} == {"labels", "quarantine"}


def test_a_rule_of_all_files_changes_every_code_version() -> None:
    before, after = code_versions(loaded()), code_versions(with_contract(reject_share_halts=0.5))
    assert {name for name in before if before[name] != after[name]} == {"quarantine", *STREAMS}
