"""Replay: the real sensors and the runs they ask for, driven through history in one process.

What producers would have written by a moment is landed; the home's clock moves to that moment; then
every sensor ticks until none asks for a run, and the schedules that are due run. Cursors, ticks and
runs are the daemon's own, so that `mlops dev` on the same home goes on from there.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections import OrderedDict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import dagster as dg
from dagster._core.definitions import instigation_logger
from dagster._core.instance.ref import InstanceRef
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from dagster._core.storage.tags import SCHEDULE_NAME_TAG, SENSOR_NAME_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon import sensor as sensor_daemon
from dagster._scheduler import scheduler as schedule_daemon
from dagster._utils.log import create_console_logger
from dagster_shared.error import SerializableErrorInfo
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import QueuePool

from mlops_pipelines.clock import midnight
from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.settings import use_home

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import date, datetime
    from pathlib import Path
    from types import ModuleType

    from mlops_pipelines.home import Home, PipelineHome
    from mlops_pipelines.spec_loading import LoadedSpec

LOCATION = "mlops_pipelines"
MODULE = "mlops_pipelines.definitions"
# In this order data is complete before anything is decided on it, whatever an interruption left.
SENSORS = ("backlog", "label_arrival", "drift", "retraining")
# Runs that no process carries yet: they wait for a daemon, which outlives the one that took them.
_WAITING = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED)
# A sensor that still asks after this many runs at one moment asks for something that never helps.
MOST_RUNS_AT_ONE_MOMENT = 40
MOST_ENGINES = 16

_OVERRIDES = {
    "run_coordinator": {
        "module": "dagster._core.run_coordinator.sync_in_memory_run_coordinator",
        "class": "SyncInMemoryRunCoordinator",
    },
    "run_launcher": {
        "module": "dagster._core.launcher.sync_in_memory_run_launcher",
        "class": "SyncInMemoryRunLauncher",
    },
    # The local one starts two `tail` processes a step.
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    },
    "python_logs": {"python_log_level": "ERROR"},
}


class Source(Protocol):
    """Where a replay's history comes from."""

    def span(self) -> tuple[datetime, datetime]:
        """First moment of the data, and the first moment after it (UTC)."""
        ...

    def write(self, landing: Path, since: datetime, until: datetime) -> dict[str, int]:
        """Land what producers wrote in [since, until); the rows landed by stream. Repeatable."""
        ...


class Progress(Protocol):
    """Who watches a replay."""

    def moved(self, place: PipelineHome, watermark: datetime) -> None:
        """The home's clock stands at `watermark` and every run asked for has ended."""
        ...

    def started(self, what: str) -> None:
        """A run is about to be asked for, or landing begins."""
        ...


@dataclass(frozen=True)
class Replayed:
    """What one call did.

    since, until: where the home's clock stood before and stands now, UTC. new_events: accepted ones.
    refused: what was wrong with each file that was refused as a whole.
    """

    since: datetime | None
    until: datetime
    new_events: int
    runs: int
    refused: tuple[str, ...] = field(default=())


def replay(
    loaded: LoadedSpec,
    home_path: Path,
    until: date,
    step: timedelta,
    *,
    progress: Progress,
    module: str = MODULE,
) -> Replayed:
    """Bring the home of a pipeline to the end of the day `until` (UTC), from wherever it stands.

    Interrupted at any moment, the next call goes on and ends with the same tables, training sets,
    models and promotions. module: where Dagster finds the pipeline's definitions.
    Raises UserError for a date or step that cannot be, a home that is busy, cannot be written or keeps
    another time, and for what is the user's to mend in a landing zone; TerminalError if a run fails.
    """
    from mlops_pipelines.home import Home, open_home

    source = _source(loaded)
    first, last = source.span()
    if not first.date() <= until < last.date():
        raise UserError(
            f"{until} is outside the data of {loaded.spec.name}.",
            expected=f"a day from {first.date()} to {(last - timedelta(days=1)).date()}",
        )
    if step < timedelta(days=1) or step % timedelta(days=1):
        raise UserError("A replay's step is a number of whole days.", expected="such as --step 1d or 7d")
    Home.create(home_path)
    use_home(home_path)
    home = open_home(home_path.expanduser().absolute())
    place = home.pipeline(loaded)
    _check_landing(place)
    place.prepare()
    with home.exclusive("mlops replay"):
        _check_clock(place)
        with _Daemon(home, loaded.spec.name, module) as daemon:
            return _drive(place, daemon, source, midnight(until) + timedelta(days=1), step, progress)


def close_dead_runs(home: Home) -> None:
    """End the runs that died with an earlier process: the caller holds the home's lock, so none lives.

    Otherwise they would stay as started for ever, and sensors wait for them. Those that nobody has begun
    are left to the daemon.
    """
    with _opened(home) as instance:
        _close_runs(home, instance, [status for status in NOT_FINISHED_STATUSES if status not in _WAITING])


def _opened(home: Home, overrides: dict[str, Any] | None = None) -> dg.DagsterInstance:
    """Dagster's instance of a home. Raises UserError if its records cannot be written."""
    try:
        return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home.dagster), overrides=overrides))
    except (DatabaseError, OSError) as error:
        text = error.orig if isinstance(error, DatabaseError) else error.strerror
        raise UserError(
            f"Dagster's records in {home.dagster} cannot be opened or written: {text}.",
            expected="a folder in which this user may write everything",
            remedy="move away what stands in the place of a file, or mend the permissions",
        ) from error


def _close_runs(home: Home, instance: dg.DagsterInstance, statuses: list[dg.DagsterRunStatus]) -> None:
    for run in instance.get_runs(dg.RunsFilter(statuses=statuses)):
        # First, and uncharged: whoever ended the process, it was not the retrain.
        home.ledger.mark_lost(run.run_id, home.clock.now(), charged=False)
        instance.report_run_failed(run, "The process that ran it ended before it did.")


def _check_clock(place: PipelineHome) -> None:
    """Raises UserError on a home whose time is not that of this pipeline's replay."""
    ledger, path = place.ledger, place.home.path
    owner = ledger.clock_owner()
    if owner not in (None, place.name):
        raise UserError(
            f"The home {path} keeps the time of the replay of {owner}.",
            expected=f"a home of its own for the replay of {place.name}: a home has one clock",
            remedy="--home DIR",
        )
    if ledger.watermark() is None and ledger.target() is None and ledger.has_landed_files():
        raise UserError(
            f"The home {path} keeps the machine's time and has taken in data.",
            expected=f"a home of its own for the replay of {place.name}, which would set its clock back",
            remedy="--home DIR",
        )


def _check_landing(place: PipelineHome) -> None:
    """Raises UserError if a stream is not looked for where the source of a replay lands it."""
    for stream in place.streams:
        if place.landing(stream) != place.landing_root / stream:
            raise UserError(
                f"{stream} of {place.name} lands in {place.landing(stream)}: a replay cannot land there.",
                expected=f"`landing: landing/{stream}`, the folder in the home that a replay writes to",
                remedy="replay a copy of the pipeline that has a name and landing folders of its own",
            )


def _drive(  # noqa: PLR0917 - each is one of a kind
    place: PipelineHome, daemon: _Daemon, source: Source, end: datetime, step: timedelta, progress: Progress
) -> Replayed:
    ledger = place.ledger
    first = source.span()[0]
    began = ledger.watermark()
    accepted, refused = ledger.file_counts(place.name)["events"].accepted, ledger.refused_files(place.name)
    daemon.close_interrupted_runs()
    daemon.finish_interrupted_ticks(progress)
    while True:
        watermark, target = ledger.watermark(), ledger.target()
        if target is None:
            if watermark is not None:
                daemon.settle(watermark, progress)
                if ledger.watermark() != watermark:
                    continue  # what was taken in is newer than the clock was
                progress.moved(place, watermark)
                if watermark >= end:
                    break
            target = min(midnight(watermark or first) + step, end)
            # Written ahead: an interruption while files land is repaired before anything ticks.
            ledger.begin_advance(target, place.name)
        progress.started(f"landing to {target:%Y-%m-%d}")
        # Whole days: what is taken in under `mlops dev` leaves the clock within one.
        source.write(place.landing_root, midnight(watermark or first), midnight(target))
        ledger.finish_advance()
    return Replayed(
        since=began,
        until=watermark,
        new_events=ledger.file_counts(place.name)["events"].accepted - accepted,
        runs=daemon.runs,
        refused=tuple(one.why for one in ledger.refused_files(place.name) if one not in refused),
    )


def _source(loaded: LoadedSpec) -> Source:
    if loaded.spec.replay is None:
        raise UserError(
            f"Pipeline {loaded.spec.name} names no source of history.",
            expected="`replay: {source: module:Class}` in its defs.yaml",
        )
    module, _, name = loaded.spec.replay.source.partition(":")
    try:
        made: Source = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"The replay source {loaded.spec.replay.source} cannot be loaded: {error}",
            expected="`module:Class` that can be imported",
        ) from error
    return made


class _Daemon:
    """Dagster's sensor and schedule daemons, stepped by hand at the home's clock."""

    def __init__(self, home: Home, pipeline: str, module: str):
        self._home = home
        self._pipeline = pipeline
        self._module = module
        self._stack = ExitStack()
        self._logger = logging.getLogger("mlops_pipelines.replay")
        # Dagster tells every tick; what went wrong is raised.
        self._logger.setLevel(logging.ERROR)
        self._seen = 0
        self.runs = 0

    def __enter__(self) -> _Daemon:
        self._stack.enter_context(_without_fsync(self._home.dagster))
        self._stack.enter_context(_engines_kept())
        self._stack.enter_context(_quiet_sensors())
        self.instance = self._stack.enter_context(_opened(self._home, _OVERRIDES))
        self._stack.enter_context(_schemas_known())
        origin = InProcessCodeLocationOrigin(
            LoadableTargetOrigin(executable_path=sys.executable, module_name=self._module),
            location_name=LOCATION,
        )
        self._workspace = self._stack.enter_context(
            WorkspaceProcessContext(self.instance, InProcessWorkspaceLoadTarget(origin))
        )
        self._seen = self.instance.get_runs_count()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def close_interrupted_runs(self) -> None:
        """Mark as failed the runs that an earlier process left unfinished: no other will ever run them."""
        _close_runs(self._home, self.instance, NOT_FINISHED_STATUSES)

    def finish_interrupted_ticks(self, progress: Progress) -> None:
        """Let each sensor whose tick an earlier replay left half-way end that tick.

        Dagster goes on with such a tick instead of asking the sensor, and finds that its run exists: to
        the loop below it would look as if the sensor had nothing to ask for.
        """
        for location in self._workspace.create_request_context().code_locations:
            for repository in location.get_repositories().values():
                for sensor in repository.get_sensors():
                    ticks = self.instance.get_ticks(
                        sensor.get_remote_origin_id(), sensor.selector_id, limit=1
                    )
                    if ticks and ticks[0].status == TickStatus.STARTED:
                        self._tick(sensor.name, progress)

    def settle(self, watermark: datetime, progress: Progress) -> None:
        """Tick until no sensor asks for a run and no schedule is due at this moment."""
        asked = 0
        while True:
            for sensor in SENSORS:
                ran = self._tick(f"{self._pipeline}_{sensor}", progress)
                if ran:
                    break
            else:
                waiting = self._waiting()
                ran = self._run_schedules(watermark)
                if not ran and self._waiting() == waiting:
                    # Looks at what all the others left.
                    self._tick(f"{self._pipeline}_alerts", progress)
                    return
            asked += ran
            if asked > MOST_RUNS_AT_ONE_MOMENT:
                raise TerminalError(
                    f"After {asked} runs at {watermark:%Y-%m-%d %H:%M} UTC, {sensor} still asks for more.",
                    expected="a moment at which nothing is left to do",
                    remedy=f"mlops dev --home {self._home.path}, and look at its runs",
                )

    def _waiting(self) -> int:
        """How many files wait: a schedule may find some, which a sensor then asks a run for."""
        return len(self._home.ledger.pending_files(self._pipeline))

    def _tick(self, name: str, progress: Progress) -> int:
        """Tick one sensor; how many runs it asked for, all of them ended."""
        progress.started(name.removeprefix(f"{self._pipeline}_"))

        def only(sensors: Iterable[Any], **_: Any) -> list[Any]:
            return [one for one in sensors if one.name == name]

        # The daemon shuffles sensors and spaces their ticks by the wall clock; a replay does neither.
        with (
            _replaced(sensor_daemon, "shuffled_round_robin_by_key", only),
            _replaced(sensor_daemon, "is_under_min_interval", lambda *_: False),
        ):
            _drain(sensor_daemon.execute_sensor_iteration(self._workspace, self._logger, None, None))
        return self._finished_runs()

    def _run_schedules(self, watermark: datetime) -> int:
        """Run the schedules that are due at the home's clock, each once however many nights passed."""
        _drain(
            schedule_daemon.launch_scheduled_runs(
                self._workspace, self._logger, watermark, iteration_times={}, max_catchup_runs=1
            )
        )
        return self._finished_runs()

    def _finished_runs(self) -> int:
        """Number of runs that sensors and schedules asked for since the last look.

        No daemon works beside a replay, so it was this one's; a run that somebody starts by hand is not.
        Raises TerminalError, or UserError where the library raised one, if one failed that is no retrain.

        A retrain that fails is taken up again by its sensor, and ended by the ledger if it goes on
        failing; any other run would be asked for without end.
        """
        total = self.instance.get_runs_count()
        fresh, self._seen = total - self._seen, total
        runs = self.instance.get_runs(limit=fresh) if fresh else ()
        ours = [run for run in runs if {SENSOR_NAME_TAG, SCHEDULE_NAME_TAG} & {*run.tags}]
        for run in ours:
            if run.status == dg.DagsterRunStatus.FAILURE and not run.job_name.endswith("_retrain"):
                kind, cause = _cause(self.instance, run.run_id)
                raise kind(
                    f"Run {run.run_id} of {run.job_name} failed: {cause}",
                    remedy="mend the cause and repeat the command; "
                    f"mlops dev --home {self._home.path} shows the run",
                )
        self.runs += len(ours)
        return len(ours)


@contextmanager
def _without_fsync(folder: Path) -> Iterator[None]:
    """Let SQLite databases under `folder` leave syncing to the operating system.

    Dagster opens and closes a database at every event, and each close syncs: a third of a replay's time.
    What is written outlives this process all the same, however it ends; only a power cut could lose it,
    and these are Dagster's own records, not the ledger.
    """

    def connected(connection: Any, _: object) -> None:
        name = connection.execute("PRAGMA database_list").fetchone()[2]
        if name.startswith(f"{folder}/"):
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", connected)
    try:
        yield
    finally:
        event.remove(Engine, "connect", connected)


@contextmanager
def _engines_kept() -> Iterator[None]:
    """Let Dagster's SQLite storages use one engine and connection a database, instead of one a statement.

    A new engine compiles its statements anew: more than half of what an event costs. And a new connection
    reads the schema, and writes the log back when it is closed.
    """
    kept: OrderedDict[str, _KeptEngine] = OrderedDict()

    def engine(url: str, **options: Any) -> Engine:
        if url not in kept:
            if len(kept) == MOST_ENGINES:  # every run has a database of its own
                _, idle = kept.popitem(last=False)
                idle.close()
            made = create_engine(url, **options | {"poolclass": QueuePool})
            kept[url] = _KeptEngine(made.pool, made.dialect, made.url)
        kept.move_to_end(url)
        return kept[url]

    with ExitStack() as stack:
        for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
            stack.enter_context(_replaced(module, "create_engine", engine))
        try:
            yield
        finally:
            for one in kept.values():
                one.close()


class _KeptEngine(Engine):
    """Keeps its connections when Dagster disposes of it, as it does after each statement."""

    def dispose(self, close: bool = True) -> None:
        pass

    def close(self) -> None:
        super().dispose()


@contextmanager
def _schemas_known() -> Iterator[None]:
    """Spare Dagster's look at the schema of its storages, which the instance that is open has had.

    It opens them anew for each evaluation of a sensor, and each time reads fifty migrations to compare.
    """
    with ExitStack() as stack:
        for module in (sqlite_run_storage, sqlite_schedule_storage):
            stack.enter_context(_replaced(module, "check_alembic_revision", lambda *_: ("known", "known")))
        yield


@contextmanager
def _quiet_sensors() -> Iterator[None]:
    """Keep what sensors tell off the screen, which shows the replay's progress; warnings stay."""

    def quiet(name: str, _: int) -> logging.Logger:
        return create_console_logger(name, logging.WARNING)

    with _replaced(instigation_logger, "create_console_logger", quiet):
        yield


def _cause(instance: dg.DagsterInstance, run_id: str) -> tuple[type[TerminalError], str]:
    """What the first failed step of a run raised and said."""
    for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records:
        failure = record.event_log_entry.get_dagster_event().step_failure_data
        if failure.error is None:
            break
        kind, text = _root(failure.error)
        said = failure.user_failure_data.description if failure.user_failure_data else None
        return kind, said or text
    return TerminalError, "it gave no reason"


def _drain(iteration: Iterator[object]) -> None:
    """Go through a daemon's iteration. Raises TerminalError, or UserError, for an error it reports."""
    for reported in iteration:
        if isinstance(reported, SerializableErrorInfo):
            kind, text = _root(reported)
            raise kind(f"A sensor or schedule failed: {text}")


def _root(error: SerializableErrorInfo) -> tuple[type[TerminalError], str]:
    """What Dagster's record of an error began with: what to raise, and its text."""
    while error.cause:
        error = error.cause
    theirs = error.cls_name == UserError.__name__
    text = error.message.strip()
    if theirs:
        text = text.removeprefix(f"{UserError.__module__}.").removeprefix(f"{UserError.__name__}: ")
    return (UserError if theirs else TerminalError), text


@contextmanager
def _replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
