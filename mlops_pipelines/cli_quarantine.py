"""`mlops quarantine`: look at rejected rows, judge them again, set them aside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from mlops_pipelines.cli_options import home_option, json_option, place_of, reason_option

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome

STREAM = click.option("--stream", help="Only rows of this stream: events, labels or a reference's name.")


@click.group()
def quarantine() -> None:
    """Rejected rows: each is kept whole, with its reasons, until somebody decides about it."""


@quarantine.command("list")
@click.argument("pipeline")
@STREAM
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Rows at most.")
@click.option("--decided", is_flag=True, help="Rows that were replayed, settled or discarded, and why.")
@home_option
@json_option
def list_(
    pipeline: str, *, stream: str | None, limit: int, decided: bool, home: Path | None, as_json: bool
) -> None:
    """Rows that wait for a decision, the latest first, and how often each reason was given.

    \b
    Examples:
      mlops quarantine list flight_delays
      mlops quarantine list flight_delays --stream weather --limit 100 --json
      mlops quarantine list flight_delays --decided
    """
    place = place_of(home, pipeline)
    list_them = _list_decided if decided else _list_waiting
    list_them(place, stream, limit, as_json=as_json)


def _list_waiting(place: PipelineHome, stream: str | None, limit: int, *, as_json: bool) -> None:
    from mlops_pipelines.ingest.quarantine import reason_counts
    from mlops_pipelines.ingest.rejects import shown_with_files, waiting_rows

    rows = waiting_rows(place, stream)
    shown = shown_with_files(place, rows.slice(max(0, rows.num_rows - limit)).to_pylist()[::-1])
    if as_json:
        found = {"rows": rows.num_rows, "reasons": reason_counts(rows), "latest": shown}
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{rows.num_rows:,} rows wait")
    for reason, count in reason_counts(rows).items():
        click.echo(f"  {count:>7,}  {reason}")
    for one in shown:
        why = "; ".join(
            f"{reason['column'] or 'row'} {reason['rule']}"
            + (f", not {reason['value']!r}" if reason["value"] is not None else "")
            for reason in one["reasons"]
        )
        click.echo(f"{one['name']:<22} {one['stream']:<10} {one['file'] or one['day']}  {why}")


def _list_decided(place: PipelineHome, stream: str | None, limit: int, *, as_json: bool) -> None:
    from mlops_pipelines.ingest.quarantine import decided
    from mlops_pipelines.ingest.rejects import shown_with_files

    rows = decided(place.lake, stream)
    shown = [
        {**one, "decision": row["decision"], "why": row["why"], "decided_at": row["decided_at"].isoformat()}
        for row, one in zip(rows, shown_with_files(place, rows[:limit]), strict=False)
    ]
    if as_json:
        click.echo(json.dumps({"rows": len(rows), "latest": shown}, indent=2))
        return
    click.echo(f"{len(rows):,} rows were decided about")
    for one in shown:
        click.echo(
            f"{one['name']:<22} {one['stream']:<10} {one['decided_at']}  {one['decision']}: {one['why']}"
        )


@quarantine.command()
@click.argument("pipeline")
@click.argument("names", nargs=-1, required=True)
@STREAM
@home_option
@json_option
def show(pipeline: str, names: tuple[str, ...], stream: str | None, home: Path | None, as_json: bool) -> None:
    """Rows whole, by the names that `list` gives them; what contradicts a row that stands, with that row.

    Values are masked of columns that are sensitive, and of those that the contract does not name.

    \b
    Example:
      mlops quarantine show flight_delays 3f2a9c01d5e7:17
    """
    from mlops_pipelines.ingest.rejects import chosen, shown_with_files, standing_rows, waiting_rows

    place = place_of(home, pipeline)
    rows = chosen(waiting_rows(place, stream), names).to_pylist()
    shown = [
        {**one, "stands": stands}
        for one, stands in zip(shown_with_files(place, rows), standing_rows(place, rows), strict=True)
    ]
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    for one in shown:
        click.echo(f"{one['name']}: row {one['file_row']} of {one['file']}, SHA-256 {one['file_digest']}")
        click.echo(f"  {one['stream']}, arrived {one['arrived_at']}")
        for reason in one["reasons"]:
            value = "" if reason["value"] is None else f", not {reason['value']!r}"
            click.echo(f"  {reason['code']}: {reason['column'] or 'row'} {reason['rule']}{value}")
        for name, value in one["row"].items():
            click.echo(f"    {_printed(name)} = {value!r}{_beside(one['stands'], name, value)}")


def _printed(name: str) -> str:
    """A name that a producer chose: it may hold anything, also what a terminal obeys."""
    return name if name.isidentifier() else repr(name)


def _beside(stands: dict[str, Any] | None, name: str, value: object) -> str:
    """What the row that stands says, where it says something else."""
    return "" if stands is None or stands.get(name) == value else f", and {stands.get(name)!r} stands"


@quarantine.command()
@click.argument("pipeline")
@click.argument("names", nargs=-1)
@STREAM
@home_option
@json_option
def replay(
    pipeline: str, names: tuple[str, ...], stream: str | None, home: Path | None, as_json: bool
) -> None:
    """Judge rows again, by default all, by today's contract; those that keep it are taken in.

    They belong to the days they would have had. Sensors then bring up to date what they reopened;
    examples and predictions that exist stay as they are.

    \b
    Examples:
      mlops quarantine replay flight_delays
      mlops quarantine replay flight_delays --stream weather
      mlops quarantine replay flight_delays 3f2a9c01d5e7:17 3f2a9c01d5e7:18
    """
    from mlops_pipelines.ingest.rejects import chosen, waiting_rows
    from mlops_pipelines.ingest.rejects import replay as judge_again

    place = place_of(home, pipeline)
    rows = waiting_rows(place, stream)
    done = judge_again(place, chosen(rows, names) if names else rows)
    if as_json:
        found = {
            "accepted": done.accepted,
            "rejected": done.rejected,
            "reasons": dict(done.still),
            "left_out": dict(done.left_out),
        }
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{done.accepted:,} rows taken in, {done.rejected:,} still rejected")
    for reason, count in done.still.items():
        click.echo(f"  {count:>7,}  {reason if reason.isprintable() else repr(reason)}")
    for reason, count in done.left_out.items():
        click.echo(f"{count:,} were left out: they {reason}")


@quarantine.command()
@click.argument("pipeline")
@click.argument("names", nargs=-1, required=True)
@reason_option
@STREAM
@home_option
def discard(
    pipeline: str, names: tuple[str, ...], reason: str, stream: str | None, home: Path | None
) -> None:
    """Set rows aside for good: they are kept, and no longer wait.

    \b
    Example:
      mlops quarantine discard flight_delays 3f2a9c01d5e7:17 --reason "a fault of the station"
    """
    from mlops_pipelines.ingest.rejects import chosen, waiting_rows
    from mlops_pipelines.ingest.rejects import discard as set_aside

    place = place_of(home, pipeline)
    rows = chosen(waiting_rows(place, stream), names)
    count = set_aside(place, rows, reason)
    click.echo(f"{count:,} rows discarded")
    if rows.num_rows > count:
        click.echo(f"{rows.num_rows - count:,} were left out: they were decided about already")
