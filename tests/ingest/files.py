"""Files as producers write them: rows in every format that is taken in, packed or not."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Row = dict[str, Any]


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


def gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # the same bytes each time


PACKERS: dict[str, Callable[[bytes], bytes]] = {".gz": gz, ".zst": zstd}


def packed(name: str, content: bytes) -> bytes:
    """The content as a file of that name holds it."""
    for ending, pack in PACKERS.items():
        if name.endswith(ending):
            return pack(content)
    return content


def written(name: str, rows: Sequence[Row], types: Mapping[str, pa.DataType] | None = None) -> bytes:
    """The rows as a file of that name holds them. Times are texts, but in Parquet.

    types: of columns of a Parquet file, where they are not those of the values.
    """
    kind = name.removesuffix(".gz").removesuffix(".zst").rpartition(".")[2]
    if kind == "parquet":
        return parquet(pa.table(columns_of(rows, types or {})))
    return packed(name, (as_csv if kind == "csv" else as_jsonl)(rows).encode())


def columns_of(rows: Sequence[Row], types: Mapping[str, pa.DataType]) -> dict[str, pa.Array]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: pa.array([row.get(name) for row in rows], types.get(name)) for name in names}


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def as_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(rows[0])
    lines.writerows([as_text(value) for value in row.values()] for row in rows)
    return text.getvalue()


def as_jsonl(rows: Sequence[Row]) -> str:
    return "".join(f"{json.dumps(row, default=as_text)}\n" for row in rows)


def as_text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
