"""A drafted contract takes in the sample it was drafted from."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.errors import UserError
from mlops_pipelines.ingest.contract import RESERVED_COLUMNS, Contract, load_contract
from mlops_pipelines.ingest.drafting import LONGEST_VALUE, draft
from mlops_pipelines.ingest.judging import Judged, judge
from mlops_pipelines.ingest.landing import LandedTable, read_file

LABELS = {"labels": {"columns": {"late": {"type": "bool"}}}}


def drafted(path: Path, stream: str = "events") -> Contract:
    return Contract.model_validate({**LABELS, **yaml.safe_load(draft(read_file(path), stream))})


def types(path: Path) -> dict[str, str]:
    return {name: rule.type for name, rule in drafted(path).events.columns.items()}


def test_texts_are_taken_as_what_all_of_a_column_is(tmp_path: Path) -> None:
    sample = tmp_path / "a.csv"
    sample.write_text(
        "n,x,flag,at,name,mixed\n1,1.5,true,2013-01-01T00:00,AA,1\n,2,false,2013-01-02 00:00,B,x\n"
    )
    assert types(sample) == {
        "n": "int", "x": "float", "flag": "bool", "at": "timestamp", "name": "string", "mixed": "string",
    }  # fmt: skip
    assert drafted(sample).events.columns["n"].nullable
    assert not drafted(sample).events.columns["x"].nullable


def test_typed_values_keep_their_type(tmp_path: Path) -> None:
    table = pa.table(
        {
            "whole": pa.array([1.0, 2.0]),
            "text": ["1", "2"],
            "flag": [True, False],
            "kind": pa.array(["a", "b"]).dictionary_encode(),
            "at": pa.array([0, 1], pa.timestamp("ms")),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert types(tmp_path / "a.parquet") == {
        "whole": "float", "text": "string", "flag": "bool", "kind": "string", "at": "timestamp",
    }  # fmt: skip


def test_a_column_of_few_values_lists_them_and_one_of_many_does_not(tmp_path: Path) -> None:
    rows = "".join(f"{'EWR' if n % 2 else 'JFK'},N{n}\n" for n in range(100))
    (tmp_path / "a.csv").write_text(f"origin,tail\n{rows}")
    columns = drafted(tmp_path / "a.csv").events.columns
    assert (columns["origin"].one_of, columns["tail"].one_of) == (("EWR", "JFK"), ())


def test_what_cannot_be_in_a_contract_is_named(tmp_path: Path) -> None:
    table = pa.table({"ok": [1], "two words": [1], "day": ["x"], "nested": [[1]], "empty": pa.nulls(1)})
    pq.write_table(table, tmp_path / "a.parquet")
    text = draft(read_file(tmp_path / "a.parquet"), "weather")
    assert list(yaml.safe_load(text)["references"]["weather"]["columns"]) == ["ok"]
    for name in ("'two words' is no name", "'day' is no name", "nested is list", "empty is null, or empty"):
        assert f"# {name}" in text


def test_a_sample_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(UserError, match="no rows to draft"):
        draft(read_file(tmp_path / "a.csv"), "events")


def loaded_again(folder: Path, sample: LandedTable, stream: str = "events") -> Contract:
    """The draft as a contract file, completed with the streams that it lacks."""
    text = draft(sample, stream)
    others = {"events", "labels"} - {stream}
    text += "".join(f"{other}: {{columns: {{id: {{type: string}}}}}}\n" for other in sorted(others))
    (folder / "contract.yaml").write_text(text, "utf-8")
    return load_contract(folder / "contract.yaml")


def sample_of(columns: dict[str, list[str]], name: str = "a.csv") -> LandedTable:
    rows = len(next(iter(columns.values())))
    return LandedTable(Path(name), "", pa.table(columns), range(rows))


@pytest.mark.parametrize("name", ["no", "null", "true", "on", "y", "Off", "NULL", "_"])
def test_columns_and_streams_called_like_words_of_yaml_are_names(tmp_path: Path, name: str) -> None:
    sample = sample_of({name: ["a"]})
    assert list(loaded_again(tmp_path, sample).events.columns) == [name]
    if name.islower() and name.isalpha():
        assert list(loaded_again(tmp_path, sample, name).references) == [name]


@pytest.mark.parametrize("name", ["a\nb: [.csv", "\x07.csv", "\u2028x.csv", "#.csv"])
def test_a_file_of_any_name_is_drafted_from(tmp_path: Path, name: str) -> None:
    assert list(loaded_again(tmp_path, sample_of({"x": ["1"]}, name)).events.columns) == ["x"]


def test_a_type_of_any_name_stays_in_its_comment(tmp_path: Path) -> None:
    inner = pa.array([{"a\nb: [": 1, "c" * 1000: 2}])
    sample = LandedTable(Path("a.parquet"), "", pa.table({"ok": [1], "nested": inner}), range(1))
    assert list(loaded_again(tmp_path, sample).events.columns) == ["ok"]
    assert max(map(len, draft(sample, "events").splitlines())) < 200


@pytest.mark.parametrize("stream", ["x: [", "", "Weather", "a\n", "1"])
def test_what_is_no_name_of_a_stream_is_refused(stream: str) -> None:
    with pytest.raises(UserError, match="no name of a stream"):
        draft(sample_of({"x": ["1"]}), stream)


def test_a_sample_without_a_column_for_a_contract_is_refused() -> None:
    with pytest.raises(UserError, match="no column that can be in a contract") as refused:
        draft(sample_of({"two words": ["1"], "day": ["1"]}), "events")
    assert "'two words' is no name" in refused.value.message


def test_long_texts_are_no_values_of_a_list(tmp_path: Path) -> None:
    text = draft(sample_of({"x": ["1"], "y": ["a" * 10**6]}), "events")
    assert "one_of" not in text
    assert len(text) < 500
    many = sample_of({"y": ["a" * LONGEST_VALUE] * 20, "z": ["b" * (LONGEST_VALUE + 1)] * 20})
    columns = loaded_again(tmp_path, many).events.columns
    assert (len(columns["y"].one_of), len(columns["z"].one_of)) == (1, 0)


NAMES = (
    st.text(max_size=8) | st.from_regex(r"\A[A-Za-z_]{1,5}\Z") | st.sampled_from(["no", "NO", "null", "on"])
)
WORDS = st.text(max_size=70) | st.sampled_from(
    ["no", "~", "1", "2013-01-01", "1e5", "a: b", "#", "'", '"', "="]
)


@given(st.dictionaries(NAMES, WORDS, min_size=1, max_size=5), NAMES)
def test_the_draft_loads_again_whatever_columns_and_values_are_called(
    values: dict[str, str], name: str
) -> None:
    # Each value twenty times, so that it is listed.
    sample = sample_of(
        {column: [value] * 20 for column, value in {**values, "ok": "x"}.items()}, f"{name}.csv"
    )
    with TemporaryDirectory() as folder:
        columns = loaded_again(Path(folder), sample).events.columns
    assert columns["ok"].one_of == ("x",)
    for column, rule in columns.items():
        assert rule.one_of in ((), ({**values, "ok": "x"}[column],))
    expected = [
        column
        for column in sample.table.column_names
        if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", column) and column not in RESERVED_COLUMNS
    ]
    assert list(columns) == expected


VALUES = (
    st.none() | st.text(max_size=8) | st.integers().map(str) | st.floats().map(str) | st.booleans().map(str)
)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=30))
def test_the_draft_takes_in_every_row_of_its_sample(rows: list[tuple[str | None, str | None]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("a", "b", "c"), *((a or "", b or "", "1") for a, b in rows)])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_text(text.getvalue(), encoding="utf-8", newline="")
        sample = read_file(path)
        (judged,) = judge([sample], drafted(path), "events")
    assert isinstance(judged, Judged)
    assert judged.accepted.num_rows == sample.rows


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("customer_name", ["Max M", "Eva E"]),
        ("password", ["hunter2", "hunter2"]),
        ("date_of_birth", ["1980-01-01", "1990-01-01"]),
        ("x", ["a@example.org", "b@example.org"]),
        ("y", ["DE10 5559 1459 0000", "FR76 3000 6000 01"]),
        ("z", ["10.0.0.1", "192.168.0.1"]),
        ("phone", ["4917", "4918"]),
    ],
)
def test_what_seems_to_be_about_a_person_is_sensitive_and_not_told(
    tmp_path: Path, name: str, values: list[str]
) -> None:
    sample = tmp_path / "a.csv"
    with sample.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["n", name], *([place, value] for place, value in enumerate(values * 25))]
        )
    text = draft(read_file(sample), "events")
    assert drafted(sample).sensitive_columns("events") == {name}
    assert not [value for value in values if value in text]


def test_what_is_not_about_a_person_is_not_sensitive(tmp_path: Path) -> None:
    sample = tmp_path / "a.csv"
    sample.write_text("tailnum,shipping,zip,rename,version\nN1,fast,00501,x,1.2.3\n")
    assert drafted(sample).sensitive_columns("events") == frozenset()
