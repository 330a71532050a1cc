"""Logged vectors are what their facts give, and it shows when one is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mlops_pipelines import cli_features
from mlops_pipelines.features.parity import parity
from mlops_pipelines.features.views import compile_views, tile_table
from tests.loop import advance, at, copy_of, small_home

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome

LATE = 7


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four days of events, each taken in and made into examples as it ended; one event in seven came late."""
    path = tmp_path_factory.mktemp("lived") / "home"
    place = small_home(path)
    for day in (2, 3, 4, 5):
        advance(place, at(day), lambda rows: rows.filter(pa.array([n % LATE > 0 for n in range(len(rows))])))
    return path


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    return copy_of(lived, tmp_path / "home")


def alter(place: PipelineHome) -> None:
    """Flip one bit: of the sum in the first day's tile of the first view that has most values."""
    view = next(view for view in compile_views(place.spec, place.contract) if view.windowed)
    path = place.path / place.lake.files(tile_table(view))[0]
    rows = pq.ParquetFile(path).read()
    column = view.partials[0].column
    counts = rows[f"{column}__count"].to_pylist()
    index = rows.schema.get_field_index(f"{column}__sum")
    sums = rows[index].to_pylist()
    sums[counts.index(max(counts))] ^= 1
    pq.write_table(rows.set_column(index, rows.schema.field(index), pa.array(sums, pa.int64())), path)


def test_every_logged_vector_is_the_one_that_its_facts_give(place: PipelineHome) -> None:
    found = parity(place)
    assert (found.compared, found.differ) == (place.lake.read(place.features.examples).num_rows, 0)
    assert found.compared > 1000
    assert found.holds
    few = parity(place, ["2013-01-03"])
    assert 0 < few.compared < found.compared


def test_what_came_later_changes_no_vector_that_was_logged(place: PipelineHome) -> None:
    before = parity(place)
    advance(place, at(7))
    after = parity(place)
    assert after.compared > before.compared
    assert after.differ == 0


def test_a_single_bit_of_a_tile_shows_with_feature_key_and_both_values(place: PipelineHome) -> None:
    view = next(view for view in compile_views(place.spec, place.contract) if view.windowed)
    alter(place)
    found = parity(place)
    assert found.differ > 0
    assert not found.holds
    first = found.differences[0]
    assert first.feature in {column.name for column in view.columns}
    assert tuple(first.key) == view.keys
    assert first.logged != first.recomputed


def test_a_vector_that_was_altered_shows(place: PipelineHome) -> None:
    rows = place.lake.read(place.features.examples, days=["2013-01-03"])
    name = next(field.name for field in rows.schema if field.type == pa.float64())
    changed = rows.set_column(rows.schema.get_field_index(name), name, pc.add(rows[name], 1e-9))
    place.lake.replace(
        place.features.examples, changed, days=["2013-01-03"], sort_by=["decision_time", "event_id"]
    )
    found = parity(place, ["2013-01-03"])
    assert found.differ == pc.sum(pc.is_valid(rows[name]).cast(pa.int64())).as_py() > 0
    assert {one.feature for one in found.differences} == {name}


def test_the_command_says_what_was_compared_and_fails_where_something_differs(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_features, "place_of", lambda home, pipeline: place)

    def run(*options: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli_features.parity, [place.name, *options])
        return result.exit_code, result.output

    code, said = run("--since", "2013-01-03", "--json")
    assert code == 0
    assert json.loads(said)["differ"] == 0 < json.loads(said)["compared"]
    assert run("--since", "2013-06-01") == (1, "0 vectors compared, 0 differ.\n")
    alter(place)
    code, said = run()
    assert code == 1
    assert "logged" in said
    assert "recomputed" in said


def test_an_event_that_is_not_there_any_more_shows(place: PipelineHome) -> None:
    rows = place.lake.read(place.features.examples, days=["2013-01-03"])
    strange = rows.set_column(
        rows.schema.get_field_index("event_id"), "event_id", pa.array([f"x{n}" for n in range(len(rows))])
    )
    place.lake.replace(
        place.features.examples, strange, days=["2013-01-03"], sort_by=["decision_time", "event_id"]
    )
    found = parity(place, ["2013-01-03"])
    assert found.differ == rows.num_rows
    assert {one.feature for one in found.differences} == {None}
