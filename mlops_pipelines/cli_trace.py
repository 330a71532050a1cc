"""`mlops trace`: why a prediction is what it is; `mlops reproduce`: the same prediction made again."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from mlops_pipelines.cli_options import home_option, home_path, json_option, places_of, require_free
from mlops_pipelines.errors import UserError

if TYPE_CHECKING:
    from mlops_pipelines.reproduce import Link
    from mlops_pipelines.trace import Predicted

_UNBROKEN = 10_000


@click.command()
@click.argument("prediction_id")
@click.option(
    "--page", type=click.Path(path_type=Path, dir_okay=False), help="Write it as a page (HTML) to a file."
)
@home_option
@json_option
def trace(prediction_id: str, page: Path | None, home: Path | None, as_json: bool) -> None:
    """Show the whole chain behind a prediction, and what became of it.

    From the landed file and row through contract, partition, tiles and vector to the model with its training
    set, code, verdicts and promotion; then the label, and the retrains that it fed.

    \b
    Examples:
      mlops trace 0123456789abcdef
      mlops trace 0123456789abcdef --json
      mlops trace 0123456789abcdef --page trace.html
    """
    from mlops_pipelines.trace import find_prediction
    from mlops_pipelines.trace import trace as chain
    from mlops_pipelines.trace_page import as_page, as_text

    found = chain(find_prediction(places_of(home), prediction_id))
    if page:
        try:
            page.write_text(as_page(found), encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"The page {page} cannot be written: {error.strerror}.",
                expected="a file in a folder that is there, and that this user may write",
                remedy=f"mlops trace {prediction_id} --page trace.html",
            ) from error
        click.echo(f"Written to {page}.", err=as_json)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not page:
        # Nothing is broken in two for a program that reads it.
        width = max(shutil.get_terminal_size().columns, 80) if sys.stdout.isatty() else _UNBROKEN
        click.echo(as_text(found, width))


@click.command()
@click.argument("prediction_id")
@click.option("--code", is_flag=True, help="With the code of the recorded commit, in a temporary work tree.")
@home_option
@json_option
def reproduce(prediction_id: str, code: bool, home: Path | None, as_json: bool) -> None:
    """Make a prediction again from its facts, and hold each link of the chain against what was recorded.

    Partition, tiles, vector, training set and model are made anew, and the score with them. Exit code 1 at
    the first link that differs, by its name.

    \b
    Examples:
      mlops reproduce 0123456789abcdef
      mlops reproduce 0123456789abcdef --json
      mlops reproduce 0123456789abcdef --code
    """
    from mlops_pipelines.reproduce import reproduce as again
    from mlops_pipelines.trace import find_prediction

    if code:
        _reproduce_at(find_prediction(places_of(home), prediction_id), home_path(home), as_json)
    made = []
    for link in again(places_of(home), prediction_id):
        made.append(link)
        if not as_json:
            click.echo(_line(link))
    if as_json:
        links = [asdict(link) for link in made]
        click.echo(json.dumps({"prediction": prediction_id, "links": links}, indent=2))
    if not made[-1].same:
        click.echo(f"Error: {made[-1].name} differs.", err=True)
        sys.exit(1)


def _reproduce_at(found: Predicted, home: Path, as_json: bool) -> NoReturn:
    """Ends this command with the exit code of the same one, run with the code of the recorded commit."""
    from mlops_pipelines.provenance import run_at
    from mlops_pipelines.trace import code_of

    commit = code_of(found)
    if commit.sha == "unknown" or commit.dirty:
        what = "no commit is recorded" if commit.sha == "unknown" else "with changes that were not committed"
        raise UserError(
            f"The code that made the model of {found.row['prediction_id']} cannot be checked out: {what}.",
            expected="a commit, or MLOPS_CODE_COMMIT given by the build, and a tree without changes",
            remedy=f"mlops reproduce {found.row['prediction_id']}, with the code as it stands",
        )
    click.echo(f"Code: {commit.sha}", err=True)
    arguments = ["reproduce", str(found.row["prediction_id"]), "--home", str(home)]
    sys.exit(run_at(commit.sha, [*arguments, *(["--json"] if as_json else [])]))


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), default=3001, show_default=True, help="Port of the pages."
)
@click.option("--with-parent", is_flag=True, hidden=True, help="End with the process that started this one.")
@home_option
def pages(port: int, with_parent: bool, home: Path | None) -> None:
    """Serve the trace of any prediction as a page; Dagster's pages link to it. `mlops dev` starts it too.

    \b
    Examples:
      mlops pages
      mlops pages --home /tmp/year --port 3002
    """
    from mlops_pipelines.home import Home
    from mlops_pipelines.pages import serve

    path = Home.open(home_path(home)).path
    require_free(port)
    if not with_parent:
        click.echo(f"Traces: http://127.0.0.1:{port}")
    serve(lambda: places_of(path), port, with_parent=with_parent)


def _line(link: Link) -> str:
    said = "same" if link.same else "differs"
    hashes = link.recorded[:16]
    if not link.same:
        hashes = f"{hashes or 'nothing'} recorded, {link.rebuilt[:16] or 'nothing'} rebuilt"
    return f"{link.name:<34} {said:<8} {hashes}{f'  {link.why}' if link.why else ''}"
