"""A draft of a stream's rules from a sample: what the sample shows, for a person to judge."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml

from mlops_pipelines.errors import UserError
from mlops_pipelines.ingest.contract import RESERVED_COLUMNS
from mlops_pipelines.ingest.judging import readable_as

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from mlops_pipelines.ingest.contract import ColumnType
    from mlops_pipelines.ingest.landing import LandedTable

# A text is taken as one of a few when it has at most so many values, each twenty times on average.
MOST_VALUES = 20
_ROWS_A_VALUE = 20
# A longer text is prose, or rubbish, and no value of a list.
LONGEST_VALUE = 64
# What a text is taken as, the first that fits all of a column: 0 and 1 are more often a count than a flag.
_OF_TEXT: tuple[ColumnType, ...] = ("int", "float", "bool", "timestamp", "string")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_STREAM = re.compile(r"[a-z][a-z0-9_]{0,62}")
# Names, and texts, of what is nobody else's business; a person takes away `sensitive` where it is not so.
_PERSONAL_NAME = re.compile(
    r"(?:^|_)(?:e?mail|phone|mobile|fax|iban|ssn|passport|pass(?:word|wd)?|pwd|secret|token|(?:api|private)_?key"
    r"|(?:first|last|full|family|given|customer|client|user|person|patient|employee|contact)_?name|name|surname"
    r"|address|street|birth(?:day|date)?|dob|ip|card|account|licen[cs]e|contact|latitude|longitude)(?:_|$)",
    re.IGNORECASE,
)
_PERSONAL_TEXT = re.compile(
    r"[^@\s]+@[^@\s]+\.[^@\s]+|[A-Z]{2}\d{2}[A-Z0-9 ]{8,30}|\d{1,3}(?:\.\d{1,3}){3}"
    r"|\d{3}-\d{2}-\d{4}|\+\d[\d /-]{6,}"
)
_SHOWN = 80  # of a name or a type in a comment


def draft(sample: LandedTable, stream: str) -> str:
    """Contract rules, in YAML, that every row of the sample keeps. Pure.

    Types, and whether values are missing, are what the sample shows. Bounds are not set: what was seen
    stands beside each column, but for those that seem to be about a person, or secret: these are sensitive,
    and none of their values is told. A column that cannot be in a contract is named in a comment.
    Raises UserError if the sample has no rows, or no column that can be in a contract, or if the stream's
    name is none.
    """
    if not _STREAM.fullmatch(stream):
        raise UserError(
            f"{stream!r} is no name of a stream.",
            expected="events, labels, or a lower-case letter, then lower-case letters, digits and _",
        )
    if not sample.table.num_rows:
        raise UserError(f"{sample.path} has no rows to draft a contract from.")
    text = not sample.path.name.endswith(".parquet")
    columns = list(_columns(sample.table, text=text))
    if all(line.startswith("#") for line in columns):
        raise UserError(
            "\n".join([f"{sample.path} has no column that can be in a contract:", *columns]),
            expected="a column of texts, numbers, flags or timestamps, called by letters, digits and _",
        )
    lines = [
        f"# Drafted from {_on_a_line(sample.path.name)}, {sample.rows:,} rows: "
        "a sample does not know what may come."
    ]
    places = [stream] if stream in ("events", "labels") else ["references", _scalar(stream)]
    lines += [f"{'  ' * depth}{place}:" for depth, place in enumerate([*places, "columns"])]
    indent = "  " * (len(places) + 1)
    lines += [f"{indent}{line}" for line in columns]
    return "\n".join(lines) + "\n"


def _columns(table: pa.Table, *, text: bool) -> Iterator[str]:
    for name in table.column_names:
        column = table[name].combine_chunks()
        read = ((kind, readable_as(column, kind)) for kind in (_OF_TEXT if text else _types_of(column)))
        # A column in which nothing stands says nothing of its type.
        found = next(
            ((kind, values) for kind, values in read if values and values.null_count < len(values)), None
        )
        if not _COLUMN.fullmatch(name) or name in RESERVED_COLUMNS:
            yield f"# {_cut(repr(name))} is no name that a contract's column may have: rename it"
        elif found is None:
            kind = _cut(_on_a_line(str(column.type)))
            yield f"# {name} is {kind}, or empty: land it as text, a number, a flag or a timestamp"
        else:
            yield _line(name, *found)


def _types_of(column: pa.Array) -> tuple[ColumnType, ...]:
    """What values are that come with a type."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_boolean(kind):
        return ("bool",)
    if pa.types.is_integer(kind):
        return ("int",)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return ("float",)
    return ("timestamp",) if pa.types.is_timestamp(kind) else ("string",)


def _line(name: str, kind: ColumnType, values: pa.Array) -> str:
    import pyarrow.compute as pc

    rule = [f"type: {kind}"]
    if values.null_count:
        rule.append("nullable: true")
    note = ""
    if _is_personal(name, kind, values):
        rule.append("sensitive: true")
        note = "  # by its name or its values"
    elif kind == "string":
        seen = sorted(values.drop_null().unique().to_pylist())
        few = len(seen) <= MOST_VALUES and len(seen) * _ROWS_A_VALUE <= len(values)
        if few and max(map(len, seen)) <= LONGEST_VALUE:
            rule.append(f"one_of: [{', '.join(map(_scalar, seen))}]")
        else:
            note = f"  # {len(seen):,} values, such as {seen[0][:40]!r}"
    elif kind != "bool":
        low, high = (pc.min_max(values)[end].cast("string").as_py() for end in ("min", "max"))
        note = f"  # seen: {low} to {high}"
    return f"{_scalar(name)}: {{{', '.join(rule)}}}{note}"


def _is_personal(name: str, kind: ColumnType, values: pa.Array) -> bool:
    """Whether a column seems to be about a person, or secret: by its name, or by half of its texts."""
    if _PERSONAL_NAME.search(name):
        return True
    if kind != "string":
        return False
    texts = values.drop_null().to_pylist()
    return 2 * sum(_PERSONAL_TEXT.fullmatch(text) is not None for text in texts) > len(texts)


def _scalar(text: str) -> str:
    """The text as YAML reads it back, on one line, wherever it stands."""
    style = None if text.isprintable() else '"'
    listed = yaml.safe_dump(
        [text], default_flow_style=True, default_style=style, width=10**6, allow_unicode=True
    )
    return listed.strip().removeprefix("[").removesuffix("]")


def _on_a_line(text: str) -> str:
    """The text as a comment may hold it."""
    return text if text.isprintable() else repr(text)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
