"""What a pipeline becomes in Dagster: the graph, its checks, jobs, sensors and schedules."""

from __future__ import annotations

import dagster as dg
import pytest

from mlops_pipelines.component import build_definitions
from tests.small_flights import loaded

NAME = "small_flights"
DAILY = {"events", "quarantine", "weather", "labels", "feature_tiles", "examples", "predictions",
         "feature_report", "drift_report", "performance_report", "feedback_report"}  # fmt: skip
WHOLE = {"planes", "training_set", "model", "evaluation_report", "champion"}
LANDING = {"landing_events", "landing_labels", "landing_weather", "landing_planes"}
EXTERNAL = {*LANDING, "retrain_requests"}
PARENTS = {
    "events": {"landing_events"},
    "quarantine": LANDING,
    "labels": {"landing_labels", "events"},
    "weather": {"landing_weather"},
    "planes": {"landing_planes"},
    "feature_tiles": {"events", "labels", "weather", "planes"},
    "examples": {"events", "feature_tiles"},
    "predictions": {"examples"},
    "training_set": {"examples", "labels"},
    "model": {"training_set"},
    "evaluation_report": {"model"},
    "champion": {"evaluation_report"},
    "feature_report": {"examples", "feature_tiles"},
    "drift_report": {"examples", "predictions"},
    "performance_report": {"predictions", "labels"},
    "feedback_report": {"performance_report", "examples"},
}


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return build_definitions(loaded()).get_repository_def()


def node(repository: dg.RepositoryDefinition, asset: str) -> object:
    return repository.asset_graph.get(dg.AssetKey([NAME, asset]))


def test_every_asset_of_the_design_is_there(repository: dg.RepositoryDefinition) -> None:
    keys = {key.path[-1] for key in repository.asset_graph.get_all_asset_keys()}
    assert keys == DAILY | WHOLE | EXTERNAL
    assert all(key.path[0] == NAME for key in repository.asset_graph.get_all_asset_keys())


@pytest.mark.parametrize("asset", sorted(PARENTS))
def test_an_asset_is_made_of_what_the_design_says(repository: dg.RepositoryDefinition, asset: str) -> None:
    parents = repository.asset_graph.get(dg.AssetKey([NAME, asset])).parent_keys
    assert {key.path[-1] for key in parents} == PARENTS[asset]


@pytest.mark.parametrize("asset", sorted(DAILY))
def test_a_range_of_days_is_one_run(repository: dg.RepositoryDefinition, asset: str) -> None:
    found = repository.asset_graph.get(dg.AssetKey([NAME, asset]))
    assert isinstance(found.partitions_def, dg.DailyPartitionsDefinition)
    assert found.backfill_policy == dg.BackfillPolicy.single_run()


@pytest.mark.parametrize("asset", sorted(DAILY | WHOLE))
def test_an_asset_says_whose_it_is_and_which_code_makes_it(
    repository: dg.RepositoryDefinition, asset: str
) -> None:
    found = repository.asset_graph.get(dg.AssetKey([NAME, asset]))
    assert list(found.owners) == list(loaded().spec.owners)
    assert found.code_version
    assert found.kinds
    assert found.description
    assert found.pools


@pytest.mark.parametrize("asset", ["events", "quarantine", "labels", "examples", "predictions"])
def test_a_table_has_its_columns(repository: dg.RepositoryDefinition, asset: str) -> None:
    found = repository.asset_graph.get(dg.AssetKey([NAME, asset]))
    assert found.metadata["dagster/column_schema"].columns


def test_every_declared_gate_is_a_check_that_does_not_block(repository: dg.RepositoryDefinition) -> None:
    keys = repository.asset_graph.asset_check_keys
    gates = {key.name for key in keys if key.asset_key.path[-1] == "evaluation_report"}
    names = ("data", "skill", "champion", "leak", "robustness", "agreement", "size")
    assert gates == {f"gate_{name}" for name in names}
    assert not any(repository.asset_graph.get_check_spec(key).blocking for key in keys)


def test_sensors_and_schedules_run_by_default(repository: dg.RepositoryDefinition) -> None:
    sensors = {sensor.name: sensor.default_status for sensor in repository.sensor_defs}
    assert sensors == dict.fromkeys(
        [f"{NAME}_{name}" for name in ("alerts", "backlog", "drift", "label_arrival", "retraining")],
        dg.DefaultSensorStatus.RUNNING,
    )
    schedules = {schedule.name: schedule.default_status for schedule in repository.schedule_defs}
    assert schedules == dict.fromkeys(
        [f"{NAME}_daily_monitoring", f"{NAME}_late_data"], dg.DefaultScheduleStatus.RUNNING
    )


def test_jobs_are_named_after_what_they_do(repository: dg.RepositoryDefinition) -> None:
    jobs = {name for name in repository.job_names if not name.startswith("__")}
    assert jobs == {
        f"{NAME}_{job}" for job in ("ingest", "score", "labels", "monitor", "backfill", "retrain")
    }


def test_two_pipelines_in_one_location_do_not_touch_each_other() -> None:
    both = dg.Definitions.merge(build_definitions(loaded()), build_definitions(loaded("other_flights")))
    repository = both.get_repository_def()
    by_pipeline: dict[str, set[dg.AssetKey]] = {}
    for key in repository.asset_graph.get_all_asset_keys():
        by_pipeline.setdefault(key.path[0], set()).add(key)
    assert {name: len(keys) for name, keys in by_pipeline.items()} == dict.fromkeys(
        (NAME, "other_flights"), len(DAILY | WHOLE | EXTERNAL)
    )
    for key in repository.asset_graph.get_all_asset_keys():
        assert {parent.path[0] for parent in repository.asset_graph.get(key).parent_keys} <= {key.path[0]}


def test_a_small_change_of_the_training_leaves_the_code_version_of_the_features_alone() -> None:
    real = loaded()
    changed = type(real)(
        spec=real.spec.model_copy(
            update={"training": real.spec.training.model_copy(update={"seed": real.spec.training.seed + 1})}
        ),
        contract=real.contract,
        path=real.path,
    )
    before = build_definitions(real).get_repository_def().asset_graph
    after = build_definitions(changed).get_repository_def().asset_graph
    moved = {
        key.path[-1]
        for key in before.get_all_asset_keys()
        if before.get(key).code_version != after.get(key).code_version
    }
    assert moved == {"training_set", "model"}
