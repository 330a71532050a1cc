"""A view that several pipelines use: one version, computed once by the pipeline whose tables it is of."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner

from mlops_pipelines import retraining, scoring
from mlops_pipelines.cli import main
from mlops_pipelines.component import build_definitions
from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.features.catalogue import current, lineage, listed, shown
from mlops_pipelines.features.in_use import sets_in_use
from mlops_pipelines.features.parity import parity
from mlops_pipelines.features.retiring import retire
from mlops_pipelines.features.sets import FeatureSet
from mlops_pipelines.features.views import compile_views, tile_table
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.monitoring.feature_health import report_features
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec import Features, SharedViews
from mlops_pipelines.spec_loading import load_spec
from tests.loop import ask, at, break_tiles_of, serve, take_all, varied
from tests.shared_views import SHARED, VIEW, fly, live, new_home, places, write

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.features.views import CompiledView

Both = tuple[PipelineHome, PipelineHome]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("pipelines"))


@pytest.fixture(scope="module")
def lived(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of three days of flights and bookings."""
    flights, bookings = new_home(tmp_path_factory.mktemp("lived") / "home", root)
    live(flights, bookings, at(3))
    live(flights, bookings, at(4))
    return flights.home.path


@pytest.fixture
def both(lived: Path, root: Path, tmp_path: Path) -> Both:
    """Both pipelines in a copy of that home."""
    shutil.copytree(lived, tmp_path / "home")
    return places(Home.open(tmp_path / "home"), root)


def view_of(place: PipelineHome) -> CompiledView:
    (view,) = (view for view in place.features.views if view.name == VIEW)
    return view


def without_shared(place: PipelineHome) -> PipelineHome:
    """The same pipeline on the same home, that uses no shared file."""
    features = place.spec.features.model_copy(update={"shared": ()})
    spec = place.spec.model_copy(update={"features": features})
    return PipelineHome(place.home, replace(place.loaded, spec=spec, shared=()))


def columns_of(place: PipelineHome) -> list[str]:
    return [column.name for column in view_of(place).columns]


def vectors(place: PipelineHome) -> pa.Table:
    """What the examples hold of the shared view, in the order of their ids."""
    rows = place.lake.read(place.features.examples).sort_by("event_id")
    return rows.select(["event_id", *columns_of(place)])


def test_both_have_the_same_version_and_values_that_are_the_same_bits(both: Both) -> None:
    flights, bookings = both
    assert view_of(bookings) == replace(view_of(flights), pipeline="flights")
    assert view_of(bookings).version == view_of(flights).version
    made = vectors(bookings)
    assert made.num_rows > 2000
    assert made.equals(vectors(flights))
    assert all(made[name].null_count < made.num_rows / 2 for name in columns_of(bookings))


def test_the_version_is_that_of_the_same_view_declared_in_the_pipeline_itself(both: Both) -> None:
    flights, bookings = both
    declared = SharedViews.model_validate(yaml.safe_load(SHARED)).views
    spec = flights.spec.model_copy(update={"features": Features(views=declared)})
    assert compile_views(spec, flights.contract) == (view_of(flights),) == (view_of(bookings).at_owner,)


def test_tiles_are_made_once_by_the_pipeline_whose_tables_the_view_is_of(both: Both) -> None:
    flights, bookings = both
    assert flights.lake.exists(tile_table(view_of(flights)))
    tables = {path.parent.name for path in bookings.lake.root.rglob("_delta_log")}
    assert {name.partition("__")[0] for name in tables if "__" in name} == {"customer"}


def test_an_example_names_the_versions_of_the_other_pipelines_tables_and_parity_holds(both: Both) -> None:
    flights, bookings = both
    rows = bookings.lake.read(bookings.features.examples)
    made_of = [json.loads(text) for text in rows["made_of"].unique().to_pylist()]
    table = tile_table(view_of(flights))
    for versions in made_of:
        assert {"flights:events", "flights:labels", f"flights:{table}", "events"} <= set(versions)
    assert {versions[f"flights:{table}"] for versions in made_of} == {0, 1}
    live(flights, bookings, at(5))
    found = parity(bookings)
    assert (found.compared, found.differ) == (bookings.lake.read(bookings.features.examples).num_rows, 0)


def test_parity_tells_a_vector_that_is_not_what_the_other_pipelines_tables_give(both: Both) -> None:
    _, bookings = both
    table, name = bookings.features.examples, f"{VIEW}_late_count_2d"

    def changed(rows: pa.Table | None) -> pa.Table:
        assert rows is not None
        place = rows.column_names.index(name)
        return rows.set_column(place, name, pa.array([7.5] * rows.num_rows))

    bookings.lake.update(
        table, ["2013-01-03"], changed, sort_by=scoring.EXAMPLE_ORDER, unhashed=("made_of",), provenance={}
    )
    found = parity(bookings)
    assert found.differ == bookings.lake.row_counts(table)["2013-01-03"]
    assert {one.feature for one in found.differences} == {name}
    assert "carrier" in found.differences[0].key


def test_an_event_of_another_pipeline_is_never_taken_for_ones_own_for_its_id(tmp_path: Path) -> None:
    pipelines = write(tmp_path / "pipelines")
    last = "  - {name: newest, key: carrier, of: events, last: [distance], within: 1d}\n"
    file = pipelines / "shared" / "carriers.yaml"
    file.write_text(SHARED + last)
    defs = pipelines / "bookings" / "defs.yaml"
    defs.write_text(defs.read_text().replace("[carrier_lateness]", "[newest]"))
    flights, bookings = new_home(tmp_path / "home", pipelines)
    live(flights, bookings, at(2))
    events = flights.lake.read("events").to_pylist()
    found = bookings.lake.read(bookings.features.examples).to_pylist()
    assert {one["event_id"] for one in found} == {one["event_id"] for one in events}
    carrier = {one["event_id"]: one["carrier"] for one in events}
    for booking in found[:300]:
        seen = [
            one
            for one in events
            if one["carrier"] == carrier[booking["event_id"]]
            and max(one["known_at"], one["event_time"]) <= booking["decision_time"]
        ]
        newest = max(seen, key=lambda one: (one["event_time"], one["known_at"], one["event_id"]))
        assert booking["newest_distance_last"] == newest["distance"]


def test_the_health_of_a_shared_view_is_told_by_the_tiles_that_were_there(both: Both) -> None:
    theirs, mine = (
        next(one for one in report_features(place, ["2013-01-03"]).views if one.view == VIEW)
        for place in both
    )
    assert theirs.skew == 0
    assert theirs.age_worst is not None
    assert mine == theirs


def test_the_health_of_a_shared_view_is_told_once_however_many_sets_have_it(both: Both) -> None:
    _, bookings = both
    ask(bookings, "first")
    retrain = retraining.admit(bookings, run_id="first").retrain
    assert retrain is not None
    version = bookings.features.version
    bookings.ledger.record_training_set(
        retrain.id, retrain.token, dataset_version="1", feature_set=version, matured_rows=1
    )
    features = bookings.spec.features
    expressions = features.from_event | {"twice": "2 * price"}
    other = varied(bookings, features=features.model_copy(update={"from_event": expressions}))
    serve(other)
    assert [one.version for one in sets_in_use(other).sets] == [other.features.version, version]
    told = [(one.day, one.version, one.feature) for one in report_features(other, ["2013-01-03"]).found]
    assert len(told) == len({*told})


def test_new_tiles_reopen_no_examples_of_those_who_use_them(both: Both) -> None:
    flights, bookings = both
    version = bookings.lake.version(bookings.features.examples)
    fly(flights, bookings, at(5))
    assert scoring.reopened_days(bookings) == []
    scoring.make_examples(bookings, ["2013-01-02", "2013-01-03"])
    assert bookings.lake.version(bookings.features.examples) == version


def test_no_example_is_made_before_the_tiles_and_the_other_pipeline_is_asked_for_them(
    root: Path, tmp_path: Path
) -> None:
    pipelines = write(tmp_path / "pipelines", uses_itself=False)
    flights, bookings = new_home(tmp_path / "home", pipelines)
    fly(flights, bookings, at(4))
    assert scoring.reopened_days(flights) == []
    take_all(bookings)
    scoring.make_tiles(bookings, [])
    with pytest.raises(TerminalError, match=r"of flights have no tiles yet.*\n.*\nTry: mat.* flights/feat"):
        scoring.make_examples(bookings, [])
    assert scoring.reopened_days(bookings) == []
    assert scoring.reopened_days(flights) == ["2013-01-03"]
    scoring.make_tiles(flights, ["2013-01-03"])
    assert scoring.reopened_days(flights) == []
    assert scoring.reopened_days(bookings) == ["2013-01-01", "2013-01-02", "2013-01-03"]
    serve(bookings)
    assert [one["name"] for one in listed(flights) if one["used_by"] == ["bookings"]] == [VIEW]
    other = places(flights.home, write(tmp_path / "other"))[0]
    serve(other)
    assert vectors(bookings).equals(vectors(other))


def test_a_definition_that_only_another_pipeline_uses_is_made_for_it(both: Both, tmp_path: Path) -> None:
    _, bookings = both
    pipelines = write(tmp_path / "pipelines")
    file = pipelines / "shared" / "carriers.yaml"
    file.write_text(SHARED.replace("[6h, 2d]", "[6h, 1d]"))
    flights, _ = places(bookings.home, pipelines)
    assert view_of(flights).version != view_of(bookings).version
    live(flights, bookings, at(5))
    assert "2013-01-04" in flights.lake.days(tile_table(view_of(bookings)))
    assert "2013-01-04" in flights.lake.days(tile_table(view_of(flights)))
    assert {
        (one["version"], *one["feeds"], *one["used_by"]) for one in listed(flights) if one["windows"]
    } == {
        (view_of(flights).version, "yaml", "flights"),
        (view_of(bookings).version, "bookings"),
    }
    assert parity(bookings).holds


def test_a_view_that_is_used_again_gets_the_tiles_it_missed(both: Both, tmp_path: Path) -> None:
    flights, bookings = both
    alone, without = map(without_shared, both)
    live(alone, without, at(5))
    live(alone, without, at(6))
    table = tile_table(view_of(flights))
    assert max(flights.lake.days(table)) < "2013-01-05"
    sets_in_use(bookings)
    assert scoring.reopened_days(alone) == ["2013-01-05"]
    assert scoring.reopened_days(bookings) == []
    serve(alone)
    serve(bookings)
    serve(flights)
    assert vectors(bookings).equals(vectors(flights))
    assert vectors(bookings).num_rows > 4000


def test_a_run_that_dies_while_it_makes_tiles_leaves_the_view_to_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flights, bookings = new_home(tmp_path / "home", write(tmp_path / "pipelines", uses_itself=False))
    fly(flights, bookings, at(3))
    sets_in_use(bookings)
    with monkeypatch.context() as dying:
        dying.setattr(type(flights.lake), "replace", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scoring.make_tiles(flights, ["2013-01-01"])
    assert scoring.reopened_days(flights) == ["2013-01-02"]
    scoring.make_tiles(flights, ["2013-01-02"])
    assert flights.lake.days(tile_table(view_of(bookings)))[0] == "2013-01-01"
    assert scoring.reopened_days(flights) == []


def test_a_view_that_only_another_pipeline_uses_may_fail_without_harm(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    flights, bookings = both
    alone = without_shared(flights)
    break_tiles_of(VIEW, monkeypatch)
    fly(alone, bookings, at(5))
    assert alone.lake.row_counts(alone.features.examples) == alone.lake.row_counts("events")
    assert scoring.reopened_days(alone) == [], "not at once again"


def test_what_another_pipeline_uses_may_not_leave_the_contract(both: Both) -> None:
    flights, _ = both
    columns = {name: rule for name, rule in flights.contract.labels.columns.items() if name != "arr_delay"}
    labels = flights.contract.labels.model_copy(update={"columns": columns})
    contract = flights.contract.model_copy(update={"labels": labels})
    lacking = PipelineHome(flights.home, replace(without_shared(flights).loaded, contract=contract))
    with pytest.raises(
        TerminalError, match=r"in use by bookings, reads labels\.arr_delay; that is not taken"
    ):
        sets_in_use(lacking)


def test_current_values_are_those_that_the_other_pipeline_wrote(both: Both) -> None:
    flights, bookings = both
    theirs = current(flights, VIEW, ["UA"], fallback=False)
    assert any(theirs["values"].values())
    assert current(bookings, VIEW, ["UA"], fallback=False) == theirs
    assert bookings.store.written_as_of(view_of(bookings)) == flights.store.written_as_of(view_of(flights))


def test_feast_reads_them_as_of_any_moment_in_the_project_of_the_user(both: Both) -> None:
    _, bookings = both
    view = view_of(bookings)
    events = bookings.lake.read("events", days=["2013-01-03"]).sort_by("event_id")
    rows = pa.table(
        {
            "carrier": events["carrier"],
            "customer": events["customer"],
            "event_id": events["event_id"],
            "event_timestamp": events["decision_time"],
        }
    )
    own = next(one for one in bookings.features.views if one.pipeline is None)
    names = [*columns_of(bookings), *(column.name for column in own.columns)]
    refs = [f"{one.id}:{column.name}" for one in (view, own) for column in one.columns]
    found = bookings.store.historical(refs, rows).select(names)
    examples = bookings.lake.read(bookings.features.examples, days=["2013-01-03"]).sort_by("event_id")
    assert found.equals(examples.select(names))


def test_the_set_says_whose_view_it_is_and_comes_back_from_the_ledger(both: Both) -> None:
    flights, bookings = both
    assert bookings.features.view_versions[f"flights:{VIEW}"] == flights.features.view_versions[VIEW]
    assert FeatureSet.from_json(bookings.features.to_json()) == bookings.features
    mine = replace(bookings.features, views=tuple(view.at_owner for view in bookings.features.views))
    assert mine.version != bookings.features.version


def test_it_is_listed_with_its_pipeline_and_who_uses_it(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in both:
        (one,) = (one for one in listed(place) if one["name"] == VIEW)
        assert (one["pipeline"], one["used_by"]) == ("flights", ["bookings", "flights"])
        assert (one["tiles"], one["newest_tile"]) != (0, None)
        monkeypatch.setattr("mlops_pipelines.cli_features.place_of", lambda home, name, place=place: place)
        result = CliRunner().invoke(main, ["features", "list", place.name])
        assert "; of flights, used by bookings, flights" in result.output
        assert result.output.count("used by") == 1
    result = CliRunner().invoke(main, ["features", "list", "bookings", "--json"])
    assert {(one["name"], one["pipeline"]) for one in json.loads(result.output)} == {
        ("from_event", "bookings"), ("customer", "bookings"), (VIEW, "flights"),
    }  # fmt: skip


def test_it_says_how_it_is_made_and_of_which_landed_columns(both: Both) -> None:
    loaded = both[1].loaded
    assert shown(loaded, VIEW)[0]["made"] == "mean of flights:labels.late over 6h by carrier"
    made = lineage(loaded, f"{VIEW}_late_mean_6h")[f"{VIEW}_late_mean_6h"]
    assert [one["landed"] for one in made] == [
        "events.carrier", "flights:events.carrier", "flights:labels.late",
    ]  # fmt: skip


def test_a_change_of_the_contract_names_it_where_it_is_used_and_where_it_is_made(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flights, bookings = both

    def readers(place: PipelineHome, old: str, new: str) -> list[str]:
        monkeypatch.setattr("mlops_pipelines.spec_loading.load_pipeline", lambda name: place.loaded)
        contract = place.loaded.path.parent / "contract.yaml"
        changed = tmp_path / "changed.yaml"
        changed.write_text(contract.read_text().replace(old, new))
        words = ["contract", "diff", contract, changed, "--pipeline", place.name, "--home", place.home.path]
        (found,) = json.loads(CliRunner().invoke(main, [*map(str, words), "--json"]).output)
        dependents: list[str] = found["dependents"]
        return dependents

    words = f"view {VIEW} (5 features)"
    assert readers(bookings, "carrier: {type: string", "carrier: {type: int") == [words]
    for place in (flights, without_shared(flights)):
        assert readers(place, "arr_delay: {type: int", "arr_delay: {type: float") == [words]


def test_both_load_together_and_examples_depend_on_the_other_pipelines_tiles(root: Path) -> None:
    loaded = [load_spec(root / name / "defs.yaml") for name in ("flights", "bookings")]
    graph = dg.Definitions.merge(*map(build_definitions, loaded)).get_repository_def().asset_graph
    tiles, examples = dg.AssetKey(["flights", "feature_tiles"]), dg.AssetKey(["bookings", "examples"])
    assert graph.get(examples).parent_keys == {
        dg.AssetKey(["bookings", "events"]), dg.AssetKey(["bookings", "feature_tiles"]), tiles,
    }  # fmt: skip
    mapping = graph.get(examples).partition_mappings[tiles]
    assert isinstance(mapping, dg.TimeWindowPartitionMapping)
    assert mapping.start_offset == -2
    assert graph.get(tiles).parent_keys == {
        dg.AssetKey(["flights", name]) for name in ("events", "labels", "weather", "planes")
    }


def test_a_run_of_the_user_makes_examples_and_says_of_which_columns(both: Both) -> None:
    flights, bookings = both
    fly(flights, bookings, at(5))
    take_all(bookings)
    home = HomeResource(path=str(bookings.home.path))
    graph = dg.Definitions.merge(*(build_definitions(place.loaded, home) for place in both))
    days = {
        f"dagster/asset_partition_range_{end}": f"2013-01-0{day}" for end, day in (("start", 3), ("end", 4))
    }
    # Closed: a folder of its own that is left to the garbage collector fails whatever test runs by then.
    with dg.DagsterInstance.ephemeral() as instance:
        done = graph.resolve_job_def("bookings_score").execute_in_process(tags=days, instance=instance)
    assert done.success
    assert bookings.lake.row_counts(bookings.features.examples)["2013-01-04"] > 500
    (made, *_) = done.asset_materializations_for_node("bookings__examples")
    lineage = made.metadata["dagster/column_lineage"].value.deps_by_column[f"{VIEW}_late_mean_6h"]
    assert [(one.asset_key.path, one.column_name) for one in lineage] == [
        (["bookings", "events"], "carrier"),
        (["flights", "events"], "carrier"),
        (["flights", "labels"], "label"),
    ]


def test_a_pipeline_that_was_removed_frees_what_it_used(lived: Path, root: Path, tmp_path: Path) -> None:
    shutil.copytree(lived, tmp_path / "home")
    left = tmp_path / "pipelines"
    shutil.copytree(root, left)
    flights, _ = places(Home.open(tmp_path / "home"), left)
    flights = without_shared(flights)
    with pytest.raises(UserError, match="bookings is still a pipeline of this project"):
        retire(flights.home, "bookings", left)
    shutil.rmtree(left / "bookings")
    with pytest.raises(UserError, match=r"knows no features of booking; did you mean bookings\?"):
        retire(flights.home, "booking", left)
    (lent,) = sets_in_use(flights).lent
    said = CliRunner().invoke(main, ["features", "retire", "bookings", "--home", str(flights.home.path)])
    assert (said.exit_code, said.output) == (0, f"flights:{lent.id} freed: nobody uses it\n")
    assert sets_in_use(flights).lent == ()
    assert retire(flights.home, "bookings", left) == {}


def test_a_view_that_others_use_as_well_is_not_freed_and_a_pipeline_may_come_back(both: Both) -> None:
    flights, bookings = both
    gone = flights.home.path / "no_pipelines"
    assert retire(flights.home, "bookings", gone) == {f"flights:{view_of(flights).id}": ["flights"]}
    (one,) = (one for one in listed(flights) if one["name"] == VIEW)
    assert one["used_by"] == ["flights"]
    sets_in_use(bookings)
    (one,) = (one for one in listed(flights) if one["name"] == VIEW)
    assert one["used_by"] == ["bookings", "flights"]
