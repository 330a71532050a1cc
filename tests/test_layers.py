"""Who may import whom, who may read the clock, who may read the environment."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mlops_pipelines", "assets", "sensors")
USES_DAGSTER = {
    f"mlops_pipelines/{name}.py"
    for name in (
        "backfilling",
        "component",
        "cost",
        "dagster_events",
        "definitions",
        "failed_runs",
        "replay",
        "resources",
    )
}
WALL_CLOCK = {
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "time.time",
    "time.time_ns",
}
ENVIRONMENT = {"os.getenv", "os.environ.get", "os.environ[]"}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            Path(sys.executable).parent / "lint-imports",
            "--no-logo",
            "--no-cache",
            "--config",
            ROOT / "pyproject.toml",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_layer_rule_is_kept() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "added", "rule"),
    [
        ("mlops_pipelines/clock.py", "import dagster", "The library never imports Dagster"),
        ("mlops_pipelines/clock.py", "import assets.stage", "Only the component knows assets and sensors"),
        (
            "mlops_pipelines/clock.py",
            "def f(): import sensors",
            "Only the component knows assets and sensors",
        ),
        ("mlops_pipelines/clock.py", "import mlops_pipelines.component", "does not reach Dagster"),
        ("mlops_pipelines/clock.py", "from mlops_pipelines import resources", "Resources are for the graph"),
        ("mlops_pipelines/clock.py", "from mlops_pipelines import replay", "The replay is for the command"),
        ("assets/stage.py", "from sensors import drift", "Assets and sensors never know each other"),
        ("sensors/drift.py", "import assets", "Assets and sensors never know each other"),
    ],
)
def test_an_import_against_the_rules_is_found(tmp_path: Path, file: str, added: str, rule: str) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / file).open("a") as module:
        module.write(f"\n{added}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert any(rule in line and " BROKEN" in line for line in done.stdout.splitlines()), done.stdout


@cache
def sources() -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(), path))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


def test_no_part_of_dagster_enters_the_library() -> None:
    """import-linter knows packages that are imported somewhere; this knows every `dagster…`."""
    found = [
        f"{file}:{node.lineno}"
        for file, tree in sources()
        if file.startswith("mlops_pipelines/") and file not in USES_DAGSTER
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and any(name.startswith("dagster") for name in imported(node))
    ]
    assert found == []


def test_only_the_clock_reads_the_time() -> None:
    assert uses(WALL_CLOCK, except_in="mlops_pipelines/clock.py") == []


def test_only_the_settings_read_the_environment() -> None:
    assert uses(ENVIRONMENT, except_in="mlops_pipelines/settings.py") == []


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("datetime.now(UTC)", ["datetime.now"]),
        ("dt.datetime.now()", ["datetime.now"]),
        ("import time; time.perf_counter()", []),
        ("os.environ['A'] = 'b'", []),
        ("x = os.environ['A']", ["os.environ[]"]),
        ("os.environ.get('A')", ["os.environ.get"]),
    ],
)
def test_uses_are_told_from_their_likes(code: str, names: list[str]) -> None:
    assert [name for name, _ in names_used(ast.parse(code)) if name in WALL_CLOCK | ENVIRONMENT] == names


def uses(names: set[str], *, except_in: str) -> list[str]:
    return [
        f"{file}:{line} {name}"
        for file, tree in sources()
        if file != except_in
        for name, line in names_used(tree)
        if name in names
    ]


def names_used(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Dotted names by their last two parts (three under `os.environ`), and subscripts that are read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts = ast.unparse(node).split(".")
            yield ".".join(parts[-3:] if parts[-3:-1] == ["os", "environ"] else parts[-2:]), node.lineno
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            yield f"{ast.unparse(node.value)}[]", node.lineno


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""]
