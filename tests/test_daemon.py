"""The real daemon, which is killed again and again, and run workers that are: `dagster dev` on a home."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import psutil
import pytest

from mlops_pipelines.home import Home
from mlops_pipelines.ledger import MAX_LOSSES
from mlops_pipelines.pipelines.flight_delays.source import Flights
from tests.loop import advance, at, land, mlops, move, small_home
from tests.small_flights.asked_often import ASKED, KINDS, pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_pipelines.home import PipelineHome

pytestmark = pytest.mark.proof

PATIENCE = 1200.0  # seconds
ROOT = Path(__file__).parent.parent
MOST_DAYS = 40
LOCATION = """
import dagster as dg
from tests.small_flights.asked_often import definitions

@dg.definitions
def defs():
    return definitions({most})
"""
# As `mlops dev` does, which knows no other code location than that of this project.
DEV = """
import os, sys
from pathlib import Path
from mlops_pipelines.cli import hold_for_dev
from mlops_pipelines.home import Home
from mlops_pipelines.ledger import MAX_LOSSES

home = Home.open(Path(sys.argv[1]))
hold_for_dev(home)
os.execv(sys.executable, [sys.executable, "-m", "dagster", "dev", "-f", sys.argv[2], "-p", sys.argv[3]])
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Dev:
    """`dagster dev` on a home, which is started again whenever it has died."""

    home: Path
    location: Path
    killed: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.starts += 1
        with (self.home / f"dev-{self.starts}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DEV, str(self.home), str(self.location), str(free_port())],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **os.environ,
                    "DAGSTER_HOME": str(self.home / "dagster"),
                    "MLOPS_HOME": str(self.home),
                    "PYTHONPATH": str(ROOT),
                },
            )

    @property
    def daemon(self) -> psutil.Process | None:
        """The process that ticks sensors and starts runs."""
        if self.process is None or self.process.poll() is not None:
            return None
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
            return next((one for one in family if "dagster._daemon" in one.cmdline()), None)
        except psutil.NoSuchProcess:
            return None

    def kill_daemon(self) -> bool:
        """Whether there was one. What it has started is left to itself, or to Dagster."""
        daemon = self.daemon
        if daemon is None or self.process is None:
            return False
        daemon.kill()
        self.killed["daemon"] += 1
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        return True

    def kill_worker(self, instance: dg.DagsterInstance) -> bool:
        """Kill the process of some run that has started; whether there was one."""
        for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
            for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
                told = (entry.dagster_event and entry.dagster_event.message) or ""
                if "Started process for run (pid: " in told:
                    pid = int(told.partition("(pid: ")[2].partition(")")[0])
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        break
                    self.killed["worker"] += 1
                    return True
        return False

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def a_day_goes_by(place: PipelineHome) -> None:
    """Its events, labels and weather land at its end."""
    since = place.clock.now()
    move(place, since + timedelta(days=1))
    for stream in place.streams:
        land(place, stream, f"{since:%m%d}", Flights().rows(stream, since, place.clock.now()))


def quiet(place: PipelineHome, most: int) -> bool:
    """Whether all that could be asked for was, and is answered, and nothing goes on."""
    asked = sum(ASKED in one.key for one in place.ledger.triggers(place.name, limit=10_000))
    return (
        asked == len(KINDS) * most
        and not place.ledger.has_pending(place.name)
        and place.ledger.in_flight(place.name) is None
    )


def test_whatever_is_killed_each_admission_takes_effect_once_and_no_trigger_is_lost(
    tmp_path: Path, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    if not full:
        pytest.skip("minutes of a real daemon: make verify")
    most, daemons, workers = 100, 10, 5
    small_home(tmp_path)
    place = Home.open(tmp_path).pipeline(pipeline())
    advance(place, at(8))
    location = tmp_path / "location.py"
    location.write_text(LOCATION.format(most=most))
    chance = random.Random(17)  # noqa: S311 - chooses moments, guards nothing
    dev = Dev(tmp_path, location)
    until = time.monotonic() + PATIENCE
    day_over = kill_at = kill_worker_at = 0.0
    try:
        with dg.DagsterInstance.from_config(str(place.home.dagster)) as instance:
            while dev.killed["daemon"] < daemons or dev.killed["worker"] < workers or not quiet(place, most):
                now = time.monotonic()
                assert now < until, (dev.killed, place.ledger.counts(place.name))
                if dev.process is None or dev.process.poll() is not None:
                    dev.start()
                    kill_at = now + chance.uniform(10, 40)
                elif dev.killed["daemon"] < daemons and now > kill_at:
                    dev.kill_daemon()
                elif dev.killed["worker"] < workers and now > kill_worker_at and dev.kill_worker(instance):
                    kill_worker_at = now + chance.uniform(5, 30)
                if now > day_over and place.clock.now() < at(8) + timedelta(days=MOST_DAYS):
                    a_day_goes_by(place)
                    day_over = now + 15
                time.sleep(chance.uniform(0.1, 0.5))
    finally:
        dev.stop()
    ledger = place.ledger
    asked = [one for one in ledger.triggers(place.name, limit=10_000) if ASKED in one.key]
    assert len(asked) == len({(one.kind, one.key) for one in asked}) == len(KINDS) * most
    assert {one.status for one in asked} <= {"served", "folded"}
    retrains = ledger.retrains(place.name)
    assert {one.status for one in retrains} <= {"promoted", "rejected", "failed"}
    assert all(one.losses == MAX_LOSSES for one in retrains if one.status == "failed")
    promotions = ledger.promotions(place.name)
    promoted = [one.id for one in retrains if one.status == "promoted"]
    assert sorted(one.retrain_id for one in promotions) == sorted(promoted)
    assert mlops(place, "promotions", place.name, "--verify").exit_code == 0
    champion = ledger.champion(place.name)
    assert champion is not None
    assert place.home.registry.alias(place.name, "champion") == champion.mlflow_version
    sample_size("triggers", len(asked))
    sample_size("daemons killed", dev.killed["daemon"])
    sample_size("run workers killed", dev.killed["worker"])
    sample_size("retrains admitted", len(retrains))
    sample_size("retrains promoted", len(promoted))
    sample_size("runs lost", sum(one.losses for one in retrains))
