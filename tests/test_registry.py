from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlops_pipelines.errors import TerminalError, TransientError
from mlops_pipelines.evaluation import evaluate
from mlops_pipelines.evaluation_page import pictures
from mlops_pipelines.registry import Registry, _faults
from mlops_pipelines.spec import Gates
from mlops_pipelines.training import Candidate, fit_candidate
from mlops_pipelines.tuning import Trial
from tests.synthetic_examples import FEATURES, examples, training

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa

    from mlops_pipelines.errors import MlopsError
    from mlops_pipelines.registry import Registered

FILES = {"reference.json": '{"bins": [1, 2]}'}


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return examples(days=12, rows_per_day=60)


@pytest.fixture(scope="module")
def candidate(table: pa.Table) -> Candidate:
    return fit_candidate(table, FEATURES, training())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its schema, which takes seconds to make; each test uses pipelines of its own."""
    return tmp_path_factory.mktemp("mlflow")


def opened(store: Path) -> Registry:
    """A registry as another process would open it: nothing in memory."""
    return Registry(f"sqlite:///{store / 'mlflow.db'}", store / "artifacts")


def logged(registry: Registry, pipeline: str, candidate: Candidate, retrain: str = "r-00001") -> Registered:
    return registry.log_candidate(
        pipeline, retrain, candidate, "3f2a", {"commit": "abc"}, files=FILES, tags={"authority": retrain}
    )


class Killed(BaseException):
    """The process ends here."""


class DyingClient:
    """An MLflow client whose process is killed right after its n-th call."""

    def __init__(self, client: Any, calls: int):
        self._client, self._left = client, calls

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            try:
                return getattr(self._client, name)(*args, **kwargs)
            finally:
                if self._left == 0:
                    raise Killed

        return call


def dying(store: Path, calls: int) -> Registry:
    registry = opened(store)
    registry.__dict__["_client"] = DyingClient(registry._client, calls)
    return registry


# Registering


def test_a_version_gives_back_what_was_logged(
    store: Path, candidate: Candidate, table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = logged(opened(store), "given_back", candidate)
    assert (made.version, made.model_hash) == ("1", candidate.refit.hash)
    model = opened(store).load("given_back", made.version)
    assert (model.refit, model.twin) == (candidate.refit, candidate.twin)
    assert np.array_equal(model.refit.predict(table), candidate.refit.predict(table))
    assert model.files["reference.json"] == FILES["reference.json"]
    assert '"commit": "abc"' in model.files["facts.json"]
    assert model.incumbent.version == "1"
    # MLflow's own default store would lie in the working directory.
    assert not list(tmp_path.iterdir())


def test_logging_again_gives_the_same_version(store: Path, candidate: Candidate) -> None:
    first = logged(opened(store), "again", candidate)
    assert logged(opened(store), "again", candidate) == first
    assert opened(store).find("again", "r-00001") == first
    assert opened(store).find("again", "r-00002") is None
    assert logged(opened(store), "again", candidate, "r-00002").version == "2"
    assert opened(store).find("again", "r-00001") == first


def test_mlflow_itself_can_load_and_describe_the_model(
    store: Path, candidate: Candidate, table: pa.Table
) -> None:
    import mlflow.lightgbm
    from mlflow.models import Model

    from mlops_pipelines.training import encode

    made = logged(opened(store), "by_mlflow", candidate)
    client = opened(store)._client
    version = client.get_model_version("by_mlflow", made.version)
    assert version.tags["retrain_id"] == version.tags["authority"] == "r-00001"
    booster = mlflow.lightgbm.load_model(version.source)
    refit = candidate.refit
    matrix = encode(table, refit.features, refit.categories)
    assert np.array_equal(booster.predict(matrix), refit.predict(table))
    info = Model.load(str(version.source).removeprefix("file://"))
    assert info.signature is not None
    assert info.signature.inputs.input_names() == [feature.name for feature in FEATURES]
    run = client.get_run(made.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["num_leaves"] == "7"
    assert run.inputs
    assert run.inputs.dataset_inputs[0].dataset.digest == "3f2a"
    assert run.outputs
    assert run.outputs.model_outputs[0].model_id == info.model_id
    assert made.link == f"/#/experiments/{run.info.experiment_id}/runs/{made.run_id}"


def test_everything_stored_is_text(store: Path, candidate: Candidate) -> None:
    logged(opened(store), "as_text", candidate)
    stored = [path for path in (store / "artifacts" / "as_text").rglob("*") if path.is_file()]
    assert stored
    for path in stored:
        assert path.read_bytes().decode()
        assert path.suffix in {"", ".json", ".lgb", ".txt", ".yaml"}
    [requirements] = [path for path in stored if path.name == "requirements.txt"]
    assert all("==" in line for line in requirements.read_text().splitlines())


@pytest.mark.proof
def test_killed_after_any_call_and_repeated_it_leaves_one_version(
    store: Path, candidate: Candidate, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    pipeline, kills = "killed", 0
    for calls in range(1, 100, 1 if full else 3):
        retrain = f"r-{calls:05d}"
        try:
            logged(dying(store, calls), pipeline, candidate, retrain)
        except Killed:
            pass
        else:
            break
        kills += 1
        registry = opened(store)
        made = logged(registry, pipeline, candidate, retrain)
        assert made.version == str(kills)
        client = registry._client
        assert client.get_run(made.run_id).info.status == "FINISHED"
        left = client.search_runs([made.experiment_id], f"tags.retrain_id = '{retrain}'")
        assert [run.info.run_id for run in left] == [made.run_id]
        models = client.search_logged_models(
            [made.experiment_id], filter_string=f"tags.retrain_id = '{retrain}'"
        )
        assert [model.source_run_id for model in models] == [made.run_id]
    sample_size("kills", kills)
    assert 10 < calls < 50


def test_abandoned_runs_say_that_they_failed(store: Path, candidate: Candidate) -> None:
    from mlflow.entities import ViewType

    with pytest.raises(Killed):
        logged(dying(store, 9), "abandoned", candidate)
    made = logged(opened(store), "abandoned", candidate)
    [run] = opened(store)._client.search_runs([made.experiment_id], run_view_type=ViewType.DELETED_ONLY)
    assert run.info.status == "FAILED"
    assert run.data.tags["abandoned"] == "interrupted before its version was registered"


def test_trials_are_runs_below_that_of_the_candidate_and_are_put_away_with_it(
    store: Path, candidate: Candidate
) -> None:
    started = datetime(2024, 1, 1, tzinfo=UTC)
    trials = [
        Trial(number, {"num_leaves": 7 + number}, (0.5, 0.4), pruned=number == 1, started=started, seconds=2)
        for number in range(3)
    ]

    def log(registry: Registry, retrain: str) -> Registered:
        return registry.log_candidate("tuned", retrain, candidate, "3f2a", {}, trials=trials)

    for calls in (12, 20):
        with pytest.raises(Killed):
            log(dying(store, calls), "r-1")
    made = log(opened(store), "r-1")
    assert log(opened(store), "r-1") == made
    # Another model of the same retrain leaves what belongs to a version alone.
    registry = opened(store)
    registry._abandon_runs(made.experiment_id, "r-1")
    runs = registry._client.search_runs([made.experiment_id], "tags.retrain_id = 'r-1'")
    below = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == made.run_id]
    assert {run.info.run_id for run in runs} == {made.run_id, *(run.info.run_id for run in below)}
    assert sorted(run.info.run_name for run in below) == ["trial-0", "trial-1", "trial-2"]
    [second] = [run for run in below if run.info.run_name == "trial-1"]
    assert (second.data.params, second.data.metrics) == ({"num_leaves": "8"}, {"log_loss": 0.4})
    assert (second.data.tags["pruned"], second.info.status) == ("true", "FINISHED")
    assert second.info.end_time - second.info.start_time == 2000


# Loading


def test_a_version_that_was_loaded_once_needs_no_mlflow(store: Path, candidate: Candidate) -> None:
    made = logged(opened(store), "light", candidate)
    opened(store).load("light", made.version)
    script = (
        "import sys; from pathlib import Path; from mlops_pipelines.registry import Registry;"
        f"registry = Registry('sqlite:///nowhere.db', Path({str(store / 'artifacts')!r}));"
        f"model = registry.load('light', '1', model_hash={made.model_hash!r});"
        "print(model.model_hash, 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [made.model_hash, "False"]


def test_a_damaged_cache_is_fetched_again(store: Path, candidate: Candidate) -> None:
    made = logged(opened(store), "damaged", candidate)
    opened(store).load("damaged", made.version)
    [folder] = (store / "cache" / "damaged").iterdir()
    (folder / "model.lgb").write_text("tree")
    assert opened(store).load("damaged", "1", model_hash=made.model_hash).refit == candidate.refit
    (folder / "mlops" / "refit" / "encoding.json").unlink()
    assert opened(store).load("damaged", "1", model_hash=made.model_hash).refit == candidate.refit
    shutil.rmtree(store / "cache")
    assert opened(store).load("damaged", "1").refit == candidate.refit


def test_a_version_that_is_not_what_was_promoted_is_refused(store: Path, candidate: Candidate) -> None:
    logged(opened(store), "swapped", candidate)
    for _ in range(2):
        with pytest.raises(TerminalError, match="as it was promoted"):
            opened(store).load("swapped", "1", model_hash="0" * 64)


def test_a_missing_version_is_terminal(store: Path) -> None:
    with pytest.raises(TerminalError, match="not found"):
        opened(store).load("nowhere", "1")


@pytest.mark.parametrize("name", ["../up", "a'b", "", "a/b"])
def test_names_that_could_leave_their_place_are_refused(store: Path, candidate: Candidate, name: str) -> None:
    registry = opened(store)
    with pytest.raises(TerminalError, match="cannot name"):
        logged(registry, "names", candidate, name)
    with pytest.raises(TerminalError, match="cannot name"):
        registry.log_candidate("names", "r-1", candidate, "3f2a", {}, files={name: ""})
    with pytest.raises(TerminalError, match="cannot name"):
        registry.load(name, "1", model_hash="0" * 64)


# What is stored


def bundle(store: Path, pipeline: str) -> Path:
    """The folder in which MLflow keeps the files of the only version."""
    [found] = (store / "artifacts" / pipeline).rglob("mlops")
    return found.parent


def test_files_that_are_as_they_were_registered_are_said_to_be(store: Path, candidate: Candidate) -> None:
    made = logged(opened(store), "whole", candidate)
    assert opened(store).check_stored("whole", made.version) is None


@pytest.mark.parametrize(
    "name", ["model.lgb", "mlops/refit/encoding.json", "mlops/twin/model.lgb", "mlops/files/facts.json"]
)
def test_a_stored_file_that_was_altered_by_a_byte_is_named(
    store: Path, candidate: Candidate, name: str
) -> None:
    pipeline = "altered_" + name.replace("/", "_").replace(".", "_")
    made = logged(opened(store), pipeline, candidate)
    opened(store).load(pipeline, made.version)  # the cache has what it was
    path = bundle(store, pipeline) / name
    path.write_bytes(path.read_bytes()[:-1] + b"#")
    assert opened(store).check_stored(pipeline, made.version) == f"changed: {name}"


def test_stored_files_that_are_gone_or_new_are_named(store: Path, candidate: Candidate) -> None:
    made = logged(opened(store), "gone", candidate)
    folder = bundle(store, "gone")
    (folder / "mlops" / "twin" / "encoding.json").unlink()
    (folder / "mlops" / "files" / "more.json").write_text("{}")
    said = "missing: mlops/twin/encoding.json; added: mlops/files/more.json"
    assert opened(store).check_stored("gone", made.version) == said
    shutil.rmtree(folder)
    assert "cannot be fetched" in str(opened(store).check_stored("gone", made.version))


# Evaluations, cards, aliases


def test_an_evaluation_is_kept_once_and_read_back(store: Path, candidate: Candidate) -> None:
    registry = opened(store)
    made = logged(registry, "evaluated", candidate)
    assert registry.evaluation(made.run_id) is None
    report = evaluate(candidate, None, gates=Gates())
    for _ in range(2):
        registry.log_evaluation(made.run_id, report, pictures(report))
    assert opened(store).evaluation(made.run_id) == report
    kept = {entry.path for entry in registry._client.list_artifacts(made.run_id, "evaluation")}
    assert {"evaluation/report.md", "evaluation/precision_recall.png"} < kept
    history = registry._client.get_metric_history(made.run_id, "holdout_roc_auc")
    figure = report.metrics["roc_auc"]
    assert figure is not None
    assert [point.value for point in history] == [figure.value]


def test_an_evaluation_cut_short_counts_as_none(store: Path, candidate: Candidate) -> None:
    made = logged(opened(store), "cut_short", candidate)
    report = evaluate(candidate, None, gates=Gates())
    for calls in (1, 2, 3):
        with pytest.raises(Killed):
            dying(store, calls).log_evaluation(made.run_id, report, {})
        assert opened(store).evaluation(made.run_id) is None
    opened(store).log_evaluation(made.run_id, report, {})
    assert opened(store).evaluation(made.run_id) == report


def test_aliases_name_one_version(store: Path, candidate: Candidate) -> None:
    registry = opened(store)
    assert registry.alias("aliased", "champion") is None
    for retrain in ("r-1", "r-2"):
        made = logged(registry, "aliased", candidate, retrain)
        assert registry.alias("aliased", "previous") is None
        registry.set_alias("aliased", "champion", made.version)
        assert opened(store).alias("aliased", "champion") == made.version
    with pytest.raises(TerminalError, match="not found"):
        registry.set_alias("aliased", "champion", "9")


def test_the_card_describes_the_version(store: Path, candidate: Candidate) -> None:
    registry = opened(store)
    made = logged(registry, "carded", candidate)
    long = "# Card\n\n## Details\n\nshort\n\n## Analyses\n\n" + "figure " * 1000
    for card, described in (
        ("# Card\n\n## Details\n\nshort", None),
        (long, "# Card\n\n## Details\n\nshort\n"),
    ):
        registry.log_card("carded", made.version, card)
        version = registry._client.get_model_version("carded", made.version)
        assert version.description == (described or card)
        assert "model_card.md" in {entry.path for entry in registry._client.list_artifacts(made.run_id)}


def test_tags_are_added_to_a_version(store: Path, candidate: Candidate) -> None:
    registry = opened(store)
    logged(registry, "tagged", candidate)
    registry.tag("tagged", "1", {"verdict": "rejected"})
    tags = registry._client.get_model_version("tagged", "1").tags
    assert (tags["verdict"], tags["model_hash"]) == ("rejected", candidate.refit.hash)


@pytest.mark.parametrize(
    ("code", "error"), [("TEMPORARILY_UNAVAILABLE", TransientError), ("PERMISSION_DENIED", TerminalError)]
)
def test_faults_of_the_store_are_told_apart(code: str, error: type[MlopsError]) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ErrorCode

    with pytest.raises(error, match="MLflow says: no"), _faults():
        raise MlflowException("no", error_code=ErrorCode.Value(code))
