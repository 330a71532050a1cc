"""Functions that features are made of, good and bad."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from datetime import datetime

HOLIDAYS = {"2024-03-05"}


def is_holiday(rows: pa.Table) -> list[bool]:
    times: list[datetime] = rows["placed_at"].to_pylist()
    return [time.date().isoformat() in HOLIDAYS for time in times]


def shouted(rows: pa.Table) -> pa.ChunkedArray:
    return pc.utf8_upper(rows["kind"])


def doubled(rows: pa.Table) -> Any:
    return pc.divide(pc.multiply(rows["weight"].cast(pa.float64()), 2.0), 0.0)


def share_of_all(rows: pa.Table) -> Any:
    return pc.divide(rows["weight"].cast(pa.float64()), pc.sum(rows["weight"]))


def by_chance(rows: pa.Table) -> list[float]:
    return [random.random() for _ in range(rows.num_rows)]  # noqa: S311


def too_few(rows: pa.Table) -> list[float]:
    return [1.0] * (rows.num_rows - 1)


def a_text(rows: pa.Table) -> list[str]:
    return ["x"] * rows.num_rows


def fails(rows: pa.Table) -> Any:
    raise ValueError(f"what is {rows['kind'][0]}?")


NO_FUNCTION = 1
