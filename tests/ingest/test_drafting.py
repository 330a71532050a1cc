"""A drafted contract takes in the sample it was drafted from."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.errors import UserError
from mlops_pipelines.ingest.contract import Contract
from mlops_pipelines.ingest.drafting import draft
from mlops_pipelines.ingest.judging import Judged, judge
from mlops_pipelines.ingest.landing import read_file

if TYPE_CHECKING:
    from pathlib import Path

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


VALUES = (
    st.none() | st.text(max_size=8) | st.integers().map(str) | st.floats().map(str) | st.booleans().map(str)
)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=30))
def test_the_draft_takes_in_every_row_of_its_sample(rows: list[tuple[str | None, str | None]]) -> None:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    text = io.StringIO()
    csv.writer(text).writerows([("a", "b", "c"), *((a or "", b or "", "1") for a, b in rows)])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_text(text.getvalue(), encoding="utf-8", newline="")
        sample = read_file(path)
        (judged,) = judge([sample], drafted(path), "events")
    assert isinstance(judged, Judged)
    assert judged.accepted.num_rows == sample.rows
