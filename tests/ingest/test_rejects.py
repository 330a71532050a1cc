"""Rows of the quarantine: judged again after a fix they are what they would have been, and none is lost."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mlops_pipelines.cli import main
from mlops_pipelines.errors import UserError
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import rejects, taking
from mlops_pipelines.ingest.contract import ColumnRule, Contract
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.spec_checks import RESERVED_NAMES
from mlops_pipelines.spec_loading import LoadedSpec
from tests.loop import take_all
from tests.small_flights import loaded

if TYPE_CHECKING:
    from pathlib import Path

FIRST = datetime(2013, 1, 1, tzinfo=UTC)
SECOND = datetime(2013, 1, 2, tzinfo=UTC)
THIRD = datetime(2013, 1, 3, tzinfo=UTC)
# By stream, a column with a bound, and a table that shows what was taken in.
BOUNDED = {"events": ("distance", 5_000), "labels": ("arr_delay", 400), "weather": ("temp", 40)}


def ruled(stream: str, **changes: Any) -> LoadedSpec:
    """The small pipeline with another rule for the bounded column of a stream."""
    real = loaded()
    name = BOUNDED[stream][0]
    rules = real.contract.columns_of(stream)
    other = {**rules, name: ColumnRule.model_validate(rules[name].model_dump() | changes)}
    of_stream = {"columns": {column: rule.model_dump() for column, rule in other.items()}}
    written = real.contract.model_dump()
    if stream in written["references"]:
        written["references"][stream] = of_stream
    else:
        written[stream] = of_stream
    return LoadedSpec(real.spec, Contract.model_validate(written | {"reject_share_halts": 1.0}), real.path)


def strict(stream: str) -> LoadedSpec:
    return ruled(stream, min=None, max=BOUNDED[stream][1] // 2)


def lenient(stream: str) -> LoadedSpec:
    return ruled(stream, min=None, max=None)


def home_with(path: Path, definition: LoadedSpec) -> PipelineHome:
    """Two days of flights, landed and taken in under a definition."""
    place = Home.create(path).pipeline(definition)
    place.prepare()
    Flights().write(place.landing_root, FIRST, THIRD)
    take_all(place)
    return place


def hashes(place: PipelineHome, stream: str) -> dict[str, str]:
    order = {"events": ["event_id"], "labels": ["event_id", "known_at"], "weather": ["origin", "ref_time"]}
    return place.lake.hashes(stream, sort_by=order[stream], unhashed=taking.PROVENANCE)


def under(place: PipelineHome, definition: LoadedSpec) -> PipelineHome:
    return PipelineHome(place.home, definition)


@pytest.mark.parametrize("stream", BOUNDED)
def test_rows_judged_again_are_what_they_would_have_been_from_the_start(tmp_path: Path, stream: str) -> None:
    before = home_with(tmp_path / "a", strict(stream))
    rejected = rejects.waiting_rows(before, stream)
    assert rejected.num_rows >= 5
    never = home_with(tmp_path / "b", lenient(stream))
    mended = under(before, lenient(stream))
    done = rejects.replay(mended, rejected)
    assert (done.accepted, done.rejected, dict(done.still)) == (rejected.num_rows, 0, {})
    if stream == "events":  # labels that waited for the events come with the next labels run
        taking.take_labels(mended, [])
        assert hashes(mended, "labels") == hashes(never, "labels")
    assert hashes(mended, stream) == hashes(never, stream)
    assert rejects.waiting_rows(mended, stream).num_rows == 0
    assert place_rows(mended) == rejected.num_rows  # nothing is deleted


def place_rows(place: PipelineHome) -> int:
    return sum(place.lake.row_counts("quarantine").values())


def test_under_the_same_contract_nothing_gets_in_and_the_reason_is_said(tmp_path: Path) -> None:
    place = home_with(tmp_path, strict("events"))
    rows = rejects.waiting_rows(place)
    before = hashes(place, "events")
    done = rejects.replay(place, rows)
    assert (done.accepted, done.rejected) == (0, rows.num_rows)
    assert list(done.still) == ["distance: is at most 2500"]
    assert hashes(place, "events") == before
    assert rejects.waiting_rows(place).num_rows == rows.num_rows


def test_a_replay_that_died_before_it_was_recorded_is_repeated_and_changes_nothing(tmp_path: Path) -> None:
    place = under(home_with(tmp_path, strict("events")), lenient("events"))
    rows = rejects.waiting_rows(place)
    taking.take_rejects(place, "events", rows)
    after = hashes(place, "events")
    version = place.lake.version("events")
    done = rejects.replay(place, rejects.waiting_rows(place))
    assert done.accepted == rows.num_rows
    assert (hashes(place, "events"), place.lake.version("events")) == (after, version)
    assert rejects.replay(place, rejects.waiting_rows(place)).accepted == 0


def test_days_of_rows_that_got_in_are_reopened_and_their_files_stay_as_they_were_counted(
    tmp_path: Path,
) -> None:
    place = under(home_with(tmp_path, strict("events")), lenient("events"))
    for stage in ("tiles", "score"):
        place.ledger.close_days(place.name, place.ledger.reopened_days(place.name, stage), stage)  # type: ignore[arg-type]
    counts = place.ledger.file_counts(place.name)
    rejects.replay(place, rejects.waiting_rows(place).slice(0, 1))
    (day,) = place.ledger.reopened_days(place.name, "score")
    assert day in ("2013-01-01", "2013-01-02")
    assert place.ledger.file_counts(place.name) == counts


def test_labels_that_wait_for_their_events_survive_a_replay_of_others_of_their_file(tmp_path: Path) -> None:
    place = Home.create(tmp_path).pipeline(strict("labels"))
    place.prepare()
    Flights().write(place.landing_root, FIRST, THIRD)
    taking.register_landed(place)
    taking.take_labels(place, [])  # before any event
    waiting = sum(place.lake.row_counts("labels_unmatched").values())
    rejected = rejects.waiting_rows(place)
    assert waiting
    assert rejected.num_rows
    rejects.replay(under(place, lenient("labels")), rejected)
    assert sum(place.lake.row_counts("labels_unmatched").values()) == waiting + rejected.num_rows


def landed_text(place: PipelineHome, text: str) -> None:
    folder = place.landing("weather") / "2013-01-02"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.jsonl").write_text(text)
    taking.register_landed(place)
    taking.take_reference(place, "weather", [])


def test_a_line_that_is_no_row_stays_what_it_is(tmp_path: Path) -> None:
    place = Home.create(tmp_path).pipeline(loaded())
    place.prepare()
    row = json.dumps(dict.fromkeys(place.contract.columns_of("weather")) | {"origin": "JFK"})
    landed_text(place, f"not json\n{row}\n")
    nullable = {
        name: rule.model_copy(update={"nullable": True})
        for name, rule in place.contract.references["weather"].columns.items()
        if name not in ("observed_at", "arrived_at")
    }
    weather = place.contract.references["weather"]
    open_to_all = place.contract.model_copy(
        update={"references": {**place.contract.references, "weather": weather.model_copy(
            update={"columns": {**weather.columns, **nullable}})}}
    )  # fmt: skip
    mended = under(place, LoadedSpec(place.spec, open_to_all, place.loaded.path))
    rows = rejects.waiting_rows(mended)
    done = rejects.replay(mended, rows)
    assert (done.accepted, done.rejected) == (0, rows.num_rows)


def test_a_conflict_keeps_the_row_as_it_landed_and_stays_one(tmp_path: Path) -> None:
    place = home_with(tmp_path, loaded())
    rows = Flights().rows("events", FIRST, SECOND).slice(0, 1)
    other = rows.set_column(rows.schema.get_field_index("distance"), "distance", pa.array([7]))
    pq.write_table(other, place.landing("events") / "2013-01-02" / "other.parquet")
    take_all(place)
    waiting = rejects.waiting_rows(place)
    (found,) = [rejects.as_shown(row, place.contract) for row in waiting.to_pylist()]
    assert found["reasons"][0]["code"] == "conflict"
    assert list(found["row"]) == list(place.contract.columns_of("events"))
    assert found["row"]["distance"] in (7, rows["distance"][0].as_py())  # the lower content hash stands
    assert rejects.replay(place, waiting).accepted == 0
    assert rejects.waiting_rows(place).num_rows == 1


def test_discarded_rows_wait_no_more_and_are_kept_with_the_reason(tmp_path: Path) -> None:
    place = home_with(tmp_path, strict("weather"))
    rows = rejects.waiting_rows(place)
    names = [rejects.name_of(row) for row in rows.slice(0, 2).to_pylist()]
    with pytest.raises(UserError, match="A reason is needed"):
        rejects.discard(place, rejects.chosen(rows, names), " ")
    assert rejects.discard(place, rejects.chosen(rows, names), "a fault") == 2
    assert rejects.waiting_rows(place).num_rows == rows.num_rows - 2
    assert place_rows(place) == rows.num_rows
    assert place.lake.read("quarantine_decisions")["reason"].to_pylist() == ["a fault"] * 2
    with pytest.raises(UserError, match="is called"):
        rejects.chosen(rejects.waiting_rows(place), names)


@pytest.mark.parametrize("reason", ["", "\u200b", "\u2060 \ufeff", "\u3164", "-"])
def test_a_reason_in_which_nothing_can_be_read_discards_no_row(tmp_path: Path, reason: str) -> None:
    place = Home.create(tmp_path).pipeline(strict("weather"))
    place.prepare()
    with pytest.raises(UserError, match="A reason is needed"):
        rejects.discard(place, rejects.waiting_rows(place), reason)


def test_no_reference_may_bear_the_name_of_a_table_that_taking_in_writes(tmp_path: Path) -> None:
    place = home_with(tmp_path, strict("weather"))
    rejects.discard(place, rejects.waiting_rows(place), "a fault")
    tables = {
        folder.parent.relative_to(place.lake.root).parts[0] for folder in place.lake.root.rglob("_delta_log")
    }
    assert "quarantine_decisions" in tables
    assert tables - set(place.spec.references) <= RESERVED_NAMES


def test_values_of_sensitive_columns_are_masked_wherever_they_are_shown(tmp_path: Path) -> None:
    place = home_with(tmp_path, strict("weather"))
    hidden = under(place, ruled("weather", min=None, max=20, sensitive=True))
    row = rejects.waiting_rows(place).slice(0, 1).to_pylist()[0]
    shown = rejects.as_shown(row, hidden.contract)
    assert shown["row"]["temp"] == shown["reasons"][0]["value"] == rejects.MASKED
    assert shown["row"]["origin"] == rejects.as_shown(row, place.contract)["row"]["origin"] != rejects.MASKED


def test_the_command_lists_shows_replays_and_discards(tmp_path: Path) -> None:
    from mlops_pipelines.spec_loading import load_pipeline

    place = Home.create(tmp_path).pipeline(load_pipeline("flight_delays"))
    place.prepare()
    folder = place.landing("weather") / "2013-01-02"
    folder.mkdir()
    weather = Flights().rows("weather", FIRST, SECOND)
    hot = pa.array([1000.0, 2000.0, *weather["temp"].to_pylist()[2:]])
    pq.write_table(
        weather.set_column(weather.schema.get_field_index("temp"), "temp", hot), folder / "a.parquet"
    )
    taking.register_landed(place)
    taking.take_reference(place, "weather", [])

    def run(*words: str) -> str:
        result = CliRunner().invoke(main, ["quarantine", *words, "--home", str(tmp_path)])
        assert result.exit_code == 0, result.output
        return result.output

    found = json.loads(run("list", "flight_delays", "--json"))
    assert all(one["file"].endswith(".parquet") for one in found["latest"])
    assert found["latest"][0]["file"] in run("show", "flight_delays", found["latest"][0]["name"])
    assert (found["rows"], found["reasons"]) == (2, {"temp: is at least -60 and at most 130": 2})
    name = found["latest"][0]["name"]
    assert "2 rows wait" in run("list", "flight_delays", "--stream", "weather")
    assert "temp is at least -60 and at most 130, not '2000.0'" in run("show", "flight_delays", name)
    assert "0 rows taken in, 1 still rejected" in run("replay", "flight_delays", name)
    assert "1 rows discarded" in run("discard", "flight_delays", name, "--reason", "a fault")
    assert json.loads(run("replay", "flight_delays", "--json"))["rejected"] == 1
    (gone,) = json.loads(run("list", "flight_delays", "--decided", "--json"))["latest"]
    assert (gone["name"], gone["decision"], gone["why"]) == (name, "discarded", "a fault")
    assert "discarded: a fault" in run("list", "flight_delays", "--decided", "--stream", "weather")


def test_what_a_producer_called_a_column_does_nothing_to_the_terminal(tmp_path: Path) -> None:
    from mlops_pipelines.spec_loading import load_pipeline

    place = Home.create(tmp_path).pipeline(load_pipeline("flight_delays"))
    place.prepare()
    (row,) = Flights().rows("weather", FIRST, SECOND).slice(0, 1).to_pylist()
    odd = row | {"temp": 1000.0, "\x1b[2J\nnext = 1": 7}
    landed_text(place, json.dumps(odd, default=datetime.isoformat))
    (name,) = [rejects.name_of(row) for row in rejects.waiting_rows(place).to_pylist()]
    words = ["quarantine", "show", "flight_delays", name, "--stream", "weather", "--home", str(tmp_path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert f"    '\\x1b[2J\\nnext = 1' = '{rejects.MASKED}'" in result.output.splitlines()
    assert f"    origin = {row['origin']!r}" in result.output.splitlines()
