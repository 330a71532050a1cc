"""Freeing on real stores: what is kept can still be made again, whatever was freed and wherever it was cut
short."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner

from mlops_pipelines import freeing, promoting
from mlops_pipelines.cli import main
from mlops_pipelines.comparison import version_of
from mlops_pipelines.datasets import DatasetRegistry
from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.experiments import dataset_version
from mlops_pipelines.features.parity import parity
from mlops_pipelines.features.views import tile_table
from mlops_pipelines.home import Home
from mlops_pipelines.lake import Lake
from mlops_pipelines.ledger import Ledger
from mlops_pipelines.model_versions import StoredVersions
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.retraining import model_of
from mlops_pipelines.spec import Gates, Promotion, Retention
from mlops_pipelines.trace import find_prediction
from tests import shared_views
from tests.loop import advance, at, check_reproduced, copy_of, land, retrain, serve, small_home, varied
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome

LATE = Flights().rows("events", at(3), at(4)).slice(0, 40)["event_id"]
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of nine days and three champions, each of which scored a day; some events came late."""
    home = tmp_path_factory.mktemp("lived")
    place = varied(small_home(home), gates=Gates())
    # A day at a time: each has facts, tiles and vectors of versions of their own.
    for day in range(2, 8):
        advance(place, at(day), keep=lambda rows: rows.filter(pc.invert(pc.is_in(rows["event_id"], LATE))))
    for day in (8, 9, 10):
        retrain(place, f"until-{day}")
        advance(place, at(day))
        if day == 8:
            rows = Flights().rows("events", at(3), at(4))
            land(place, "events", "late", rows.filter(pc.is_in(rows["event_id"], LATE)))
            serve(place)
    assert [one.mlflow_version for one in place.ledger.promotions(place.name)] == ["1", "2", "3"]
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    """A copy of that home, of a pipeline that keeps little."""
    return forgetful(copy_of(lived, tmp_path / "home"))


def forgetful(place: PipelineHome) -> PipelineHome:
    kept = dict.fromkeys(("predictions", "models", "datasets", "reports"), DAY)
    window = place.spec.training.model_copy(update={"window": 6 * DAY})
    return varied(place, lateness=timedelta(hours=1), training=window, retention=Retention(**kept))


def check_kept(place: PipelineHome) -> None:
    """Every kept vector can be made again, every training set read and every model loaded."""
    assert parity(place).holds
    check_reproduced(place)
    datasets = place.home.datasets
    for version in datasets.versions(place.name):
        manifest = datasets.version(place.name, version).manifest
        assert datasets.read(place.name, version).num_rows == sum(part["rows"] for part in manifest["parts"])
        for table, at_ in manifest["tables"].items():
            place.lake.read(table, version=at_)
    place.home.registry._loaded.clear()
    promotions = {one.mlflow_version: one for one in place.ledger.promotions(place.name)}
    predictions = place.lake.read("predictions")
    for version in {*predictions["model_version"].to_pylist(), *[*promotions][-2:]}:
        model_of(place, promotions[version])
    for row in predictions.group_by(["day", "feature_set", "examples_version"]).aggregate([]).to_pylist():
        table = f"examples/set_{row['feature_set']}"
        vectors = place.lake.read(table, days=[row["day"]], version=row["examples_version"])
        for made_of in vectors["made_of"].unique().to_pylist():
            for name, version in json.loads(made_of).items():
                if version is not None:
                    place.lake.read(name, version=version)


def contents(place: PipelineHome) -> dict[str, Any]:
    """What the home holds of the pipeline: files by folder, names of versions."""
    lake, home = place.lake.root, place.home
    return {
        "tables": {
            name: sorted((file.day, file.since, file.until) for file in place.lake.stored(name))
            for name in place.lake.tables()
        },
        "parquet": len([*lake.rglob("*.parquet")]),
        "parts": len([*(home.path / "datasets" / ".dvc" / "cache" / "files").rglob("*")]),
        "datasets": home.datasets.versions(place.name),
        "models": [one.version for one in versions_of(home).of(place.name)],
        "mlflow": len([*(home.path / "mlflow" / "artifacts").rglob("MLmodel")]),
    }


def versions_of(home: Home) -> StoredVersions:
    return StoredVersions(home.mlflow_uri, home.path / "mlflow")


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.parquet"))


def test_by_default_only_superseded_files_are_freed(lived: Path, tmp_path: Path) -> None:
    place = copy_of(lived, tmp_path / "home")
    before = parity(place)
    plan = freeing.free(place)
    assert plan.cut == {}
    assert {one.kind for one in plan.judged if one.kept is None} <= {"table files"}
    assert parity(place) == before
    check_kept(place)


def test_what_is_kept_can_be_made_again_after_the_rest_was_freed(place: PipelineHome) -> None:
    before, predicted = contents(place), place.lake.row_counts("predictions")
    room = size_of(place.lake.root)
    plan = freeing.free(place)
    assert (plan.freed("models"), plan.freed("training sets")) == (("1",), (before["datasets"][0],))
    assert place.lake.row_counts("predictions") == {"2013-01-09": predicted["2013-01-09"]}
    assert plan.files
    assert size_of(place.lake.root) == room - sum(file.bytes for file in plan.files)
    now = contents(place)
    assert (now["models"], now["datasets"]) == (["2", "3"], before["datasets"][1:])
    assert now["mlflow"] == 2
    assert now["parts"] < before["parts"]
    check_kept(place)
    fsck = ["git", "-C", str(place.home.datasets.root), "fsck"]
    assert subprocess.run(fsck, check=False, capture_output=True).returncode == 0
    again = freeing.plan_for(place)
    assert not any(one.kept is None for one in again.judged)
    assert again.cut == {}


def test_what_a_freed_version_remembered_of_the_records_the_model_remembers(place: PipelineHome) -> None:
    before = {(head.number, head.hash) for head in promoting.heads_in_mlflow(place.home, place.name)}
    assert {number for number, _ in before} == {1, 2, 3}
    assert freeing.free(place).freed("models") == ("1",)
    after = promoting.heads_in_mlflow(place.home, place.name)
    assert {(head.number, head.hash) for head in after} == before
    assert [head.place for head in after if head.number == 1] == ["MLflow (the model)"]
    assert promoting.verify(place.home, place.name) == []


def test_what_people_have_not_decided_on_yet_is_kept_with_its_training_set(place: PipelineHome) -> None:
    place = varied(place, gates=Gates(), promotion=Promotion(approval="human", expires=9 * DAY))
    assert retrain(place, "asks").waits
    [wait] = place.ledger.waiting(place.name)
    dataset = place.ledger.retrain(wait.retrain_id).dataset_version
    advance(place, at(13))
    plan = freeing.free(place)
    assert (wait.mlflow_version in plan.freed("models"), dataset in plan.freed("training sets")) == (
        False,
        False,
    )
    promoting.approve(place, wait.mlflow_version, by="ann", reason="looked at")
    assert place.home.registry.load(place.name, wait.mlflow_version)
    check_kept(place)


def test_what_is_asked_for_later_was_freed_and_when(place: PipelineHome) -> None:
    [prediction] = place.lake.read("predictions", days=["2013-01-07"]).slice(0, 1).to_pylist()
    plan = freeing.free(place)
    [gone] = plan.freed("training sets")
    for asked in (gone, gone[:5]):
        with pytest.raises(TerminalError, match=rf"training set {gone} .* older than the retention"):
            dataset_version(place, asked)
    with pytest.raises(TerminalError, match=r"model version 1 of .* older than the retention"):
        version_of(place, "1")
    with pytest.raises(TerminalError, match=rf"training set {gone} .* older than the retention.*2013-01-10"):
        place.home.datasets.read(place.name, gone)
    with pytest.raises(TerminalError, match=r"model version 1 of .* older than the retention.*2013-01-10"):
        place.home.registry.load(place.name, "1")
    assert place.home.registry.load(place.name, "2").version == "2"
    with pytest.raises(UserError, match=r"before 2013-01-09 .* older than the retention.*2013-01-10"):
        find_prediction([place], prediction["prediction_id"])


def test_the_loop_goes_on_and_scores_nothing_that_was_freed(place: PipelineHome) -> None:
    freeing.free(place)
    place.ledger.reopen_days(place.name, [f"2013-01-{day:02}" for day in range(1, 10)], "score", at(10))
    advance(place, at(11))
    assert place.lake.days("predictions") == ["2013-01-09", "2013-01-10"]
    retrain(place, "after")
    check_kept(place)


@pytest.mark.parametrize(
    "step",
    [
        (Ledger, "record_freed", 2),
        (Lake, "remove_days", 2),
        (StoredVersions, "_purge", 1),
        (DatasetRegistry, "_dvc_gc", 1),
        (freeing, "_unlink", 2),
    ],
    ids=lambda step: step[1],
)
def test_cut_short_anywhere_the_home_is_whole_and_the_same_again_does_the_rest(
    place: PipelineHome, freed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str, int]
) -> None:
    owner, method, nth = step
    with monkeypatch.context() as patched:
        patched.setattr(owner, method, dying_at(nth, getattr(owner, method)))
        with pytest.raises(KeyboardInterrupt):
            freeing.free(place)
    check_kept(place)
    freeing.free(place)
    assert contents(place) == freed


@pytest.fixture(scope="module")
def freed(lived: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What such a home holds when all was freed at once."""
    place = forgetful(copy_of(lived, tmp_path_factory.mktemp("freed") / "home"))
    freeing.free(place)
    return contents(place)


def dying_at(nth: int, original: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but its nth call is the process's last."""
    calls = 0

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    return dying


def test_what_a_killed_writer_left_is_freed_once_it_is_old(place: PipelineHome) -> None:
    orphan = place.lake.root / "events" / "day=2013-01-09" / "part-killed.parquet"
    orphan.write_bytes(b"half")
    assert orphan not in [file.path for file in freeing.free(place).files]
    two_days_ago = orphan.stat().st_mtime - 2 * 86400
    os.utime(orphan, (two_days_ago, two_days_ago))
    assert orphan in [file.path for file in freeing.free(place).files]
    assert not orphan.exists()


def test_landed_files_go_only_where_the_pipeline_says_so(place: PipelineHome) -> None:
    landed = sorted(place.landing_root.rglob("*.parquet"))
    freeing.free(place)
    assert sorted(place.landing_root.rglob("*.parquet")) == landed
    kept = place.spec.retention.model_copy(update={"landing": DAY})
    plan = freeing.free(varied(place, retention=kept))
    assert all(not (place.path / name).exists() for name in plan.freed("landed"))
    check_kept(place)
    advance(place, at(11))


def test_the_landed_file_that_a_kept_prediction_was_made_from_is_kept_when_another_stands_for_it(
    place: PipelineHome,
) -> None:
    [first] = {*place.lake.read("events", days=["2013-01-09"])["file_digest"].to_pylist()}
    again = Flights().rows("events", at(9), at(10))
    arrived = pc.subtract(again["arrived_at"], pa.scalar(timedelta(seconds=1), pa.duration("us")))
    # Of rows that say the same the one that arrived first stands.
    again = again.set_column(again.schema.get_field_index("arrived_at"), "arrived_at", arrived)
    land(place, "events", "again", again)
    advance(place, at(11))
    assert first not in place.lake.read("events")["file_digest"].to_pylist()
    kept = place.spec.retention.model_copy(update={"predictions": 2 * DAY, "landing": timedelta(hours=1)})
    assert freeing.free(varied(place, retention=kept)).freed("landed") != ()
    check_reproduced(place)


def test_a_home_that_was_copied_by_hand_frees_no_models(lived: Path, tmp_path: Path) -> None:
    by_hand = shutil.copytree(lived, tmp_path / "home")
    place = forgetful(Home.open(by_hand).pipeline(loaded()))
    with pytest.raises(UserError, match="is a copy of that home"):
        freeing.free(place)


def test_a_home_that_is_held_is_told_about_and_not_freed(empty: Path) -> None:
    from mlops_pipelines.home import Home

    with Home.open(empty).exclusive("mlops dev"):
        told = CliRunner().invoke(main, ["gc", "flight_delays", "--home", str(empty)])
        assert (told.exit_code, "nothing to free" in told.output) == (0, True)
        refused = CliRunner().invoke(main, ["gc", "flight_delays", "--apply", "--home", str(empty)])
    assert isinstance(refused.exception, SystemExit | UserError)
    assert "is held by `mlops dev`" in refused.output + str(refused.exception)
    done = CliRunner().invoke(main, ["gc", "flight_delays", "--apply", "--json", "--home", str(empty)])
    assert json.loads(done.output) == {"applied": True, "kinds": {}}


@pytest.fixture(scope="module")
def unscored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of three days without a model."""
    home = tmp_path_factory.mktemp("unscored")
    advance(small_home(home), at(4))
    return home


def test_what_only_a_definition_that_is_out_of_use_had_is_freed_and_can_come_back(
    unscored: Path, tmp_path: Path
) -> None:
    first = forgetful(copy_of(unscored, tmp_path / "home"))
    views = first.spec.features.views
    other = views[0].model_copy(update={"windows": (3 * timedelta(hours=1), 2 * DAY)})
    second = varied(first, features=first.spec.features.model_copy(update={"views": (other, *views[1:])}))
    advance(second, at(6))
    [retired] = [one.version for one in first.ledger.feature_sets(first.name) if one.state == "retired"]
    assert retired == first.features.version
    [view] = [one for one in first.features.views if one not in second.features.views]
    plan = freeing.free(second)
    assert plan.freed("online values") == (view.id,)
    assert second.store.written_as_of(view) is None
    assert second.lake.days(first.features.examples) == []
    assert not [*(second.lake.root / tile_table(view)).rglob("*.parquet")]
    assert parity(second).holds
    assert freeing.plan_for(second).files == ()
    advance(first, at(8))
    assert first.store.written_as_of(view) == at(8)
    assert parity(first, ["2013-01-07"]).holds


def test_what_another_pipelines_vectors_were_made_of_is_kept(tmp_path: Path) -> None:
    root = shared_views.write(tmp_path / "pipelines")
    flights, bookings = shared_views.new_home(tmp_path / "home", root)
    for day in (3, 4, 5):
        shared_views.live(flights, bookings, at(day))
    before = parity(bookings)
    freeing.free(forgetful(flights))
    assert parity(bookings) == before
    assert before.holds
