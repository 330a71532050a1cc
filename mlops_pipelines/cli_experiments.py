"""`mlops train` and `mlops compare`: models outside of any retrain."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mlops_pipelines.cli_options import aligned, home_option, json_option, place_of
from mlops_pipelines.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mlops_pipelines.comparison import Side, SideBySide
    from mlops_pipelines.experiments import Experiment
    from mlops_pipelines.gates import GivenVerdict

# Features of the table of what weighs most.
_SHOWN = 12


@click.command()
@click.argument("pipeline")
@click.option(
    "--dataset", metavar="VERSION", help="Training set, or how its name begins; by default the newest."
)
@click.option(
    "--set", "changes", metavar="NAME=VALUE", multiple=True, help="Another setting of training, or parameter."
)
@click.option("--tune", is_flag=True, help="Search for parameters first, as training.tune says.")
@home_option
@json_option
def train(
    pipeline: str,
    dataset: str | None,
    changes: Sequence[str],
    *,
    tune: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Train and evaluate a model of PIPELINE as an experiment: it never serves.

    It is registered in MLflow, and judged on its holdout beside the champion. Candidate, champion and ledger
    stay as they are.

    \b
    Examples:
      mlops train flight_delays
      mlops train flight_delays --dataset 0123 --set num_leaves=63 --set seed=5 --json
      mlops train flight_delays --tune
    """
    from mlops_pipelines.experiments import dataset_version, train_from

    place = place_of(home, pipeline)
    with _working() as told, place.home.keeping("mlops train"):
        made = train_from(place, dataset_version(place, dataset), changes, tune=tune, told=told)
    click.echo(json.dumps(_facts(made), indent=2) if as_json else _experiment_text(pipeline, made))


@click.command()
@click.argument("pipeline")
@click.argument("first")
@click.argument("second")
@home_option
@json_option
def compare(pipeline: str, first: str, second: str, home: Path | None, as_json: bool) -> None:
    """Put two registered versions of PIPELINE's models side by side.

    FIRST and SECOND are numbers of versions, or champion, previous, candidate. Differences are the first
    minus the second, of their twins, on the rows that both have left unseen.

    \b
    Examples:
      mlops compare flight_delays previous champion
      mlops compare flight_delays 3 champion --json
    """
    from mlops_pipelines.comparison import side_by_side

    place = place_of(home, pipeline)
    with _working() as told:
        told("scoring what both have left unseen")
        found = side_by_side(place, first, second)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else _comparison_text(found))


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
        "tuning": made.tuning or None,
        "reproducible": made.reproducible,
        "rows": report.rows,
        "days": report.days,
        "metrics": {name: one and asdict(one) for name, one in report.metrics.items()},
        "comparison": report.comparison and asdict(report.comparison),
        "verdicts": [asdict(verdict) for verdict in made.verdicts],
    }


def _experiment_text(pipeline: str, made: Experiment) -> str:
    from mlops_pipelines.evaluation_page import comparison_sentence, metric_rows

    report = made.report
    return "\n".join(
        [
            f"Version {made.version} of {pipeline}, an experiment, trained from {made.dataset_version} "
            f"({report.training_rows:,} rows).",
            *([f"Parameters: {made.tuning}."] if made.tuning else []),
            *([] if made.reproducible else ["Not reproducible: trained twice, it gave two models."]),
            f"Judged on {report.rows:,} rows of {report.days} days, {report.first_day} to {report.last_day}.",
            "",
            *aligned(metric_rows(report, "experiment")),
            "",
            *(
                [
                    f"{comparison_sentence(report.comparison)} On days after it: mlops compare {pipeline} "
                    f"{made.version} champion",
                    "",
                ]
                if report.comparison and not report.comparison.days
                else []
            ),
            *_verdict_lines(made.verdicts),
            f"Model  {made.model_hash}",
            f"MLflow {settings().registry_ui}{made.link}",
        ]
    )


def _verdict_lines(verdicts: Sequence[GivenVerdict]) -> list[str]:
    if not verdicts:
        return []
    return ["Gates, as they would have judged it in a retrain:", *_gate_lines(verdicts), ""]


def _gate_lines(verdicts: Sequence[GivenVerdict]) -> list[str]:
    marks = {"not_applicable": "n/a"}
    return [f"  {marks.get(one.outcome, one.outcome):<4}  {one.gate:<12} {one.sentence}" for one in verdicts]


def _comparison_text(found: SideBySide) -> str:
    sides = (found.first, found.second)
    names = [f"v{side.version}" for side in sides]
    only_first, only_second = found.features
    changed = {**found.training, **found.params, **found.platform}
    parts = [
        aligned([["", *names], *_about(sides)]),
        aligned([["metric", *names, f"{names[0]} minus {names[1]} on the same rows"], *_metric_rows(found)]),
        [found.lacking or _on_which(found)],
        aligned([["what differs", *names], *([n, str(a), str(b)] for n, (a, b) in changed.items())])
        if changed
        else ["Settings, parameters and platform: the same."],
        [f"Features that only {names[0]} has: {', '.join(only_first)}."] if only_first else [],
        [f"Features that only {names[1]} has: {', '.join(only_second)}."] if only_second else [],
        [f"Feature views of another version: {', '.join(found.views)}."] if found.views else [],
        *(_gates_of(side) for side in sides),
        _importance_lines(sides, names),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _about(sides: Sequence[Side]) -> list[list[str]]:
    models = [side.model.refit for side in sides]
    return [
        ["made by", *(side.model.facts["retrain"] for side in sides)],
        ["model", *(model.hash[:12] for model in models)],
        ["training set", *(side.model.facts["dataset_version"] for side in sides)],
        ["rows", *(f"{model.rows:,}" for model in models)],
        ["days", *(f"{model.first_day} to {model.last_day}" for model in models)],
        ["features", *(str(len(model.features)) for model in models)],
        [
            "judged on",
            *(f"{r.first_day} to {r.last_day}" if (r := side.report) else "nothing" for side in sides),
        ],
    ]


def _metric_rows(found: SideBySide) -> list[list[str]]:
    from mlops_pipelines.evaluation_page import said

    rows = []
    reports = (found.first.report, found.second.report)
    measured = [one.metrics for one in (*reports, found.paired) if one]
    for name in dict.fromkeys(name for metrics in measured for name in metrics):
        paired = found.paired.metrics.get(name) if found.paired else None
        figures = [said(report.metrics.get(name), name) if report else "" for report in reports]
        rows.append([name, *figures, said(paired.difference, name) if paired else ""])
    return rows


def _on_which(found: SideBySide) -> str:
    from mlops_pipelines.evaluation_page import comparison_sentence

    return comparison_sentence(found.paired) if found.paired else ""


def _gates_of(side: Side) -> list[str]:
    said = "as they were given" if side.given else "as they would be by the gates of today"
    return [f"Gates of v{side.version}, {said}:", *_gate_lines(side.verdicts)] if side.verdicts else []


def _importance_lines(sides: Sequence[Side], names: Sequence[str]) -> list[str]:
    weights = [side.report.importance if side.report else {} for side in sides]
    ranked = sorted({**weights[0], **weights[1]}, key=lambda name: -max(w.get(name, 0) for w in weights))
    rows = [[name, *(f"{w[name]:.4f}" if name in w else "" for w in weights)] for name in ranked[:_SHOWN]]
    units = {side.report.importance_unit for side in sides if side.report}
    head = f"what weighs most ({units.pop() if len(units) == 1 else 'each by its own measure'})"
    return aligned([[head, *names], *rows]) if rows else []
