"""Code location of the small pipeline."""

from __future__ import annotations

from functools import cache

import dagster as dg

from mlops_pipelines.component import build_definitions
from tests.small_flights import loaded


@dg.definitions
@cache
def defs() -> dg.Definitions:
    return build_definitions(loaded())
