"""The health of the features of a day: skew, freshness, what is missing, whose keys are known."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines import cli_features
from mlops_pipelines.features.facts import KNOWN_AT
from mlops_pipelines.features.views import tile_table
from mlops_pipelines.monitoring.feature_health import (
    WHOLE_VIEW,
    ages,
    column_skew,
    days_to_look_at,
    latest,
    report_features,
)
from mlops_pipelines.pipelines.flight_delays.source import Flights
from tests.loop import advance, at, copy_of, land, serve, small_home, varied

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome

NUMBERS = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=20)
MOMENTS = st.lists(st.integers(0, 10**12), max_size=20)
DAY = "2013-01-03"


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = small_home(tmp_path_factory.mktemp("lived") / "home")
    for day in (2, 3, 4):
        advance(place, at(day))
    return place.home.path


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    return copy_of(lived, tmp_path / "home")


def numbers(values: list[float | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.float64())])


@given(NUMBERS, st.randoms(use_true_random=False))
def test_skew_is_none_for_the_same_values_and_alike_both_ways(
    values: list[float | None], random: object
) -> None:
    mine, theirs = numbers(values), numbers([*values[1:], values[0]])
    assert column_skew(mine, mine) == (0.0, 0.0)
    assert column_skew(mine, theirs) == pytest.approx(column_skew(theirs, mine))
    assert column_skew(mine, theirs)[1] == pytest.approx(
        np.mean([a != b for a, b in zip(mine.to_pylist(), theirs.to_pylist(), strict=True)])
    )


def test_skew_is_in_standard_deviations_and_a_missing_value_is_one_away() -> None:
    fresh = numbers([0.0, 2.0, 0.0, 2.0])
    assert column_skew(numbers([1.0, 1.0, 1.0, 1.0]), fresh)[0] == pytest.approx(
        1 / np.std([1] * 4 + [0, 2] * 2)
    )
    assert column_skew(numbers([0.0, 2.0, None, 2.0]), fresh) == (0.25, 0.25)
    texts = [pa.chunked_array([pa.array(values)]) for values in (["a", "b", None], ["a", "c", None])]
    assert column_skew(*texts) == pytest.approx((1 / 3, 1 / 3))


@given(MOMENTS, MOMENTS)
def test_an_age_is_that_of_the_newest_known_by_then(decisions: list[int], known: list[int]) -> None:
    found = ages(np.array(decisions, dtype=np.int64), np.array(sorted(known), dtype=np.int64))
    for decided, age in zip(decisions, found, strict=True):
        before = [moment for moment in known if moment <= decided]
        expected = (decided - max(before)) / 3.6e9 if before else np.nan
        assert age == pytest.approx(expected, nan_ok=True)


def test_vectors_made_of_all_that_was_known_have_no_skew(place: PipelineHome) -> None:
    found = report_features(place, [DAY])
    features = {one.feature for one in found.features}
    assert features == {column.name for column in place.features.columns}
    assert found.within_skew
    assert {one.skew for one in found.features} == {0.0}
    assert DAY not in {one.day for one in found.stale_views}
    logged = place.lake.read(place.features.examples, days=[DAY])
    for one in found.features:
        if one.day == DAY:
            assert one.missing == logged[one.feature].null_count / logged.num_rows
            assert one.rows == logged.num_rows


def test_facts_that_were_taken_in_after_the_vectors_show_as_skew_of_their_features_alone(
    tmp_path: Path,
) -> None:
    place = small_home(tmp_path / "home")
    held_back = Flights().rows("labels", at(2), at(3)).slice(0, 300)
    advance(place, at(2))
    advance(place, at(3), lambda rows: rows.slice(300), of="labels")
    advance(place, at(4))
    before = report_features(place, [DAY])
    assert {one.skew for one in before.features} == {0.0}
    land(place, "labels", "held_back", held_back)  # known since the 2nd, by what they say themselves
    serve(place)
    found = [one for one in report_features(place, [DAY]).features if one.day == DAY]
    of_labels = {view.name for view in place.features.views if view.source == "labels"}
    assert {one.view for one in found if one.skew} == of_labels
    long = next(one for one in found if one.feature.endswith("count_30d"))
    assert 0 < long.differ <= 1
    assert not report_features(place, [DAY]).within_skew
    tolerant = varied(place, features=place.spec.features.model_copy(update={"max_skew": 100.0}))
    assert report_features(tolerant, [DAY]).within_skew


def test_what_waits_is_looked_at_once_the_day_is_over(place: PipelineHome) -> None:
    assert days_to_look_at(place, place.clock.now()) == place.lake.days(place.features.examples)
    found = report_features(place, [])
    assert {one.day for one in found.found} == set(place.lake.days(place.features.examples))
    assert days_to_look_at(place, place.clock.now()) == []
    assert place.lake.row_counts("feature_report") == {
        day: sum(one.day == day for one in found.found) for day in {one.day for one in found.found}
    }
    again = report_features(place, [DAY])
    assert not any(one.changed for one in again.written)


def test_the_age_of_a_view_is_that_of_its_newest_tile_at_each_decision(place: PipelineHome) -> None:
    found = {one.view: one for one in report_features(place, [DAY]).views if one.day == DAY}
    logged = place.lake.read(place.features.examples, days=[DAY])
    view = next(view for view in place.features.windowed)
    hours = {moment.as_py() for moment in place.lake.read(tile_table(view), columns=["hour"])["hour"]}
    expected = [
        (moment - max(hour for hour in hours if hour + timedelta(hours=1) <= moment)) / timedelta(hours=1) - 1
        for moment in logged["decision_time"].to_pylist()
    ]
    assert found[view.name].age_median == pytest.approx(np.median(expected))
    assert found[view.name].age_worst == pytest.approx(max(expected))
    single = next(one for one in place.features.views if not one.windowed and not one.static)
    known = place.lake.read(single.source, columns=[KNOWN_AT])[KNOWN_AT].to_pylist()
    expected = [
        (moment - max(at for at in known if at <= moment)) / timedelta(hours=1)
        for moment in logged["decision_time"].to_pylist()
    ]
    assert found[single.name].age_worst == pytest.approx(max(expected))
    static = next((one for one in place.features.views if one.static), None)
    assert static is None or found[static.name].stale is None


def test_a_view_without_new_facts_is_too_old(place: PipelineHome) -> None:
    views = tuple(
        view.model_copy(update={"max_age": timedelta(minutes=10)}) for view in place.spec.features.views
    )
    strict = varied(place, features=place.spec.features.model_copy(update={"views": views}))
    assert strict.features.version == place.features.version
    stale = report_features(strict, [DAY]).stale_views
    assert {one.view for one in stale} == {view.name for view in place.features.views if not view.static}


def test_a_key_is_known_where_its_view_has_a_fact_in_reach(place: PipelineHome) -> None:
    found = {one.view: one for one in report_features(place, [DAY]).views if one.day == DAY}
    logged = place.lake.read(place.features.examples, days=[DAY])
    for view in place.features.views:
        covered = 0
        for row in logged.select([column.name for column in view.columns]).to_pylist():
            covered += any(value is not None and not (name.rsplit("_", 2)[-2] == "count" and value == 0)
                           for name, value in row.items())  # fmt: skip
        assert found[view.name].covered == pytest.approx(covered / logged.num_rows)


def test_the_command_shows_the_views_of_the_latest_days(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_features, "place_of", lambda home, pipeline: place)

    def run(*options: str) -> str:
        result = CliRunner().invoke(cli_features.health, [place.name, *options])
        assert result.exit_code == 0
        return result.output

    assert "No day was looked at" in run()
    report_features(place, [])
    rows = json.loads(run("--since", DAY, "--json"))
    assert {one["day"] for one in rows} == {DAY}
    assert {one["view"] for one in rows} == {view.name for view in place.features.views}
    assert len(run().splitlines()) == 1 + len(latest(place))
    assert WHOLE_VIEW not in run()
