"""Models trained again, trained otherwise and held side by side, outside of any retrain."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from assets import learning
from assets.stage import Stage
from mlops_pipelines import retraining, scoring
from mlops_pipelines.comparison import side_by_side
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.experiments import platform_difference, refit_from, train_from
from mlops_pipelines.home import Home
from mlops_pipelines.provenance import platform
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec import Training
from mlops_pipelines.training import PERMUTED
from tests.loop import advance, ask, at, copy_of, mlops, retrain, small_home, varied
from tests.small_flights import loaded

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.registry import LoadedModel


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of ten days with a champion, to be read or copied."""
    home = tmp_path_factory.mktemp("lived")
    place = small_home(home)
    advance(place, at(11))
    retrain(place, "first")
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    """A copy of that home."""
    return copy_of(lived, tmp_path / "home")


def champion_of(place: PipelineHome) -> LoadedModel:
    champion = place.ledger.champion(place.name)
    assert champion is not None
    return retraining.model_of(place, champion)


def with_training(place: PipelineHome, **changes: object) -> PipelineHome:
    """The same pipeline with other settings of its training."""
    training = place.spec.training.model_dump() | changes
    return varied(place, training=Training.model_validate(training))


def standing(place: PipelineHome) -> list[object]:
    """All that an experiment leaves alone."""
    registry, ledger = place.home.registry, place.ledger
    aliases = [registry.alias(place.name, alias) for alias in ("candidate", "champion", "previous")]
    return [aliases, ledger.retrains(place.name), ledger.promotions(place.name), ledger.triggers(place.name)]


# Training again


def test_a_model_trained_again_from_its_set_has_its_hash_whatever_the_yaml_says_now(
    place: PipelineHome,
) -> None:
    [version] = place.home.datasets.versions(place.name)
    model = champion_of(place)
    today = with_training(place, params={"n_estimators": 3}, seed=99)
    for made in (model.refit, model.twin):
        assert refit_from(today, version, made).hash == made.hash


def test_a_model_of_a_set_that_is_not_there_is_not_trained_again(place: PipelineHome) -> None:
    with pytest.raises(TerminalError, match="no training set 000000000000"):
        refit_from(place, "000000000000", champion_of(place).refit)


def test_a_difference_of_platform_is_told_and_equal_ones_have_none() -> None:
    here = platform()
    assert platform_difference(here, here) == []
    assert platform_difference({**here, "threads": 2}, here) == []
    [said] = platform_difference({**here, "lightgbm": "4.6.0"}, here)
    assert said == f"lightgbm was 4.6.0, and is {here['lightgbm']} here"


# Experiments


def test_an_experiment_is_judged_beside_the_champion_and_moves_nothing(place: PipelineHome) -> None:
    before = standing(place)
    result = mlops(place, "train", place.name, "--set", "num_leaves=7", "--set", "seed=5", "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["version"] == "2"
    assert made["training"]["params"]["num_leaves"] == 7
    assert made["training"]["seed"] == 5
    assert {"roc_auc", "log_loss"} <= set(made["metrics"])
    assert made["metrics"]["log_loss"]["lower"] < made["metrics"]["log_loss"]["upper"]
    assert made["comparison"]["version"] == "1"
    assert {one["gate"]: one["outcome"] for one in made["verdicts"]} == dict.fromkeys(
        ("data", "skill", "champion", "leak", "robustness", "agreement", "size"), "pass"
    )
    model = place.home.registry.load(place.name, "2")
    assert model.refit.hash == made["model_hash"]
    assert (model.refit.params["num_leaves"], model.refit.params["seed"]) == (7, 5)
    assert json.loads(model.files["facts.json"])["retrain"] == retraining.EXPERIMENT
    assert standing(place) == before


def test_an_experiment_without_changes_is_the_model_of_the_retrain(place: PipelineHome) -> None:
    [version] = place.home.datasets.versions(place.name)
    result = mlops(place, "train", place.name, "--dataset", version[:4])
    assert result.exit_code == 0, result.output
    assert f"Version 2 of {place.name}, an experiment, trained from {version}" in result.output
    assert champion_of(place).model_hash in result.output
    assert "roc_auc" in result.output
    assert "Gates, as they would have judged it" in result.output
    assert "/#/experiments/" in result.output


def test_another_holdout_is_what_an_experiment_is_judged_on(place: PipelineHome) -> None:
    [version] = place.home.datasets.versions(place.name)
    made = train_from(place, version, ["holdout=1d", "refit=false"])
    assert made.report.days == 1
    assert made.report.model_hash == made.report.twin_hash


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("num_leafs=63", "num_leafs is not a setting; did you mean num_leaves"),
        ("sead=5", "sead is not a setting; did you mean seed"),
        ("window=30d", "window is not a setting"),
        ("num_leaves=1", "1 is not allowed for num_leaves (allowed: a whole number from 2 to 131072)"),
        ("num_leaves=many", "'many' is not allowed for num_leaves"),
        ("eta=0.1", "eta is another spelling of learning_rate"),
        ("num_threads=1", "num_threads may not be set: write training.threads"),
        ("seed=-1", "-1: must be greater than or equal to 0"),
        ("seed=1.5", "1.5 is not a whole number"),
        ("holdout=400d", "400d leaves nothing of the window to train on"),
        ("holdout=soon", "'soon' is not a duration"),
        ("holdout=36h", "36h is not a whole number of days"),
        ("seed", "--set seed gives no value"),
        ("seed=[", "'[' is not a whole number"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_what_can(lived: Path, change: str, said: str) -> None:
    place = Home.open(lived).pipeline(loaded())
    result = mlops(place, "train", place.name, "--set", change)
    assert (result.exit_code, said in result.output) == (2, True), result.output


@pytest.mark.parametrize(("name", "reproducible"), [("Logistic", True), ("Forgetful", False)])
def test_a_trainer_of_its_own_is_tried_twice_and_marked(
    place: PipelineHome, name: str, reproducible: bool
) -> None:
    trainer = f"tests.own_trainers:{name}"
    at_once = place.spec.policy.model_copy(update={"cooldown": timedelta(0)})
    place = varied(with_training(place, trainer=trainer, params={"steps": 20}), policy=at_once)
    ask(place, "own")
    admission = retraining.admit(place, run_id="own")
    assert admission.retrain is not None, admission.sentence
    retraining.assemble(place, admission.retrain)
    made = retraining.fit(place, run_id="own")
    assert made.reproducible is reproducible
    version = place.home.registry._client.get_model_version(place.name, made.version)
    assert version.tags["reproducible"] == str(reproducible).lower()
    retraining.evaluate(place, run_id="own")
    card = retraining.conclude(place, run_id="own").model_card
    assert trainer in card
    assert ("trained twice on the same rows, its trainer gave two models" in card) is not reproducible
    scoring.score(place, [])
    [training_set] = place.home.datasets.versions(place.name)
    again = refit_from(place, training_set, champion_of(place).refit)
    assert (again.hash == made.model_hash) is reproducible


@pytest.mark.parametrize(("name", "reproducible"), [("Logistic", True), ("Forgetful", False)])
def test_the_model_of_a_trainer_of_its_own_has_a_check_that_warns(
    place: PipelineHome, name: str, reproducible: bool
) -> None:
    own = with_training(place, trainer=f"tests.own_trainers:{name}", params={"steps": 20})
    [model] = [
        asset for asset in learning.build(Stage(own.loaded)) if asset.key == dg.AssetKey([own.name, "model"])
    ]
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(
            [model], instance=instance, resources={"home": HomeResource(path=str(own.home.path))}
        )
        [check] = done.get_asset_check_evaluations()
    assert done.success
    assert (check.check_name, check.passed) == ("reproducible", reproducible)
    assert check.severity == dg.AssetCheckSeverity.WARN
    metadata = done.asset_materializations_for_node(f"{own.name}__model")[0].metadata
    assert metadata["authority"].value == retraining.EXPERIMENT
    assert PERMUTED in str(metadata["importance"].value)


def test_an_experiment_with_another_trainer_says_that_it_is_not_reproducible(place: PipelineHome) -> None:
    place = with_training(place, params={})
    trainer = "trainer=tests.own_trainers:Forgetful"
    result = mlops(place, "train", place.name, "--set", trainer, "--set", "steps=20")
    assert result.exit_code == 0, result.output
    assert "Not reproducible: trained twice, it gave two models." in result.output
    compared = mlops(place, "compare", place.name, "2", "1").output
    assert "what weighs most (each by its own measure)" in compared
    assert "tests.own_trainers:Forgetful  None" in compared


def test_models_of_lightgbm_are_marked_as_reproducible(lived: Path) -> None:
    registry = Home.open(lived).registry
    assert registry._client.get_model_version("small_flights", "1").tags["reproducible"] == "true"


TUNE = {"space": {"num_leaves": {"low": 4, "high": 15}}, "trials": 2, "folds": 2}


def test_a_search_that_the_yaml_declares_is_made_by_an_experiment_that_asks_for_it(
    place: PipelineHome,
) -> None:
    place = with_training(place, tune=TUNE)
    before = standing(place)
    made = json.loads(mlops(place, "train", place.name, "--tune", "--json").stdout)
    assert made["tuning"].startswith("2 trials, 0 of them ended early; the best is number ")
    [version] = place.home.datasets.versions(place.name)
    model = place.home.registry.load(place.name, made["version"])
    assert 4 <= model.refit.params["num_leaves"] <= 15  # type: ignore[operator]
    assert refit_from(place, version, model.refit).hash == made["model_hash"]
    assert standing(place) == before
    untuned = json.loads(mlops(place, "train", place.name, "--json").stdout)
    assert untuned["tuning"] is None
    assert untuned["training"]["params"] == place.spec.training.params


def test_a_retrain_searches_where_the_yaml_says_so(place: PipelineHome) -> None:
    place = with_training(place, tune=TUNE)
    retraining.fit(place, run_id="by-hand")
    made = place.home.registry.find(place.name, f"{retraining.EXPERIMENT}-by-hand")
    assert made is not None
    model = place.home.registry.load(place.name, made.version)
    facts = json.loads(model.files["facts.json"])
    assert facts["training"]["params"]["num_leaves"] == model.refit.params["num_leaves"] <= 15
    assert facts["tuning"].startswith("2 trials")


def test_a_search_that_nothing_declares_is_refused_with_how_it_is_declared(lived: Path) -> None:
    place = Home.open(lived).pipeline(loaded())
    result = mlops(place, "train", place.name, "--tune")
    assert result.exit_code == 2
    assert "tune: {space: {num_leaves: {low: 15, high: 127}}}" in result.output


def test_a_training_set_that_is_not_there_is_refused_with_those_that_are(lived: Path) -> None:
    place = Home.open(lived).pipeline(loaded())
    result = mlops(place, "train", place.name, "--dataset", "nothing")
    assert result.exit_code == 2
    assert place.home.datasets.versions(place.name)[0] in result.output


def test_before_there_is_a_training_set_nothing_is_trained(empty: Path) -> None:
    result = mlops(Home.open(empty).pipeline(loaded()), "train", "small_flights")
    assert result.exit_code == 2
    assert "small_flights has no training set yet" in result.output


# Side by side


def with_another_feature(place: PipelineHome) -> PipelineHome:
    features = place.spec.features
    expressions = features.from_event | {"twice": "2 * distance"}
    views = features.views[1:]
    return varied(place, features=features.model_copy(update={"views": views, "from_event": expressions}))


@pytest.fixture(scope="module")
def three(lived: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 was champion, 2 is an experiment, 3 is champion, by other features and from a later set."""
    home = tmp_path_factory.mktemp("three") / "home"
    place = copy_of(lived, home)
    [version] = place.home.datasets.versions(place.name)
    train_from(place, version, ["num_leaves=7", "holdout=1d", "threads=1"])
    other = with_another_feature(place)
    advance(other, at(13))
    assert retrain(other, "second").promotion
    return home


@pytest.fixture
def beside(three: Path) -> PipelineHome:
    """That home, to be read."""
    return with_another_feature(Home.open(three).pipeline(loaded()))


def test_an_experiment_and_a_champion_are_held_side_by_side(beside: PipelineHome) -> None:
    found = json.loads(mlops(beside, "compare", beside.name, "2", "1", "--json").stdout)
    assert found["differ"]["params"] == {"num_leaves": [7, 31], "num_threads": [1, 2]}
    assert found["differ"]["training"] == {"holdout": ["1d", "3d"]}
    assert found["differ"]["platform"] == {"threads": [1, 2]}
    assert found["differ"]["features"] == {"only_first": [], "only_second": []}
    assert found["first"]["dataset_version"] == found["second"]["dataset_version"]
    assert found["first"]["made_by"] == retraining.EXPERIMENT
    assert (found["first"]["verdicts_given"], found["second"]["verdicts_given"]) == (False, True)
    gates = [one["gate"] for one in found["second"]["verdicts"]]
    assert gates == [one["gate"] for one in found["first"]["verdicts"]] == [
        "data", "skill", "champion", "leak", "robustness", "agreement", "size"
    ]  # fmt: skip
    # The twin of the experiment has seen more days than that of the champion: one is left.
    assert len(found["paired"]["days"]) == found["first"]["holdout"]["rows"] / found["paired"]["rows"] == 1


def test_the_difference_is_the_first_minus_the_second_on_the_same_rows(beside: PipelineHome) -> None:
    there, back = side_by_side(beside, "1", "2").paired, side_by_side(beside, "2", "1").paired
    assert there is not None
    assert back is not None
    for name in ("log_loss", "roc_auc"):
        one, other = there.metrics[name], back.metrics[name]
        assert one is not None
        assert other is not None
        assert one.difference.value == pytest.approx(one.candidate - one.incumbent)
        assert one.difference.value == pytest.approx(-other.difference.value)


def test_models_of_other_features_are_compared_on_the_same_events_each_fed_its_own(
    beside: PipelineHome,
) -> None:
    found = side_by_side(beside, "previous", "champion")
    assert (found.first.version, found.second.version) == ("1", "3")
    only_first, only_second = found.features
    assert only_second == ["twice"]
    assert all(name.startswith("carrier_lateness") for name in only_first)
    assert set(found.views) >= {"carrier_lateness"}
    assert found.paired is not None, found.lacking
    assert found.paired.rows > 0
    assert found.paired.days[0].day > found.second.model.twin.last_day


def test_the_table_names_what_differs(beside: PipelineHome) -> None:
    result = mlops(beside, "compare", beside.name, "previous", "champion")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].split() == ["v1", "v3"]
    for said in (
        "training set",
        "v1 minus v3 on the same rows",
        "the twins of both have left",
        "Features that only v3 has: twice.",
        "Gates of v1, as they were given:",
        "what weighs most",
    ):
        assert said in result.output
    [row] = [line for line in lines if line.startswith("roc_auc")]
    assert row.count(" to ") == 3


@pytest.mark.parametrize("given", ["9", "best", "-1", ""])
def test_a_version_that_is_not_there_is_refused_with_those_that_are(beside: PipelineHome, given: str) -> None:
    result = mlops(beside, "compare", "--", beside.name, "champion", given)
    assert result.exit_code == 2
    assert f"has no version {given!r}" in result.output
    assert "(1, 2, 3), or one of champion, previous, candidate" in result.output


def test_before_there_is_a_previous_champion_it_is_refused(lived: Path) -> None:
    place = Home.open(lived).pipeline(loaded())
    result = mlops(place, "compare", place.name, "champion", "previous")
    assert result.exit_code == 2
    assert "small_flights has no previous model." in result.output


# Training sets


def test_training_sets_are_listed_shown_and_verified(place: PipelineHome) -> None:
    [listed] = json.loads(mlops(place, "datasets", "list", place.name, "--json").stdout)
    version = listed["version"]
    assert listed["retrains"] == ["small_flights-00001"]
    assert version in mlops(place, "datasets", "list", place.name).stdout
    manifest = json.loads(mlops(place, "datasets", "show", place.name, "--json").stdout)
    assert (manifest["version"], len(manifest["parts"])) == (version, listed["days"])
    sheet = mlops(place, "datasets", "show", place.name, version[:5]).stdout
    assert sheet == (place.home.path / "datasets" / place.name / "datasheet.md").read_text()
    assert mlops(place, "datasets", "verify", place.name).stdout == f"{version}: as it was signed\n"
    [key] = json.loads(mlops(place, "datasets", "keys", "--json").stdout)
    listed = place.home.keys.folder / "public" / f"{key['key']}.pem"
    listed.rename(place.home.path / "aside")
    told = mlops(place, "datasets", "keys").output
    assert f"The public key of {key['key']}, which signs here, is not listed" in told
    (place.home.path / "aside").rename(listed)
    assert (key["signs"], key["key"]) == (True, manifest["signature"]["key"])


def test_a_training_set_that_is_not_what_was_signed_fails_the_command(place: PipelineHome) -> None:
    version = place.home.datasets.latest(place.name)
    part = next((place.home.path / "datasets" / place.name / "parts").iterdir())
    content = part.read_bytes()
    part.unlink()
    part.write_bytes(content[:-1] + b"x")
    result = mlops(place, "datasets", "verify", place.name)
    assert result.exit_code == 1
    assert f"{version}: the part {part.stem} in the workspace has SHA-256" in result.stderr


def test_without_a_remote_nothing_is_pushed_and_it_is_said_how(place: PipelineHome) -> None:
    result = mlops(place, "datasets", "push", place.name)
    assert result.exit_code == 2
    assert "MLOPS_DATASETS_REMOTE" in result.stderr
