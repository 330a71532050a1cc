"""What every command, sensor server and run pays before it does anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import Measure, Pair, row, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent


@row("main.load_definitions", against="import dagster", bound=2.0, repeats=7)
def load_definitions() -> Iterator[Pair]:
    """A fresh process that loads and resolves every definition."""
    yield Pair(
        fresh_process("from mlops_pipelines.definitions import defs; defs().get_repository_def()"),
        fresh_process("import dagster"),
    )


def fresh_process(code: str) -> Measure:
    """Wall time of a new interpreter that runs `code`; bytecode is cached, as it is for a user."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def work() -> None:
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)

    return seconds(work)
