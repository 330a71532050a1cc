"""The UI says of every column of a report what it holds."""

from __future__ import annotations

import pytest

from mlops_pipelines.monitoring import feature_health, feedback_report
from mlops_pipelines.monitoring.columns import DESCRIPTIONS
from mlops_pipelines.monitoring.performance import FIGURES_OF
from mlops_pipelines.monitoring.reports import DRIFT_COLUMNS, performance_columns

KINDS = ("binary", "number", "category")
METRICS = {name for names in FIGURES_OF.values() for name in names}


@pytest.mark.parametrize(
    ("report", "columns"),
    [
        ("drift_report", {*DRIFT_COLUMNS}),
        ("performance_report", {name for kind in KINDS for name in performance_columns(kind)} - METRICS),
        ("feature_report", {*feature_health.COLUMNS}),
        ("feedback_report", {*feedback_report.COLUMNS}),
    ],
)
def test_every_column_that_is_no_metric_is_described_and_no_other(report: str, columns: set[str]) -> None:
    assert {*DESCRIPTIONS[report]} == columns
