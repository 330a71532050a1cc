"""What commands of `mlops` share: their options, and how they find a home and a pipeline's place in it."""

from __future__ import annotations

import socket
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops_pipelines.errors import UserError
from mlops_pipelines.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlops_pipelines.errors import MlopsError
    from mlops_pipelines.home import PipelineHome


_HOME = "mlops_pipelines.home"


class _Day(click.ParamType["date"]):
    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        try:
            day = date.fromisoformat(value)
        except ValueError:
            day = None
        if day is None or day.isoformat() != value:
            self.fail(f"{value!r} is no day, such as 2013-03-31", param, ctx)
        return day


DAY = _Day()


def home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        callback=_remembered,
        help="Folder of everything made at run time (default: MLOPS_HOME, then data/).",
    )(command)


def _remembered(context: click.Context, _: click.Parameter, home: Path | None) -> Path | None:
    context.find_root().meta[_HOME] = home
    return home


def at_home(context: click.Context, error: MlopsError) -> str:
    """A further line of an error whose remedy is a command: on the home that was named."""
    home: Path | None = context.find_root().meta.get(_HOME)
    return f"\nWith: --home {home}" if home and "mlops " in (error.remedy or "") else ""


def _said(_: click.Context, __: click.Parameter, reason: str) -> str:
    from mlops_pipelines.identity import said

    return said(reason)


reason_option = click.option("--reason", required=True, callback=_said, help="Why, for whoever asks later.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def home_path(given: Path | None) -> Path:
    return (given or settings().home).expanduser().absolute()


def place_of(home: Path | None, pipeline: str) -> PipelineHome:
    """A pipeline's place in a home. Raises UserError if there is no such pipeline, or no home."""
    from mlops_pipelines.home import Home
    from mlops_pipelines.spec_loading import load_pipeline

    loaded = load_pipeline(pipeline)
    return Home.open(home_path(home)).pipeline(loaded)


def places_of(home: Path | None) -> list[PipelineHome]:
    """The places of all pipelines that a home has anything of. Raises UserError if there is no home."""
    from mlops_pipelines.home import Home
    from mlops_pipelines.spec_loading import load_pipeline, pipeline_names

    found = Home.open(home_path(home))
    names = [name for name in pipeline_names() if (found.path / "pipelines" / name).is_dir()]
    return [found.pipeline(load_pipeline(name)) for name in names]


def acting(place: PipelineHome) -> str:
    """Who runs this command, as `identity.who_acts` knows it."""
    from mlops_pipelines.identity import who_acts

    known = settings()
    token = known.identity_token.get_secret_value() if known.identity_token else None
    return who_acts(known.identity_keys or place.home.path / "keys" / "identities", token)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table, columns below each other."""
    width = max(map(len, rows))
    full = [[*row, *[""] * (width - len(row))] for row in rows]
    widths = [max(len(row[column]) for row in full) for column in range(width)]
    return [
        "  ".join(f"{cell:<{size}}" for cell, size in zip(row, widths, strict=True)).rstrip() for row in full
    ]


def require_free(port: int) -> None:
    """Raises UserError for a port that someone listens on: nobody would see who failed to start."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"The port {port} cannot be listened on: {error.strerror}.", remedy=f"--port {port + 1}"
            ) from error
