"""What every test may use: the size of a run, and a place to say how large a sample was."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.engine import URL

# Workers share the cores: a thread of LightGBM that spins while it waits takes them from the others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Example counts come from the profile, so that one test serves `make test` and `make verify`.
settings.register_profile(
    "fast",
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "full",
    max_examples=1000,
    stateful_step_count=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)

SAMPLE_SIZE = "sample size"
# Of all files the longest, in the order they begin: begun last, one would run alone at the end.
LONGEST = (
    "test_replay.py", "test_online_path.py", "test_killed.py", "test_gates.py", "test_promotion_machine.py",
    "test_promotion_race.py", "test_freeing.py", "test_any_order.py",
    "test_trace.py", "test_feature_sets.py", "test_backup.py", "test_replay_home.py", "test_datasets.py",
    "test_experiments.py", "test_bad_input.py", "test_store.py", "test_reports.py", "test_by_hand.py",
    "test_kinds.py",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run at full size, as `make verify` does")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("full" if config.getoption("--full") else "fast")
    # In the background of a script interrupts are ignored. Dagster then ignores being ended, too, and so do
    # the children of tests, whose end is waited for.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether this run is at full size."""
    return bool(pytestconfig.getoption("--full"))


@pytest.fixture
def sample_size(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Say how large a sample was: `sample_size("admissions", 10_000)`. Printed after the run."""

    def say(name: str, n: int) -> None:
        request.node.user_properties.append((SAMPLE_SIZE, f"{name} = {n:,}"))

    return say


@pytest.fixture(scope="session")
def postgres() -> Iterator[URL]:
    """A PostgreSQL server."""
    from tests.postgres_server import postgres_server

    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a ledger is to be made: in a file, and once more on a server."""
    from tests.postgres_server import new_database

    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return new_database(request.getfixturevalue("postgres"))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which nothing has happened, to be copied."""
    from mlops_pipelines.home import Home

    path = tmp_path_factory.mktemp("homes") / "empty"
    Home.create(path)
    return path


@pytest.fixture(autouse=True, scope="session")
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reaches this machine's home, and nothing phones home."""
    with pytest.MonkeyPatch.context() as patch:
        # Absent on purpose: a test that forgets to say which home it means gets a clear error.
        patch.setenv("MLOPS_HOME", str(tmp_path_factory.getbasetemp() / "no-home"))
        patch.delenv("DAGSTER_HOME", raising=False)
        for name in (
            "DAGSTER_DISABLE_TELEMETRY",
            "DO_NOT_TRACK",
            "DVC_NO_ANALYTICS",
            "MLFLOW_DISABLE_TELEMETRY",
        ):
            patch.setitem(os.environ, name, "true")
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    result = yield
    if item.get_closest_marker("proof"):
        _count_examples(item)
    return result


def _count_examples(item: pytest.Item) -> None:
    """Note how many examples Hypothesis tried, as its own statistics tell."""
    counts = re.findall(r"(\d+) passing", getattr(item, "hypothesis_statistics", ""))
    if counts:
        item.user_properties.append((SAMPLE_SIZE, f"examples = {sum(map(int, counts)):,}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        f"{report.nodeid}: {text}"
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
        for key, text in report.user_properties
        if key == SAMPLE_SIZE
    ]
    if lines:
        terminalreporter.section("sample sizes")
        for line in sorted(lines):
            terminalreporter.line(line)
