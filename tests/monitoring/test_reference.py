from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.views import FeatureColumn
from mlops_pipelines.monitoring.reference import Bins, Reference, build_reference

floats = st.lists(st.none() | st.floats(allow_nan=True, width=32), min_size=1, max_size=60)
words = st.lists(st.none() | st.sampled_from([f"w{i}" for i in range(6)]), min_size=1, max_size=60)


def reference_of(
    numbers: list[float | None], categories: list[str | None], days: list[str] | None = None
) -> Reference:
    table = pa.table(
        {
            "day": days or ["2024-01-01"] * len(numbers),
            "x": pa.array(numbers, pa.float64()),
            "c": pa.array(categories, pa.string()),
        }
    )
    columns = (FeatureColumn("x", "number"), FeatureColumn("c", "category"))
    return build_reference(table, columns, np.full(len(numbers), 0.5), {"x": 3.0, "c": 1.0})


def test_ten_bins_of_equal_frequency_and_one_for_missing_values() -> None:
    values = [float(i) for i in range(1000)] + [None] * 100
    x = reference_of(values, ["a"] * 1100).features[0]
    assert x.counts == (*[100] * 10, 100)
    assert len(x.bins.edges) == 9


def test_a_value_that_most_rows_share_has_a_bin_of_its_own() -> None:
    rain = [0.0] * 930 + [float(i) for i in range(1, 71)]
    x = reference_of(rain, ["a"] * 1000).features[0]
    assert x.bins.edges == (0.0,)
    assert x.counts == (930, 70, 0)


def test_a_value_beyond_all_training_values_falls_into_the_outer_bins() -> None:
    bins = Bins("number", edges=(1.0, 2.0))
    found = bins.numbers_of(np.array([-np.inf, -5.0, 1.0, 1.5, 2.0, 2.1, np.inf, np.nan]))
    assert found.tolist() == [0, 0, 0, 1, 1, 2, 2, 3]


def test_rare_and_unseen_categories_are_pooled() -> None:
    c = reference_of([1.0] * 400, ["a"] * 300 + ["b"] * 96 + ["rare"] * 3 + [None]).features[1]
    assert c.bins.categories == ("a", "b")
    assert c.counts == (300, 96, 3, 1)
    assert c.bins.histogram(pa.chunked_array([["new", "a", None]])).tolist() == [1, 0, 1, 1]


def test_dictionary_encoded_categories_and_whole_numbers_are_binned_alike() -> None:
    plain = pa.chunked_array([["a", "b", None, "z"]])
    bins = Bins("category", categories=("a", "b"))
    assert bins.numbers_of(plain.dictionary_encode()).tolist() == bins.numbers_of(plain).tolist()
    ten = Bins("number", edges=(1.0,))
    assert ten.numbers_of(pa.chunked_array([pa.array([1, 2, None], pa.int64())])).tolist() == [0, 1, 2]


@given(floats, st.data())
def test_every_row_falls_into_exactly_one_bin_and_json_keeps_everything(
    numbers: list[float | None], data: st.DataObject
) -> None:
    rows = len(numbers)
    categories = data.draw(st.lists(words.map(lambda w: w[0]), min_size=rows, max_size=rows))
    days = data.draw(st.lists(st.sampled_from(["2024-01-01", "2024-01-02"]), min_size=rows, max_size=rows))
    reference = reference_of(numbers, categories, days)
    for feature in (*reference.features, reference.score):
        assert sum(feature.counts) == rows
        assert len(feature.counts) == feature.bins.size
        assert feature.ordinary >= 0
    assert reference.days == len(set(days))
    assert Reference.from_json(reference.to_json()) == reference
    assert Reference.from_json(reference.to_json()).to_json() == reference.to_json()


def test_importances_become_shares() -> None:
    reference = reference_of([1.0, 2.0], ["a", "b"])
    assert [feature.importance for feature in reference.features] == [0.75, 0.25]


def test_a_model_in_which_nothing_matters_weighs_all_features_alike() -> None:
    table = pa.table({"day": ["2024-01-01"], "x": [1.0], "c": ["a"]})
    columns = (FeatureColumn("x", "number"), FeatureColumn("c", "category"))
    reference = build_reference(table, columns, np.array([0.5]), {"x": 0.0, "c": 0.0})
    assert [feature.importance for feature in reference.features] == [0.5, 0.5]


@pytest.mark.parametrize("importance", [{"x": 1.0}, {"x": 1.0, "c": -1.0}, {"x": 1.0, "c": float("nan")}])
def test_an_importance_that_cannot_be_used_is_refused(importance: dict[str, float]) -> None:
    table = pa.table({"day": ["2024-01-01"], "x": [1.0], "c": ["a"]})
    columns = (FeatureColumn("x", "number"), FeatureColumn("c", "category"))
    with pytest.raises(ValueError, match="none for c"):
        build_reference(table, columns, np.array([0.5]), importance)


def test_rows_and_scores_must_match() -> None:
    table = pa.table({"day": ["2024-01-01"], "x": [1.0]})
    with pytest.raises(ValueError, match="1 training rows and 2 scores"):
        build_reference(table, (FeatureColumn("x", "number"),), np.array([0.5, 0.5]), {"x": 1.0})
    with pytest.raises(ValueError, match="0 training rows"):
        build_reference(table.slice(0, 0), (FeatureColumn("x", "number"),), np.array([]), {"x": 1.0})


def test_a_missing_column_is_refused_with_its_name() -> None:
    table = pa.table({"day": ["2024-01-01"], "x": [1.0]})
    with pytest.raises(TerminalError, match="no column y"):
        build_reference(table, (FeatureColumn("y", "number"),), np.array([0.5]), {"y": 1.0})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 99}', "null"])
def test_a_text_that_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(TerminalError, match="drift reference"):
        Reference.from_json(text)


def test_the_reference_does_not_depend_on_the_order_of_the_rows() -> None:
    rng = np.random.default_rng(3)
    values, days = rng.normal(size=300), [f"2024-01-{1 + i % 20:02d}" for i in range(300)]
    order = rng.permutation(300)
    one = reference_of(values.tolist(), ["a"] * 300, days)
    other = reference_of(values[order].tolist(), ["a"] * 300, [days[i] for i in order])
    assert one == other


def test_a_day_of_a_few_rows_is_no_habit() -> None:
    """However much of it is missing, or is new."""
    table = pa.table(
        {
            "day": ["2024-01-01"] * 200 + ["2024-01-02"] * 200 + ["2024-01-03"],
            "x": [*np.random.default_rng(0).random(400).tolist(), None],
            "kind": [*["a", "b"] * 200, "rare"],
        }
    )
    features = [FeatureColumn("x", "number"), FeatureColumn("kind", "category")]
    made = build_reference(table, features, np.full(401, 0.5), {"x": 1.0, "kind": 1.0})
    assert [(one.missing_most, one.strange_most) for one in made.features] == [(0.0, 0.0), (0.0, 0.0)]
