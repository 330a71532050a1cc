"""The contract's own rules, and messages that name the line."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

import mlops_pipelines
from mlops_pipelines.errors import UserError
from mlops_pipelines.ingest.contract import ColumnRule, Contract, load_contract

GOOD = """
events:
  columns:
    event_id: {type: string, pattern: '[a-z]+'}
    at: {type: timestamp, min: 2013-01-01T00:00:00Z}
labels:
  columns:
    event_id: {type: string}
    late: {type: bool}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "contract.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        load_contract(written(folder, text))
    return caught.value.message


def test_a_contract_is_read_with_its_defaults(tmp_path: Path) -> None:
    contract = load_contract(written(tmp_path, GOOD))
    assert contract.streams == ("events", "labels")
    assert contract.reject_share_halts == 0.10
    assert contract.columns_of("events")["at"].min == datetime(2013, 1, 1, tzinfo=UTC)
    assert not contract.columns_of("labels")["late"].nullable


def test_every_shipped_contract_is_valid() -> None:
    shipped = list(Path(mlops_pipelines.__file__).parent.glob("pipelines/*/contract.yaml"))
    assert shipped
    for path in shipped:
        assert isinstance(load_contract(path), Contract)


def test_every_problem_is_listed_with_its_line(tmp_path: Path) -> None:
    message = problems(
        tmp_path,
        """
events:
  columns:
    size: {type: integer}
    name: {type: string, min: 3}
labels:
  columns: {late: {type: bool}}
  rows: 3
""",
    )
    path = tmp_path / "contract.yaml"
    assert f"{path}:4:18 events.columns.size.type" in message
    assert f"{path}:5:" in message
    assert "min and max are for int, float and timestamp, not for string" in message
    assert "labels.rows" in message


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    message = problems(tmp_path, GOOD + "    late: {type: int}\n")
    assert "labels.columns.late" in message
    assert ":10:5 " in message


@pytest.mark.parametrize("text", ["events: [1, 2", "", "- 1", "events: \x00"])
def test_what_is_not_a_contract_is_refused(tmp_path: Path, text: str) -> None:
    assert str(tmp_path / "contract.yaml") in problems(tmp_path, text)


def test_a_missing_contract_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml"):
        load_contract(tmp_path / "nothing.yaml")


def test_columns_that_the_intake_writes_are_refused(tmp_path: Path) -> None:
    assert "file_row" in problems(tmp_path, GOOD.replace("at:", "file_row:"))


def test_a_reference_cannot_be_called_events(tmp_path: Path) -> None:
    text = GOOD + "references:\n  events:\n    columns: {a: {type: int}}\n"
    assert "a reference cannot be called events" in problems(tmp_path, text)


def test_an_unknown_stream_is_refused_with_those_there_are(tmp_path: Path) -> None:
    contract = load_contract(written(tmp_path, GOOD))
    with pytest.raises(UserError, match="events, labels"):
        contract.columns_of("weather")


@pytest.mark.parametrize(
    "rule",
    [
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "(?i)abc"},
        {"type": "string", "pattern": "a)(?:b"},
        {"type": "int", "pattern": "a"},
        {"type": "int", "min": 3, "max": 2},
        {"type": "int", "min": datetime(2013, 1, 1, tzinfo=UTC)},
        {"type": "timestamp", "min": 3},
        {"type": "float", "min": float("inf")},
        {"type": "float", "min": "soon"},
        {"type": "float", "one_of": [1, 2]},
        {"type": "int", "one_of": ["a"]},
        {"type": "int", "one_of": [True, 0]},
        {"type": "int", "max": True},
        {"type": "bool", "max": 1},
        {"type": "datetime"},
        {"type": "string", "nullabel": True},
    ],
)
def test_rules_that_cannot_be_judged_are_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ColumnRule.model_validate(rule)


def test_a_bound_without_a_zone_is_utc() -> None:
    rule = ColumnRule.model_validate({"type": "timestamp", "min": "2013-01-01T02:00:00"})
    assert rule.min == datetime(2013, 1, 1, 2, tzinfo=UTC)
    rule = ColumnRule.model_validate({"type": "timestamp", "min": "2013-01-01T02:00:00+02:00"})
    assert rule.min == datetime(2013, 1, 1, tzinfo=UTC)


def test_a_column_that_the_intake_writes_is_refused_with_all_of_them_and_what_helps(tmp_path: Path) -> None:
    text = GOOD + "references:\n  r: {columns: {known_at: {type: timestamp}}}\n"
    with pytest.raises(UserError) as refused:
        load_contract(written(tmp_path, text))
    assert "reserved: day, file_digest, file_row, known_at" in refused.value.message
    assert "leave them out, or rename them in the files" in refused.value.message
    assert refused.value.remedy == "docs/contract.md, which describes every rule"
