"""The benchmark harness: what is measured, what holds, what is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import benchmarks
from benchmarks import Measure, Pair, run, sensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

run.discover()


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, benchmarks.Row]:
    """An empty register of rows."""
    empty: dict[str, benchmarks.Row] = {}
    monkeypatch.setattr(benchmarks, "ROWS", empty)
    monkeypatch.setattr(run, "ROWS", empty)
    return empty


def declare(name: str, ours: float, against: float, bound: float | None) -> None:
    @benchmarks.row(name, against="a peer", unit="ms", bound=bound, repeats=3)
    def measured() -> Iterator[Pair]:
        yield Pair(lambda: ours, lambda: against)


def test_results_have_their_seven_fields_and_bounds_are_judged(
    rows: dict[str, benchmarks.Row], tmp_path: Path
) -> None:
    declare("test_benchmarks.slow", 3.0, 1.0, 2.0)
    declare("test_benchmarks.even", 2.0, 1.0, 2.0)
    declare("test_benchmarks.told", 9.0, 1.0, None)
    assert run.run(list(rows.values()), tmp_path / "results.json") == 1
    slow, even, told = json.loads((tmp_path / "results.json").read_text())
    assert slow == {
        "name": "test_benchmarks.slow",
        "ours": 3.0,
        "against": 1.0,
        "unit": "ms",
        "ratio": 3.0,
        "bound": 2.0,
        "holds": False,
    }
    assert even["holds"]
    assert (told["bound"], told["holds"]) == (None, True)
    del rows["test_benchmarks.slow"]
    assert run.run(list(rows.values()), tmp_path / "results.json") == 0


def test_ours_may_be_bounded_by_itself(
    rows: dict[str, benchmarks.Row], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, ours in (("test_benchmarks.quick", 4.0), ("test_benchmarks.slow", 6.0)):

        @benchmarks.row(name, against="a floor", unit="ms", at_most=4.0, repeats=1)
        def measured(ours: float = ours) -> Iterator[Pair]:
            yield Pair(lambda: ours, lambda: 2.0)

    quick, slow = (run.measure(row) for row in rows.values())
    assert (quick.ratio, quick.bound, quick.holds) == (2.0, 2.0, True)
    assert (slow.ratio, slow.bound, slow.holds) == (3.0, 2.0, False)
    run.show([quick, slow])
    assert capsys.readouterr().out.count("4 ms │") >= 2


def test_measurements_interleave_and_the_median_counts(rows: dict[str, benchmarks.Row]) -> None:
    order = []

    def noted(who: str, figures: list[float]) -> Measure:
        def take() -> float:
            order.append(who)
            return figures.pop(0)

        return take

    @benchmarks.row("test_benchmarks.turns", against="a peer", repeats=3)
    def turns() -> Iterator[Pair]:
        yield Pair(noted("ours", [99.0, 1.0, 50.0, 2.0]), noted("against", [0.1, 1.0, 1.0, 1.0]))
        order.append("cleaned up")

    result = run.measure(rows["test_benchmarks.turns"])
    assert (result.ours, result.against, result.ratio) == (2.0, 1.0, 2.0)
    there, back = ["ours", "against"], ["against", "ours"]
    assert order == [*back, *there, *back, *there, "cleaned up"]


@pytest.mark.parametrize("name", ["elsewhere.what", "test_benchmarks"])
def test_a_row_is_named_after_its_module(rows: dict[str, benchmarks.Row], name: str) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        declare(name, 1.0, 1.0, None)


def test_a_name_is_taken_once(rows: dict[str, benchmarks.Row]) -> None:
    declare("test_benchmarks.once", 1.0, 1.0, None)
    with pytest.raises(ValueError, match="taken"):
        declare("test_benchmarks.once", 1.0, 1.0, None)


def test_a_prefix_chooses_rows_and_an_unknown_one_is_refused(
    rows: dict[str, benchmarks.Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare("test_benchmarks.this", 1.0, 1.0, None)
    declare("test_benchmarks.that", 1.0, 1.0, None)
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.json")
    chosen = CliRunner().invoke(run.main, ["--only", "test_benchmarks.thi"])
    assert chosen.exit_code == 0
    assert [row["name"] for row in json.loads((tmp_path / "results.json").read_text())] == [
        "test_benchmarks.this"
    ]
    refused = CliRunner().invoke(run.main, ["--only", "nothing"])
    assert refused.exit_code == 2
    assert "test_benchmarks.this" in refused.output


def test_ingest_is_benchmarked_for_time_memory_and_long_histories() -> None:
    bounds = {name: row.bound for name, row in benchmarks.ROWS.items() if name.startswith("ingest.")}
    assert bounds == {"ingest.events_1m": 1.5, "ingest.memory": 3.0, "ingest.tick_history": 1.2}


def test_loading_the_definitions_is_benchmarked_against_importing_dagster() -> None:
    assert benchmarks.ROWS["main.load_definitions"].bound == 2.0


def test_features_are_benchmarked_for_time_of_making_and_reading_and_for_growth() -> None:
    rows = {name: row for name, row in benchmarks.ROWS.items() if name.startswith("features.")}
    assert {name: row.bound for name, row in rows.items() if row.bound is not None} == {
        "features.pit_vs_feast": 1 / 8,
        "features.pit_vs_duckdb": 1.5,
        "features.day_growth": 1.3,
    }
    assert {name: (row.at_most, row.unit) for name, row in rows.items() if row.at_most is not None} == {
        "features.year": (10.0, "s"),
        "features.online_sqlite": (1.0, "ms"),
        "features.online_redis": (1.5, "ms"),
    }
    works = ("day_of_tiles", "thousand_examples", "hour_online", "read_online")
    growth = {f"features.{larger}_x10.{work}" for larger in ("keys", "history") for work in works}
    assert {name for name in rows if "_x10." in name} == growth


def test_a_home_of_sensors_grows_by_a_day_at_a_time(tmp_path: Path) -> None:
    place = sensors.home(tmp_path)
    sensors.grow(place, sensors=3, days=4)
    assert sensors.days_done(place) == 4
    sensors.add_facts(place, 3, 4)
    sensors.make_tiles(place, sensors.day_of(4))
    assert sensors.days_done(place) == 5
    events = place.lake.read("events", days=[sensors.day_of(4)])
    examples = sensors.examples_of(place, events)
    assert examples.num_rows == 3 * sensors.EVENTS_OF_A_SENSOR
    assert max(examples["lateness_late_count_3d"].to_pylist()) > 1
