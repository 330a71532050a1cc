"""Labelled examples with a known truth: lateness that depends on a number, a category and the day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from mlops_pipelines.features.views import FeatureColumn
from mlops_pipelines.spec import Training

if TYPE_CHECKING:
    from numpy.typing import NDArray

START = datetime(2024, 1, 1, tzinfo=UTC)
FEATURES = (
    FeatureColumn("wind", "number"),
    FeatureColumn("hour", "number"),
    FeatureColumn("noise", "number"),
    FeatureColumn("carrier", "category"),
)
CARRIERS = ("AA", "B6", "DL", "UA")


def training(**settings: object) -> Training:
    """Settings of a model that takes a few hundredths of a second."""
    small = {"n_estimators": 20, "num_leaves": 7, "learning_rate": 0.2, "min_data_in_leaf": 20}
    return Training.model_validate({"min_rows": 100, "threads": 1, "params": small, **settings})


def examples(
    *, days: int = 40, rows_per_day: int = 150, seed: int = 0, signal: float = 1.5, first: datetime = START
) -> pa.Table:
    """Rows of `days` days from `first`; `signal` scales how much the features say about the label."""
    rng = np.random.default_rng(seed)
    rows = days * rows_per_day
    day = np.repeat(np.arange(days), rows_per_day)
    wind, hour = rng.normal(size=rows), rng.integers(0, 24, rows).astype(float)
    carrier = rng.integers(0, len(CARRIERS), rows)
    mood = rng.normal(0, 0.4, days)[day]
    logit = -1 + signal * (0.8 * wind + 0.4 * (carrier - 1.5) + 0.03 * (hour - 12)) + mood
    decided = [
        first + timedelta(days=int(d), hours=float(h), seconds=int(i % 3600))
        for i, (d, h) in enumerate(zip(day, hour, strict=True))
    ]
    return pa.table(
        {
            "day": [moment.strftime("%Y-%m-%d") for moment in decided],
            "event_id": [f"{seed}-{row:06d}" for row in range(rows)],
            "event_time": pa.array(decided, pa.timestamp("us", tz="UTC")),
            "decision_time": pa.array(decided, pa.timestamp("us", tz="UTC")),
            "wind": _with_gaps(wind, rng),
            "hour": hour,
            "noise": rng.normal(size=rows),
            "carrier": [CARRIERS[code] for code in carrier],
            "view_versions": ['{"sky": "1a2b3c4d"}'] * rows,
            "label": pa.array((rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)),
        }
    )


def _with_gaps(values: NDArray[np.float64], rng: np.random.Generator) -> pa.Array:
    return pa.array(values, mask=rng.random(values.size) < 0.05)
