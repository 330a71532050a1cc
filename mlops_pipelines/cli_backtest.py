"""`mlops backtest`: what a policy would have done on history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops_pipelines.cli_options import DAY, aligned, home_option, json_option, place_of
from mlops_pipelines.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from mlops_pipelines.backtest import Backtest, Tested
    from mlops_pipelines.metrics import Estimate


@click.command()
@click.argument("pipeline")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    default=("default", "weekly", "never"),
    show_default=True,
    help="NAME or FILE; the others are compared with the first. Names: never, weekly, fortnightly, monthly, "
    "labels, drift, default (the pipeline's own).",
)
@click.option("--from", "first", required=True, type=DAY, help="First day that is reported.")
@click.option("--to", "last", required=True, type=DAY, help="Last day that is reported, included.")
@click.option(
    "--tuned-on",
    nargs=2,
    type=DAY,
    default=None,
    metavar="FROM TO",
    help="Days before, by which the settings were chosen: shown beside, and never reported on.",
)
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw it into this PNG.")
@home_option
@json_option
def backtest(
    pipeline: str,
    policies: Sequence[str],
    first: date,
    last: date,
    *,
    tuned_on: tuple[date, date] | None,
    picture: Path | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Show what policies would have done to PIPELINE on real history.

    Each goes through the days with the decisions, training, gates and label delays of the loop, and begins
    with the same model. Nothing in the home changes but `backtests/`, where each retrain is kept: a second
    policy costs only its own.

    A FILE has `triggers` and `policy` as in a pipeline's YAML. Its triggers are all there are; without any,
    and of the policy what it leaves out, is as the pipeline says.

    \b
    Examples:
      mlops backtest flight_delays --from 2013-02-15 --to 2013-03-28
      mlops backtest flight_delays --policy default --policy eager.yaml --from 2013-02-15 --to 2013-03-28
      mlops backtest flight_delays --tuned-on 2013-03-01 2013-06-30 --from 2013-07-01 --to 2013-12-30 --json
    """
    from mlops_pipelines import backtest as library

    if tuned_on is not None and not tuned_on[0] <= tuned_on[1] < first:
        raise UserError(
            f"The settings were tuned on {tuned_on[0]} to {tuned_on[1]}, and {first} to {last} are reported.",
            expected="days to tune on that end before those reported, which nobody has looked at",
        )
    if picture is not None and picture.suffix != ".png":
        raise UserError(f"{picture} is no name of a picture.", expected="a name that ends with .png")
    if picture is not None and not picture.absolute().parent.is_dir():
        raise UserError(f"There is no folder {picture.absolute().parent} for the picture.")
    place = place_of(home, pipeline)
    tried = [library.policy_of(one, place.spec) for one in policies]
    names = [one.name for one in tried]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"Two policies are called {', '.join(twice)}.", expected="a name of its own for each")

    def told(what: str) -> None:
        click.echo(what, err=True)

    tuned = library.backtest(place, tried, *tuned_on, told=told) if tuned_on else None
    reported = library.backtest(place, tried, first, last, told=told)
    if as_json:
        found = {"pipeline": pipeline, **_as_json(reported), "tuned_on": tuned and _as_json(tuned)}
        click.echo(json.dumps(found, indent=2))
    elif tuned is not None:
        click.echo(f"Tuned on, and looked at: {_text(tuned)}\n")
        click.echo(f"Reported, and not looked at before: {_text(reported)}")
    else:
        click.echo(_text(reported))
    if picture is not None:
        from mlops_pipelines.figures import policies as drawn

        picture.write_bytes(
            drawn(
                {one.tried.name: one.loss for one in reported.policies},
                {one.tried.name: [each.at for each in one.retrains] for one in reported.policies},
                title=f"{pipeline}, {first} to {last}",
                unit=library.LOSS[place.spec.labels.kind],
            )
        )


def _as_json(found: Backtest) -> dict[str, Any]:
    return {
        "from": found.first.isoformat(),
        "to": found.last.isoformat(),
        "rows": found.rows,
        "days": found.days,
        "policies": [_policy_json(one) for one in found.policies],
    }


def _policy_json(one: Tested) -> dict[str, Any]:
    return {
        "policy": one.tried.name,
        "retrains": len(one.retrains),
        "promoted": one.promoted,
        **{name: figure and figure.value for name, figure in one.figures.items()},
        "intervals": {name: _bounds(figure) for name, figure in one.figures.items()},
        "differences": {
            name: figure and {"value": figure.value, "interval": _bounds(figure)}
            for name, figure in one.differences.items()
        },
        "compute_seconds": round(one.seconds, 1),
        "staleness_days": round(_days(one), 2),
        "history": [
            {
                "at": each.at.isoformat(),
                "kinds": each.kinds,
                "outcome": each.outcome,
                "model_hash": each.model_hash,
            }
            for each in one.all_retrains
        ],
    }


def _bounds(figure: Estimate | None) -> tuple[float, float] | None:
    if figure is None or figure.lower is None or figure.upper is None:
        return None
    return figure.lower, figure.upper


def _text(found: Backtest) -> str:
    first, *others = found.policies
    rows = [["", *(one.tried.name for one in found.policies)]]
    rows.append(["retrains", *map(_retrains, found.policies)])
    for name in first.figures:
        rows.append([name, *(_said(one.figures[name]) for one in found.policies)])
        if others:
            differing = (_said(one.differences[name], sign="+") for one in others)
            rows.append([f"  minus {first.tried.name}", "", *differing])
    rows.append(["training and judging", *(f"{one.seconds:,.0f} s" for one in found.policies)])
    rows.append(["champion's age", *(f"{_days(one):.0f} days" for one in found.policies)])
    head = (
        f"{found.rows:,} rows of {found.days} days, {found.first} to {found.last}, scored before their label "
        "was known. In brackets 95 % intervals, from a bootstrap of whole days."
    )
    return "\n".join([head, "", *aligned(rows)])


def _days(one: Tested) -> float:
    return one.age.total_seconds() / 86400


def _retrains(one: Tested) -> str:
    stopped = len(one.retrains) - one.promoted
    return f"{len(one.retrains)}{f' ({stopped} stopped)' if stopped else ''}"


def _said(figure: Estimate | None, sign: str = "") -> str:
    if figure is None:
        return "undefined"
    bounds = _bounds(figure)
    between = f" ({bounds[0]:{sign}.4f} to {bounds[1]:{sign}.4f})" if bounds else ""
    return f"{figure.value:{sign}.4f}{between}"
