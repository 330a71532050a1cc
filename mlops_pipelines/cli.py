"""The `mlops` command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops_pipelines.cli_alerts import alerts
from mlops_pipelines.cli_backfill import backfill
from mlops_pipelines.cli_backtest import backtest
from mlops_pipelines.cli_contract import contract
from mlops_pipelines.cli_datasets import datasets
from mlops_pipelines.cli_experiments import compare, train
from mlops_pipelines.cli_features import features, parity
from mlops_pipelines.cli_health import health, metrics
from mlops_pipelines.cli_keeping import backup, gc, restore
from mlops_pipelines.cli_ledger import ledger
from mlops_pipelines.cli_options import (
    DAY,
    at_home,
    home_option,
    home_path,
    json_option,
    place_of,
    require_free,
)
from mlops_pipelines.cli_promotion import (
    approve,
    freeze,
    promotions,
    registry,
    reject,
    rollback,
    unfreeze,
)
from mlops_pipelines.cli_quarantine import quarantine
from mlops_pipelines.cli_reports import report
from mlops_pipelines.cli_retraining import incidents, pause, policy, resume, retrain, triggers
from mlops_pipelines.cli_trace import pages, reproduce, trace
from mlops_pipelines.errors import MlopsError, UserError
from mlops_pipelines.settings import settings, silence_warning, use_home
from mlops_pipelines.spec import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date, timedelta

    from mlops_pipelines.home import Home

INTERRUPTED = b"Interrupted; the same command goes on from here.\n"
PORT = click.IntRange(1, 65535)


class _Duration(click.ParamType["timedelta"]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Errors(click.Group):
    """Ends a command with what happened, what was expected and what helps: 2 for the user's, else 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MlopsError as error:
            click.echo(f"Error: {error}{at_home(ctx, error)}", err=True)
            sys.exit(2 if isinstance(error, UserError) else 1)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            sys.exit(130)


@click.group(cls=_Errors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mlops-pipelines")
def main() -> None:
    """Keep machine-learning models fresh and safe: replay history, look at what the loop did.

    \b
    Examples:
      mlops replay flight_delays --until 2013-03-31
      mlops status flight_delays
      mlops predictions flight_delays --limit 5 --json
      mlops dev
    """


@main.command()
@click.argument("pipeline")
@click.option("--until", required=True, type=DAY, help="Last day to replay, included.")
@click.option("--step", default="7d", type=_Duration(), show_default=True, help="Days that land at once.")
@home_option
@json_option
def replay(pipeline: str, until: date, step: timedelta, home: Path | None, as_json: bool) -> None:
    """Drive PIPELINE's real sensors and runs through history, up to a day.

    The home is made if it is missing. Interrupt it whenever you like: the same command goes on.

    \b
    Examples:
      mlops replay flight_delays --until 2013-03-31
      mlops replay flight_delays --until 2013-12-31 --step 1d --home /tmp/year
    """
    with ended_by_signals():
        from mlops_pipelines.progress import show_replay
        from mlops_pipelines.spec_loading import load_pipeline

        done = show_replay(load_pipeline(pipeline), home_path(home), until, step, as_json=as_json)
    if done.refused:
        raise UserError(
            f"{len(done.refused)} landed files were refused:\n  " + "\n  ".join(done.refused),
            expected="files that are what their names say and keep the contract",
            remedy="mend them and land them again under new names, then repeat the command",
        )


@main.command()
@click.argument("pipeline")
@click.option("--since", type=DAY, default=None, help="First day of the prequential figures.")
@click.option("--until", type=DAY, default=None, help="Last day of the prequential figures, included.")
@home_option
@json_option
def status(pipeline: str, since: date | None, until: date | None, home: Path | None, as_json: bool) -> None:
    """Where PIPELINE stands: events, labels, triggers, retrains, champion, and how good it has been.

    \b
    Examples:
      mlops status flight_delays
      mlops status flight_delays --since 2013-03-01 --until 2013-03-31 --json
    """
    from mlops_pipelines.status import render, status_of

    if since and until and until < since:
        raise UserError(f"--until {until} lies before --since {since}.")
    found = status_of(place_of(home, pipeline), since=since, until=until)
    click.echo(json.dumps(found, indent=2) if as_json else render(pipeline, found))


@main.command()
@click.argument("pipeline", required=False)
@json_option
def check(pipeline: str | None, as_json: bool) -> None:
    """Check what PIPELINE declares, or every pipeline: fields, contract, SQL, shared files.

    No home is read, and no Python function is called: the first run does that. Exit code 0, or 2 with
    every problem and its place.

    \b
    Examples:
      mlops check
      mlops check flight_delays --json
    """
    from mlops_pipelines import spec_loading

    found = spec_loading.checked(pipeline)
    if as_json:
        told = [{"pipeline": name, "ok": why is None, "why": why} for name, why in found.items()]
        click.echo(json.dumps(told, indent=2))
    for name, why in () if as_json else found.items():
        click.echo(f"{name}: ok" if why is None else f"Error: {why}", err=why is not None)
    if any(found.values()):
        sys.exit(2)


@main.command()
@click.argument("pipeline")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Rows at most.")
@home_option
@json_option
def predictions(pipeline: str, limit: int, home: Path | None, as_json: bool) -> None:
    """List PIPELINE's predictions, newest first.

    \b
    Examples:
      mlops predictions flight_delays
      mlops predictions flight_delays --limit 5 --json
    """
    from mlops_pipelines.status import newest_predictions, render_predictions

    rows = newest_predictions(place_of(home, pipeline), limit)
    click.echo(json.dumps(rows, indent=2) if as_json else render_predictions(rows))


@main.command()
@home_option
@click.option(
    "--port", type=PORT, default=3000, show_default=True, help="Port of the UI; traces are on the next one."
)
@click.option("--new", is_flag=True, help="Make the home if it is missing; the wall clock is its clock.")
def dev(home: Path | None, port: int, new: bool) -> None:
    """Start the Dagster UI with its daemon and sensors on a home, going on with the home's clock.

    It holds the home alone: no replay runs beside it.

    \b
    Examples:
      mlops dev
      mlops dev --home /tmp/year --port 3001
      mlops dev --home /srv/live --new
    """
    from mlops_pipelines.home import PROJECT, Home
    from mlops_pipelines.spec_loading import find_specs, load_spec

    require_free(port)
    path = home_path(home)
    place = Home.create(path) if new else Home.open(path)
    place.link_settings()
    for spec in find_specs():
        place.pipeline(load_spec(spec)).prepare()
    use_home(path)
    hold_for_dev(place)
    os.environ["DAGSTER_HOME"] = str(place.dagster)
    # Dagster would say that another command is preferred, which knows no workspace file.
    silence_warning("Function `dev_command` is superseded")
    click.echo(f"Home:     {place.path}")
    click.echo(f"Settings: {place.dagster / 'dagster.yaml'}, a link to {PROJECT / 'dagster.yaml'}")
    click.echo(f"Clock:    {place.clock.now():%Y-%m-%d %H:%M} UTC")
    click.echo(f"Dagster:  http://127.0.0.1:{port}")
    click.echo(f"Traces:   {_start_pages(path, port + 1)}")
    click.echo(f"Registry: {settings().registry_ui} after `mlops mlflow --home {place.path}` elsewhere")
    _become("dagster", "dev", "-w", str(PROJECT / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(port))


@main.command()
@home_option
@click.option("--port", type=PORT, default=5000, show_default=True, help="Port of the UI.")
def mlflow(home: Path | None, port: int) -> None:
    """Show the MLflow registry of a home.

    \b
    Examples:
      mlops mlflow
      mlops mlflow --home /tmp/year --port 5001
    """
    from mlops_pipelines.home import Home

    require_free(port)
    place = Home.open(home_path(home))
    click.echo(f"Registry: http://127.0.0.1:{port}")
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    store = ["--backend-store-uri", place.mlflow_uri]
    _become("mlflow", "server", *store, "--host", "127.0.0.1", "--port", str(port))


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the process there and then, with 128 + the signal's number.

    Dagster would catch them, call the run that it cuts short failed, and go on. There is nothing to tidy
    up: a replay goes on from wherever it ended, however it ended. Threads and processes that start in here
    do not get the signals: one thread waits for them.
    """
    signals = {signal.SIGINT, signal.SIGTERM}
    over = threading.Event()

    def wait() -> None:
        received = signal.sigwait(signals)
        if over.is_set():
            return
        if os.isatty(1):
            os.write(1, b"\r\x1b[2K\x1b[?25h")  # the line of the progress bar, and the cursor it hid
        os.write(2, INTERRUPTED)
        os._exit(128 + received)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    waiter = threading.Thread(target=wait, name="signals", daemon=True)
    waiter.start()
    try:
        yield
    finally:
        over.set()
        signal.pthread_kill(waiter.ident or 0, signal.SIGTERM)
        waiter.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hold_for_dev(place: Home) -> None:
    """Hold the home for this process and the program that takes its place, and end the runs that died in it.

    Raises UserError if another process holds it.
    """
    from mlops_pipelines.replay import close_dead_runs

    os.set_inheritable(place.lock("mlops dev"), True)
    close_dead_runs(place)


def _start_pages(home: Path, port: int) -> str:
    """Serve the pages until the program ends that takes this process's place; their address."""
    require_free(port)
    command = [str(_program("mlops")), "pages", "--home", str(home), "--port", str(port), "--with-parent"]
    subprocess.Popen(command)  # noqa: S603 - our own command
    address = os.environ["MLOPS_PAGES_UI"] = f"http://127.0.0.1:{port}"
    return address


def _program(name: str) -> Path:
    """A program of the same environment."""
    return Path(sys.executable).parent / name


def _become(program: str, *arguments: str) -> None:
    """Replace this process by a program of the same environment."""
    path = _program(program)
    # Where interrupts are ignored, as behind `nohup`, Dagster would ignore being ended, too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execv(path, [str(path), *arguments])  # noqa: S606 - our own environment's program, no shell


main.add_command(alerts)
main.add_command(approve)
main.add_command(backfill)
main.add_command(backtest)
main.add_command(backup)
main.add_command(compare)
main.add_command(contract)
main.add_command(datasets)
main.add_command(features)
main.add_command(freeze)
main.add_command(gc)
main.add_command(health)
main.add_command(incidents)
main.add_command(ledger)
main.add_command(metrics)
main.add_command(pages)
main.add_command(parity)
main.add_command(pause)
main.add_command(policy)
main.add_command(promotions)
main.add_command(quarantine)
main.add_command(registry)
main.add_command(reject)
main.add_command(report)
main.add_command(reproduce)
main.add_command(restore)
main.add_command(resume)
main.add_command(retrain)
main.add_command(rollback)
main.add_command(trace)
main.add_command(train)
main.add_command(triggers)
main.add_command(unfreeze)
