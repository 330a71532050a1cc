"""`mlops alerts`: whether alerts arrive."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from mlops_pipelines.cli_options import home_option, json_option, place_of
from mlops_pipelines.errors import MlopsError, UserError

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.alerting.notices import Notice
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.spec import Sink


@click.group()
def alerts() -> None:
    """Where incidents are told."""


@alerts.command()
@click.argument("pipeline")
@click.option(
    "--sink", "number", type=click.IntRange(min=1), default=None, help="Only this one; 1 is the first."
)
@home_option
@json_option
def test(pipeline: str, number: int | None, home: Path | None, as_json: bool) -> None:
    """Send a test to each of PIPELINE's sinks, whatever their threshold, and say which took it.

    Exit code 0, or 1 if one of them did not.

    \b
    Examples:
      mlops alerts test flight_delays
      mlops alerts test flight_delays --sink 2 --json
    """
    place = place_of(home, pipeline)
    sinks = dict(enumerate(place.spec.alerts.sinks, start=1))
    if number is not None and number not in sinks:
        raise UserError(
            f"{pipeline} has no sink {number}.",
            expected=f"1 to {len(sinks)}" if sinks else "one under alerts.sinks; there is none",
            remedy="mlops check, and docs/alerts.md",
        )
    notice = _notice(place)
    told = [_sent(place, n, sink, notice) for n, sink in sinks.items() if number in (None, n)]
    if as_json:
        click.echo(json.dumps({"pipeline": pipeline, "sinks": told}, indent=2))
    for one in () if as_json else told:
        click.echo(f"{one['sink']}  {one['name']}: {'took it' if one['took'] else one['why']}")
        if one["remedy"]:
            click.echo(f"   Try: {one['remedy'].replace('PIPELINE', pipeline)}")
        if one["withheld"]:
            click.echo("   It is told no incident of this home, whose clock is that of a replay.")
    if not told:
        click.echo(f"{pipeline} tells nobody: alerts.sinks is empty.", err=as_json)
    if not all(one["took"] for one in told):
        sys.exit(1)


def _notice(place: PipelineHome) -> Notice:
    from mlops_pipelines.alerting.notices import Notice

    return Notice(
        pipeline=place.name,
        incident=f"{place.name}-test",
        event="opened",
        kind="test",
        subject="alerts",
        severity="info",
        triage="platform",
        title=f"This is a test: what is wrong with {place.name} would be told here.",
        evidence={"sinks": len(place.spec.alerts.sinks)},
        symptoms=(),
        remedy=f"mlops incidents {place.name}",
        runbook="docs/alerts.md",
        at=place.clock.now(),
    )


def _sent(place: PipelineHome, number: int, sink: Sink, notice: Notice) -> dict[str, Any]:
    from mlops_pipelines.alerting.attending import withheld
    from mlops_pipelines.alerting.sinks import kind_of, name_of, send

    name = name_of(sink)
    told = {"sink": number, "kind": kind_of(sink), "name": name, "withheld": name in withheld(place)}
    try:
        send(sink, notice, place.home.path)
    except MlopsError as error:
        # The others are tried all the same.
        return {**told, "took": False, "why": error.message, "remedy": error.remedy}
    return {**told, "took": True, "why": None, "remedy": None}
