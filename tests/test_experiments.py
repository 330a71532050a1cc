"""Models trained again, trained otherwise and held side by side, outside of any retrain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlops_pipelines import retraining
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.experiments import platform_difference, refit_from
from mlops_pipelines.provenance import platform
from mlops_pipelines.spec import Training
from tests.loop import advance, at, copy_of, retrain, small_home, varied

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
