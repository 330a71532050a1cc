"""`mlops report`: what the daily reports say, without the UI."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from mlops_pipelines.cli_options import DAY, aligned, home_option, json_option, place_of
from mlops_pipelines.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome

Row = dict[str, Any]

day_option = click.option(
    "--day", type=DAY, help="Day of the events (UTC); by default the last one reported on."
)


@click.group()
def report() -> None:
    """What the daily reports of a pipeline say, without the UI."""


@report.command()
@click.argument("pipeline")
@day_option
@click.option(
    "--features", type=click.IntRange(min=1), default=10, show_default=True, help="Show so many at most."
)
@home_option
@json_option
def drift(pipeline: str, day: date | None, features: int, home: Path | None, as_json: bool) -> None:
    """How far the inputs and scores of a day are from what PIPELINE's champion learned.

    `unexplained` is the population stability index (nats) beyond what chance at this size and ordinary days
    bring; times `weight`, the feature's importance to the champion, it decides, and orders the list.
    `p` is of the test, corrected for all features; `effect` says how large the shift is. --json has every
    feature and figure.

    \b
    Examples:
      mlops report drift flight_delays
      mlops report drift flight_delays --day 2013-03-20 --json
    """
    from mlops_pipelines.monitoring.reports import DRIFT, OVERALL

    rows = _rows_of_day(place_of(home, pipeline), DRIFT, day)
    rows.sort(
        key=lambda row: (
            row["feature"] != OVERALL,
            not row["broken"],
            -(row["weight"] or 0.0) * (row["excess"] or 0.0),
            -(row["psi"] or 0.0),
        )
    )
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(f"No day of {pipeline} is reported on: the job monitor does that, once a champion scores.")
        return
    overall, *others = rows
    click.echo(
        f"{overall['day']}, {overall['rows']:,} rows against v{overall['model_version']}: {overall['level']}"
    )
    click.echo(f"{overall['sentence']}\n")
    table = [["feature", "weight", "psi", "unexplained", "missing", "before", "effect", "p", "breaks"]]
    table += [
        [
            row["feature"],
            _figure(row["weight"]),
            _figure(row["psi"]),
            _figure(row["excess"]),
            _share(row["missing"]),
            _share(row["missing_before"]),
            f"{_figure(row['effect'])} {row['test'] or ''}".strip(),
            _figure(row["p_adjusted"]),
            (row["breaks"] or "").removeprefix(f"{row['feature']}: "),
        ]
        for row in others[:features]
    ]
    click.echo("\n".join(aligned(table)))
    if len(others) > features:
        click.echo(f"… and {len(others) - features} more: --features {len(others)}")


@report.command()
@click.argument("pipeline")
@click.option(
    "--days",
    type=click.IntRange(min=1),
    default=14,
    show_default=True,
    help="The last so many that there are.",
)
@home_option
@json_option
def performance(pipeline: str, days: int, home: Path | None, as_json: bool) -> None:
    """How good PIPELINE's scores turned out, by day; until labels have matured, what they let expect.

    `served by`: the versions that scored the day, with their shares where there are several. `labels`: the
    share of scored events that have one. `estimate`: the log loss (nats) to expect of the scores, with its
    95 % interval: said before labels are known, and shown beside the truth. `half by`: when half of the
    labels that came were known, after the event.

    \b
    Examples:
      mlops report performance flight_delays
      mlops report performance flight_delays --days 28 --json
    """
    from mlops_pipelines.monitoring.reports import PERFORMANCE, TOLD, main_rows, rows_of

    place = place_of(home, pipeline)
    known = place.lake.days(PERFORMANCE)[-days:]
    rows = rows_of(place, PERFORMANCE, known)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(
            f"No day of {pipeline} is reported on: the job monitor does that, once events have scores."
        )
        return
    figures = TOLD[place.spec.labels.kind]
    table = [["day", "served by", "events", "labels", "matured", *figures, "estimate", "half by"]]
    table += [
        [
            row["day"],
            served_by([one for one in rows if one["day"] == row["day"]]),
            f"{row['rows']:,}",
            _share(row["labelled"] / row["rows"] if row["rows"] else None),
            "yes" if row["matured"] else "no",
            *(_figure(row.get(name)) for name in figures),
            _interval(row),
            "–" if row.get("delay_median") is None else f"{row['delay_median']:.1f} h",
        ]
        for row in main_rows(rows)
    ]
    click.echo("\n".join(aligned(table)))


@report.command()
@click.argument("pipeline")
@home_option
@json_option
def feedback(pipeline: str, home: Path | None, as_json: bool) -> None:
    """Whether PIPELINE's labels depend on what its model says, over the last matured days.

    \b
    Examples:
      mlops report feedback flight_delays
      mlops report feedback flight_delays --json
    """
    from dataclasses import asdict

    from mlops_pipelines.monitoring.feedback_report import audit_of

    found = audit_of(place_of(home, pipeline))
    if as_json:
        told = found and {"champion": found.champion.mlflow_version, **asdict(found.audit)}
        click.echo(json.dumps(told, indent=2))
        return
    if found is None:
        click.echo(
            f"No day of {pipeline} is audited: the job monitor does that, once scored days have matured."
        )
        return
    audit = found.audit
    labelled = f"{audit.labelled:,} of {audit.rows:,} scored rows have a label"
    click.echo(f"v{found.champion.mlflow_version}, {labelled}: {audit.verdict}")
    click.echo(audit.sentence)
    click.echo(
        f"labelled rows cover {_share(audit.coverage)} of what is decided on; scores spread "
        f"{_share(audit.spread)} as widely as over the training set; {audit.explored:,} rows were explored"
    )


def _rows_of_day(place: PipelineHome, table: str, day: date | None) -> list[Row]:
    """Rows of a report of a day, or of the last that there is. Raises UserError for a day that has none."""
    from mlops_pipelines.monitoring.reports import rows_of

    known = place.lake.days(table)
    if day and day.isoformat() not in known:
        raise UserError(
            f"{place.name} has no {table} of {day}.",
            expected=f"{known[0]} to {known[-1]}" if known else "none was made yet",
            remedy=f"mlops health {place.name}",
        )
    return rows_of(place, table, [day.isoformat()] if day else known[-1:])


def served_by(rows: Sequence[Row]) -> str:
    """The versions that scored a day. rows: of the performance report on it."""
    scored = {f"v{row['model_version']}": row["predictions"] for row in rows if row["predictions"]}
    if len(scored) < 2:
        return next(iter(scored), "–")
    return ", ".join(f"{version} {rows / sum(scored.values()):.0%}" for version, rows in scored.items())


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _interval(row: Mapping[str, Any]) -> str:
    if row.get("estimate") is None:
        return "–"
    low, high = row["estimate_low"], row["estimate_high"]
    return f"{row['estimate']:.3f}" + (f" ({low:.3f}–{high:.3f})" if low is not None else "")
