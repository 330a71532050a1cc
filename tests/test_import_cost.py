"""Every run, tick server and command is a process of its own: what it imports, it pays."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import mlops_pipelines

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("dvc", "evidently", "feast", "great_expectations", "lightgbm", "mlflow", "pandas", "sklearn")


def imported_by(code: str) -> set[str]:
    """Top-level packages in a fresh process after `code`."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_loading_the_definitions_imports_nothing_heavy() -> None:
    loaded = imported_by("from mlops_pipelines.definitions import defs; defs().get_repository_def()")
    assert "dagster" in loaded
    assert loaded.isdisjoint({*HEAVY, "sqlalchemy"})


def test_no_module_of_the_library_imports_anything_heavy_by_itself() -> None:
    names = [
        module.name
        for module in pkgutil.walk_packages(mlops_pipelines.__path__, "mlops_pipelines.")
        # Only Feast itself loads its offline store, a class of whose own it has to be, and Alembic its steps.
        if not module.ispkg
        and module.name != "mlops_pipelines.features.offline"
        and ".migrations." not in module.name
    ]
    loaded = imported_by("\n".join(f"import {name}" for name in names))
    assert loaded.isdisjoint(HEAVY)


def test_the_command_line_starts_without_dagster() -> None:
    assert "dagster" not in imported_by("import mlops_pipelines.cli")
