"""Logged vectors are what their facts give, and it shows when one is not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mlops_pipelines import cli_features
from mlops_pipelines.features import parity as parity_module
from mlops_pipelines.features.parity import parity
from mlops_pipelines.features.views import compile_views, tile_table
from mlops_pipelines.home import Home
from mlops_pipelines.spec_loading import load_pipeline
from tests.loop import advance, at, copy_of, serve, small_home, varied
from tests.replays import replay

from .world import floor_hour

if TYPE_CHECKING:
    from collections.abc import Callable
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


@pytest.fixture
def replayed(full: bool, lived: Path, tmp_path: Path) -> PipelineHome:
    """At full size the flights of three months, replayed by the real sensors and runs; else the four days."""
    if not full:
        return copy_of(lived, tmp_path / "home")
    assert replay(tmp_path, date(2013, 3, 31), timedelta(days=7), pipeline="flight_delays") == 0
    return Home.open(tmp_path).pipeline(load_pipeline("flight_delays"))


@dataclass(frozen=True)
class Altered:
    """The tile of which a bit was flipped. features: those that are made of the sum that it is in."""

    key: dict[str, Any]
    hour: datetime
    features: dict[str, timedelta]

    def seen_by(self, events: pa.Table) -> int:
        """How many of the events have the key, and the tile's hour in a window."""
        longest = max(self.features.values())
        return sum(
            all(event[name] == value for name, value in self.key.items())
            and self.hour < floor_hour(event["decision_time"]) <= self.hour + longest
            for event in events.select([*self.key, "decision_time"]).to_pylist()
        )


def alter(place: PipelineHome) -> Altered:
    """Flip one bit: of the sum in the first day's tile of the first view that has most values."""
    view = next(view for view in compile_views(place.spec, place.contract) if view.windowed)
    path = place.path / place.lake.files(tile_table(view))[0]
    rows = pq.ParquetFile(path).read()
    column = view.partials[0].column
    counts = rows[f"{column}__count"].to_pylist()
    index = rows.schema.get_field_index(f"{column}__sum")
    sums = rows[index].to_pylist()
    chosen = counts.index(max(counts))
    sums[chosen] ^= 1
    pq.write_table(rows.set_column(index, rows.schema.field(index), pa.array(sums, pa.int64())), path)
    return Altered(
        key={name: rows[name][chosen].as_py() for name in view.keys},
        hour=rows["hour"][chosen].as_py(),
        features={one.name: one.window for one in view.windowed if one.column == column},
    )


def test_every_logged_vector_is_the_one_that_its_facts_give(place: PipelineHome) -> None:
    found = parity(place)
    assert (found.compared, found.differ) == (place.lake.read(place.features.examples).num_rows, 0)
    assert found.compared > 1000
    assert found.holds
    few = parity(place, ["2013-01-03"])
    assert 0 < few.compared < found.compared


@pytest.mark.proof
def test_replayed_vectors_are_recomputed_until_one_bit_of_a_tile_is_flipped(
    replayed: PipelineHome, sample_size: Callable[[str, int], None]
) -> None:
    place = replayed
    logged = place.lake.read(place.features.examples, columns=["event_id"]).num_rows
    found = parity(place)
    assert (found.compared, found.differ, found.not_compared) == (logged, 0, 0)
    altered = alter(place)
    after = parity(place)
    # Every vector that saw the tile, and no other.
    seen = altered.seen_by(place.lake.read("events"))
    assert (after.compared, after.differ) == (logged, seen)
    assert not after.holds
    for one in after.differences:
        assert one.feature in altered.features
        assert one.key == altered.key
        assert one.logged != one.recomputed
    sample_size("vectors that were logged", logged)
    sample_size("vectors that were made again and compared", found.compared)
    sample_size("vectors that differ", found.differ)
    sample_size("vectors that differ once one bit of one tile is flipped", after.differ)


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
    code, said = run("--since", "2013-06-01")
    assert code == 1
    assert said.splitlines() == [
        "0 vectors compared, 0 differ.",
        "Nothing was compared, so nothing is shown: no vector was made of a day from 2013-06-01 on.",
    ]
    alter(place)
    code, said = run()
    assert code == 1
    assert "logged" in said
    assert "recomputed" in said


@pytest.mark.parametrize("others", [False, True])
def test_vectors_of_functions_that_say_otherwise_are_counted_and_fail_alone(
    place: PipelineHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"said_before_{others}.py").write_text("def made(rows): return [1.0] * rows.num_rows\n")
    function = {"function": f"said_before_{others}:made", "columns": ["distance"]}
    features = type(place.spec.features).model_validate({"from_python": {"made": function}})
    if not others:
        place.lake.replace(place.features.examples, place.lake.read(place.features.examples).slice(0, 0),
                           days=place.lake.days(place.features.examples), sort_by=["event_id"])  # fmt: skip
    changed = varied(place, features=features)
    serve(changed)
    (tmp_path / f"said_before_{others}.py").write_text("def made(rows): return [2.0] * rows.num_rows\n")
    found = parity(changed)
    assert found.not_compared > 1000
    assert (found.differ, found.compared > 0, found.holds) == (0, others, others)
    monkeypatch.setattr(cli_features, "place_of", lambda home, pipeline: changed)
    result = CliRunner().invoke(cli_features.parity, [place.name])
    assert result.exit_code == (0 if others else 1)
    assert ("put back the files of the functions" in result.output) is not others
    more = "more were" if others else "were"
    said = f"; {found.not_compared:,} {more} not compared: their functions are written otherwise by now.\n"
    assert said in result.output


def test_what_is_compared_at_once_changes_nothing(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    alter(place)
    whole = parity(place)
    monkeypatch.setattr(parity_module, "DAYS_AT_ONCE", 1)
    assert parity(place) == whole
    assert whole.differ > len(whole.differences) > 0


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
