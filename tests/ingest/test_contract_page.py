"""The page on the contract: every rule has an example there, and each is judged as the page says."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pydantic import BaseModel

from mlops_pipelines.ingest.contract import ColumnRule, Contract, FileRules, RowRule, load_contract
from mlops_pipelines.ingest.judging import BadBatchError, judge
from mlops_pipelines.ingest.landing import UnreadableFileError, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_pipelines.ingest.judging import Judged

PAGE = (Path(__file__).parents[2] / "docs" / "contract.md").read_text("utf-8")
LANDED = datetime(2020, 1, 3, tzinfo=UTC)
NUMBER = {"type": "int", "nullable": True}
# What a row or a file is told that breaks a rule. Who reads the page does not need it.
TOLD = {
    "type": "x is {type}",
    "nullable": "x is present",
    "min": "x is at least 1",
    "max": "x is at most 2020-01-31",
    "one_of": "x is one of web, shop",
    "pattern": "x matches [A-Z]",
    "sensitive": "x is at least 1",
    "on_fail": "x is at least 1",
    "rows.holds": "keeps more: b > a",
    "rows.on_fail": "keeps more: b > a",
    "batch.missing_at_most": "at most 50.00% of x is missing",
    "batch.others_at_most": "at most 50.00% of x is none of 1, 2",
    "batch.distinct_at_least": "at least 50.00% of x is distinct",
    "batch.mean": "the mean of x is at least 2 and at most 5",
    "batch.median": "the median of x is at least 2 and at most 5",
    "batch.std": "the std of x is at least 1 and at most 5",
    "file.rows": "the file has at least 1 and at most 2 rows",
    "file.fresh": "the latest x is at least 2020-01-01",
    "reject_share_halts": "2 of 3 rows break the contract",
    "reject_rows_allowed": "2 of 2 rows break the contract",
    "file_size_halts": "20B are allowed",
}
FOR_PEOPLE = {"unit", "description"}


@dataclass(frozen=True)
class Example:
    """A line of a table. passes, fails: JSON as it stands there."""

    section: str
    rule: str
    written: str
    passes: tuple[str, ...]
    fails: tuple[str, ...]

    @property
    def data(self) -> dict[str, Any]:
        """The contract's streams and figures that the example changes."""
        data: dict[str, Any] = yaml.safe_load(self.written)
        if "type" in data:
            return {"events": {"columns": {"x": data}}}
        if "rows" in data:
            return {"events": {"columns": {"a": NUMBER, "b": NUMBER}, **data}}
        if "file" in data:
            kind = "timestamp" if "fresh" in data["file"] else "int"
            return {"events": {"columns": {"x": {"type": kind}}, **data}}
        return {"events": {"columns": {"x": {"type": "int", "min": 1}}}, **data}

    @property
    def refuses(self) -> bool:
        """Whether what fails refuses its file, rather than rejecting its row."""
        return self.section == "Of a file" or "on_fail: halt" in self.written

    @property
    def lets_rejects_pass(self) -> bool:
        return self.rule.startswith("reject_")


def examples() -> Iterator[Example]:
    for section in PAGE.split("\n## ")[1:]:
        for line in section.splitlines():
            if line.startswith("| `"):
                rule, _, example, passes, fails = (
                    tuple(re.findall(r"`([^`]+)`", cell)) for cell in line.split("|")[1:-1]
                )
                yield Example(section.partition("\n")[0], rule[0], example[0], passes, fails)


EXAMPLES = list(examples())


def verdicts(example: Example, files: tuple[str, ...], folder: Path) -> list[Judged | Exception]:
    """What becomes of each of the values, in a file of its own."""
    labels = {"columns": {"late": {"type": "bool"}}}
    contract = Contract.model_validate({"labels": labels, **example.data})
    found: list[Judged | Exception] = []
    for place, written in enumerate(files):
        value = json.loads(written)
        rows = value if isinstance(value, list) else [value]
        path = folder / f"{place}.jsonl"
        lines = (json.dumps(row if isinstance(row, dict) else {"x": row}) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines))
        try:
            table = read_file(path, contract.file_size_halts)
        except UnreadableFileError as error:
            found.append(error)
        else:
            found += judge([table], contract, "events", landed_at=[LANDED])
    return found


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.rule} {example.written}")
def test_an_example_is_judged_as_the_page_says(example: Example, tmp_path: Path) -> None:
    assert example.passes
    for written, verdict in zip(example.passes, verdicts(example, example.passes, tmp_path), strict=True):
        assert not isinstance(verdict, Exception), f"{written}: {verdict}"
        assert example.lets_rejects_pass or not verdict.rejected, written
    for written, verdict in zip(example.fails, verdicts(example, example.fails, tmp_path), strict=True):
        if example.refuses:
            assert isinstance(verdict, BadBatchError | UnreadableFileError), written
            told = {str(verdict)}
        else:
            assert not isinstance(verdict, Exception), f"{written}: {verdict}"
            assert len(verdict.rejected) == 1, written
            reasons = verdict.rejected[0].reasons
            told = {f"{one.column} {one.rule}" if one.column else one.rule for one in reasons}
        (why,) = told
        columns = example.data["events"]["columns"]
        assert TOLD[example.rule].format(**columns.get("x", {})) in why, written


def leaves(model: type[BaseModel]) -> Iterator[str]:
    """The fields below a model that hold no further model, as dotted paths."""
    for name, field in model.model_fields.items():
        inner = next((one for one in parts(field.annotation) if issubclass(one, BaseModel)), None)
        yield from (f"{name}.{leaf}" for leaf in leaves(inner)) if inner else [name]


def parts(annotation: Any) -> Iterator[type]:
    """The classes that an annotation such as `Bounds | None` is made of."""
    for one in getattr(annotation, "__args__", (annotation,)):
        if isinstance(one, type):
            yield one


def given(data: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of what is written."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield from given(value, f"{path}.{name}" if path else name)
    else:
        yield path


def rules_of(example: Example) -> Iterator[str]:
    """The rules that an example uses, without the names of columns and rules."""
    events = example.data["events"]
    for rule in events["columns"].values():
        yield from given(rule)
    for rule in events.get("rows", {}).values():
        yield from given(rule, "rows")
    yield from given(events.get("file", {}), "file")
    yield from (name for name in example.data if name != "events")


def test_no_rule_lacks_an_example() -> None:
    streams = {"events", "labels", "references"}
    declared = {
        *leaves(ColumnRule),
        *(f"rows.{leaf}" for leaf in leaves(RowRule)),
        *(f"file.{leaf}" for leaf in leaves(FileRules)),
        *(name for name in Contract.model_fields if name not in streams),
    }
    shown = {
        path
        for example in EXAMPLES
        for path in rules_of(example)
        if path == example.rule or path.startswith(f"{example.rule}.")
    }
    assert shown == declared
    fail = {example.rule for example in EXAMPLES if example.fails}
    assert {example.rule for example in EXAMPLES} - fail == FOR_PEOPLE


def test_both_bounds_of_a_figure_have_a_file_that_breaks_them() -> None:
    for example in EXAMPLES:
        if "min: " in example.written and "max: " in example.written:
            assert len(example.fails) == 2, example.written


def test_the_contract_on_the_page_loads(tmp_path: Path) -> None:
    text = PAGE.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "contract.yaml").write_text(text, "utf-8")
    assert load_contract(tmp_path / "contract.yaml").file_size_halts == 200_000_000
