"""`mlops train` and `mlops compare`: models outside of any retrain."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mlops_pipelines.cli_options import home_option, json_option, place_of
from mlops_pipelines.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mlops_pipelines.evaluation import EvaluationReport
    from mlops_pipelines.experiments import Experiment
    from mlops_pipelines.gates import Verdict


@click.command()
@click.argument("pipeline")
@click.option(
    "--dataset", metavar="VERSION", help="Training set, or how its name begins; by default the newest."
)
@click.option(
    "--set", "changes", metavar="NAME=VALUE", multiple=True, help="Another setting of training, or parameter."
)
@home_option
@json_option
def train(
    pipeline: str, dataset: str | None, changes: Sequence[str], home: Path | None, as_json: bool
) -> None:
    """Train and evaluate a model of PIPELINE as an experiment: it never serves.

    It is registered in MLflow, and judged on its holdout beside the champion. Candidate, champion and ledger
    stay as they are.

    \b
    Examples:
      mlops train flight_delays
      mlops train flight_delays --dataset 0123 --set num_leaves=63 --set seed=5 --json
    """
    from mlops_pipelines.experiments import dataset_version, train_from

    place = place_of(home, pipeline)
    with _working() as told:
        made = train_from(place, dataset_version(place, dataset), changes, told=told)
    click.echo(json.dumps(_facts(made), indent=2) if as_json else _experiment_text(pipeline, made))


@contextmanager
def _working() -> Iterator[Callable[[str], None]]:
    """Shows on the terminal, if there is one, what is being done."""
    from rich.console import Console

    with Console(stderr=True).status("reading") as status:
        yield status.update


def _facts(made: Experiment) -> dict[str, Any]:
    report = made.report
    return {
        "version": made.version,
        "link": settings().registry_ui + made.link,
        "model_hash": made.model_hash,
        "dataset_version": made.dataset_version,
        "training": made.training.model_dump(mode="json"),
        "rows": report.rows,
        "days": report.days,
        "metrics": {name: one and asdict(one) for name, one in report.metrics.items()},
        "comparison": report.comparison and asdict(report.comparison),
        "verdicts": [asdict(verdict) for verdict in made.verdicts],
    }


def _experiment_text(pipeline: str, made: Experiment) -> str:
    report = made.report
    return "\n".join(
        [
            f"Version {made.version} of {pipeline}, an experiment, trained from {made.dataset_version} "
            f"({report.training_rows:,} rows).",
            f"Judged on {report.rows:,} rows of {report.days} days, {report.first_day} to {report.last_day}.",
            "",
            *_metric_lines(report),
            "",
            *_verdict_lines(made.verdicts),
            f"Model  {made.model_hash}",
            f"MLflow {settings().registry_ui}{made.link}",
        ]
    )


def _metric_lines(report: EvaluationReport) -> list[str]:
    from mlops_pipelines.evaluation import said

    comparison = report.comparison
    rows = [["metric", "experiment"]]
    if comparison:
        rows[0] += ["same rows", f"champion v{comparison.version}", "difference"]
    for name, figure in report.metrics.items():
        cells = [name, said(figure)]
        paired = comparison.metrics.get(name) if comparison else None
        if paired:
            cells += [f"{paired.candidate:.4f}", f"{paired.incumbent:.4f}", said(paired.difference)]
        rows.append(cells)
    return _aligned(rows)


def _verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    marks = {"pass": "pass", "fail": "fail", "not_applicable": "n/a"}
    lines = [f"  {marks[one.outcome]:<4}  {one.gate:<12} {one.sentence}" for one in verdicts]
    return ["Gates, as they would have judged it in a retrain:", *lines, ""]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table, columns below each other."""
    width = max(map(len, rows))
    full = [[*row, *[""] * (width - len(row))] for row in rows]
    widths = [max(len(row[column]) for row in full) for column in range(width)]
    return [
        "  ".join(f"{cell:<{size}}" for cell, size in zip(row, widths, strict=True)).rstrip() for row in full
    ]
