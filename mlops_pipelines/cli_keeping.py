"""`mlops gc`, `mlops backup` and `mlops restore`: what is kept, and a copy of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from mlops_pipelines.cli_options import home_option, json_option, place_of

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("pipeline")
@click.option("--apply", "really", is_flag=True, help="Free it; without this it is only told.")
@home_option
@json_option
def gc(pipeline: str, really: bool, home: Path | None, as_json: bool) -> None:
    """Free what is older than PIPELINE's `retention` and what nothing kept depends on.

    A dry run by default: what would be freed, and why the rest is kept. With --apply it holds the home
    alone. Interrupt it whenever you like: the home is whole, and the same command does the rest.

    \b
    Examples:
      mlops gc flight_delays
      mlops gc flight_delays --apply
      mlops gc flight_delays --json
    """
    from mlops_pipelines.freeing import free, plan_for
    from mlops_pipelines.retention import as_text, summary

    place = place_of(home, pipeline)
    if really:
        with place.home.exclusive("mlops gc --apply"):
            plan = free(place)
    else:
        plan = plan_for(place)
    if as_json:
        click.echo(json.dumps({"applied": really, "kinds": summary(plan)}, indent=2))
        return
    click.echo(as_text(plan))
    if not really:
        click.echo(f"\nNothing was freed: `mlops gc {pipeline} --apply` does it.")
