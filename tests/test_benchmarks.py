"""The benchmark harness: what is measured, what holds, what is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import benchmarks
from benchmarks import Measure, Pair, run

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
