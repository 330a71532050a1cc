from __future__ import annotations

import base64

import numpy as np
import pytest

from mlops_pipelines.figures import as_markdown, bars, calibration, precision_recall, precision_recall_points

PNG = b"\x89PNG\r\n\x1a\n"
MANY = {f"{name}_late_mean_{hours}h": hours / 100 for name in "abcdef" for hours in (6, 24, 168, 720)}


def drawn() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 5000), rng.random(5000)
    curve = precision_recall_points(labels, scores)
    return {
        "precision_recall": precision_recall({"candidate": curve, "champion v3": curve}, prevalence=0.5),
        "calibration": calibration([0.1, 0.4, 0.8], [0.2, 0.3, 0.7], [10, 200, 30]),
        "bars": bars(MANY, title="PSI by feature", unit="nats", paler=dict.fromkeys(MANY, 0.1)),
        "bars below zero": bars({"bad": -0.2, "good": 0.1}, title="Skill by day"),
        "no bars": bars({}, title="Reject reasons"),
        "bars of nothing": bars({"type": 0}, title="Reject reasons"),
    }


def test_pictures_are_small_and_the_same_bytes_each_time() -> None:
    first = drawn()
    assert first == drawn()
    for png in first.values():
        assert png.startswith(PNG)
        assert len(png) <= 30_000


def test_precision_and_recall_are_taken_at_distinct_scores() -> None:
    recall, precision = precision_recall_points(np.array([1, 0, 1, 0]), np.array([0.9, 0.5, 0.5, 0.1]))
    assert recall == [0.5, 1.0, 1.0]
    assert precision == pytest.approx([1.0, 2 / 3, 0.5], abs=1e-5)


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    rng = np.random.default_rng(0)
    recall, precision = precision_recall_points(rng.integers(0, 2, 5000), rng.random(5000), points=50)
    assert len(recall) == len(precision) == 50
    assert recall[-1] == 1.0
    assert recall == sorted(recall)


def test_markdown_carries_the_picture_itself() -> None:
    text = as_markdown(PNG, "PSI [nats]")
    assert text.startswith("![PSI (nats)](data:image/png;base64,")
    assert base64.b64decode(text.split(",")[1].rstrip(")")) == PNG
