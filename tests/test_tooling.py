"""The Makefile, the lock, the CI files and the harness around the proofs do what they say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from verification import run as verification

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ["install", "demo", "dev", "mlflow", "test", "verify", "check", "bench", "clean", "help"]
TOOLING = ("pyproject.toml", "requirements.lock", "Makefile", ".ci/run", ".github/workflows/ci.yml")
STAMP = ".venv/.installed"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder where the environment looks installed, by an interpreter that is not used."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / ".venv").mkdir()
    (tmp_path / STAMP).touch()
    return tmp_path


def make(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    # A make above this one, such as `make test`, would hand down its own flags and variables.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    own.pop("MLOPS_HOME", None)
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=own | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )


def test_make_alone_lists_every_target_and_installs_nothing(checkout: Path) -> None:
    (checkout / STAMP).unlink()
    done = make(checkout)
    assert done.returncode == 0
    assert set(TARGETS) <= set(re.findall(r"^  make (\w+) ", done.stdout, re.MULTILINE))
    assert not (checkout / STAMP).exists()


@pytest.mark.parametrize("target", [name for name in TARGETS if name not in ("clean", "help")])
def test_a_target_installs_once(checkout: Path, target: str) -> None:
    def installs() -> bool:
        return "pip sync" in make(checkout, "-n", target).stdout

    assert not installs()
    os.utime(checkout / "requirements.lock")
    os.utime(checkout / STAMP, (1, 1))
    assert installs()


def test_the_home_can_be_chosen_and_the_shell_keeps_its_own(checkout: Path) -> None:
    assert f'--home "{checkout}/data"' in make(checkout, "-n", "demo").stdout
    assert '--home "/elsewhere"' in make(checkout, "-n", "demo", "HOME_DIR=/elsewhere").stdout
    by_setting = make(checkout, "-n", "demo", environment={"MLOPS_HOME": "/by/setting"})
    assert '--home "/by/setting"' in by_setting.stdout


@pytest.mark.parametrize("version", ["Python 3.10.12", "none"])
def test_an_interpreter_that_is_too_old_or_missing_is_refused(checkout: Path, version: str) -> None:
    os.utime(checkout / STAMP, (0, 0))
    python = checkout / "python"
    if version != "none":
        python.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" || exit 1\n')
        python.chmod(0o755)
    done = make(checkout, "install", f"PYTHON={python}")
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
    assert version in done.stderr
    assert "make install PYTHON=" in done.stderr


def test_the_env_file_names_absolute_homes_and_yields_to_the_shell(checkout: Path) -> None:
    assert make(checkout, "install").returncode == 0
    show = 'set -a; . ./.env; echo "$DAGSTER_HOME $MLOPS_HOME"'

    def homes(**environment: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", show], cwd=checkout, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert homes() == f"{checkout}/data/dagster {checkout}/data"
    assert homes(DAGSTER_HOME="/other") == f"/other {checkout}/data"


def test_cleaning_leaves_data_alone(checkout: Path) -> None:
    (checkout / "data").mkdir()
    (checkout / "data" / "ledger.db").touch()
    (checkout / "__pycache__").mkdir()
    assert make(checkout, "clean").returncode == 0
    assert sorted(path.name for path in checkout.iterdir()) == sorted(
        ["Makefile", "data", "pyproject.toml", "requirements.lock"]
    )
    assert (checkout / "data" / "ledger.db").exists()


def locked() -> dict[str, list[tuple[str, str]]]:
    """Versions and everything that stands under them, by canonical name."""
    found: dict[str, list[tuple[str, str]]] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", (ROOT / "requirements.lock").read_text()):
        if match := re.match(r"([A-Za-z0-9_.-]+)(?:\[.*?\])?==([^ ;]+)", block):
            found.setdefault(canonicalize_name(match[1]), []).append((match[2], block))
    return found


def test_the_lock_pins_every_direct_dependency_by_hash() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    pins = locked()
    for requirement in map(Requirement, declared):
        versions = [version for version, _ in pins[canonicalize_name(requirement.name)]]
        assert any(requirement.specifier.contains(version) for version in versions), requirement
        assert any(bound.operator == ">=" for bound in requirement.specifier), (
            f"{requirement}: no lower bound"
        )
    for name, entries in pins.items():
        assert all("--hash=sha256:" in block for _, block in entries), name


def test_the_tooling_names_no_address_and_no_index() -> None:
    for name in TOOLING:
        text = (ROOT / name).read_text()
        assert re.findall(r"\w+://\S*", text) == [], name
        assert re.findall(r"--(?:extra-)?index-url|--default-index|--find-links|-[if] \S*/", text) == [], name


def test_no_file_names_a_package_registry() -> None:
    hosts = re.compile(
        rf"py{'pi'}\.(?:org|io)|python{'hosted'}\.org|npm{'js'}\.(?:org|com)|ana{'conda'}\.(?:org|com)"
    )
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, tracked.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            assert hosts.search(path.read_text(errors="replace")) is None, name


def test_ci_runs_the_same_targets_with_read_only_rights() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    commands = {name: [step["run"] for step in jobs[name]["steps"] if "run" in step] for name in jobs}
    assert commands == {"check-test": [".ci/run"], "verify": ["make verify"]}
    # YAML 1.1 reads the key `on` as true.
    assert workflow[True]["schedule"]
    assert "schedule" in jobs["verify"]["if"]


@pytest.mark.parametrize(
    ("output", "code", "passes"),
    [
        ("3 passed, 1 skipped in 2.0s", 0, True),
        ("12 skipped in 2.0s", 0, False),
        ("no tests ran in 0.1s", 5, False),
        ("1 failed, 3 passed in 2.0s", 2, False),
    ],
)
def test_ci_fails_when_a_test_failed_or_none_ran(
    tmp_path: Path, output: str, code: int, passes: bool
) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "make"
    fake.write_text(f'#!/bin/sh\n[ "$*" = "check test" ] || exit 9\necho "== {output} =="\nexit {code}\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        [tmp_path / ".ci/run"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) is passes, done.stdout + done.stderr


def test_git_ignores_what_is_made_and_keeps_what_is_told() -> None:
    made = [
        ".venv/x",
        ".env",
        "data/ledger.db",
        "data/mlflow/mlflow.db",
        "benchmarks/results.json",
        "verification/verify.log",
    ]
    kept = ["data/README.md", "verification/README.md", "verification/latest.txt", "requirements.lock"]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *made, *kept],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == made


FEWER_PLUGINS = "-p no:anyio -p no:faker -p no:hydra_pytest"
SUITE = """
import pytest
from hypothesis import given, strategies as st

@pytest.mark.proof
def test_counted(full, sample_size):
    sample_size("draws", 5_000 if full else 50)

@pytest.mark.proof
@given(st.integers())
def test_property(n): ...

def test_plain(): ...
"""


def nested(folder: Path, suite: str, *options: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """A suite of its own under the conftest of this one, once it has run. before: of the shell it runs in."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "conftest.py")
    (folder / "pytest.ini").write_text(f"[pytest]\nmarkers = proof\naddopts = {FEWER_PLUGINS}\n")
    (folder / "test_suite.py").write_text(suite)
    # A folder of its own: else it removes what earlier runs of pytest left, when it ends.
    own = f"--basetemp={folder / 'own'}"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", own, *options]
    return subprocess.run(
        ["/bin/sh", "-c", f"{before} exec {shlex.join(command)}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("size", "draws", "examples"), [((), "50", "25"), (("--full",), "5,000", "1,000")], ids=["fast", "full"]
)
def test_one_suite_runs_at_two_sizes_and_says_which(
    tmp_path: Path, size: tuple[str, ...], draws: str, examples: str
) -> None:
    done = nested(tmp_path, SUITE, "-m", "proof", *size)
    assert done.returncode == 0, done.stdout
    assert verification.sample_sizes(done.stdout) == [
        f"test_suite.py::test_counted: draws = {draws}",
        f"test_suite.py::test_property: examples = {examples}",
    ]


HEEDING = """
import signal

def test_heeded():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""


def test_a_suite_that_is_started_where_signals_are_ignored_heeds_them(tmp_path: Path) -> None:
    done = nested(tmp_path, HEEDING, "-n", "1", before="trap '' INT TERM;")
    assert done.returncode == 0, done.stdout


def test_a_proof_beyond_its_budget_is_ended_with_its_children(tmp_path: Path) -> None:
    child = f"{sys.executable} -c 'import time; time.sleep(60)'"
    code, output = verification.stream(
        ["/bin/sh", "-c", f"{child} & echo started $!; wait"], budget=1.5, log=tmp_path / "log"
    )
    assert code < 0
    assert (tmp_path / "log").read_text() == output
    pid = int(output.split()[1])
    # The signal is sent; on a busy machine its end takes a moment. The child itself would take 60 s.
    assert any(ended(pid) or time.sleep(0.1) for _ in range(200))


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_the_summary_keeps_outcome_and_sample_sizes() -> None:
    output = "=== sample sizes ===\na: n = 5\n=== short test summary info ===\n=== 1 passed in 2.00s ===\n"
    started = datetime(2013, 1, 1, tzinfo=UTC)
    text = verification.summary(0, output, seconds=90, started=started)
    assert "outcome: passed" in text
    assert "tests: 1 passed in 2.00s" in text
    assert "started: 2013-01-01 00:00 UTC, 1.5 minutes" in text
    assert text.endswith("sample sizes\n  a: n = 5\n")
    assert "FAILED: not done within 60 minutes" in verification.summary(-9, "", seconds=3600, started=started)


def test_proofs_that_held_pass_within_the_hour_alone() -> None:
    assert verification.outcome(0, 3600) == "passed"
    assert verification.outcome(0, 4200) == "FAILED: every proof held, in 70 minutes; 60 are allowed"
    assert verification.outcome(1, 4200) == "FAILED"
