"""YAML that knows its lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlops_pipelines.errors import UserError
from mlops_pipelines.yaml_source import read_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.yaml_source import YamlSource


def source_of(tmp_path: Path, text: str) -> YamlSource:
    path = tmp_path / "defs.yaml"
    path.write_text(text)
    return read_yaml(path)


def test_every_part_has_the_line_and_column_of_key_and_value(tmp_path: Path) -> None:
    source = source_of(tmp_path, "a:\n  b: [1, {c: 2}]\n  d: x\n")
    assert source.data == {"a": {"b": [1, {"c": 2}], "d": "x"}}
    assert source.marks["a", "b"].key == (2, 3)
    assert source.marks["a", "b"].value == (2, 6)
    assert source.marks["a", "b", 1, "c"].key == (2, 11)
    assert source.marks["a", "d"].value == (3, 6)
    assert source.scalars["a", "b", 1, "c"] == "2"


def test_a_problem_stands_at_the_value_or_the_key_or_the_nearest_part_above(tmp_path: Path) -> None:
    source = source_of(tmp_path, "a:\n  b: [1, 2]\n")
    assert str(source.problem(("a", "b", 1), "no")) == f"{source.path}:2:10 a.b.1: no"
    assert str(source.problem(("a", "b"), "no", at_key=True)) == f"{source.path}:2:3 a.b: no"
    assert str(source.problem(("a", "c", "d"), "no")) == f"{source.path}:1:1 a.c.d: no"
    assert str(source.problem((), "no")) == f"{source.path}:1:1 no"


def test_dates_stay_texts(tmp_path: Path) -> None:
    data = source_of(tmp_path, "a: 2013-01-01\nb: 2013-01-01 10:00:00\nc: 12\n").data
    assert data == {"a": "2013-01-01", "b": "2013-01-01 10:00:00", "c": 12}


def test_a_key_that_stands_twice_is_found_at_any_depth(tmp_path: Path) -> None:
    source = source_of(tmp_path, "a: 1\nb:\n  - {c: 1, c: 2}\na: 2\n")
    assert [str(problem) for problem in source.repeated] == [
        f"{source.path}:3:12 b.0.c: the key stands twice; first in line 3",
        f"{source.path}:4:1 a: the key stands twice; first in line 1",
    ]


def test_anchors_and_merged_mappings_are_read(tmp_path: Path) -> None:
    source = source_of(tmp_path, "a: &x {n: 1, m: 1}\nb: {<<: *x, n: 2}\nc: *x\n")
    assert source.data == {"a": {"n": 1, "m": 1}, "b": {"n": 2, "m": 1}, "c": {"n": 1, "m": 1}}
    assert source.repeated == ()
    assert source.problem(("b", "m"), "no").line == 2
    assert source.problem(("c", "m"), "no").line == 3


def test_an_anchor_that_holds_itself_does_not_hang(tmp_path: Path) -> None:
    source = source_of(tmp_path, "a: &x {b: *x}\n")
    assert source.data["a"]["b"] is source.data["a"]


def test_aliases_of_aliases_are_walked_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    assert len(source_of(tmp_path, "\n".join(lines)).marks) < 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1,\nb: 2\n", r"defs\.yaml:3:1 not YAML: "),
        (b"a: 1\n\tb: 2\n", r"defs\.yaml:2:\d+ not YAML: "),
        (b"a: !!python/object:os.system {}\n", r"defs\.yaml:1:4 not YAML: could not determine a constructor"),
        (b"? [1]\n: 2\n", r"defs\.yaml:1:3 not YAML: found unhashable key"),
        (b"a: 1\n---\nb: 2\n", r"defs\.yaml:2:1 not YAML: but found another document"),
        (b"", r"defs\.yaml:1:1 the file is empty"),
        (b"# nothing\n", r"defs\.yaml:1:1 the file is empty"),
        (b"a: \xff\n", r"defs\.yaml: not text in UTF-8, at byte 3"),
        (b"a: \x01\n", r"defs\.yaml: not YAML: "),
    ],
)
def test_what_is_not_one_yaml_document_is_refused_with_its_place(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "defs.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_yaml(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "defs.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(path).data == {"a": 1}
