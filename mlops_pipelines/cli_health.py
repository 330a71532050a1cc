"""`mlops health`: the loop by clock; `mlops metrics`: its figures for Prometheus."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from mlops_pipelines.cli_options import home_option, json_option, place_of
from mlops_pipelines.errors import UserError


@click.command()
@click.argument("pipeline")
@home_option
@json_option
def health(pipeline: str, home: Path | None, as_json: bool) -> None:
    """How far each step of PIPELINE lies behind the home's clock; its objectives; what its runs took.

    Exit code 1 if a clock lies further behind than is normal, an incident is critical, or a landing folder
    cannot be listed.

    \b
    Examples:
      mlops health flight_delays
      mlops health flight_delays --json
    """
    from mlops_pipelines import health as library

    found = library.health_of(place_of(home, pipeline))
    click.echo(json.dumps(library.as_json(found), indent=2) if as_json else library.render(found))
    if not found.healthy:
        sys.exit(1)


@click.command()
@click.argument("pipelines", metavar="PIPELINE...", nargs=-1, required=True)
@click.option(
    "--textfile", type=click.Path(path_type=Path, dir_okay=False), help="Write them to a file, at once whole."
)
@click.option("--serve", is_flag=True, help="Serve them, looked up anew when they are asked for.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
@click.option("--port", type=click.IntRange(1, 65535), default=9464, show_default=True, help="Port.")
@home_option
def metrics(
    pipelines: tuple[str, ...], textfile: Path | None, *, serve: bool, host: str, port: int, home: Path | None
) -> None:
    """Figures of PIPELINE... for Prometheus: as text, served, or in a file for node_exporter.

    \b
    Examples:
      mlops metrics flight_delays
      mlops metrics flight_delays --textfile /var/lib/node_exporter/mlops.prom
      mlops metrics flight_delays --serve --port 9464
    """
    from mlops_pipelines import prometheus

    if serve and textfile:
        raise UserError("--serve and --textfile exclude each other.", expected="one of them, or neither")
    places = [place_of(home, name) for name in dict.fromkeys(pipelines)]
    if textfile:
        prometheus.write(places, textfile)
        click.echo(f"Written to {textfile}.")
    elif serve:
        server = prometheus.serve(places, host, port)
        click.echo(f"Metrics: http://{host}:{port}/metrics")
        server.join()
    else:
        click.echo(prometheus.page(places).decode(), nl=False)
