"""What a person sees of a replay while it runs, and its summary."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from mlops_pipelines.clock import midnight

if TYPE_CHECKING:
    from datetime import date, datetime
    from pathlib import Path

    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.replay import Replayed
    from mlops_pipelines.spec_loading import LoadedSpec

# Days of the prequential figures shown while a replay runs.
SHOWN = timedelta(days=28)


@dataclass
class _Display:
    bar: Bar
    task: TaskID
    first: datetime

    def started(self, what: str) -> None:
        self.bar.update(self.task, what=what)

    def moved(self, place: PipelineHome, watermark: datetime) -> None:
        self.bar.update(self.task, completed=(watermark - self.first).days, what="")
        self.bar.console.print(_line(place, watermark), highlight=False, soft_wrap=True)


class _Silent:
    def started(self, what: str) -> None:
        """Machines do not watch."""

    def moved(self, place: PipelineHome, watermark: datetime) -> None:
        """Machines do not watch."""


def show_replay(loaded: LoadedSpec, home: Path, until: date, step: timedelta, *, as_json: bool) -> Replayed:
    """Replay with a progress display and a summary, or with `as_json` a JSON summary alone."""
    from rich.console import Console

    from mlops_pipelines.home import Home
    from mlops_pipelines.replay import replay

    console = Console(stderr=as_json)
    if as_json:
        done = replay(loaded, home, until, step, progress=_Silent())
    else:
        with _bar(console) as bar:
            first = midnight(loaded.spec.partitions.start)
            task = bar.add_task("replay", total=(until - first.date()).days + 1, what="starting")
            done = replay(loaded, home, until, step, progress=_Display(bar, task, first))
    _summarize(Home.open(home).pipeline(loaded), done, console, as_json=as_json)
    return done


def _bar(console: Console) -> Bar:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("days"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}"),
        console=console,
        transient=True,
    )


def _line(place: PipelineHome, watermark: datetime) -> str:
    from mlops_pipelines.outcomes import IN_UNITS
    from mlops_pipelines.status import prequential_figures

    since, until = (watermark - SHOWN).date(), (watermark - timedelta(days=1)).date()
    figures = prequential_figures(place, since, until)
    rows = {name: sum(place.lake.row_counts(name).values()) for name in ("events", "labels", "quarantine")}
    champion = place.ledger.champion(place.name)
    retrains = sum(place.ledger.counts(place.name).retrains.values())
    told = {"roc_auc": "AUC", "average_precision": "AP", "accuracy": "accuracy", "rmse": "RMSE", "mae": "MAE"}
    known = [
        f"{short} {figures[name]:.5g}" if name in IN_UNITS else f"{short} {figures[name]:.3f}"
        for name, short in told.items()
        if figures.get(name) is not None
    ]
    quality = "  ".join(known) or "no scores with labels yet"
    latest = place.ledger.retrains(place.name, limit=1)
    why = "".join(f"  last: {', '.join(one.trigger_kinds)} → {one.status}" for one in latest)
    return (
        f"{watermark:%Y-%m-%d}  events {rows['events']:>7,}  rejects {rows['quarantine']:>3}  "
        f"labels {rows['labels']:>7,}  retrains {retrains:>2}  "
        f"champion {f'v{champion.mlflow_version}' if champion else '–':>4}  28 days: {quality}{why}"
    )


def _summarize(place: PipelineHome, done: Replayed, console: Console, *, as_json: bool) -> None:
    from mlops_pipelines.status import retrain_rows, status_of

    rows = retrain_rows(place)
    if as_json:
        facts = {"new_events": done.new_events, "runs": done.runs, "refused": list(done.refused)}
        print(json.dumps({**facts, "retrains": rows, "status": status_of(place)}, indent=2))
        return
    marks = {"pass": "[green]pass[/]", "fail": "[red]fail[/]", "warn": "[yellow]warn[/]",
             "not_applicable": "[dim]n/a [/]"}  # fmt: skip
    for row in rows:
        model = f", model version {row['model_version']}" if row["model_version"] else ""
        console.print(
            f"[bold]{row['retrain']}[/] of {row['admitted_at'][:10]}: {row['why']} → "
            f"[bold]{row['status']}[/]{model}",
            highlight=False,
            soft_wrap=True,
        )
        for verdict in row["verdicts"]:
            mark = marks[verdict["outcome"]]
            console.print(
                f"    {mark}  {verdict['gate']:<12} {verdict['sentence']}", highlight=False, soft_wrap=True
            )
    console.print(
        f"{done.new_events:,} new events, {done.runs} runs; the clock of {place.home.path} stands at "
        f"{done.until:%Y-%m-%d %H:%M} UTC.",
        highlight=False,
        soft_wrap=True,
    )
