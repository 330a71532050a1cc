"""Run the benchmarks, print a table, write `benchmarks/results.json`.

Exit code 0 when every bound holds, 1 when one does not, 2 when no row has the prefix.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks import ROWS, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RESULTS = Path(__file__).parent / "results.json"


@dataclass(frozen=True)
class Result:
    """One line of `results.json`: medians, and whether `ratio <= bound`.

    Where the row says what ours may be by itself, the bound is that over the peer's figure.
    """

    name: str
    ours: float
    against: float
    unit: str
    ratio: float
    bound: float | None
    holds: bool


def discover() -> None:
    """Import every module of this package, so that its rows are declared."""
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name != "run":
            importlib.import_module(f"benchmarks.{module.name}")


def measure(row: Row) -> Result:
    """Medians of interleaved measurements; who goes first alternates, the first round is not counted."""
    ours: list[float] = []
    against: list[float] = []
    with row.prepare() as pair:
        for round_number in range(row.repeats + 1):
            turns = [(pair.ours, ours), (pair.against, against)]
            for take, figures in turns if round_number % 2 else reversed(turns):
                figures.append(take())
    ours_median, against_median = median(ours[1:]), median(against[1:])
    ratio = ours_median / against_median
    bound = row.bound if row.at_most is None else row.at_most / against_median
    holds = bound is None or ratio <= bound
    return Result(row.name, ours_median, against_median, row.unit, ratio, bound, holds)


def show(results: Iterable[Result]) -> None:
    """Print the table."""
    table = Table("row", "against", title="benchmarks", title_justify="left")
    for heading in ("ours", "against", "ratio", "bound", "holds"):
        table.add_column(heading, justify="right")
    for result in results:
        row = ROWS[result.name]
        table.add_row(
            result.name,
            row.against,
            f"{result.ours:.4g} {result.unit}",
            f"{result.against:.4g} {result.unit}",
            f"{result.ratio:.2f}",
            bound_of(row),
            "yes" if result.holds else "[bold red]NO[/]",
        )
    # A pipe has no width of its own; the default of 80 columns would cut the names.
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def bound_of(row: Row) -> str:
    """The row's bound, as the table shows it: a ratio, or what ours may be by itself."""
    if row.at_most is not None:
        return f"{row.at_most:g} {row.unit}"
    return "-" if row.bound is None else f"{row.bound:.2f}"


def run(rows: Sequence[Row], path: Path) -> int:
    """Measure, show and write the rows. Returns the exit code."""
    results = []
    for row in rows:
        click.echo(f"{row.name} …", err=True)
        results.append(measure(row))
    show(results)
    path.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return 0 if all(result.holds for result in results) else 1


@click.command()
@click.option("--only", default="", metavar="PREFIX", help="Run the rows whose name starts so.")
def main(only: str) -> None:
    """Run the benchmarks."""
    discover()
    chosen = [row for name, row in sorted(ROWS.items()) if name.startswith(only)]
    if not chosen:
        click.echo(f"No row starts with {only!r}. Rows: {', '.join(sorted(ROWS))}", err=True)
        sys.exit(2)
    sys.exit(run(chosen, RESULTS))


if __name__ == "__main__":
    main()
