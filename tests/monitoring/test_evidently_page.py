from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.views import FeatureColumn
from mlops_pipelines.monitoring import evidently_page

if TYPE_CHECKING:
    from pathlib import Path

FEATURES = (FeatureColumn("delay_minutes", "number"), FeatureColumn("airline", "category"))


def flights(rows: int, *, shift: float = 0.0) -> pa.Table:
    rng = np.random.default_rng(rows)
    return pa.table(
        {
            "delay_minutes": pa.array(rng.normal(shift, 1, rows), pa.float64(), mask=rng.random(rows) < 0.1),
            "airline": pa.array(rng.choice(["AA", "UA"], rows), pa.string()),
        }
    )


def test_page_shows_every_feature_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "drift" / "2024-03-01.html"
    evidently_page.draw(flights(400), flights(200, shift=2.0), FEATURES, path)
    html = path.read_text(encoding="utf-8")
    assert "delay_minutes" in html
    assert "airline" in html
    assert html.lstrip().lower().startswith("<")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert os.environ["DO_NOT_TRACK"] == "1"


def test_a_page_that_is_there_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    evidently_page.draw(flights(50), flights(60), FEATURES, path)
    assert "delay_minutes" in path.read_text(encoding="utf-8")


def test_at_most_five_thousand_rows_are_drawn_always_the_same() -> None:
    table = flights(12_000)
    one, other = (evidently_page._sample(table, FEATURES) for _ in range(2))
    assert len(one) == 5_000
    assert one.equals(other)
    assert len(evidently_page._sample(table.slice(0, 70), FEATURES)) == 70


def test_a_feature_without_values_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    empty = flights(50).set_column(0, "delay_minutes", pa.nulls(50, pa.float64()))
    evidently_page.draw(flights(80), empty, FEATURES, path)
    html = path.read_text(encoding="utf-8")
    assert "airline" in html
    assert "delay_minutes" not in html


def test_nothing_to_draw_is_refused_and_leaves_the_old_page(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(TerminalError, match=r"nothing to draw on page\.html"):
        evidently_page.draw(flights(80), flights(0), FEATURES, path)
    assert path.read_text() == "old"


def test_monitoring_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from mlops_pipelines.monitoring import drift, evidently_page, performance, reference\n"
        "heavy = {'evidently', 'pandas', 'numpy', 'pyarrow', 'sklearn', 'scipy', 'matplotlib'}\n"
        "sys.exit(', '.join(sorted(heavy & sys.modules.keys())) or 0)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
