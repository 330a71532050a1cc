"""`mlops contract`: what a producer's CI and the owner of a pipeline are told."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from mlops_pipelines.cli import main
from mlops_pipelines.cli_contract import MOST_BYTES
from mlops_pipelines.home import Home
from mlops_pipelines.ingest import taking
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.spec_loading import load_pipeline

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

CONTRACT = """
events:
  columns:
    id: {type: string}
    seats: {type: int, min: 1}
labels:
  columns:
    late: {type: bool}
"""


def contract(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["contract", *map(str, arguments)])


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "contract.yaml"
    path.write_text(CONTRACT)
    return path


def landed(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_drafted_contract_is_yaml_to_go_on_from(tmp_path: Path) -> None:
    sample = landed(tmp_path, "a.csv", "id,seats\na,1\nb,2\n")
    result = contract("infer", sample)
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(result.output)["events"]["columns"]["seats"] == {"type": "int"}


def test_a_sample_that_unpacks_to_too_much_is_refused_before_it_is_unpacked_whole(tmp_path: Path) -> None:
    sample = tmp_path / "a.csv.gz"
    with gzip.open(sample, "wb", compresslevel=1) as packed:
        for _ in range(MOST_BYTES // 10**7 + 1):
            packed.write(b"1" * 10**7)
    result = contract("infer", sample)
    assert result.exit_code == 2
    assert "100MB are allowed of a sample" in result.output


def test_a_file_that_keeps_the_contract_passes(tmp_path: Path, rules: Path) -> None:
    result = contract("check", landed(tmp_path, "a.csv", "id,seats\na,1\n"), "--contract", rules)
    assert (result.exit_code, result.output.splitlines()[0]) == (0, f"accepted  {tmp_path / 'a.csv'}: 1 rows")


def test_what_a_contract_alone_does_not_judge_is_said(tmp_path: Path, rules: Path) -> None:
    file = landed(tmp_path, "a.csv", "id,seats\na,1\na,2\n")
    result = contract("check", file, "--contract", rules)
    assert "not judged: partitions, lateness, repeated ids, what landed before" in result.output
    (found,) = json.loads(contract("check", file, "--contract", rules, "--json").output)
    assert found["not_judged"] == ["partitions", "lateness", "repeated ids", "what landed before"]


def test_files_that_are_not_there_are_told_with_the_others(tmp_path: Path, rules: Path) -> None:
    good, gone = landed(tmp_path, "good.csv", "id,seats\na,1\n"), tmp_path / "gone.csv"
    result = contract("check", gone, tmp_path, good, "--contract", rules)
    assert result.exit_code == 2
    assert f"refused   There is no file {gone}." in result.output
    assert f"refused   There is no file {tmp_path}." in result.output
    assert f"accepted  {good}: 1 rows" in result.output
    found = json.loads(contract("check", gone, good, "--contract", rules, "--json").output)
    assert [(one["file"], one["accepted"]) for one in found] == [(str(gone), False), (str(good), True)]


def test_rejected_rows_are_told_and_fail_a_strict_check(tmp_path: Path, rules: Path) -> None:
    file = landed(tmp_path, "a.csv", "id,seats\na,1\nb,0\nc,x\nd,0\n")
    result = contract("check", file, "--contract", rules)
    assert result.exit_code == 0, result.output
    assert "1 rows, 3 rejected" in result.output
    assert "seats is at least 1 fails in 2 rows, first in row 1, such as '0'" in result.output
    assert "seats is int fails in 1 rows, first in row 2, such as 'x'" in result.output
    assert contract("check", file, "--contract", rules, "--strict").exit_code == 1


@pytest.mark.parametrize("reject_rows_allowed", [0, 10])
def test_a_check_tells_no_value_of_a_sensitive_column(tmp_path: Path, reject_rows_allowed: int) -> None:
    text = (
        CONTRACT.replace("min: 1", "min: 1, sensitive: true")
        + f"reject_rows_allowed: {reject_rows_allowed}\n"
    )
    rules = landed(tmp_path, "sensitive.yaml", text)
    lines = '{"id": "a", "seats": -4711}\n{"id": "b", "seats": "Jane"}\n{"Doe": 1, "Doe": 2}\n'
    file = landed(tmp_path, "a.jsonl", lines)
    for arguments in ((), ("--json",)):
        output = contract("check", file, "--contract", rules, *arguments).output
        assert "seats" in output
        assert not [value for value in ("4711", "Jane", "Doe") if value in output]


def test_files_that_would_be_refused_fail_the_check_and_are_all_told(tmp_path: Path, rules: Path) -> None:
    good = landed(tmp_path, "good.csv", "id,seats\na,1\n")
    lacking = landed(tmp_path, "lacking.csv", "id\na\n")
    broken = landed(tmp_path, "broken.parquet", "no parquet")
    result = contract("check", good, lacking, broken, "--contract", rules, "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert [one["accepted"] for one in found] == [True, False, False]
    assert "has no column seats" in found[1]["why"]
    assert "cannot be read" in found[2]["why"]
    assert "refused   " in contract("check", broken, "--contract", rules).output


def test_what_is_asked_for_wrongly_is_the_users(tmp_path: Path, rules: Path) -> None:
    file = landed(tmp_path, "a.csv", "id,seats\na,1\n")
    for arguments, said in [
        ((file, "--contract", rules, "--pipeline", "p"), "not both"),
        ((file, "--contract", rules, "--stream", "weather"), "no stream 'weather'"),
        ((tmp_path / "none.csv", "--contract", rules), "There is no file"),
        ((), "Missing argument"),
    ]:
        result = contract("check", *arguments)
        assert result.exit_code == 2, result.output
        assert said in result.output


def test_breaking_changes_fail_the_diff_and_name_what_reads_the_column(tmp_path: Path, rules: Path) -> None:
    new = landed(tmp_path, "new.yaml", CONTRACT.replace("min: 1", "min: 2"))
    result = contract("diff", rules, new)
    assert result.exit_code == 1
    assert "breaks producers             events.seats: min was 1 and is 2" in result.output
    assert contract("diff", rules, rules).exit_code == 0
    sensitive = landed(tmp_path, "sensitive.yaml", CONTRACT.replace("min: 1", "min: 1, sensitive: true"))
    assert contract("diff", rules, sensitive).exit_code == 0


def test_a_diff_for_a_pipeline_names_its_readers(tmp_path: Path) -> None:
    real = load_pipeline("flight_delays")
    old = real.path.parent / "contract.yaml"
    new = landed(tmp_path, "new.yaml", old.read_text().replace("max: 10000, unit: mi", "max: 9000, unit: mi"))
    result = contract("diff", old, new, "--pipeline", "flight_delays", "--json")
    (found,) = json.loads(result.output)
    assert (found["column"], found["dependents"]) == (
        "distance",
        ["feature distance", "feature scheduled_speed"],
    )


def test_a_check_for_a_pipeline_rejects_what_it_would_quarantine(tmp_path: Path) -> None:
    """Every flight of a day, a thousand days too early, half of them with ids of other flights."""
    rows = Flights().rows("events", datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 2, tzinfo=UTC))
    other = set_column(rows, "distance", pa.array([7] * rows.num_rows, rows.schema.field("distance").type))
    good, twice, early = tmp_path / "good.parquet", tmp_path / "twice.parquet", tmp_path / "early.parquet"
    pq.write_table(rows, good)
    pq.write_table(pa.concat_tables([rows, other]), twice)
    time = pc.subtract(rows["scheduled_departure"], pa.scalar(timedelta(days=1000)))
    pq.write_table(set_column(rows, "scheduled_departure", time), early)

    def checked(*files: Path) -> list[dict[str, Any]]:
        arguments = ("check", *files, "--pipeline", "flight_delays", "--strict", "--json")
        result = contract(*arguments)
        found: list[dict[str, Any]] = json.loads(result.output)
        assert result.exit_code == int(any(one["rejected_rows"] for one in found))
        place = Home.create(tmp_path / f"{len(files)}{files[0].stem}").pipeline(
            load_pipeline("flight_delays")
        )
        place.prepare()
        folder = place.landing("events") / "2013-01-02"
        folder.mkdir()
        for file in files:
            (folder / file.name).write_bytes(file.read_bytes())
        taking.register_landed(place)
        taken = taking.take_events(place, [])
        counts = [(one.accepted, one.quarantined, one.duplicates) for one in taken.files]
        told = [(one["accepted_rows"], one["rejected_rows"], one["duplicate_rows"]) for one in found]
        assert tuple(map(sum, zip(*told, strict=True))) == tuple(map(sum, zip(*counts, strict=True)))
        return found

    half = rows.num_rows
    ((conflict,),) = [one["reasons"] for one in checked(twice)]
    assert conflict["rule"] == "contradicts no other row with this event_id"
    assert (conflict["column"], conflict["rows"]) == ("event_id", half)
    ((outside,),) = [one["reasons"] for one in checked(early)]
    assert outside["rule"] == "is from 2013-01-01 to before 2014-01-02"
    assert (outside["column"], outside["rows"], outside["value"][:4]) == ("scheduled_departure", half, "2010")
    assert any(one["duplicate_rows"] for one in checked(good, twice))


def set_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, name, values.cast(table.schema.field(name).type))


@pytest.mark.parametrize("stream", ["events", "labels", "weather"])
def test_a_draft_checks_the_sample_it_was_drafted_from(tmp_path: Path, stream: str) -> None:
    sample, rules = tmp_path / "sample.csv", tmp_path / "contract.yaml"
    sample.write_text("no,yes\n1,a\n2,b\n")
    rules.write_text(contract("infer", sample, "--stream", stream).output)
    result = contract("check", sample, "--contract", rules, "--stream", stream)
    assert result.exit_code == 0, result.output
    other = contract("check", sample, "--contract", rules, "--stream", "prices")
    assert other.exit_code == 2
