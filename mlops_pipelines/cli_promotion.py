"""`mlops promotions`, `approve`, `reject`, `rollback`, `freeze`, `unfreeze` and `registry adopt`: what people
decide on models, and the record of it."""

from __future__ import annotations

import csv
import io
import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlops_pipelines.cli_options import acting, home_option, json_option, place_of, reason_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlops_pipelines.audit import Fault, Record
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ledger import Promotion

_Made = TypeVar("_Made")

_COLUMNS = (
    "number", "at", "kind", "mlflow_version", "sequence", "by", "why", "model_hash", "dataset_version",
    "retrain_id", "commit", "hash", "key",
)  # fmt: skip


@click.command()
@click.argument("pipeline")
@click.option("--verify", "verified", is_flag=True, help="Check the chain and every signature.")
@click.option(
    "--export",
    type=click.Choice(["json", "csv"]),
    help="All records to standard output: json whole, csv a row each.",
)
@home_option
@json_option
def promotions(pipeline: str, verified: bool, export: str | None, home: Path | None, as_json: bool) -> None:
    """What was decided on PIPELINE's models: who, when, why, and on what evidence.

    Exit code 1 where --verify finds that the record is not as it was written.

    \b
    Examples:
      mlops promotions flight_delays
      mlops promotions flight_delays --verify
      mlops promotions flight_delays --export csv > promotions.csv
    """
    place = place_of(home, pipeline)
    records, found = _verified(place) if verified else (place.ledger.records(pipeline), [])
    if export == "csv":
        click.echo(_as_csv(records), nl=False)
    elif export or as_json:
        told = {
            "pipeline": pipeline,
            "verified": not found if verified else None,
            "faults": [{"number": fault.number, "what": fault.what} for fault in found],
            "waiting": [
                {"version": one.mlflow_version, "needed": one.approvals, "given": [a.by for a in one.given],
                 "expires_at": one.expires_at.isoformat()}
                for one in place.ledger.waiting(pipeline)
            ],
            "frozen": place.ledger.frozen(pipeline),
            "records": [_as_json(one) for one in records],
        }  # fmt: skip
        click.echo(json.dumps(told, indent=2))
    else:
        _show(place, records)
        if verified and not found:
            click.echo(f"\nVerified: {len(records)} records, each signed and chained to the one before it.")
    if found:
        for fault in found:
            click.echo(f"Altered: {_printable(fault.what)}.", err=True)
        click.echo(
            "Expected: a ledger that nobody has altered; no command lets serve what records do not prove\n"
            "Try: mlops restore, from a backup of before it was altered",
            err=True,
        )
        sys.exit(1)


def _verified(place: PipelineHome) -> tuple[list[Record], list[Fault]]:
    from mlops_pipelines import dagster_events, promoting

    return promoting.verified(place.home, place.name, dagster_events.heads(place.home, place.name))


def _as_json(one: Record) -> dict[str, Any]:
    """All of a record; of one that is not as it was written what is there, as it is."""
    from mlops_pipelines.audit import as_written

    content = as_written(one)
    told = {"number": one.number, "altered": True, "body": one.body} if content is None else content
    return {**told, "hash": one.hash, "key": one.key, "signature": one.signature}


def _as_csv(records: list[Record]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in records:
        told = _as_json(one)
        if "altered" in told:
            told |= {"kind": "altered", "why": one.body}
        commit = told.get("commit")
        told["commit"] = commit.get("sha") if isinstance(commit, dict) else None
        writer.writerow([_printable(str(told.get(name, "") or "")) for name in _COLUMNS])
    return text.getvalue()


def _show(place: PipelineHome, records: list[Record]) -> None:
    from mlops_pipelines import promoting

    if records:
        click.echo(f"{'':>4}  {'UTC':<16}  {'decision':<9}  {'model':<5} {'made it':<18} by whom: why")
    for one in records:
        told = _as_json(one)
        if "altered" in told:
            click.echo(f"{one.number:>4}  altered  {_printable(one.body)}")
            continue
        version = f"v{told['mlflow_version']}" if told.get("mlflow_version") else ""
        champion = f"champion number {told['sequence']}" if told.get("sequence") else ""
        click.echo(
            f"{one.number:>4}  {told['at'][:16].replace('T', ' ')}  {told['kind']:<9}  {version:<5} "
            f"{champion:<18} {_printable(told['by'])}: {_printable(told['why'])}"
        )
    if not records:
        click.echo(f"Nothing was decided on models of {place.name} yet.")
    for wait in place.ledger.waiting(place.name):
        click.echo(f"\n{promoting.sentence_of(wait)}\nIts report: {_report_of(place, wait.mlflow_version)}")
    if frozen := place.ledger.frozen(place.name):
        click.echo(f"\nFrozen by {frozen}")


def _report_of(place: PipelineHome, version: str) -> str:
    """Where a person who decides on a version reads what was found of it."""
    from mlops_pipelines.registry import PAGE
    from mlops_pipelines.settings import settings

    link = place.home.registry.registered(place.name, version).link
    return (
        f"{settings().registry_ui}{link}/artifacts/evaluation/{PAGE}, once `mlops mlflow` runs; as text in "
        "the asset evaluation_report, and beside it the model card"
    )


def _printable(text: str) -> str:
    """A text as a terminal can show it, and acts on nothing of it."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


@click.command()
@click.argument("pipeline")
@click.argument("version")
@reason_option
@home_option
@json_option
def approve(pipeline: str, version: str, reason: str, home: Path | None, as_json: bool) -> None:
    """Let VERSION of PIPELINE serve, which passed its gates and waits for approval.

    Who approves is the user of the operating system, or the bearer of the token in MLOPS_IDENTITY_TOKEN.

    \b
    Examples:
      mlops approve flight_delays 7 --reason "slices of EWR looked at, fine"
    """
    from mlops_pipelines import promoting
    from mlops_pipelines.ledger import Wait

    made = decided(home, pipeline, promoting.approve, version, reason=reason)
    if isinstance(made, Wait):
        told = {"version": version, "champion": False, "approvals": len(made.given), "needed": made.approvals}
        _tell(
            told,
            f"Version {version} has {len(made.given)} of {made.approvals} approvals; another person has to "
            f"say: mlops approve {pipeline} {version} --reason WHY",
            as_json,
        )
    else:
        _tell_champion(made, as_json)


@click.command()
@click.argument("pipeline")
@click.argument("version")
@reason_option
@home_option
@json_option
def reject(pipeline: str, version: str, reason: str, home: Path | None, as_json: bool) -> None:
    """Let VERSION of PIPELINE, which waits for approval, not serve.

    \b
    Examples:
      mlops reject flight_delays 7 --reason "the holdout is the week of the strike"
    """
    from mlops_pipelines import promoting

    decided(home, pipeline, promoting.reject, version, reason=reason)
    _tell({"version": version, "rejected": True}, f"Version {version} is rejected.", as_json)


@click.command()
@click.argument("pipeline")
@click.option("--to", default=None, help="Version; by default the one whose place the champion took.")
@reason_option
@home_option
@json_option
def rollback(pipeline: str, to: str | None, reason: str, home: Path | None, as_json: bool) -> None:
    """Let an earlier champion of PIPELINE serve again, from this moment on.

    \b
    Examples:
      mlops rollback flight_delays --reason "scores jumped at 14:00"
      mlops rollback flight_delays --to 3 --reason "last version before the schema change"
    """
    from mlops_pipelines import promoting

    _tell_champion(decided(home, pipeline, promoting.roll_back, to, reason=reason), as_json)


@click.command()
@click.argument("pipeline")
@reason_option
@home_option
@json_option
def freeze(pipeline: str, reason: str, home: Path | None, as_json: bool) -> None:
    """Let no candidate of PIPELINE become champion until `mlops unfreeze`. A rollback still works.

    \b
    Examples:
      mlops freeze flight_delays --reason "holiday season"
    """
    _freeze(pipeline, True, reason, home, as_json)


@click.command()
@click.argument("pipeline")
@reason_option
@home_option
@json_option
def unfreeze(pipeline: str, reason: str, home: Path | None, as_json: bool) -> None:
    """Let candidates of PIPELINE become champion again. What passed meanwhile waits for `mlops approve`.

    \b
    Examples:
      mlops unfreeze flight_delays --reason "season is over"
    """
    _freeze(pipeline, False, reason, home, as_json)


@click.group()
def registry() -> None:
    """The registry of models, where it and the ledger disagree."""


@registry.command()
@click.argument("pipeline")
@click.argument("version")
@reason_option
@home_option
@json_option
def adopt(pipeline: str, version: str, reason: str, home: Path | None, as_json: bool) -> None:
    """Make VERSION of PIPELINE champion, whose gates passed, against what the loop decided.

    The only way round it: an alias that was moved by hand is moved back.

    \b
    Examples:
      mlops registry adopt flight_delays 5 --reason "compared offline, better on the new routes"
    """
    from mlops_pipelines import promoting

    _tell_champion(decided(home, pipeline, promoting.adopt, version, reason=reason), as_json)


@registry.command()
@click.argument("pipeline")
@home_option
@json_option
def heal(pipeline: str, home: Path | None, as_json: bool) -> None:
    """Make PIPELINE's aliases say what the ledger says, as every decision and each day's monitoring do.

    \b
    Examples:
      mlops registry heal flight_delays
    """
    from mlops_pipelines import promoting

    place = place_of(home, pipeline)
    with _told(place):
        promoting.heal(place.home, pipeline)
    champion = place.ledger.champion(pipeline)
    version = champion.mlflow_version if champion else None
    said = f"The champion of {pipeline} is version {version}." if version else f"{pipeline} has no champion."
    _tell({"pipeline": pipeline, "champion": version}, said, as_json)


def _freeze(pipeline: str, on: bool, reason: str, home: Path | None, as_json: bool) -> None:
    from mlops_pipelines import promoting

    changed = decided(home, pipeline, promoting.freeze, on, reason=reason)
    state = f"{'frozen' if on else 'not frozen'}{'' if changed else ', as it was before'}"
    told = {"pipeline": pipeline, "frozen": on, "changed": changed}
    _tell(told, f"The champion of {pipeline} is {state}.", as_json)


def decided(
    home: Path | None, pipeline: str, decide: Callable[..., _Made], *given: object, reason: str
) -> _Made:
    """What whoever runs this command decides; Dagster is told of it."""
    place = place_of(home, pipeline)
    by = acting(place)
    with _told(place):
        return decide(place, *given, by=by, reason=reason)


@contextmanager
def _told(place: PipelineHome) -> Iterator[None]:
    """Tells Dagster what was decided. Where the registry could not be made to say so, the next tick of the
    sensor `retraining` tries again, and tells Dagster then."""
    from mlops_pipelines import dagster_events

    yield
    dagster_events.tell(place)


def _tell_champion(made: Promotion, as_json: bool) -> None:
    told = {
        "version": made.mlflow_version,
        "champion": True,
        "sequence": made.sequence,
        "replaced": made.previous,
        "by": made.by,
    }
    replaced = f", in place of version {made.previous}" if made.previous else ""
    _tell(
        told,
        f"Version {made.mlflow_version} is champion number {made.sequence}{replaced}, by {made.by}.",
        as_json,
    )


def _tell(told: dict[str, Any], sentence: str, as_json: bool) -> None:
    click.echo(json.dumps(told, indent=2) if as_json else sentence)
