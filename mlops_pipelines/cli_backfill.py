"""`mlops backfill`: any days again, by one run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mlops_pipelines.cli_options import DAY, aligned, home_option, json_option, place_of

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path


@click.command()
@click.argument("pipeline")
@click.option("--from", "first", required=True, type=DAY, help="First day.")
@click.option("--to", "last", required=True, type=DAY, help="Last day, included.")
@click.option("--force", is_flag=True, help="Make days again that are right already.")
@click.option("--no-wait", is_flag=True, help="Ask for the run, and do not wait for its end.")
@home_option
@json_option
def backfill(
    pipeline: str, first: date, last: date, *, force: bool, no_wait: bool, home: Path | None, as_json: bool
) -> None:
    """Bring days of PIPELINE up to date: what landed, features, scores and reports, by one run.

    The daemon starts it (`mlops dev`, or a cluster's). Days that are right are verified and left alone.
    Examples and predictions that exist are never made again, and no retrain follows from it. Exit code 1
    if the run fails.

    \b
    Examples:
      mlops backfill flight_delays --from 2013-01-01 --to 2013-03-31
      mlops backfill flight_delays --from 2013-03-01 --to 2013-03-07 --force
      mlops backfill flight_delays --from 2013-01-01 --to 2013-03-31 --no-wait --json
    """
    from mlops_pipelines import backfilling

    place = place_of(home, pipeline)
    run_id = backfilling.launch(place, first, last, force=force)
    click.echo(f"Run {run_id} over {(last - first).days + 1} days.", err=True)
    status, served = backfilling.status(place, run_id)
    if not served:
        click.echo(
            f"No daemon runs; it starts with the next one: mlops dev --home {place.home.path}", err=True
        )
    if no_wait:
        click.echo(json.dumps({"run": run_id, "status": status}) if as_json else status.lower())
        return
    try:
        status = backfilling.follow(place, run_id, lambda said: click.echo(f"  {said}", err=True))
    except KeyboardInterrupt:
        click.echo(f"Run {run_id} goes on without being waited for.", err=True)
        raise
    found = backfilling.made(place, run_id)
    if as_json:
        assets = [asdict(one) for one in found]
        click.echo(json.dumps({"run": run_id, "status": status, "assets": assets}, indent=2))
    else:
        rows = [[one.asset, str(one.days), str(one.made_again), str(one.changed)] for one in found]
        for line in aligned([["asset", "days", "made again", "changed"], *rows]):
            click.echo(line)
    if status != "SUCCESS":
        click.echo(f"The run has not succeeded. Try: mlops incidents {pipeline}", err=True)
        raise SystemExit(1)
