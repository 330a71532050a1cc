"""`mlops ledger`: the schema of a home's ledger."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from mlops_pipelines.cli_options import home_option, home_path, json_option

if TYPE_CHECKING:
    from pathlib import Path


@click.group()
def ledger() -> None:
    """The ledger's tables."""


@ledger.command()
@home_option
@json_option
def upgrade(home: Path | None, as_json: bool) -> None:
    """Bring a home's ledger to the schema of this version of the code.

    One job runs it, before or after the code is brought up to date: code one version older or newer works on
    the schema. Who works on the ledger meanwhile waits. Make a backup first (mlops backup): there is no way
    back but to restore it.

    \b
    Examples:
      mlops ledger upgrade --home /srv/mlops
    """
    from mlops_pipelines.home import Home

    before, after = Home.open(home_path(home)).ledger.upgrade()
    if as_json:
        click.echo(json.dumps({"before": before, "after": after}, indent=2))
    elif before == after:
        click.echo(f"The ledger has schema version {after}: nothing to do.")
    else:
        click.echo(f"The ledger's schema went from version {before} to {after}.")
