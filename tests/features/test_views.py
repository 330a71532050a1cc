"""Views as declared become names, types and versions."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from mlops_pipelines.features.sets import feature_set
from mlops_pipelines.features.views import compile_views, tile_table
from mlops_pipelines.ingest.contract import Contract

from .world import CONTRACT, VIEWS, make_spec


def version_of(view: dict[str, Any], **changes: Any) -> str:
    return compile_views(make_spec([view], **changes), CONTRACT)[0].version


def test_features_come_in_declared_order_with_their_kinds() -> None:
    columns = feature_set(make_spec(VIEWS[2:]), CONTRACT).columns
    assert [(column.name, column.kind) for column in columns] == [
        ("hour", "number"),
        ("local", "number"),
        ("weekday", "number"),
        ("kind", "category"),
        ("sky_wind_mean_3h", "number"),
        ("sky_wind_max_3h", "number"),
        ("sky_wind_last", "number"),
        ("sky_sky_last", "category"),
        ("place_size_last", "number"),
        ("place_town_last", "category"),
    ]


def test_features_are_named_as_the_spec_names_them() -> None:
    spec = make_spec()
    for declared, compiled in zip(spec.features.views, compile_views(spec, CONTRACT), strict=True):
        assert tuple(column.name for column in compiled.columns) == declared.feature_names


def test_a_changed_definition_is_another_view_with_another_table() -> None:
    view = VIEWS[2]
    (compiled,) = compile_views(make_spec([view]), CONTRACT)
    assert tile_table(compiled) == f"feature_tiles/sky__{compiled.version}"
    assert len(compiled.version) == 8
    for change in ({"windows": ["4h"]}, {"aggregate": {"wind": ["mean"]}}, {"within": "3h"}, {"name": "air"}):
        assert version_of(view | change) != compiled.version


def test_the_version_knows_when_facts_become_known_but_not_where_they_land() -> None:
    spec = make_spec([VIEWS[2]])
    weather = spec.references["weather"]
    known_later = weather.model_copy(update={"publish_lag": weather.publish_lag * 2})
    moved = weather.model_copy(update={"landing": "elsewhere"})

    def version(reference: Any) -> str:
        changed = spec.model_copy(update={"references": {"weather": reference}})
        return compile_views(changed, CONTRACT)[0].version

    assert version(known_later) != version(weather)
    assert version(moved) == version(weather)


def test_the_version_knows_the_types_of_the_columns_it_reads() -> None:
    columns = CONTRACT.model_dump()
    columns["references"]["weather"]["columns"]["wind"]["type"] = "int"
    (changed,) = compile_views(make_spec([VIEWS[2]]), Contract.model_validate(columns))
    assert changed.version != version_of(VIEWS[2])


def test_expressions_have_a_version_of_their_own() -> None:
    views = feature_set(make_spec(), CONTRACT).view_versions
    assert set(views) == {"from_event", "lane", "shop", "sky", "place"}
    changed = feature_set(make_spec(from_event={"hour": "hour(decided_at)"}), CONTRACT).view_versions
    assert changed.pop("from_event") != views.pop("from_event")
    assert changed == views


def test_an_outcome_is_read_from_the_column_label() -> None:
    lane, *_ = compile_views(make_spec(), CONTRACT)
    assert {partial.column for partial in lane.partials} == {"label", "delay"}
    assert lane.columns[0].name == "lane_late_mean_2h"


def test_views_load_without_heavy_libraries() -> None:
    code = (
        "import sys, mlops_pipelines.features.views; "
        "print(*sorted({'duckdb', 'pyarrow', 'numpy', 'feast', 'pandas'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []
