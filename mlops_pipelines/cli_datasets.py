"""`mlops datasets`: training sets as versions, whether they are what was signed, and the keys that sign."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mlops_pipelines.cli_options import home_option, home_path, json_option, place_of

if TYPE_CHECKING:
    from pathlib import Path


@click.group()
def datasets() -> None:
    """Training sets: what each version holds, and whether it still is what was signed."""


@datasets.command("list")
@click.argument("pipeline")
@home_option
@json_option
def list_(pipeline: str, home: Path | None, as_json: bool) -> None:
    """Versions in the order in which they were made, with what they hold and which retrain they served.

    \b
    Examples:
      mlops datasets list flight_delays
      mlops datasets list flight_delays --json
    """
    from mlops_pipelines.experiments import dataset_rows

    found = dataset_rows(place_of(home, pipeline))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(
        f"{'version':<13} {'rows':>9} {'days':>5} {'first day':<11} {'last day':<11} {'new MB':>7}  served"
    )
    for one in found:
        click.echo(
            f"{one['version']:<13} {one['rows']:>9,} {one['days']:>5} {one['first_day']:<11} "
            f"{one['last_day']:<11} {one['new_bytes'] / 1e6:>7.1f}  {', '.join(one['retrains'])}".rstrip()
        )


@datasets.command()
@click.argument("pipeline")
@click.argument("version", required=False)
@home_option
@json_option
def show(pipeline: str, version: str | None, home: Path | None, as_json: bool) -> None:
    """The datasheet of a VERSION, by default the newest: what it holds, where it is from, what it lacks.

    \b
    Examples:
      mlops datasets show flight_delays
      mlops datasets show flight_delays 0123456789ab --json
    """
    from mlops_pipelines.datasheet import datasheet
    from mlops_pipelines.experiments import dataset_version

    place = place_of(home, pipeline)
    manifest = place.home.datasets.version(place.name, dataset_version(place, version)).manifest
    click.echo(json.dumps(manifest, indent=2) if as_json else datasheet(manifest), nl=as_json)


@datasets.command()
@click.argument("pipeline")
@click.argument("version", required=False)
@home_option
@json_option
def verify(pipeline: str, version: str | None, home: Path | None, as_json: bool) -> None:
    """Check signature and bytes of a VERSION, by default of all. Exit code 1 if one is not what was signed.

    \b
    Examples:
      mlops datasets verify flight_delays
      mlops datasets verify flight_delays 0123456789ab
    """
    from mlops_pipelines.experiments import dataset_version, verified

    place = place_of(home, pipeline)
    found = verified(place, [dataset_version(place, version)] if version else None)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
    for one in () if as_json else found:
        click.echo(f"{one.version}: {one.problem or 'as it was signed'}", err=bool(one.problem))
    if not found and not as_json:
        click.echo(f"{pipeline} has no training set yet.")
    if any(one.problem for one in found):
        sys.exit(1)


@datasets.command()
@click.argument("pipeline")
@home_option
def push(pipeline: str, home: Path | None) -> None:
    """Bring all versions to the remote that the setting MLOPS_DATASETS_REMOTE names.

    A run does so with each new version. This is for those from before there was a remote, or another one.

    \b
    Examples:
      MLOPS_DATASETS_REMOTE=/mnt/share/datasets mlops datasets push flight_delays
    """
    pushed = place_of(home, pipeline).home.datasets.push(pipeline)
    click.echo(f"{pushed} versions of {pipeline} are at the remote.")


@datasets.command()
@click.option("--new", is_flag=True, help="Make another key; what the one before it signed stays valid.")
@home_option
@json_option
def keys(new: bool, home: Path | None, as_json: bool) -> None:
    """List the public keys whose signatures are valid on this home; `signs` is the one in use.

    \b
    Examples:
      mlops datasets keys
      mlops datasets keys --new
    """
    from mlops_pipelines.home import Home

    known = Home.open(home_path(home)).keys
    if new:
        known.renew()
    own, public = known.own, known.public()
    if as_json:
        click.echo(json.dumps([{"key": key, "signs": key == own, "public": public[key]} for key in public]))
        return
    for key, pem in public.items():
        click.echo(f"{key}{'  signs' if key == own else ''}\n{pem}", nl=False)
    if own and own not in public:
        folder = known.folder
        click.echo(
            f"The public key of {own}, which signs here, is not listed: what it signed is refused.\n"
            f"Try: mkdir -p {folder}/public && openssl pkey -in {known.private} -pubout "
            f"-out {folder}/public/{own}.pem",
            err=True,
        )
    elif not public:
        click.echo("There is no key yet: the first training set makes one.")
