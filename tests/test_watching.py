"""A new champion that proves worse than the one before it, on the same matured rows, is rolled back once."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines import watching
from mlops_pipelines.evaluation_report import DayLoss
from mlops_pipelines.spec import Gates, Watch
from mlops_pipelines.spec import Promotion as PromotionSpec
from tests.loop import advance, at, copy_of, mlops, move, retrain, small_home, varied

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome

WATCH = Watch.model_validate({"over": "10d", "worse_by": 0.0, "min_days": 2, "confidence": 0.9})


def days(*differences: float, rows: int = 100) -> list[DayLoss]:
    """Days on which the champion's loss a row is so much above its predecessor's."""
    return [
        DayLoss(f"2024-01-{n:02}", rows, {"log_loss": (0.5 + d) * rows}, {"log_loss": 0.5 * rows})
        for n, d in enumerate(differences, start=1)
    ]


def judged(found: list[DayLoss], watch: Watch = WATCH) -> watching.Watched:
    return watching.judge(found, watch, champion="2", predecessor="1", seed=1)


def test_a_champion_that_is_surely_worse_is_found() -> None:
    found = judged(days(0.05, 0.06, 0.04, 0.05))
    assert found.worse
    assert "with 90% confidence at least +0.04" in found.sentence


def test_one_that_may_be_worse_is_left_alone() -> None:
    assert not judged(days(0.05, -0.05, 0.06, -0.04)).worse
    assert not judged(days(-0.05, -0.06)).worse
    assert not judged(days(0.05, 0.06, 0.05), Watch(worse_by=0.06)).worse


def test_before_there_are_days_enough_nothing_is_said() -> None:
    found = judged(days(0.5))
    assert (found.worse, "1 of 2 matured days" in found.sentence) == (False, True)
    assert not judged([]).worse


@given(
    differences=st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=14),
    more=st.floats(0, 0.3),
    borne=st.floats(0, 0.1),
)
def test_a_champion_that_is_worse_still_is_found_if_the_better_one_is(
    differences: list[float], more: float, borne: float
) -> None:
    watch = Watch(worse_by=borne, min_days=2)
    if judged(days(*differences), watch).worse:
        assert judged(days(*(one + more for one in differences)), watch).worse


@pytest.mark.proof
@pytest.mark.parametrize("matured", [2, 3, 5, 10])
def test_of_equals_few_are_rolled_back(
    matured: int, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    """As few as the confidence says at one look, and not many more at one a day."""
    trials = 4000 if full else 200
    chance = np.random.default_rng(matured)
    watch = Watch(min_days=2)
    every = [days(*chance.normal(0, 0.02, matured)) for _ in range(trials)]
    once = sum(judged(one, watch).worse for one in every)
    sample_size("watches of equals", trials)
    allowed = 0.01 * trials + 4 * (0.01 * trials) ** 0.5
    assert once <= allowed
    if matured == 10:
        looks = [[one[:many] for many in range(3, matured + 1)] for one in every[: trials // 2]]
        daily = sum(any(judged(part, watch).worse for part in one) for one in looks)
        assert daily <= 2.5 * allowed


# --- on a home


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion that learned little, after one that learned well."""
    home = tmp_path_factory.mktemp("lived")
    place = varied(small_home(home), gates=Gates(), promotion=PromotionSpec(watch=WATCH))
    advance(place, at(10))
    assert retrain(place, "good").promotion
    advance(place, at(11))
    poor = varied(
        place,
        training=place.spec.training.model_copy(
            update={"params": {"n_estimators": 3, "learning_rate": 2.0, "num_leaves": 60}}
        ),
    )
    assert retrain(poor, "poor").promotion
    for day in (12, 13, 14, 15, 16):
        advance(place, at(day))
        watching.shadow(place)
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    return varied(copy_of(lived, tmp_path / "home"), gates=Gates(), promotion=PromotionSpec(watch=WATCH))


def test_the_predecessor_scores_the_same_events_in_the_shadow(place: PipelineHome) -> None:
    shadow = place.lake.read(watching.TABLE)
    champion = place.ledger.champion(place.name)
    assert champion
    assert set(shadow["model_version"].to_pylist()) == {champion.previous}
    scored = place.lake.read("predictions", days=place.lake.days(watching.TABLE))
    after = [row["event_id"] for row in scored.to_pylist() if row["decided_at"] > champion.at]
    assert set(shadow["event_id"].to_pylist()) == set(after)
    assert watching.shadow(place) == 0


def test_a_champion_that_proves_worse_is_rolled_back_once(place: PipelineHome) -> None:
    bad = place.ledger.champion(place.name)
    assert bad
    found = watching.watch_over(place)
    assert found
    assert found.worse, found.sentence
    assert found.rolled_back
    assert (found.rolled_back.mlflow_version, found.rolled_back.by) == (bad.previous, watching.BY)
    assert place.home.registry.alias(place.name, "champion") == bad.previous
    assert watching.watch_over(place) is None
    assert place.ledger.retrain(bad.retrain_id).status == "rolled_back"
    assert place.ledger.state(place.name).failures == 1
    assert mlops(place, "promotions", place.name, "--verify").exit_code == 0


def test_two_that_look_at_once_roll_back_once(place: PipelineHome, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = watching.watched(place)
    assert watching.watch_over(place)
    monkeypatch.setattr(watching, "watched", lambda place: looked)
    second = watching.watch_over(place)
    assert second
    assert (second.worse, second.rolled_back) == (True, None)
    assert len(place.ledger.promotions(place.name)) == 3


def test_the_watch_lasts_until_its_last_day_has_matured(place: PipelineHome) -> None:
    champion = place.ledger.champion(place.name)
    assert champion
    watched_through = (champion.at + WATCH.over).date()
    matures = datetime.combine(watched_through, time(), UTC) + timedelta(days=1)
    matures += place.spec.labels.matures_after
    move(place, matures + timedelta(hours=23))
    assert watching.watched(place)
    move(place, matures + timedelta(days=1))
    assert watching.watched(place) is None


def test_after_the_watch_nothing_is_watched(place: PipelineHome) -> None:
    short = WATCH.model_copy(update={"over": timedelta(days=1)})
    assert watching.watched(varied(place, promotion=PromotionSpec(watch=short))) is None
    assert watching.watched(varied(place, promotion=PromotionSpec())) is None
