"""`mlops gc`, `mlops backup` and `mlops restore`: what is kept, and a copy of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlops_pipelines.cli_options import home_option, home_path, json_option, place_of

if TYPE_CHECKING:
    from mlops_pipelines.backup import Backup


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
        with place.home.exclusive("mlops gc --apply"), place.home.keeping("mlops gc --apply", alone=True):
            plan = free(place)
    else:
        plan = plan_for(place)
    if as_json:
        click.echo(json.dumps({"applied": really, "kinds": summary(plan)}, indent=2))
        return
    click.echo(as_text(plan))
    click.echo("\nFreed." if really else f"\nNothing was freed: `mlops gc {pipeline} --apply` does it.")
    click.echo("Predictions, vectors and reports are counted by day; their bytes are those of table files.")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@home_option
@json_option
def backup(folder: Path, home: Path | None, as_json: bool) -> None:
    """Copy a whole home as of one moment into FOLDER, which is missing or empty.

    Runs may go on meanwhile. It holds the key that signs training sets: keep it like a password. What landed
    at a URL, and a Redis server's values, are not in it.

    \b
    Examples:
      mlops backup /mnt/backup/2013-03-31
      mlops backup /mnt/backup/year --home /tmp/year --json
    """
    from mlops_pipelines.backup import back_up
    from mlops_pipelines.home import Home

    _tell("Backed up", back_up(Home.open(home_path(home)), folder), folder, as_json)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), required=True, help="Missing or empty folder."
)
@json_option
def restore(folder: Path, home: Path, as_json: bool) -> None:
    """Make a home of the backup in FOLDER, after every file was found to be what was backed up.

    \b
    Examples:
      mlops restore /mnt/backup/2013-03-31 --home /srv/home
    """
    from mlops_pipelines import backup as backups

    _tell("Restored", backups.restore(folder, home), home, as_json)


def _tell(what: str, made: Backup, where: Path, as_json: bool) -> None:
    told = {
        "path": str(where.absolute()),
        "home": made.home,
        "made_at": made.made_at,
        "clock": made.clock,
        "files": len(made.files),
        "bytes": made.bytes,
    }
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(
            f"{what} {len(made.files):,} files, {made.bytes / 1e6:,.1f} MB, as of {made.clock} on the home's "
            f"clock: {told['path']}"
        )
