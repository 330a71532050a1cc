from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from random import Random  # noqa: TC003  Hypothesis reads the annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.views import FeatureColumn
from mlops_pipelines.training import (
    TrainedModel,
    candidate_of,
    encode,
    fit_candidate,
    split_holdout,
    train,
    train_again,
)
from tests.synthetic_examples import FEATURES, examples, training


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return examples(days=12, rows_per_day=100)


@pytest.fixture(scope="module")
def model(table: pa.Table) -> TrainedModel:
    return train(table, FEATURES, training())


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    return table.take(np.random.default_rng(seed).permutation(table.num_rows))


# Splitting


@given(
    offsets=st.sets(st.integers(0, 400), min_size=4, max_size=90),
    holdout=st.integers(1, 60),
    order=st.randoms(use_true_random=False),
)
def test_holdout_is_the_latest_days_within_its_length_and_a_quarter(
    offsets: set[int], holdout: int, order: Random
) -> None:
    days = [(date(2024, 1, 1) + timedelta(days=n)).isoformat() for n in offsets]
    order.shuffle(days)
    learned, held = split_holdout(days, training(holdout=timedelta(days=holdout)))
    assert [*learned, *held] == sorted(days)
    assert 1 <= len(held) <= len(days) // 4
    reach = date.fromisoformat(held[-1]) - date.fromisoformat(held[0])
    assert reach < timedelta(days=holdout)
    # No shorter than it has to be: one more day would break one of the two bounds.
    longer = date.fromisoformat(held[-1]) - date.fromisoformat(learned[-1])
    assert len(held) + 1 > len(days) // 4 or longer >= timedelta(days=holdout)


def test_a_holdout_of_hours_is_one_day() -> None:
    days = [f"2024-01-{day:02d}" for day in range(1, 31)]
    assert split_holdout(days, training(holdout="12h"))[1] == ("2024-01-30",)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_fewer_than_four_days_cannot_be_split(count: int) -> None:
    with pytest.raises(TerminalError, match="at least 4 days"):
        split_holdout([f"2024-01-0{day}" for day in range(1, count + 1)], training())


# Candidates


def test_twin_never_sees_the_holdout_and_refit_sees_every_row(table: pa.Table) -> None:
    made = fit_candidate(table, FEATURES, training())
    held = pc.is_in(table["day"], value_set=pa.array(made.holdout_days))
    flipped = pc.if_else(held, pc.subtract(pa.scalar(1, pa.int8()), table["label"]), table["label"])
    other = fit_candidate(
        table.set_column(table.column_names.index("label"), "label", flipped), FEATURES, training()
    )
    assert other.twin == made.twin
    assert other.refit.hash != made.refit.hash
    assert (made.twin.rows, made.refit.rows) == (900, 1200)
    assert made.twin.last_day < made.holdout_days[0]
    assert made.holdout.num_rows == 300


def test_without_refit_the_twin_is_what_would_be_promoted(table: pa.Table) -> None:
    made = fit_candidate(table, FEATURES, training(refit=False))
    assert made.refit is made.twin
    assert made.refit.last_day < made.holdout_days[0]


def test_candidate_is_put_together_again_from_its_models(table: pa.Table) -> None:
    made = fit_candidate(table, FEATURES, training())
    again = candidate_of(made.refit, made.twin, shuffled(table, 3), training())
    assert again == made


def test_too_few_rows_are_not_trained_on(table: pa.Table) -> None:
    with pytest.raises(TerminalError, match="1200 labelled examples"):
        fit_candidate(table, FEATURES, training(min_rows=1201))


# Training


@pytest.mark.parametrize("seed", [1, 2])
def test_same_rows_in_any_order_and_layout_give_the_same_bytes(
    table: pa.Table, model: TrainedModel, seed: int
) -> None:
    other = shuffled(table, seed)
    other = pa.concat_tables([other.slice(0, 17), other.slice(17)])
    for name, kind in (("carrier", pa.dictionary(pa.int32(), pa.string())), ("day", pa.large_string())):
        other = other.set_column(other.column_names.index(name), name, other[name].cast(kind))
    again = train(other, FEATURES, training())
    assert again.text == model.text
    assert again == model
    assert again.hash == model.hash


def test_another_seed_or_setting_is_another_model(table: pa.Table, model: TrainedModel) -> None:
    sampling = {"n_estimators": 20, "bagging_fraction": 0.5, "bagging_freq": 1}
    hashes = {
        model.hash,
        train(table, FEATURES, training(params=sampling)).hash,
        train(table, FEATURES, training(params=sampling, seed=4)).hash,
    }
    assert len(hashes) == 3


def test_the_recipe_of_a_model_gives_it_again_from_the_rows_of_its_set(table: pa.Table) -> None:
    sampling = {"n_estimators": 20, "bagging_fraction": 0.5, "bagging_freq": 1}
    made = fit_candidate(table, FEATURES, training(params=sampling, seed=4))
    for one in (made.refit, made.twin):
        again = train_again(shuffled(table, 5), TrainedModel.from_files(one.to_files()))
        assert (again, again.hash) == (one, one.hash)


def test_model_says_what_it_was_made_of(table: pa.Table, model: TrainedModel) -> None:
    assert model.rows == table.num_rows
    assert model.cutoff == max(table["decision_time"].to_pylist())
    assert model.cutoff.tzinfo is UTC
    assert (model.first_day, model.last_day) == ("2024-01-01", "2024-01-12")
    assert model.categories == {"carrier": ("AA", "B6", "DL", "UA")}
    assert model.params["n_estimators"] == 20
    assert model.size_bytes == len(model.text)


def test_model_learns(table: pa.Table, model: TrainedModel) -> None:
    scores, labels = model.predict(table), table["label"].to_numpy()
    assert scores[labels == 1].mean() > scores[labels == 0].mean() + 0.1


# Scoring


def test_a_row_scores_the_same_alone_in_a_day_or_among_all(table: pa.Table, model: TrainedModel) -> None:
    together = model.predict(table)
    by_day = [model.predict(table.filter(pc.equal(table["day"], day))) for day in table["day"].unique()]
    assert np.array_equal(np.concatenate(by_day), together)
    alone = [model.predict_one(row) for row in table.slice(0, 100).to_pylist()]
    assert np.array_equal(alone, together[:100])


def test_unknown_and_null_categories_count_as_missing(table: pa.Table, model: TrainedModel) -> None:
    rows = table.slice(0, 3).drop_columns(["carrier"])
    unknown = rows.append_column("carrier", pa.array(["ZZ"] * 3))
    null = rows.append_column("carrier", pa.array([None] * 3, pa.string()))
    assert np.isnan(encode(unknown, FEATURES, model.categories)[:, 3]).all()
    assert np.array_equal(model.predict(unknown), model.predict(null))
    assert model.predict_one(unknown.to_pylist()[0]) == model.predict_one(null.to_pylist()[0])


def test_no_rows_give_no_scores(table: pa.Table, model: TrainedModel) -> None:
    assert model.predict(table.slice(0, 0)).shape == (0,)


def test_shap_values_sum_to_the_score(table: pa.Table, model: TrainedModel) -> None:
    rows = table.slice(0, 200)
    scores = model.predict(rows)
    rest = np.log(scores / (1 - scores)) - model.contributions(rows).sum(axis=1)
    assert np.ptp(rest) < 1e-9


def test_numbers_may_be_integers_booleans_or_all_null(model: TrainedModel) -> None:
    kinds = {"wind": pa.array([True, None]), "hour": pa.array([1, None]), "noise": pa.nulls(2)}
    rows = pa.table({**kinds, "carrier": pa.array(["AA", None])})
    matrix = encode(rows, FEATURES, model.categories)
    assert np.array_equal(matrix[0], [1.0, 1.0, np.nan, 0.0], equal_nan=True)
    assert np.isnan(matrix[1]).all()


# Text and back


def test_model_survives_its_files(table: pa.Table, model: TrainedModel) -> None:
    files = model.to_files()
    again = TrainedModel.from_files(files)
    assert again == model
    assert np.array_equal(again.predict(table), model.predict(table))
    assert again.to_files() == files


def test_changed_files_are_refused(model: TrainedModel) -> None:
    files = model.to_files()
    with pytest.raises(TerminalError, match="hash to"):
        TrainedModel.from_files(
            {**files, "model.lgb": files["model.lgb"].replace("leaf_value=", "leaf_value=1")}
        )
    with pytest.raises(TerminalError, match=r"lack model\.lgb"):
        TrainedModel.from_files({"encoding.json": files["encoding.json"]})
    newer = json.dumps({**json.loads(files["encoding.json"]), "format": 3})
    with pytest.raises(TerminalError, match="format 3"):
        TrainedModel.from_files({**files, "encoding.json": newer})


def test_hash_covers_the_encoding_but_not_the_provenance(model: TrainedModel) -> None:
    reordered = replace(model, categories={"carrier": ("B6", "AA", "DL", "UA")})
    assert reordered.hash != model.hash
    assert replace(model, cutoff=datetime(2025, 1, 1, tzinfo=UTC), rows=1).hash == model.hash


# What cannot be trained on


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def test_a_label_of_one_class_or_other_values_is_refused(table: pa.Table) -> None:
    rows = table.num_rows
    with pytest.raises(TerminalError, match="both outcomes"):
        train(with_column(table, "label", pa.array([0] * rows)), FEATURES, training())
    with pytest.raises(TerminalError, match="0 and 1"):
        train(with_column(table, "label", pa.array([2] * rows)), FEATURES, training())
    with pytest.raises(TerminalError, match="0 and 1"):
        train(with_column(table, "label", pa.array([None, *[1] * (rows - 1)])), FEATURES, training())


def test_columns_that_are_missing_or_of_another_kind_are_named(table: pa.Table) -> None:
    with pytest.raises(TerminalError, match="Column visib is missing"):
        train(table, [*FEATURES, FeatureColumn("visib", "number")], training())
    with pytest.raises(TerminalError, match="Feature carrier is string"):
        train(table, [FeatureColumn("carrier", "number")], training())
    with pytest.raises(TerminalError, match="Column wind is double"):
        train(table, [FeatureColumn("wind", "category")], training())


def test_settings_that_the_pipeline_makes_itself_are_refused(table: pa.Table) -> None:
    with pytest.raises(TerminalError, match="objective, seed"):
        train(table, FEATURES, training(params={"seed": 3, "objective": "regression"}))


def test_what_lightgbm_refuses_is_terminal(table: pa.Table) -> None:
    with pytest.raises(TerminalError, match="LightGBM refused"):
        train(table, FEATURES, training(params={"num_leaves": 1}))
