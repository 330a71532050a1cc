"""Benchmarks: each row measures our cost and that of a peer, or the floor, in the same run.

A row is a function under `@row`, in the module named like the first half of the row's name. It
prepares, yields a `Pair`, and cleans up:

    @row("lake.replace_partition", against="plain Parquet write", bound=5.0)
    def replace_partition() -> Iterator[Pair]:
        with TemporaryDirectory() as folder:
            yield Pair(seconds(lambda: ...), seconds(lambda: ...))

A measure returns a cost, the lower the better; `bound` is the most `ours / against` may be, `at_most` the
most `ours` may be by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

Measure = Callable[[], float]


@dataclass(frozen=True)
class Pair:
    """Two measures of the same work, in the same unit."""

    ours: Measure
    against: Measure


@dataclass(frozen=True)
class Row:
    """A declared benchmark.

    name: `area.what`. against: what the peer or floor is. unit: of both figures. bound: highest
    ratio that holds. at_most: highest figure of ours that holds. A row with neither only informs. repeats:
    measurements of each, of which the median counts.
    """

    name: str
    against: str
    unit: str
    bound: float | None
    at_most: float | None
    repeats: int
    prepare: Callable[[], AbstractContextManager[Pair]]


ROWS: dict[str, Row] = {}


def row(
    name: str,
    *,
    against: str,
    unit: str = "s",
    bound: float | None = None,
    at_most: float | None = None,
    repeats: int = 5,
) -> Callable[[Callable[[], Iterator[Pair]]], Callable[[], Iterator[Pair]]]:
    """Declare a row. Raises ValueError for a name that is taken or lies in another area's module."""

    def declare(function: Callable[[], Iterator[Pair]]) -> Callable[[], Iterator[Pair]]:
        area = function.__module__.rpartition(".")[2]
        if not name.startswith(f"{area}.") or name in ROWS:
            raise ValueError(f"{name!r} is taken, or not of the form {area}.WHAT")
        ROWS[name] = Row(name, against, unit, bound, at_most, repeats, contextmanager(function))
        return function

    return declare


def seconds(work: Callable[[], object]) -> Measure:
    """The wall time of `work`, seconds."""

    def measure() -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    return measure
