"""The reference of the fields says what the code says, and what it shows works."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.features.sets import feature_set
from mlops_pipelines.spec_loading import load_spec
from mlops_pipelines.spec_reference import PAGE, SCHEMA, reference, schema_text, with_reference

if TYPE_CHECKING:
    from pathlib import Path

TEXT = PAGE.read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
DEFS, CONTRACT, PROBLEMS = [text for language, text in BLOCKS if language in ("", "yaml")][:3]


def written(tmp_path: Path, defs: str) -> Path:
    (tmp_path / "contract.yaml").write_text(CONTRACT)
    path = tmp_path / "defs.yaml"
    path.write_text(defs)
    return path


def test_the_page_and_the_schema_are_up_to_date() -> None:
    assert with_reference(TEXT) == TEXT, "run python -m mlops_pipelines.spec_reference"
    assert SCHEMA.read_text("utf-8") == schema_text(), "run python -m mlops_pipelines.spec_reference"


def test_every_part_and_field_is_in_the_reference() -> None:
    made = reference()
    assert "### `features.views[]`" in made
    assert "### `references.NAME`" in made
    assert "| `windows` | list: duration | – | Whole hours;" in made
    assert "| `start` | day | **needed** | First partition. |" in made
    assert "| `bytes` | size | `64MB` |" in made
    assert "| `skill` | mapping, below | off |" in made


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(TerminalError, match="has lost its marks"):
        with_reference("# Nothing\n")


def test_the_example_loads_and_gives_the_features_it_says(tmp_path: Path) -> None:
    loaded = load_spec(written(tmp_path, DEFS))
    names = [column.name for column in feature_set(loaded.spec, loaded.contract).columns]
    assert "customer_returned_mean_30d" in names
    assert "`customer_returned_mean_30d`" in TEXT


def test_the_problems_shown_are_those_of_the_example_with_two_mistakes(tmp_path: Path) -> None:
    defs = DEFS.replace("value: returned", "value: return").replace("[30d, 180d]", "[30d, 90m]")
    path = written(tmp_path, defs)
    with pytest.raises(UserError) as refused:
        load_spec(path)
    assert refused.value.message.replace(str(path), "pipelines/returns/defs.yaml") + "\n" == PROBLEMS
