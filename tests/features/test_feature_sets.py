"""A changed definition is another set beside the old one; each model is fed by the set it was trained on."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from assets import scoring as assets
from assets.stage import Stage
from mlops_pipelines import retraining, scoring, triggering
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.catalogue import listed
from mlops_pipelines.features.functions import rewritten
from mlops_pipelines.features.in_use import known_sets, set_of, sets_in_use, wanted_sets
from mlops_pipelines.features.parity import parity
from mlops_pipelines.features.sets import FeatureSet, feature_set
from mlops_pipelines.features.views import tile_table
from mlops_pipelines.lake import Lake
from mlops_pipelines.ledger import Reign
from mlops_pipelines.monitoring.feature_health import report_features
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.retraining import model_of
from mlops_pipelines.spec import PythonFeature, View
from tests.loop import (
    advance,
    ask,
    at,
    break_tiles_of,
    copy_of,
    finish,
    land,
    move,
    retrain,
    serve,
    small_home,
    take_all,
    varied,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.lake import Written

NOW = datetime(2013, 1, 10, tzinfo=UTC)
FUNCTION = PythonFeature(function="edited_features:made", columns=("distance",))
VERSIONS = st.sampled_from(["aaaa", "bbbb", "cccc", "dddd"])
THREE_REIGNS = [(30, "aaaa"), (3, "bbbb"), (1, "cccc")]
REIGNS = st.lists(st.tuples(st.integers(0, 30), VERSIONS), max_size=6).map(
    lambda drawn: [Reign(NOW - timedelta(days=30 - day), version) for day, version in sorted(drawn)]
)
LATE = Flights().rows("events", at(11), at(12)).sort_by("scheduled_departure")["event_id"][-1].as_py()


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of nine days with a champion, and a tenth day that it has scored."""
    place = small_home(tmp_path_factory.mktemp("lived") / "home")
    advance(place, at(10))
    retrain(place, "first")
    advance(place, at(11))
    return place.home.path


@pytest.fixture(scope="module")
def relieved(lived: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That home with champions of a changed definition since the 12th and the 14th; LATE has not landed."""
    place = changed(copy_of(lived, tmp_path_factory.mktemp("relieved") / "home"))
    advance(place, at(12), keep=lambda rows: rows.filter(pc.not_equal(rows["event_id"], LATE)))
    assert retrain(place, "second").promotion
    advance(place, at(14))
    assert retrain(place, "third").promotion
    return place.home.path


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    return copy_of(lived, tmp_path / "home")


def changed(place: PipelineHome) -> PipelineHome:
    """The same pipeline with the first view's windows altered and a feature of the event's row added."""
    features = place.spec.features
    first = features.views[0].model_copy(update={"windows": (timedelta(hours=3), timedelta(days=2))})
    expressions = features.from_event | {"twice": "2 * distance"}
    views = (first, *features.views[1:])
    return varied(place, features=features.model_copy(update={"views": views, "from_event": expressions}))


def vectors(place: PipelineHome, features: FeatureSet | None = None) -> pa.Table:
    """All vectors by a set, by default by that of the YAML, in the order of their ids."""
    rows = place.lake.read((features or place.features).examples)
    return rows.drop_columns(["made_of"]).sort_by("event_id")


def land_late(place: PipelineHome) -> None:
    """The event that had not landed."""
    rows = Flights().rows("events", at(11), at(12))
    land(place, "events", "late", rows.filter(pc.equal(rows["event_id"], LATE)))


def scores_of(place: PipelineHome, event: str) -> list[dict[str, Any]]:
    rows = place.lake.read("predictions")
    scores: list[dict[str, Any]] = rows.filter(pc.equal(rows["event_id"], event)).to_pylist()
    return scores


class Killed(BaseException):
    """The process ends here."""


def dies_after(writes: int) -> Callable[..., list[Written]]:
    """A lake's `replace` whose process is killed when it is called after so many writes."""
    real, left = Lake.replace, iter(range(writes))

    def replace(lake: Lake, *args: Any, **kwargs: Any) -> list[Written]:
        if next(left, None) is None:
            raise Killed
        return real(lake, *args, **kwargs)

    return replace


@given(REIGNS, VERSIONS, st.sets(VERSIONS), st.integers(0, 40))
@example([Reign(NOW - timedelta(days=day), name) for day, name in THREE_REIGNS], "dddd", set(), 5)
def test_models_that_may_still_be_asked_are_fed_and_no_others(
    reigns: list[Reign], current: str, in_flight: set[str], days: int
) -> None:
    since = NOW - timedelta(days=days)
    wanted = wanted_sets(current, reigns, in_flight, since)
    assert {current, *in_flight, *(reign.feature_set for reign in reigns[-2:])} <= wanted
    for moment in (since + timedelta(hours=hour) for hour in range(0, 24 * days, 7)):
        serving = [reign for reign in reigns if reign.since < moment]
        assert not serving or serving[-1].feature_set in wanted
    ended = [reign for reign, after in pairwise(reigns) if after.since < since]
    gone = {reign.feature_set for reign in ended} - {reign.feature_set for reign in reigns[len(ended) :]}
    assert wanted & gone <= {current, *in_flight, *(reign.feature_set for reign in reigns[-2:])}


def test_a_set_is_what_it_was_when_it_comes_back_from_the_ledger(place: PipelineHome) -> None:
    again = FeatureSet.from_json(place.features.to_json())
    assert again == place.features
    assert again.version == place.features.version
    assert again.columns == place.features.columns


def test_only_what_is_defined_otherwise_has_another_version(place: PipelineHome) -> None:
    old, new = place.features.view_versions, changed(place).features.view_versions
    assert {name for name in old if old[name] != new[name]} == {
        "from_event",
        place.spec.features.views[0].name,
    }
    assert place.features.version != changed(place).features.version


def test_a_new_definition_makes_the_vectors_it_would_have_made_from_the_beginning(
    place: PipelineHome, tmp_path: Path
) -> None:
    other = changed(place)
    serve(other)
    always = changed(small_home(tmp_path / "always"))
    for day in (10, 11):
        advance(always, at(day))
    assert vectors(other).equals(vectors(always))


def test_the_champion_is_fed_what_it_was_trained_on_while_the_yaml_says_otherwise(
    place: PipelineHome,
) -> None:
    champion = place.ledger.champion(place.name)
    assert champion is not None
    other = changed(place)
    before = vectors(place)
    advance(other, at(12))
    after = vectors(other, place.features)
    assert after.filter(pc.is_in(after["event_id"], before["event_id"].combine_chunks())).equals(before)
    fresh = other.lake.read("predictions", days=["2013-01-11"]).sort_by("event_id")
    assert fresh.num_rows > 500
    theirs = after.filter(pc.is_in(after["event_id"], fresh["event_id"].combine_chunks()))
    assert np.array_equal(model_of(other, champion).refit.predict(theirs), fresh["score"].to_numpy())
    found = parity(other)
    assert (found.compared, found.differ) == (after.num_rows + vectors(other).num_rows, 0)


def test_a_model_refuses_vectors_of_other_versions(place: PipelineHome) -> None:
    champion = place.ledger.champion(place.name)
    assert champion is not None
    other = changed(place)
    serve(other)
    with pytest.raises(TerminalError, match="trained on"):
        model_of(other, champion).refit.predict(vectors(other))


def test_a_candidate_of_the_new_set_is_held_against_the_champion_of_the_old(place: PipelineHome) -> None:
    other = changed(place)
    advance(other, at(13))
    old = place.ledger.champion(place.name)
    outcome = retrain(other, "second")
    assert outcome.promotion is not None
    assert set_of(other, outcome.promotion) == other.features
    comparison = retraining.report_of(other, other.ledger.retrains(other.name, limit=1)[0]).comparison
    assert comparison is not None
    assert old is not None
    assert (comparison.version, comparison.rows > 0) == (old.mlflow_version, True)
    feeds = {(one["name"], *one["feeds"]) for one in listed(other)}
    view = other.spec.features.views[0].name
    assert {(view, "yaml", "champion"), (view, "previous")} <= feeds
    in_use = sets_in_use(varied(other, lateness=timedelta(hours=1))).sets
    assert {one.version for one in in_use} == {place.features.version, other.features.version}


def test_nothing_is_learned_from_a_window_whose_vectors_are_half_made(place: PipelineHome) -> None:
    other = changed(place)
    scoring.make_tiles(other, [])
    scoring._make_examples(other, other.features, other.lake.days("events")[:5], other.clock.now())
    ask(other, "early")
    assert not triggering.outlook(other, other.clock.now()).would_admit
    admission = retraining.admit(other, run_id="early")
    assert admission.retrain is None
    assert "have no vector yet" in admission.sentence
    serve(other)
    assert triggering.outlook(other, other.clock.now()).would_admit
    assert retraining.admit(other, run_id="later").retrain is not None


def test_a_retrain_ends_with_the_features_it_began_with_whatever_the_yaml_says_by_then(
    place: PipelineHome,
) -> None:
    other = changed(place)
    advance(other, at(13))
    ask(other, "second")
    admission = retraining.admit(other, run_id="second")
    assert admission.retrain is not None
    retraining.assemble(other, admission.retrain)
    advance(place, at(14))
    assert vectors(place, other.features)["event_id"].equals(vectors(place)["event_id"])
    promotion = finish(place, "second").promotion
    assert promotion is not None
    assert set_of(place, promotion) == other.features
    assert model_of(place, promotion).refit.features == other.features.columns


def test_a_late_event_is_scored_by_the_champion_of_its_decision_on_what_that_one_was_trained_on(
    relieved: Path, tmp_path: Path
) -> None:
    place = changed(copy_of(relieved, tmp_path / "home"))
    land_late(place)
    serve(place)
    first = place.ledger.promotions(place.name)[0]
    theirs = vectors(place, set_of(place, first))
    assert set_of(place, first) != place.features
    (score,) = scores_of(place, LATE)
    assert score["model_version"] == first.mlflow_version
    vector = theirs.filter(pc.equal(theirs["event_id"], LATE))
    assert [score["score"]] == model_of(place, first).refit.predict(vector).tolist()


def test_events_whose_champion_is_not_fed_any_more_are_counted_and_wait_for_nothing(
    relieved: Path, tmp_path: Path
) -> None:
    # It came within the bound, and the run was over it before anything was made of it.
    place = varied(changed(copy_of(relieved, tmp_path / "home")), lateness=timedelta(hours=60))
    land_late(place)
    take_all(place)
    move(place, at(15))
    scoring.make_tiles(place, [])
    scoring.make_examples(place, [])
    stage = Stage(place.loaded)
    key = dg.AssetKey([place.name, "predictions"])
    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize(
            [asset for asset in assets.build(stage) if key in asset.keys],
            partition_key="2013-01-11",
            resources={"home": HomeResource(path=str(place.home.path))},
            instance=instance,
        )
        said = [entry.user_message for entry in instance.all_logs(run.run_id)]
    assert "1 events came so late that the features of their champion are out of use." in said
    assert scores_of(place, LATE) == []
    assert "2013-01-11" not in scoring.reopened_days(place)


def test_the_check_of_what_failed_says_the_first_cause() -> None:
    failed = {"a1b2": "distance of events fails: no number.\nTry: try_cast", "c3d4": "another"}
    found = assets._check(dg.AssetKey("examples"), "every_set", failed, "Some events are not scored.")
    assert not found.passed
    assert found.description == "a1b2: distance of events fails: no number. Some events are not scored."
    assert assets._check(dg.AssetKey("examples"), "every_set", {}, "Some.").description is None


def test_a_run_that_dies_among_its_tiles_leaves_none_out(
    lived: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = (changed(copy_of(lived, tmp_path / name)) for name in ("whole", "killed"))
    for place in (whole, killed):
        move(place, at(12))
        land(place, "events", "11", Flights().rows("events", at(11), at(12)))
        take_all(place)
    scoring.make_tiles(whole, [])
    views = [view for view in sets_in_use(killed).made if view.windowed]
    for writes in range(len(views)):
        with monkeypatch.context() as dying:
            dying.setattr(Lake, "replace", dies_after(writes))
            with pytest.raises(Killed):
                scoring.make_tiles(killed, [])
    scoring.make_tiles(killed, [])
    for view in views:
        made, meant = (place.lake.read(tile_table(view)) for place in (killed, whole))
        assert made.equals(meant)
    assert not killed.ledger.reopened_days(killed.name, "tiles")


def test_a_set_that_no_model_needs_any_more_makes_no_vectors(relieved: Path, tmp_path: Path) -> None:
    place = copy_of(relieved, tmp_path / "home")
    other = varied(changed(place), lateness=timedelta(hours=1))
    advance(other, at(15))
    assert [one.version for one in sets_in_use(other).sets] == [other.features.version]
    assert max(other.lake.days(place.features.examples)) < max(other.lake.days(other.features.examples))
    assert place.features in known_sets(other)


def test_a_set_that_is_used_again_gets_the_tiles_and_vectors_it_lacks(
    place: PipelineHome, tmp_path: Path
) -> None:
    fresh = small_home(tmp_path / "fresh")
    advance(fresh, at(4))
    advance(changed(fresh), at(6))  # without a champion nothing needs the first set
    view = next(view for view in fresh.features.views if view.id not in
                {one.id for one in changed(fresh).features.views})  # fmt: skip
    assert max(fresh.lake.days(tile_table(view))) < "2013-01-05"
    advance(fresh, at(7))
    until = pa.scalar(at(7), pa.timestamp("us", tz="UTC"))
    rows = vectors(place)
    assert vectors(fresh).equals(rows.filter(pc.less(rows["decision_time"], until)))


def test_a_definition_that_fails_leaves_the_champion_fed_and_is_looked_at_again(place: PipelineHome) -> None:
    expressions = place.spec.features.from_event | {"number": "CAST(carrier AS double)"}
    features = place.spec.features.model_copy(update={"from_event": expressions})
    other = varied(place, features=features)
    rows = Flights().rows("events", at(11), at(12))
    move(other, at(12))
    land(other, "events", "11", rows)
    take_all(other)
    scoring.make_tiles(other, [])
    made = scoring.make_examples(other, [])
    assert list(made.failed) == [other.features.version]
    assert "CAST(carrier AS double)" in made.failed[other.features.version]
    assert "2013-01-11" in {one.day for one in made.written}
    assert scoring.score(other, []).unfed == 0
    counts = other.lake.row_counts("predictions"), other.lake.row_counts("events")
    assert counts[0]["2013-01-11"] == counts[1]["2013-01-11"]
    assert scoring.reopened_days(other) == [], "not at once again"
    move(other, at(13) - timedelta(seconds=1))
    assert set(scoring.reopened_days(other)) == {"2013-01-11"}, "of which some were decided just now"
    move(other, at(13))
    assert scoring.reopened_days(other) == other.lake.days("events")
    ask(other, "now")
    assert "have no vector yet" in retraining.admit(other, run_id="now").sentence


def test_tiles_that_fail_leave_the_champion_fed(place: PipelineHome, monkeypatch: pytest.MonkeyPatch) -> None:
    view = View(name="far", key="carrier", of="events", aggregate={"distance": ("std",)}, windows=("1d",))
    features = place.spec.features.model_copy(update={"views": (*place.spec.features.views, view)})
    other = varied(place, features=features)
    break_tiles_of(view.name, monkeypatch)
    move(other, at(12))
    land(other, "events", "11", Flights().rows("events", at(11), at(12)))
    take_all(other)
    failed = scoring.make_tiles(other, []).failed
    assert [(name.split("__")[0], why) for name, why in failed.items()] == [("far", "too large")]
    assert list(scoring.make_examples(other, []).failed) == [other.features.version]
    scoring.score(other, [])
    counts = other.lake.row_counts("predictions"), other.lake.row_counts("events")
    assert counts[0]["2013-01-11"] == counts[1]["2013-01-11"]
    monkeypatch.undo()
    move(other, at(13))
    serve(other)
    assert other.lake.row_counts(other.features.examples) == other.lake.row_counts("events")


def test_where_every_definition_fails_nothing_is_made(tmp_path: Path) -> None:
    place = small_home(tmp_path / "home")
    expressions = place.spec.features.from_event | {"number": "CAST(carrier AS double)"}
    other = varied(place, features=place.spec.features.model_copy(update={"from_event": expressions}))
    with pytest.raises(TerminalError, match=r"CAST\(carrier AS double\)"):
        advance(other, at(3))


def test_a_day_that_one_set_lacks_stays_open_whatever_the_others_have(place: PipelineHome) -> None:
    other = changed(place)
    serve(other)
    rows = Flights().rows("events", at(11), at(12))
    move(other, at(12))
    land(other, "events", "11", rows)
    take_all(other)
    scoring.make_tiles(other, [])
    days = other.lake.days("events")
    scoring._make_examples(other, other.features, days, other.clock.now())  # and died before the champion's
    before = other.lake.read("predictions").num_rows
    assert scoring.score(other, []).unfed == 0, "they wait, and are not given up"
    assert other.lake.read("predictions").num_rows == before
    assert "2013-01-11" not in scoring.reopened_days(other), "not at once again"
    move(other, at(13))
    assert "2013-01-11" in scoring.reopened_days(other)
    scoring.make_examples(other, [])
    assert scoring.score(other, []).unfed == 0
    scored = other.lake.read("predictions", days=["2013-01-11"]).num_rows
    assert scored == other.lake.row_counts("events")["2013-01-11"]


def test_looking_at_the_features_changes_nothing(place: PipelineHome) -> None:
    before = place.ledger.feature_sets(place.name)
    listed(changed(place))
    assert place.ledger.feature_sets(place.name) == before
    assert not place.ledger.reopened_days(place.name, "score", by=place.clock.now())


def test_no_example_is_made_of_tiles_that_are_not_there_yet(place: PipelineHome) -> None:
    other = changed(place)
    failed = scoring.make_examples(other, []).failed
    assert list(failed) == [other.features.version]
    assert "have no tiles yet" in failed[other.features.version]
    assert scoring.reopened_days(other) == place.lake.days("events")


def test_what_a_model_in_use_reads_may_not_leave_the_contract(place: PipelineHome) -> None:
    serve(changed(place))
    columns = {name: rule for name, rule in place.contract.events.columns.items() if name != "distance"}
    events = place.contract.events.model_copy(update={"columns": columns})
    features = place.spec.features.model_copy(update={"from_event": {}})
    lacking = dataclasses.replace(
        varied(place, features=features),
        loaded=dataclasses.replace(
            varied(place, features=features).loaded,
            contract=place.contract.model_copy(update={"events": events}),
        ),
    )
    with pytest.raises(TerminalError, match=r"events\.distance; that is not taken in any more"):
        sets_in_use(lacking)


def test_a_function_whose_file_was_changed_feeds_no_model_and_is_not_compared(
    place: PipelineHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "edited_features.py"
    file.write_text("def made(rows): return rows['distance']\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    features = place.spec.features.model_copy(update={"from_python": {"made": FUNCTION}})
    other = varied(place, features=features)
    advance(other, at(13))
    retrain(other, "second")
    assert not rewritten(other.features.from_python)
    file.write_text("def made(rows): return [1.0] * rows.num_rows\n")
    edited = changed(varied(place, features=features))
    assert rewritten(other.features.from_python) == ["edited_features:made"]
    advance(edited, at(14))
    failed = scoring.make_examples(edited, ["2013-01-13"]).failed
    assert list(failed) == [other.features.version]
    assert "the file of edited_features:made was changed" in failed[other.features.version]
    scored = edited.lake.read("predictions", days=["2013-01-13"])
    assert set(scored["model_version"].to_pylist()) == {"1"}, "the second champion is fed nothing else"
    assert "written otherwise" in parity(edited).sentence
    looked_at = report_features(edited, ["2013-01-12", "2013-01-13"])
    told = {(one.version, one.feature) for one in looked_at.found}
    assert "otherwise by now were not looked at: edited_features:made" in looked_at.skew_sentence
    assert (edited.features.view_versions["from_python"], "made") in told
    assert (other.features.view_versions["from_python"], "made") not in told
    assert {view.version for view in other.features.views} <= {version for version, _ in told}


def test_the_order_of_the_views_is_no_other_set(place: PipelineHome) -> None:
    features = place.spec.features
    turned = features.model_copy(update={"views": features.views[::-1]})
    assert isinstance(turned.views[0], View)
    spec = place.spec.model_copy(update={"features": turned})
    assert feature_set(spec, place.contract).version == place.features.version
