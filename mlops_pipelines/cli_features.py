"""`mlops features`: what features there are; `mlops parity`: are logged vectors what their facts give."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mlops_pipelines.cli_options import DAY, home_option, home_path, json_option, place_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from pathlib import Path


@click.command()
@click.argument("pipeline")
@click.option("--since", type=DAY, help="First day of events to compare (UTC); by default all.")
@home_option
@json_option
def parity(pipeline: str, since: date | None, home: Path | None, as_json: bool) -> None:
    """Make logged vectors again from the versions they were made of, and compare them bit by bit.

    Exit code 0 if vectors were compared and none differs. 1 if one differs, or if nothing was compared:
    there are no vectors of these days, or only such of Python functions whose file says otherwise by now.
    Those beside others that were compared are counted, and change nothing.

    \b
    Examples:
      mlops parity flight_delays
      mlops parity flight_delays --since 2013-03-01 --json
    """
    from mlops_pipelines.features import parity as features

    place = place_of(home, pipeline)
    found = features.parity(place, features.logged_days(place, since))
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
    if not found.compared:
        why = (
            "put back the files of the functions that the vectors were made by"
            if found.not_compared
            else f"no vector was made of a day {f'from {since} on' if since else 'yet'}"
        )
        click.echo(f"Nothing was compared, so nothing is shown: {why}.", err=True)
    if not found.holds:
        sys.exit(1)


@click.group()
def features() -> None:
    """What the model sees: views, their versions, and what each feature is made of."""


@features.command("list")
@click.argument("pipeline")
@home_option
@json_option
def list_(pipeline: str, home: Path | None, as_json: bool) -> None:
    """Views with version, key, source and windows, the tiles that were made of them, and who shares them.

    \b
    Examples:
      mlops features list flight_delays
      mlops features list flight_delays --json
    """
    from mlops_pipelines.features.catalogue import listed

    found = listed(place_of(home, pipeline))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(
        f"{'view':<26} {'version':<9} {'features':>8} {'tiles':>10} {'newest':<11} {'feeds':<14} "
        "key, source, windows"
    )
    for one in found:
        tiles = "" if one["tiles"] is None else f"{one['tiles']:,}"
        spans = " ".join([*one["windows"], *([f"last within {one['within']}"] if one["within"] else [])])
        click.echo(
            f"{one['name']:<26} {one['version']:<9} {one['features']:>8} {tiles:>10} "
            f"{one['newest_tile'] or '':<11} {' '.join(one['feeds']):<14} "
            f"{', '.join(one['key'])} of {one['of']} {spans}".rstrip()
            + _sharing(pipeline, one)
        )


def _sharing(pipeline: str, one: Mapping[str, Any]) -> str:
    """Whose a view that `listed` gives is, and who uses it, unless it is this pipeline's alone."""
    if one["pipeline"] == pipeline and {*one["used_by"]} <= {pipeline}:
        return ""
    used = f", used by {', '.join(one['used_by'])}" if one["used_by"] else ""
    return f"; of {one['pipeline']}{used}"


@features.command()
@click.argument("pipeline")
@click.option("--since", type=DAY, help="First day of events (UTC); by default the last seven.")
@home_option
@json_option
def health(pipeline: str, since: date | None, home: Path | None, as_json: bool) -> None:
    """How fresh each view was at the decisions, how many keys it knows, what is missing, and its skew.

    As the runs that monitor found it. `median` and `worst` are ages: of the newest tile at a decision, in
    hours. `too old`: the share of decisions that found it older than the view's max_age. `skew`: standard
    deviations from what a fully fresh store would have given.

    \b
    Examples:
      mlops features health flight_delays
      mlops features health flight_delays --since 2013-03-01 --json
    """
    from mlops_pipelines.monitoring.feature_health import latest

    found = latest(place_of(home, pipeline), since)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        on = f"from {since} on " if since else ""
        click.echo(f"No day {on}was looked at: runs of the job monitor do that, once a day is over.")
        return
    click.echo(
        f"{'day':<11} {'view':<26} {'version':<8} {'known keys':>10} {'missing':>8} {'median':>8} "
        f"{'worst':>8} {'too old':>8} {'skew':>7}"
    )
    for one in found:
        ages = ["–" if one[age] is None else f"{one[age]:.1f} h" for age in ("age_median", "age_worst")]
        stale = "–" if one["stale"] is None else f"{one['stale']:.1%}"
        click.echo(
            f"{one['day']:<11} {one['view']:<26} {one['version']:<8} {one['covered']:>10.1%} "
            f"{one['missing']:>8.1%} {ages[0]:>8} {ages[1]:>8} {stale:>8} {one['skew']:>7.4f}"
        )


@features.command()
@click.argument("pipeline")
@click.argument("name")
@json_option
def show(pipeline: str, name: str, as_json: bool) -> None:
    """How the features of a view, of `from_event` or `from_python`, or one feature, are made.

    As the YAML says now: no home is read.

    \b
    Examples:
      mlops features show flight_delays tail_lateness
      mlops features show flight_delays departure_minute --json
    """
    from mlops_pipelines.features.catalogue import shown
    from mlops_pipelines.spec_loading import load_pipeline

    found = shown(load_pipeline(pipeline), name)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for one in found:
        click.echo(f"{one['feature']:<44} {one['kind']:<9} {one['made']}")


@features.command()
@click.argument("pipeline")
@click.argument("name", required=False)
@json_option
def lineage(pipeline: str, name: str | None, as_json: bool) -> None:
    """The landed columns that each feature is made of; NAME: of a view, or of one feature.

    As the YAML says now: no home is read.

    \b
    Examples:
      mlops features lineage flight_delays
      mlops features lineage flight_delays tail_lateness
      mlops features lineage flight_delays tail_lateness_late_mean_6h --json
    """
    from mlops_pipelines.features.catalogue import lineage as lineage_of
    from mlops_pipelines.spec_loading import load_pipeline

    found = lineage_of(load_pipeline(pipeline), name)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for feature, columns in found.items():
        click.echo(f"{feature:<44} {', '.join(one['landed'] for one in columns)}")


@features.command()
@click.argument("pipeline")
@click.argument("view")
@click.argument("key", nargs=-1, required=True)
@click.option(
    "--fallback",
    is_flag=True,
    help="Compute the values from tiles if the online store is away or has none of the view.",
)
@home_option
@json_option
def read(
    pipeline: str, view: str, key: tuple[str, ...], *, fallback: bool, home: Path | None, as_json: bool
) -> None:
    """A view's values of one KEY in the online store: what an event decided when they were written would see.

    KEY has a value for each key column, in their order. It is known if the view has anything of it: one
    that is not was never seen, or lately not, or is misspelt.

    \b
    Examples:
      mlops features read flight_delays tail_lateness N14228
      mlops features read flight_delays origin_carrier_lateness JFK B6 --fallback --json
    """
    from mlops_pipelines.features.catalogue import current

    found = current(place_of(home, pipeline), view, key, fallback=fallback)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"as of {found['as_of']}, from {found['source']}")
    of = ", ".join(f"{column} {value}" for column, value in found["key"].items())
    click.echo(f"key known: {'yes' if found['known'] else 'no'} ({of})")
    for name, value in found["values"].items():
        click.echo(f"{name:<44} {'–' if value is None else value}")


@features.command()
@click.argument("pipeline")
@home_option
@json_option
def retire(pipeline: str, home: Path | None, as_json: bool) -> None:
    """End what a PIPELINE that was removed uses of other pipelines' views.

    While the home has it as a user, they go on making them, and may not drop what they read. Nothing is
    deleted. A pipeline whose folder is still there is refused; one that comes back uses them again.

    \b
    Example:
      mlops features retire old_pipeline --home /tmp/year
    """
    from mlops_pipelines.features.retiring import retire as end
    from mlops_pipelines.home import Home

    used = end(Home.open(home_path(home)), pipeline)
    if as_json:
        click.echo(json.dumps(used, indent=2))
        return
    if not used:
        click.echo(f"{pipeline} uses no view of another pipeline.")
    for view, others in used.items():
        said = f"still used by {', '.join(others)}" if others else "freed: nobody uses it"
        click.echo(f"{view} {said}")
