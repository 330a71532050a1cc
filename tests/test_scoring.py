"""Each event is scored once, as of its decision, by the champion of that moment."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines import scoring
from mlops_pipelines.features.sets import feature_set
from mlops_pipelines.ledger import Promotion
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.spec_loading import load_pipeline
from tests.loop import FIRST, advance, at, copy_of, land, retrain, serve, small_home

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome

BEFORE, PROMOTED, AGAIN, END = at(8), at(9), at(11), at(12)


def last_of_the_day(day: int) -> str:
    """Id of the last event of a day of January."""
    rows = Flights().rows("events", at(day), at(day + 1)).sort_by("scheduled_departure")
    return str(rows["event_id"][-1].as_py())


MISSING = last_of_the_day(10)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion of the 9th and one of the 11th; an event of the 10th never landed."""
    home = tmp_path_factory.mktemp("lived")
    place = small_home(home)
    advance(place, BEFORE)
    assert not place.lake.exists("predictions")
    advance(place, PROMOTED)
    retrain(place, "first")
    advance(place, AGAIN, keep=lambda rows: rows.filter(pc.not_equal(rows["event_id"], MISSING)))
    retrain(place, "second")
    advance(place, END)
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    """A copy of that home."""
    return copy_of(lived, tmp_path / "home")


def hashes(place: PipelineHome) -> list[dict[str, str]]:
    return [
        place.lake.hashes(place.features.examples, sort_by=scoring.EXAMPLE_ORDER, unhashed=["made_of"]),
        place.lake.hashes(
            "predictions", sort_by=scoring.PREDICTION_ORDER, unhashed=scoring.PREDICTION_PROVENANCE
        ),
    ]


def predictions(place: PipelineHome) -> pa.Table:
    return place.lake.read("predictions")


def test_events_before_the_first_champion_stay_unscored(place: PipelineHome) -> None:
    assert pc.min(predictions(place)["decided_at"]).as_py() > PROMOTED
    examples = place.lake.read(place.features.examples, columns=["decision_time"])
    assert pc.min(examples["decision_time"]).as_py() < FIRST + timedelta(days=1)
    assert examples.filter(pc.greater(examples["decision_time"], PROMOTED)).num_rows == len(
        predictions(place)
    )


def test_each_event_is_scored_by_the_champion_of_its_decision(place: PipelineHome) -> None:
    first, second = place.ledger.promotions(place.name)
    rows = predictions(place)
    early = pc.less_equal(rows["decided_at"], second.at)
    assert rows.filter(early)["model_hash"].unique().to_pylist() == [first.model_hash]
    assert rows.filter(pc.invert(early))["model_hash"].unique().to_pylist() == [second.model_hash]
    assert pc.count_distinct(rows["event_id"]).as_py() == rows.num_rows


def test_a_late_event_is_scored_by_the_champion_of_its_decision(place: PipelineHome) -> None:
    before = predictions(place)
    rows = Flights().rows("events", at(10), at(11))
    land(place, "events", "late", rows.filter(pc.equal(rows["event_id"], MISSING)))
    serve(place)
    after = predictions(place)
    late = after.filter(pc.equal(after["event_id"], MISSING))
    assert late["model_hash"].to_pylist() == [place.ledger.promotions(place.name)[0].model_hash]
    assert after.filter(pc.not_equal(after["event_id"], MISSING)).sort_by("prediction_id") == before.sort_by(
        "prediction_id"
    )


def test_every_feature_has_its_source_columns() -> None:
    real = load_pipeline("flight_delays")
    features = feature_set(real.spec, real.contract)
    sources = scoring.feature_sources(features)
    assert list(sources) == [column.name for column in features.columns]
    assert sources["carrier"] == [("events", "carrier")]
    assert all(sources.values())


def test_scoring_again_changes_nothing(place: PipelineHome) -> None:
    versions = {name: place.lake.version(name) for name in (place.features.examples, "predictions")}
    days = ["2013-01-09", "2013-01-10", "2013-01-11"]
    for again in (scoring.make_examples(place, days), scoring.score(place, days)):
        assert [(one.rows - one.rows_before, one.changed) for one in again.written] == [(0, False)] * 3
    assert versions == {name: place.lake.version(name) for name in versions}


def test_a_score_is_what_its_model_says_of_its_example(place: PipelineHome) -> None:
    champion = place.ledger.promotions(place.name)[-1]
    model = place.home.registry.load(place.name, champion.mlflow_version).refit
    rows = predictions(place)
    mine = rows.filter(pc.equal(rows["model_hash"], champion.model_hash)).sort_by("event_id")
    examples = place.lake.read(place.features.examples)
    vectors = examples.filter(pc.is_in(examples["event_id"], mine["event_id"])).sort_by("event_id")
    assert model.predict(vectors).tolist() == mine["score"].to_pylist()


def test_a_day_that_was_scored_waits_to_be_measured(place: PipelineHome) -> None:
    scored = set(predictions(place)["day"].to_pylist())
    assert set(place.ledger.reopened_days(place.name, "drift")) == scored
    assert scored <= set(place.ledger.reopened_days(place.name, "monitor"))


def test_events_that_are_announced_ahead_are_scored_when_their_decision_has_come(place: PipelineHome) -> None:
    usual = copy_of(place.home.path, place.home.path.with_name("usual"))
    advance(usual, at(13))
    rows = Flights().rows("events", at(12), at(13))
    arrived = rows.schema.get_field_index("arrived_at")
    ahead = rows.set_column(
        arrived, "arrived_at", pa.chunked_array([[at(12)] * len(rows)], rows["arrived_at"].type)
    )
    land(place, "events", "ahead", ahead)
    serve(place)
    examples = place.lake.read(place.features.examples, columns=["event_id"])
    assert pc.sum(pc.is_in(examples["event_id"], rows["event_id"])).as_py() == 0
    assert scoring.reopened_days(place) == []
    advance(place, at(13), keep=lambda rows: rows.slice(0, 0))
    assert hashes(place) == hashes(usual)


moments = st.integers(0, 50).map(lambda hours: FIRST + timedelta(hours=hours))


@given(starts=st.lists(moments).map(sorted), decided=st.lists(moments))
def test_a_champion_serves_from_after_its_promotion_to_the_next(starts: list, decided: list) -> None:  # type: ignore[type-arg]
    promotions = [
        Promotion("flights", sequence=n, retrain_id=f"R{n}", model_hash=f"m{n}", mlflow_version=str(n),
                  at=start, previous=None, kind="gates", by="its gates", reason="labels")
        for n, start in enumerate(starts, 1)
    ]  # fmt: skip
    for moment, found in zip(decided, scoring.champions_before(promotions, decided), strict=True):
        serving = [n for n, start in enumerate(starts) if start < moment]
        assert found == (serving[-1] if serving else None)


def test_an_event_that_moves_to_another_day_keeps_its_vector_and_its_score(place: PipelineHome) -> None:
    scored = predictions(place)
    event_id = scored["event_id"][0].as_py()
    rows = Flights().rows("events", PROMOTED, AGAIN)
    row = rows.filter(pc.equal(rows["event_id"], event_id))
    for name, by in (("scheduled_departure", timedelta(days=1)), ("arrived_at", -timedelta(hours=1))):
        moved = pc.add(row[name], pa.scalar(by, pa.duration("us")))
        row = row.set_column(row.schema.get_field_index(name), name, moved)
    before = hashes(place)
    land(place, "events", "moved", row)
    serve(place)
    stands = place.lake.read("events", columns=["event_id", "day"])
    (day,) = stands.filter(pc.equal(stands["event_id"], event_id))["day"].to_pylist()
    assert day > scored["day"][0].as_py()
    assert hashes(place) == before
