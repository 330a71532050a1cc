"""Dagster daemons on homes of their own, ours and a bare one, and what they do with a file that lands."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import dagster as dg

GOLDEN = (5**0.5 - 1) / 2
# Of the sensor as Dagster has it, and of the daemon, which looks no more often whatever a sensor asks for.
SENSOR_INTERVAL, DAEMON_INTERVAL = 30.0, 5.0
PATIENCE = 180.0
# What a project of Dagster's has: one job, one sensor, nothing configured.
BARE = """
import os
from pathlib import Path
import dagster as dg

@dg.op
def take():
    pass

@dg.job
def ingest():
    take()

@dg.sensor(job=ingest, default_status=dg.DefaultSensorStatus.RUNNING{interval})
def landed(context):
    files = sorted(os.listdir(Path(__file__).parent / "landing"))
    if files and files[-1] > (context.cursor or ""):
        context.update_cursor(files[-1])
        return dg.RunRequest(run_key=files[-1])
    return dg.SkipReason("nothing has landed")

defs = dg.Definitions(jobs=[ingest], sensors=[landed])
"""


@dataclass
class Daemon:
    """A running `dagster dev`. dagster: its home. lands: drops a file of a number that its sensor looks for.
    interval: how often that looks, seconds."""

    process: subprocess.Popen[bytes]
    dagster: Path
    lands: Callable[[int], None]
    interval: float
    landings: int = field(default=0)

    def landed_to_started(self) -> float:
        """Seconds from a file's landing until the run that takes it in begins its first step; files land at
        moments that are spread evenly over the sensor's interval."""
        self.landings += 1
        self.wait_until_idle()
        phase = self.landings * GOLDEN % 1 * self.interval
        time.sleep((phase - time.monotonic()) % self.interval)
        known = {run.run_id for run in self._runs()}
        landed = time.time()
        self.lands(self.landings)
        while time.time() < landed + PATIENCE:
            for run in self._runs():
                if run.run_id not in known and (started := self._started(run.run_id)):
                    return started - landed
            time.sleep(0.1)
        raise RuntimeError(f"no run has started {PATIENCE:.0f} s after a file landed")

    def idle_cpu(self, seconds: float) -> float:
        """Seconds of processor that all of its processes take in so many idle seconds."""
        self.wait_until_idle()
        before = self._cpu()
        time.sleep(seconds)
        return self._cpu() - before

    def wait_until_idle(self) -> None:
        """Until no run has been under way for two seconds."""
        import dagster as dg

        over = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
        quiet, until = 0, time.time() + PATIENCE
        while quiet < 2:
            quiet = quiet + 1 if all(run.status in over for run in self._runs()) else 0
            if time.time() > until:
                raise RuntimeError(f"runs are under way after {PATIENCE:.0f} s")
            time.sleep(1)

    def _runs(self) -> Sequence[dg.DagsterRun]:
        with self._instance() as instance:
            return instance.get_runs(limit=20)

    def _started(self, run_id: str) -> float | None:
        import dagster as dg

        with self._instance() as instance:
            begun = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START)
            return min((entry.timestamp for entry in begun), default=None)

    def _instance(self) -> dg.DagsterInstance:
        import dagster as dg

        return dg.DagsterInstance.from_config(str(self.dagster))

    def _cpu(self) -> float:
        import psutil

        top = psutil.Process(self.process.pid)
        times = [one.cpu_times() for one in (top, *top.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))


@contextmanager
def bare(folder: Path, *, eager: bool = False) -> Iterator[Daemon]:
    """A project as Dagster installs it. eager: its sensor looks as often as the daemon lets it."""
    landing = folder / "landing"
    landing.mkdir(parents=True)
    given = ", minimum_interval_seconds=1" if eager else ""
    (folder / "defs.py").write_text(BARE.format(interval=given))
    (folder / "home").mkdir()
    (folder / "home" / "dagster.yaml").touch()
    command = ["dagster", "dev", "-f", str(folder / "defs.py"), "-p", str(free_port())]
    with _running(command, folder / "home", {}) as process:
        interval = DAEMON_INTERVAL if eager else SENSOR_INTERVAL
        yield Daemon(process, folder / "home", lambda number: (landing / f"{number:06}").touch(), interval)


@contextmanager
def ours(folder: Path) -> Iterator[Daemon]:
    """Our loop with the flights' pipeline, as it ships."""
    from mlops_pipelines.home import Home
    from mlops_pipelines.pipelines.flight_delays.source import Flights
    from mlops_pipelines.spec_loading import load_pipeline

    place = Home.create(folder).pipeline(load_pipeline("flight_delays"))
    place.prepare()
    day = datetime(2013, 1, 5, tzinfo=UTC)
    events = Flights().rows("events", day, day.replace(day=6))
    landing = Path(str(place.landing("events")))

    def lands(number: int) -> None:
        import pyarrow.parquet as pq

        target = landing / f"{datetime.now(UTC):%Y-%m-%d}" / f"{number:06}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}")
        pq.write_table(events.slice(number, 1), part)
        part.rename(target)

    command = ["mlops", "dev", "--home", str(folder), "--port", str(free_port())]
    with _running(command, folder / "dagster", {"MLOPS_HOME": str(folder)}) as process:
        yield Daemon(process, folder / "dagster", lands, DAEMON_INTERVAL)


@contextmanager
def _running(
    command: list[str], home: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon with its own group of processes, from its first heartbeat on."""
    import dagster as dg

    program = Path(sys.executable).with_name(command[0])
    # As for a user: what is imported is compiled once.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    log = home.parent / f"{home.name}.log"
    with log.open("wb") as told:
        process = subprocess.Popen(
            [str(program), *command[1:]],
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**inherited, "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1", **environment},
        )
    try:
        until = time.time() + PATIENCE
        while True:
            with dg.DagsterInstance.from_config(str(home)) as instance:
                found = instance.get_daemon_statuses().get("SENSOR")
                if found is not None and found.healthy:
                    break
            if process.poll() is not None or time.time() > until:
                raise RuntimeError(f"{command[0]} has not begun: {log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    """A port that nobody listens on, nor on the one after it."""
    while True:
        with socket.socket() as one, socket.socket() as next_one:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                next_one.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
