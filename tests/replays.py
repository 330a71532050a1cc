"""Replays in processes of their own, killed or interrupted at a chosen step."""

from __future__ import annotations

import functools
import multiprocessing
import os
import time
from dataclasses import dataclass
from importlib import import_module
from signal import SIGKILL, Signals
from typing import TYPE_CHECKING, Any

from mlops_pipelines.cli import ended_by_signals
from mlops_pipelines.features.views import compile_views, tile_table
from mlops_pipelines.home import Home
from mlops_pipelines.spec_loading import load_pipeline
from tests.small_flights import NAME, loaded

if TYPE_CHECKING:
    from datetime import date, timedelta
    from pathlib import Path

# Imported once by the server that replays are forked from: seconds that every replay would pay.
HEAVY = ["dagster", "deltalake", "duckdb", "dvc.api", "dvc.repo", "dvc.scm", "evidently.presets", "feast",
         "great_expectations", "lightgbm", "markdown_it", "matplotlib.backends.backend_agg", "mlflow",
         "mlflow.lightgbm", "mlflow.store.model_registry.sqlalchemy_store",
         "mlflow.store.tracking.sqlalchemy_store", "networkx", "pygit2", "sklearn.metrics",
         "mlops_pipelines.replay", "tests.small_flights.definitions"]  # fmt: skip
# By table: the order of its rows, and its columns of provenance.
TABLES: dict[str, tuple[list[str], list[str]]] = {
    "events": (["event_id"], ["file_digest", "file_row"]),
    "labels": (["event_id", "known_at", "label_time", "label"], ["file_digest", "file_row"]),
    "labels_unmatched": (["event_id", "known_at"], ["file_digest", "file_row"]),
    "weather": (["origin", "ref_time", "arrived_at"], ["file_digest", "file_row"]),
    "planes": (["tailnum", "arrived_at"], ["file_digest", "file_row"]),
    "predictions": (["decided_at", "event_id"], ["scored_at", "model_version", "examples_version"]),
    "drift_report": (["feature"], ["model_version"]),
    "performance_report": (["model_hash"], ["model_version"]),
    "feedback_report": (["model_hash", "part", "name", "bucket"], ["model_version"]),
    "quarantine": (["file_digest", "file_row"], []),
}


@dataclass(frozen=True)
class Kill:
    """Get a signal at a call of `method` of `module:Class`: the nth, before or after it ran."""

    target: str
    method: str
    nth: int = 1
    after: bool = False
    by: Signals = SIGKILL

    def __str__(self) -> str:
        return f"{self.by.name} {'after' if self.after else 'before'} {self.method.strip('_')} {self.nth}"


def replay(
    home: Path, until: date, step: timedelta, kill: Kill | None = None, *, pipeline: str = NAME
) -> int | None:
    """Replay in another process; its exit code (-9 if it was killed, 130 if it was interrupted).

    pipeline: the small one, or one that ships.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    process = context.Process(target=_replay, args=(home, until, step, kill, pipeline))
    process.start()
    process.join()
    return process.exitcode


def fingerprint(home: Path) -> dict[str, Any]:
    """Content hashes of every partition, training set and model; what the ledger says of files, retrains."""
    place = Home.open(home).pipeline(loaded())
    alias = place.home.registry.alias(NAME, "champion")
    tiles = {
        tile_table(view): (["hour", *view.keys], list[str]())
        for view in compile_views(place.spec, place.contract)
        if view.windowed
    }
    examples = {place.features.examples: (["decision_time", "event_id"], ["made_of"])}
    tables: dict[str, Any] = {
        name.split("/set_")[0]: place.lake.hashes(name, sort_by=order, unhashed=unhashed)
        for name, (order, unhashed) in {**TABLES, **examples, **tiles}.items()
        if place.lake.exists(name)
    }
    return {
        **tables,
        "files": dict(place.ledger.file_counts(NAME)),
        "retrains": [
            (one.id, one.status, one.trigger_kinds, one.dataset_version, one.model_hash, one.watermark)
            for one in place.ledger.retrains(NAME)
        ],
        "verdicts": [
            (one.id, verdict.gate, verdict.outcome, verdict.figure)
            for one in place.ledger.retrains(NAME)
            for verdict in place.ledger.verdicts(one.id)
        ],
        "promotions": [(one.sequence, one.model_hash, one.at) for one in place.ledger.promotions(NAME)],
        "triggers": [(one.key, one.status) for one in place.ledger.triggers(NAME)],
        "alias": place.home.registry.load(NAME, alias).model_hash if alias else None,
    }


def _replay(home: Path, until: date, step: timedelta, kill: Kill | None, pipeline: str) -> None:
    from mlops_pipelines.replay import MODULE
    from mlops_pipelines.replay import replay as drive

    if kill is not None:
        _arm(kill)
    with ended_by_signals():
        small = pipeline == NAME
        drive(
            loaded() if small else load_pipeline(pipeline),
            home,
            until,
            step,
            progress=_Unwatched(),
            module="tests.small_flights.definitions" if small else MODULE,
        )


def _arm(kill: Kill) -> None:
    module, _, name = kill.target.partition(":")
    owner = getattr(import_module(module), name)
    original = getattr(owner, kill.method)
    calls = 0

    @functools.wraps(original)
    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == kill.nth and not kill.after:
            _get(kill.by)
        result = original(*args, **kwargs)
        if calls == kill.nth:
            _get(kill.by)
        return result

    setattr(owner, kill.method, dying)


def _get(signal: Signals) -> None:
    """A signal, in the middle of something long."""
    os.kill(os.getpid(), signal)
    time.sleep(60)


class _Unwatched:
    def started(self, what: str) -> None:
        """Nobody looks."""

    def moved(self, place: Any, watermark: Any) -> None:
        """Nobody looks."""
