"""The real daemon, which is killed again and again, and run workers that are: `dagster dev` on a home."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import psutil
import pytest

from benchmarks.daemons import free_port
from mlops_pipelines.home import Home
from mlops_pipelines.ledger import ABOUT_CHAMPION, MAX_LOSSES
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.spec_loading import load_pipeline
from tests.loop import advance, at, land, mlops, move, small_home
from tests.small_flights.asked_often import ASKED, KINDS, pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_pipelines.home import PipelineHome

pytestmark = pytest.mark.proof

PATIENCE = 1200.0  # seconds
ROOT = Path(__file__).parent.parent
MOST_DAYS = 70
MLOPS = Path(sys.executable).with_name("mlops")
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
        """Kill the process of a retrain run that has started; whether there was one."""
        started = dg.RunsFilter(
            job_name=f"{pipeline().spec.name}_retrain", statuses=[dg.DagsterRunStatus.STARTED]
        )
        for run in instance.get_runs(started):
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
                    day_over = now + 10
                time.sleep(chance.uniform(0.1, 0.5))
    finally:
        dev.stop()
    ledger = place.ledger
    asked = [one for one in ledger.triggers(place.name, limit=10_000) if ASKED in one.key]
    assert len(asked) == len({(one.kind, one.key) for one in asked}) == len(KINDS) * most
    # What was asked because of a champion ends when another one takes its place; all else is answered.
    overtaken = [one for one in asked if one.status == "expired"]
    assert {one.status for one in asked} <= {"served", "folded", "expired"}
    assert {one.kind for one in overtaken} <= {*ABOUT_CHAMPION}
    assert all(one.reason and "champion" in one.reason for one in overtaken)
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
    sample_size("of these overtaken by another champion", len(overtaken))
    sample_size("daemons killed", dev.killed["daemon"])
    sample_size("run workers killed", dev.killed["worker"])
    sample_size("retrains admitted", len(retrains))
    sample_size("retrains promoted", len(promoted))
    sample_size("runs lost", sum(one.losses for one in retrains))


BACKFILL = """
mutation($given: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $given) { ... on LaunchBackfillSuccess { backfillId } }
}
"""


def test_ninety_days_again_are_one_run_that_recomputes_nothing_and_a_report_asks_for_a_retrain(
    tmp_path: Path, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    if not full:
        pytest.skip("minutes of a real daemon: make verify")
    run_mlops("replay", "flight_delays", "--until", "2013-03-31", "--home", tmp_path)
    place = Home.open(tmp_path).pipeline(load_pipeline("flight_delays"))
    port = free_port()
    command = [MLOPS, "dev", "--home", tmp_path, "--port", port]
    with (tmp_path / "dev.log").open("wb") as log:
        dev = subprocess.Popen(
            map(str, command), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        before = left_behind(place)
        first, again, forced = (backfilled(tmp_path, *more) for more in ((), (), ("--force",)))
        with dg.DagsterInstance.from_config(str(place.home.dagster)) as instance:
            assert instance.get_runs_count(dg.RunsFilter(job_name="flight_delays_backfill")) == 3
            by_hand = from_the_ui(port, instance)
        after = left_behind(place)
        report_a_request(port)
        until = time.monotonic() + PATIENCE
        while not any(one.kind == "external" for one in place.ledger.triggers(place.name)):
            assert time.monotonic() < until
            time.sleep(1)
    finally:
        os.killpg(dev.pid, signal.SIGKILL)
        dev.wait()
    assert set(again["made_again"].values()) == {0}
    assert {name for name, days in forced["made_again"].items() if days == 90} == {
        "feature_tiles", "feature_report", "drift_report", "performance_report", "feedback_report"
    }  # fmt: skip
    for one in (first, again, forced):
        assert set(one["days"].values()) == {90}
        assert set(one["changed"].values()) == {0}
    assert after == before
    sample_size("days", 90)
    sample_size("runs of a backfill from the UI", by_hand)


def run_mlops(*arguments: object) -> str:
    done = subprocess.run(
        [MLOPS, *map(str, arguments)], check=True, text=True, stdout=subprocess.PIPE, timeout=PATIENCE
    )
    return done.stdout


def backfilled(home: Path, *more: str) -> dict[str, dict[str, int]]:
    """What a backfill from the command line came to: each figure by asset."""
    told = run_mlops(
        "backfill", "flight_delays", "--from", "2013-01-01", "--to", "2013-03-31", "--home", home,
        "--json", *more,
    )  # fmt: skip
    assets = json.loads(told)["assets"]
    return {
        figure: {one["asset"]: one[figure] for one in assets} for figure in ("days", "made_again", "changed")
    }


def left_behind(place: PipelineHome) -> tuple[object, ...]:
    """What a backfill of what is right must not change."""
    lake = place.lake
    versions = {
        name: lake.version(name) for name in ("events", "labels", "predictions", place.features.examples)
    }
    return versions, place.ledger.counts(place.name), place.clock.now(), place.ledger.champion(place.name)


def report_a_request(port: int) -> None:
    """Ask for a retrain from outside, through Dagster's own endpoint."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/report_asset_materialization/flight_delays/retrain_requests",
        json.dumps({"description": "new fare classes"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert answer.status == 200


def from_the_ui(port: int, instance: dg.DagsterInstance) -> int:
    """Launch a backfill as the UI does, wait for its end, and count its runs."""
    assets = ("events", "quarantine", "labels", "weather", "feature_tiles", "examples", "predictions",
              "feature_report", "drift_report", "performance_report", "feedback_report")  # fmt: skip
    given = {
        "assetSelection": [{"path": ["flight_delays", name]} for name in assets],
        "partitionNames": [f"2013-03-{day:02}" for day in range(1, 8)],
    }
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": BACKFILL, "variables": {"given": given}}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        backfill = json.load(answer)["data"]["launchPartitionBackfill"]["backfillId"]
    until = time.monotonic() + PATIENCE
    while (found := instance.get_backfill(backfill)) is None or found.status.value in (
        "REQUESTED",
        "COMPLETING",
    ):
        assert time.monotonic() < until
        time.sleep(1)
    assert found.status.value == "COMPLETED_SUCCESS"
    return instance.get_runs_count(dg.RunsFilter.for_backfill(backfill))
