"""`mlops features`: what there is, how it is made, and of what."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mlops_pipelines.cli import main
from mlops_pipelines.errors import TerminalError, TransientError, UserError
from mlops_pipelines.features.catalogue import current, lineage, listed, shown
from mlops_pipelines.features.sets import feature_set
from mlops_pipelines.features.store import FeatureStore
from mlops_pipelines.features.views import compile_views, tile_table
from mlops_pipelines.scoring import make_tiles
from mlops_pipelines.spec import Features, View
from tests.loop import advance, at, small_home, varied
from tests.small_flights import loaded

if TYPE_CHECKING:
    from pathlib import Path

LOADED = loaded()
FEATURES = {column.name for column in feature_set(LOADED.spec, LOADED.contract).columns}


def test_every_view_is_listed_with_its_version_and_the_tiles_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = small_home(tmp_path)
    assert {one["newest_tile"] for one in listed(place)} == {None}
    monkeypatch.setattr("mlops_pipelines.cli_features.place_of", lambda home, name: place)
    said = CliRunner().invoke(main, ["features", "list", place.name]).output
    assert "used by" not in said, "before the first run nobody uses it"
    advance(place, at(3))
    found = {one["name"]: one for one in listed(place)}
    assert {name: one["version"] for name, one in found.items()} == feature_set(
        place.spec, place.contract
    ).view_versions
    assert sum(one["features"] for one in found.values()) == len(FEATURES)
    for one in found.values():
        assert (one["tiles"] is None) == (not one["windows"])
        assert one["newest_tile"] == ("2013-01-02" if one["windows"] else None)


def test_every_feature_says_how_it_is_made_and_of_which_landed_columns() -> None:
    views = ["from_event", *(view.name for view in LOADED.spec.features.views)]
    assert {one["feature"] for name in views for one in shown(LOADED, name)} == FEATURES
    for feature, columns in lineage(LOADED).items():
        assert [one["feature"] for one in shown(LOADED, feature)] == [feature]
        for one in columns:
            stream, _, column = one["landed"].partition(".")
            assert column in LOADED.contract.columns_of(stream)


def test_the_commands_print_for_people_and_for_machines() -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(main, ["features", *words])
        assert result.exit_code == 0, result.output
        return result.output

    assert "mean of labels.late over 6h by tailnum" in run("show", "flight_delays", "tail_lateness")
    (one,) = json.loads(run("show", "flight_delays", "departure_minute", "--json"))
    assert one["made"].startswith("60 * hour(")
    found = json.loads(run("lineage", "flight_delays", "tail_lateness_late_mean_6h", "--json"))
    assert [one["landed"] for one in found["tail_lateness_late_mean_6h"]] == ["events.tailnum", "labels.late"]
    assert "labels.late" in run("lineage", "flight_delays")
    of_view = json.loads(run("lineage", "flight_delays", "tail_lateness", "--json"))
    (view,) = (view for view in LOADED.spec.features.views if view.name == "tail_lateness")
    assert set(of_view) == set(view.feature_names)
    assert "departure_minute" in run("lineage", "flight_delays", "from_event")


def test_the_current_values_of_a_key_are_read(tmp_path: Path) -> None:
    place = small_home(tmp_path)
    advance(place, at(3))
    view = next(view for view in compile_views(place.spec, place.contract) if view.windowed)
    keys = place.lake.read(tile_table(view), columns=list(view.keys)).slice(0, 1).to_pylist()[0]
    found = current(place, view.name, [str(value) for value in keys.values()], fallback=False)
    assert found["source"] == "online"
    assert set(found["values"]) == {column.name for column in view.columns}
    assert any(found["values"].values())
    assert (found["known"], found["key"]) == (True, keys)
    unseen = current(place, view.name, ["nobody"] * len(view.keys), fallback=False)
    assert (unseen["known"], {*unseen["values"].values()}) == (False, {None})
    with pytest.raises(UserError) as refused:
        current(place, view.name, ["x"] * (len(view.keys) + 1), fallback=False)
    assert (
        refused.value.expected == f"a value for each of {', '.join(f'{key} (string)' for key in view.keys)}"
    )
    assert refused.value.remedy == (
        f"mlops features read {place.name} {view.name} {' '.join(view.keys).upper()}"
    )
    with pytest.raises(UserError, match=f"is no key of {view.name}"):
        current(place, view.name, ["\udcff"] * len(view.keys), fallback=False)


def test_a_changed_view_is_computed_from_tiles_once_they_are_there(tmp_path: Path) -> None:
    place = small_home(tmp_path)
    advance(place, at(3))
    features = Features(
        views=(LOADED.spec.features.views[0].model_copy(update={"windows": (timedelta(hours=5),)}),)
    )
    changed = varied(place, features=features)
    (view,) = changed.features.views
    key = ["x"] * len(view.keys)
    with pytest.raises(TerminalError, match="has no values of the view") as refused:
        current(changed, view.name, key, fallback=True)
    assert f"--select {place.name}/feature_tiles --partition " in str(refused.value.remedy)
    make_tiles(changed, [])
    written = current(changed, view.name, key, fallback=False)
    changed.__dict__["store"] = FeatureStore(tmp_path / "empty", place.name)
    assert current(changed, view.name, key, fallback=True) == {**written, "source": "tiles"}
    changed.__dict__["store"] = FeatureStore(tmp_path / "feast", place.name, "redis://127.0.0.1:1/0")
    with pytest.raises(TransientError) as away:
        current(changed, view.name, key, fallback=False)
    assert away.value.remedy == f"mlops features read {place.name} {view.name} {' '.join(key)} --fallback"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("lane", "There is no view 'lane'; did you mean plane? (allowed: "),
        ("tail_lateness_late_mean_6h", "tail_lateness_late_mean_6h is a feature of tail_lateness"),
        ("distance", "distance is computed from the event's own row, nothing of it is stored"),
        ("from_event", "from_event is computed from the event's own row, nothing of it is stored"),
    ],
)
def test_what_is_no_view_is_not_read_and_the_list_is_named(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(UserError) as refused:
        current(small_home(tmp_path), name, ["x"], fallback=False)
    assert why in refused.value.message
    assert refused.value.remedy == "mlops features list small_flights"


def test_keys_that_are_swapped_are_refused_with_their_types(tmp_path: Path) -> None:
    place = small_home(tmp_path)
    # Numbers and texts together: what is a key of one is none of the other.
    view = View.model_validate(
        {"name": "both", "key": ["dest", "distance"], "of": "labels", "aggregate": {"late": ["mean"]},
         "windows": ["6h"]}
    )  # fmt: skip
    place = varied(place, features=Features(views=(view,)))
    advance(place, at(3))
    key = place.lake.read(tile_table(place.features.views[0])).slice(0, 1).to_pylist()[0]
    found = current(place, "both", [key["dest"], str(key["distance"])], fallback=False)
    assert found["key"] == {"dest": key["dest"], "distance": key["distance"]}
    with pytest.raises(UserError) as refused:
        current(place, "both", [str(key["distance"]), key["dest"]], fallback=False)
    assert refused.value.expected == "dest (string), distance (int), in this order"
    assert refused.value.remedy == "mlops features read small_flights both DEST DISTANCE"


@pytest.mark.parametrize(
    "words", [["show", "flight_delays", "tail_latenes"], ["lineage", "flight_delays", "x"]]
)
def test_a_name_that_nothing_has_is_refused_with_what_there_is(words: list[str]) -> None:
    result = CliRunner().invoke(main, ["features", *words])
    assert result.exit_code == 2
    assert "Try: mlops features lineage flight_delays" in result.output
