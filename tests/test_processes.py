"""One process at a time works on a home, and one that is interrupted ends at once: with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mlops_pipelines.cli import INTERRUPTED, ended_by_signals, hold_for_dev, main
from mlops_pipelines.errors import UserError
from mlops_pipelines.home import Home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

PATIENCE = 60  # seconds until a process that should have come so far is given up
MLOPS = Path(sys.executable).with_name("mlops")

# What `mlops dev` does, with a program in the place of Dagster's that waits to be ended.
DEV = """
import os, sys
from pathlib import Path
from mlops_pipelines.cli import hold_for_dev
from mlops_pipelines.home import Home

hold_for_dev(Home.open(Path(sys.argv[1])))
os.execv(sys.executable, [sys.executable, "-c", "import time; print('held', flush=True); time.sleep(600)"])
"""
REPLAY = """
import sys, time
from pathlib import Path
from mlops_pipelines.home import Home

with Home.open(Path(sys.argv[1])).exclusive("mlops replay"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path)


@contextmanager
def running(code: str, home: Home) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the home."""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(home.path)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def replay(home: Home) -> Result:
    return CliRunner().invoke(
        main, ["replay", "flight_delays", "--until", "2013-01-01", "--home", str(home.path)]
    )


def test_a_replay_is_refused_where_dev_runs(home: Home) -> None:
    with running(DEV, home) as dev:
        result = replay(home)
        assert result.exit_code == 2
        assert f"is held by `mlops dev` (process {dev.pid})" in result.output


def test_dev_is_refused_where_a_replay_runs(home: Home) -> None:
    with running(REPLAY, home) as other:
        result = CliRunner().invoke(main, ["dev", "--home", str(home.path)])
        assert result.exit_code == 2
        assert f"is held by `mlops replay` (process {other.pid})" in result.output


def test_a_home_is_free_once_its_holder_was_killed(home: Home) -> None:
    with running(DEV, home) as dev:
        dev.send_signal(signal.SIGKILL)
        dev.wait(PATIENCE)
        with home.exclusive("mlops replay"), pytest.raises(UserError, match=f"process {os.getpid()}"):
            hold_for_dev(home)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_replay_says_one_plain_line(tmp_path: Path, number: signal.Signals, code: int) -> None:
    command = [MLOPS, "replay", "flight_delays", "--until", "2013-01-07", "--home", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(tmp_path / "lock", process)
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (code, INTERRUPTED)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    patience = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < patience
        time.sleep(0.05)


def test_after_a_replay_signals_are_taken_as_before() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with ended_by_signals():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@pytest.mark.parametrize("stands", ["lock", "ledger.db", "dagster/schedules/schedules.db"])
def test_a_home_with_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path, stands: str) -> None:
    (tmp_path / stands).mkdir(parents=True)
    result = CliRunner().invoke(
        main, ["replay", "flight_delays", "--until", "2013-01-01", "--home", str(tmp_path)]
    )
    assert result.exit_code == 2, result.output
    assert "Expected: a " in result.output
    assert "Traceback" not in result.output


def test_the_status_of_a_home_that_can_only_be_read_is_refused(home: Home) -> None:
    home.ledger.close()
    # Readers of a SQLite database need a file beside it; here it cannot be made.
    (home.path / "ledger.db-wal").unlink(missing_ok=True)
    (home.path / "ledger.db-wal").mkdir()
    result = CliRunner().invoke(main, ["status", "flight_delays", "--home", str(home.path)])
    assert result.exit_code == 2, result.output
    assert "cannot be opened or written" in result.output


def test_a_new_home_has_a_place_for_the_registry(home: Home) -> None:
    assert Path(home.mlflow_uri.removeprefix("sqlite:///")).parent.is_dir()
