"""Composition root: every folder under `pipelines/` becomes part of one code location."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import dagster as dg


@dg.definitions
@cache  # called once a run when runs share a process
def defs() -> dg.Definitions:
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
