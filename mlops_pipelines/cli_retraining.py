"""`mlops triggers`, `retrain`, `policy explain`, `pause`, `resume` and `incidents`: why something is
retrained, why nothing is, and what failed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mlops_pipelines.cli_options import acting, home_option, json_option, place_of, reason_option
from mlops_pipelines.cli_promotion import decided
from mlops_pipelines.ledger.triggers import TRIGGER_STATUSES

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.ledger.triggers import Trigger, TriggerStatus
    from mlops_pipelines.triggering import Explanation, Outlook


@click.command()
@click.argument("pipeline")
@click.option("--status", type=click.Choice(TRIGGER_STATUSES), default=None, help="Only these.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Latest, at most.")
@home_option
@json_option
def triggers(
    pipeline: str, status: TriggerStatus | None, limit: int, home: Path | None, as_json: bool
) -> None:
    """Reasons to retrain PIPELINE, oldest first: what each rests on, and what became of it.

    \b
    Examples:
      mlops triggers flight_delays
      mlops triggers flight_delays --status pending
      mlops triggers flight_delays --limit 5 --json
    """
    from mlops_pipelines.triggering import facts

    found = place_of(home, pipeline).ledger.triggers(pipeline, status, limit)
    if as_json:
        click.echo(json.dumps({"pipeline": pipeline, "triggers": [_as_json(one) for one in found]}, indent=2))
        return
    for one in found:
        click.echo(f"{one.created_at:%Y-%m-%d %H:%M}  {one.kind:<11}  {_became(one)}")
        click.echo(f"  {facts(one.evidence)}")
    if not found:
        click.echo(f"Nothing has asked for a retrain of {pipeline}{f' that is {status}' if status else ''}.")


@click.command()
@click.argument("pipeline")
@reason_option
@home_option
@json_option
def retrain(pipeline: str, reason: str, home: Path | None, as_json: bool) -> None:
    """Ask for a retrain of PIPELINE. It passes the same policy as any other reason.

    The sensor `retraining` starts the run when the policy admits it: under `mlops dev` within seconds, in a
    replay with its next step. What is said twice in the same moment is asked for once.

    \b
    Examples:
      mlops retrain flight_delays --reason "the new fare classes are in the events now"
    """
    from mlops_pipelines import triggering

    place = place_of(home, pipeline)
    appended = triggering.append_manual(place, by=acting(place), reason=reason)
    found = triggering.outlook(place, place.clock.now())
    if as_json:
        told = {"pipeline": pipeline, "appended": appended, "would_admit": found.would_admit}
        click.echo(json.dumps({**told, "sentence": found.sentence}, indent=2))
        return
    click.echo(f"{'Asked for' if appended else 'Asked for before, in this same moment'}; {_would(found)}.")


@click.group()
def policy() -> None:
    """The guard over retrains."""


@policy.command()
@click.argument("pipeline")
@home_option
@json_option
def explain(pipeline: str, home: Path | None, as_json: bool) -> None:
    """Why PIPELINE is retrained now, or is not, and until when; and what would ask for a retrain.

    \b
    Examples:
      mlops policy explain flight_delays
      mlops policy explain flight_delays --json
    """
    from mlops_pipelines import triggering

    place = place_of(home, pipeline)
    found = triggering.explain(place, place.clock.now())
    click.echo(json.dumps(_explained(found), indent=2) if as_json else _said(pipeline, found))


@click.command()
@click.argument("pipeline")
@reason_option
@home_option
@json_option
def pause(pipeline: str, reason: str, home: Path | None, as_json: bool) -> None:
    """Start no retrain of PIPELINE until `mlops resume`. One that runs goes on; triggers wait.

    \b
    Examples:
      mlops pause flight_delays --reason "the label feed is being rebuilt"
    """
    _pause(pipeline, True, reason, home, as_json)


@click.command()
@click.argument("pipeline")
@reason_option
@home_option
@json_option
def resume(pipeline: str, reason: str, home: Path | None, as_json: bool) -> None:
    """Let PIPELINE retrain again. What asked meanwhile folds into one retrain.

    \b
    Examples:
      mlops resume flight_delays --reason "the label feed is back"
    """
    _pause(pipeline, False, reason, home, as_json)


@click.command()
@click.argument("pipeline")
@click.option("--all", "past", is_flag=True, help="Also those that are over.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="The newest so many incidents, and failed runs of each job.",
)
@home_option
@json_option
def incidents(pipeline: str, *, past: bool, limit: int, home: Path | None, as_json: bool) -> None:
    """What is wrong with PIPELINE: one incident a cause, what follows from it, and the command that helps.

    Looked for now, as the sensor `alerts` does once a minute. Below them the runs that failed: one is over
    when a later run of its job has succeeded, as what failed was left as it was and the next run takes it up.

    \b
    Examples:
      mlops incidents flight_delays
      mlops incidents flight_delays --all --json
    """
    from mlops_pipelines.alerting.attending import as_they_stand
    from mlops_pipelines.dagster_events import opened
    from mlops_pipelines.failed_runs import checked_parity, failed_runs

    place = place_of(home, pipeline)
    with opened(place.home) as instance:
        runs, parity = failed_runs(place, instance, limit, past=past), checked_parity(place, instance)
    found = as_they_stand(place, runs, parity, past=past)[-limit:]
    if as_json:
        told = {
            "pipeline": pipeline,
            "incidents": [one.to_json() for one in found],
            "failed_runs": [{**asdict(one), "at": one.at.isoformat()} for one in runs],
        }
        click.echo(json.dumps(told, indent=2))
        return
    for incident in found:
        click.echo(incident.told)
    for one in runs:
        at, over = f"{one.at:%Y-%m-%d %H:%M}", f", over since run {one.over_by[:8]}" if one.over_by else ""
        click.echo(f"{at}  {one.job}{f' of {one.days}' if one.days else ''}, run {one.run_id[:8]}{over}")
        click.echo(f"  {one.step or 'lost'}: {one.cause}\n  Try: {one.remedy}")
    if not found and not runs:
        click.echo(f"{pipeline} has no incident{'' if past else ' that is open'}, and no run has failed.")


def _pause(pipeline: str, on: bool, reason: str, home: Path | None, as_json: bool) -> None:
    from mlops_pipelines import promoting

    changed = decided(home, pipeline, promoting.pause, on, reason=reason)
    if as_json:
        click.echo(json.dumps({"pipeline": pipeline, "paused": on, "changed": changed}, indent=2))
        return
    state = "paused" if on else "not paused"
    since = f" (by {place_of(home, pipeline).ledger.state(pipeline).paused})" if on and not changed else ""
    click.echo(f"Retraining of {pipeline} is {state}{'' if changed else f', as it was before{since}'}.")


def _would(found: Outlook | Explanation) -> str:
    """What would become of a retrain now: only a run is admitted."""
    return (
        f"would be {found.sentence}, by the next tick of `mlops dev` or a replay"
        if found.would_admit
        else found.sentence
    )


def _became(one: Trigger) -> str:
    if one.status == "pending":
        return "waits"
    # Of what a retrain answered the reason says both.
    return str(one.reason) if one.retrain_id else f"{one.status}: {one.reason}"


def _as_json(one: Trigger) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "key": one.key,
        "evidence": one.evidence,
        "urgent": one.urgent,
        "created_at": one.created_at.isoformat(),
        "status": one.status,
        "retrain": one.retrain_id,
        "ended_at": one.ended_at.isoformat() if one.ended_at else None,
        "reason": one.reason,
    }


def _explained(found: Explanation) -> dict[str, Any]:
    from mlops_pipelines.policy import Hold

    hold = found.decision if isinstance(found.decision, Hold) else None
    return {
        "at": found.at.isoformat(),
        "sentence": found.sentence,
        "admitted": found.would_admit,
        "held_by": hold.reason if hold else None,
        "until": hold.until.isoformat() if hold and hold.until else None,
        "pending": found.pending
        and {
            "kinds": dict(found.pending.kinds),
            "since": found.pending.first.created_at.isoformat(),
            "urgent": found.pending.urgent,
        },
        "in_flight": found.in_flight.id if found.in_flight else None,
        "paused": found.state.paused,
        "mode": found.mode,
        "failures_in_a_row": found.state.failures,
        "last_retrain": found.state.last_retrain,
        "reasons": [{"kind": one.kind, "due": one.due, "sentence": one.sentence} for one in found.reasons],
    }


def _said(pipeline: str, found: Explanation) -> str:
    lines = [f"{pipeline} at {found.at:%Y-%m-%d %H:%M} UTC: {_would(found)}"]
    if found.state.paused and found.state.paused not in found.sentence:
        lines.append(f"  paused by {found.state.paused}")
    if found.mode == "observe" and found.mode not in found.sentence:
        lines.append("  policy.mode is observe: nothing starts")
    if found.in_flight:
        one = found.in_flight
        since = f"{one.started_at:%Y-%m-%d %H:%M}"
        lines.append(f"  {one.id} is {one.status} since {since}, run {one.run_id}")
    if found.pending:
        first = found.pending.first
        kinds = ", ".join(f"{n} {kind}" for kind, n in found.pending.kinds.items())
        lines.append(f"  waiting: {kinds}, the first since {first.created_at:%Y-%m-%d %H:%M}")
    lines += ["", "What asks for a retrain:"]
    lines += [f"  {each.kind:<12} {'due: ' if each.due else ''}{each.sentence}" for each in found.reasons]
    return "\n".join(lines)
