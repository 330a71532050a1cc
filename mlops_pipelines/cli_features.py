"""`mlops parity`: are logged vectors what their facts give."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mlops_pipelines.cli_options import DAY, home_option, json_option, place_of

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path


@click.command()
@click.argument("pipeline")
@click.option("--since", type=DAY, help="First day of events to compare (UTC); by default all.")
@home_option
@json_option
def parity(pipeline: str, since: date | None, home: Path | None, as_json: bool) -> None:
    """Make logged vectors again from the versions they were made of, and compare them bit by bit.

    Exit code 1 if one differs, or if there was nothing to compare.

    \b
    Examples:
      mlops parity flight_delays
      mlops parity flight_delays --since 2013-06-01 --json
    """
    from mlops_pipelines.features import parity as features

    place = place_of(home, pipeline)
    first = since.isoformat() if since else ""
    days = [day for day in place.lake.days("examples") if day >= first]
    found = features.parity(place.loaded, place.lake, days)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        click.echo(f"{found.sentence}.")
        for one in found.differences:
            if one.feature is None:
                click.echo(f"{one.day} {one.event_id}: the event is not there at the version that was read")
            else:
                key = ", ".join(f"{name} {value!r}" for name, value in one.key.items()) or "its own row"
                click.echo(
                    f"{one.day} {one.event_id}: {one.feature} of {key}: "
                    f"logged {one.logged!r}, recomputed {one.recomputed!r}"
                )
    if not found.holds:
        sys.exit(1)
