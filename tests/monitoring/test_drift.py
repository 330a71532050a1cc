from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.views import FeatureColumn
from mlops_pipelines.monitoring.drift import (
    Level,
    drift_of,
    level_of,
    noise_limit,
    persistent,
    population_stability_index,
    stability_indices,
)
from mlops_pipelines.monitoring.reference import Reference, build_reference
from mlops_pipelines.spec import DriftTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

BANDS = DriftTrigger()
FEATURES = (
    FeatureColumn("fare", "number"),
    FeatureColumn("zone", "category"),
    FeatureColumn("season", "number"),
)
IMPORTANCE = {"fare": 0.5, "zone": 0.3, "season": 0.2}
histograms = st.lists(st.integers(0, 500), min_size=2, max_size=12).filter(any)


def trips(rng: np.random.Generator, days: range, rows: int, *, shift: float = 0.0) -> pa.Table:
    """Rows of several days: fares and zones vary within a day, the season is nearly one number a day."""
    day = np.repeat(np.array(list(days)), rows)
    total = len(day)
    return pa.table(
        {
            "day": [f"2024-{1 + d // 28:02d}-{1 + d % 28:02d}" for d in day],
            "fare": rng.gamma(2.0, 5.0, total) * (1 + shift),
            "zone": rng.choice(["north", "south", "east", "west"], total, p=[0.4, 0.3, 0.2, 0.1]),
            "season": np.sin(day / 58) + rng.normal(0, 0.002, total),
        }
    )


def reference_of(table: pa.Table) -> Reference:
    scores = np.random.default_rng(0).beta(2, 5, table.num_rows)
    return build_reference(table, FEATURES, scores, IMPORTANCE)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of(trips(np.random.default_rng(1), range(60), 300))


# The index


def test_index_of_a_hand_computed_pair_of_histograms() -> None:
    expected, actual = np.array([50, 50]), np.array([20, 80])
    by_hand = (0.2 - 0.5) * np.log(0.2 / 0.5) + (0.8 - 0.5) * np.log(0.8 / 0.5)
    assert population_stability_index(expected, actual) == pytest.approx(by_hand, abs=1e-12)


@given(histograms)
def test_index_of_a_histogram_with_itself_is_zero_at_any_size(counts: list[int]) -> None:
    big = np.array(counts) * 1000
    assert population_stability_index(big, big) == 0.0


@given(histograms, st.data())
def test_index_is_symmetric_and_never_negative(counts: list[int], data: st.DataObject) -> None:
    same_size = st.lists(st.integers(0, 500), min_size=len(counts), max_size=len(counts)).filter(any)
    one, other = np.array(counts), np.array(data.draw(same_size))
    index = population_stability_index(one, other)
    assert index >= 0
    assert index == pytest.approx(population_stability_index(other, one), abs=1e-12)
    assert index == pytest.approx(float(stability_indices(one, np.vstack([other, one]))[0]), abs=1e-12)


def test_empty_bin_is_finite_and_counts_less_in_a_small_sample() -> None:
    expected = np.array([5000, 5000])
    large = population_stability_index(expected, np.array([10_000, 0]))
    small = population_stability_index(expected, np.array([5, 0]))
    assert 0 < small < large < np.inf


@pytest.mark.parametrize(
    ("one", "other"), [([1, 2], [1, 2, 3]), ([0, 0], [1, 2]), ([1, 2], [0, 0]), ([[1]], [[1]])]
)
def test_histograms_that_cannot_be_compared_are_refused(one: list[int], other: list[int]) -> None:
    with pytest.raises(ValueError, match="histogram"):
        population_stability_index(np.array(one), np.array(other))


@pytest.mark.proof
@pytest.mark.parametrize(("bins", "n"), [(2, 200), (5, 400), (10, 60), (10, 150), (12, 1000)])
def test_samples_of_one_distribution_seldom_exceed_the_noise(
    bins: int, n: int, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    from scipy.stats import chi2

    rng, m, pairs = np.random.default_rng(bins), 20_000, 1_000_000 if full else 20_000
    sample_size("pairs of samples", pairs)
    share = np.full(bins, 1 / bins)
    expected, actual = rng.multinomial(m, share, pairs), rng.multinomial(n, share, pairs)
    indices = stability_indices(expected, actual)
    assert np.mean(indices > noise_limit(bins, n, m, 1)) < 4e-4
    assert np.mean(indices > noise_limit(bins, n, m, 1) / 2) > 1e-3
    by_chance = chi2.isf(1e-4 / 20, bins - 1) * (1 / n + 1 / m)
    assert noise_limit(bins, n, m, 20) == pytest.approx(by_chance * (1 + min(2.5 * bins / n, 0.2)))


def test_one_bin_has_no_noise() -> None:
    assert noise_limit(1, 10, 100, 5) == 0


# The report


@pytest.mark.proof
@pytest.mark.parametrize("rows", [1, 2, 5, 20, 60, 300, 3000])
def test_rows_like_the_training_set_do_not_alarm_however_few(
    reference: Reference, rows: int, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    rng, days = np.random.default_rng(2), 2000 if full else 40
    sample_size("days", days)
    levels = [drift_of(reference, trips(rng, range(30, 31), rows), BANDS).level for _ in range(days)]
    assert levels.count("alarm") == 0
    assert levels.count("watch") <= days * 0.005


def test_a_moved_feature_alarms_and_is_named_first(reference: Reference) -> None:
    moved = trips(np.random.default_rng(3), range(30, 31), 300, shift=2.0)
    report = drift_of(reference, moved, BANDS)
    assert report.level == "alarm"
    assert report.features[0].name == "fare"
    assert report.features[0].contribution == report.overall
    assert report.sentence.startswith("fare has an unexplained, weighted PSI of ")
    assert report.sentence.endswith("alarm from 0.25")
    assert (report.rows, report.reference_rows, report.reference_days) == (300, 18_000, 60)


def test_a_slow_feature_that_is_one_bin_on_every_day_is_explained(reference: Reference) -> None:
    day = trips(np.random.default_rng(4), range(30, 31), 300)
    season = next(f for f in drift_of(reference, day, BANDS).features if f.name == "season")
    assert season.psi > 2
    assert season.excess == 0


def test_lost_values_alarm_even_in_a_feature_that_is_one_bin_on_every_day(reference: Reference) -> None:
    day = trips(np.random.default_rng(5), range(30, 31), 300)
    lost = day.set_column(3, "season", pa.nulls(300, pa.float64()))
    report = drift_of(reference, lost, BANDS)
    assert report.level == "alarm"
    assert (report.features[0].name, report.features[0].missing) == ("season", 1.0)
    assert report.features[0].missing_before == 0.0
    assert [(one.feature, one.kind, one.share) for one in report.breaks] == [("season", "missing", 1.0)]


@pytest.mark.parametrize("value", [-100.0, 4.9, 100.0])
def test_a_constant_that_moves_alarms_wherever_it_goes(value: float) -> None:
    table = trips(np.random.default_rng(1), range(10), 100)
    reference = reference_of(table.set_column(1, "fare", pa.array([5.0] * table.num_rows)))
    day = trips(np.random.default_rng(2), range(10, 11), 300)
    same, moved = (day.set_column(1, "fare", pa.array([one] * 300)) for one in (5.0, value))
    assert drift_of(reference, same, BANDS).level == "none"
    report = drift_of(reference, moved, BANDS)
    assert (report.level, report.features[0].name) == ("alarm", "fare")


def test_a_renamed_category_alarms(reference: Reference) -> None:
    day = trips(np.random.default_rng(6), range(30, 31), 300)
    renamed = day.set_column(2, "zone", pa.array([f"zone {name}" for name in day["zone"].to_pylist()]))
    report = drift_of(reference, renamed, BANDS)
    assert (report.level, report.features[0].name) == ("alarm", "zone")
    assert [(one.feature, one.kind, one.share) for one in report.breaks] == [("zone", "category", 1.0)]
    assert "zone: 100.0% of the rows of categories that the training set did not have" in report.sentence


def test_rows_far_out_of_the_range_alarm_before_the_index_does(reference: Reference) -> None:
    day = trips(np.random.default_rng(6), range(30, 31), 1000)
    fares = day["fare"].to_numpy().copy()
    fares[:80] *= -100
    report = drift_of(reference, day.set_column(1, "fare", pa.array(fares)), BANDS)
    assert (report.overall or 0) < BANDS.alarm
    assert [(one.feature, one.kind, one.share) for one in report.breaks] == [("fare", "range", 0.08)]
    assert report.level == "alarm"
    # What decides comes first.
    assert report.sentence.startswith("fare: 8.0% of the rows far out of the training set's range")
    assert report.sentence.endswith("alarm: what breaks counts by how much the feature matters")


def test_a_break_in_a_feature_that_hardly_matters_is_no_alarm() -> None:
    table = trips(np.random.default_rng(1), range(60), 100)
    scores = np.full(table.num_rows, 0.5)
    reference = build_reference(table, FEATURES, scores, {"fare": 98.0, "zone": 1.0, "season": 1.0})
    day = trips(np.random.default_rng(6), range(30, 31), 300)
    some = [zone if row % 3 else None for row, zone in enumerate(day["zone"].to_pylist())]
    report = drift_of(reference, day.set_column(2, "zone", pa.array(some)), BANDS)
    assert [one.feature for one in report.breaks] == ["zone"]
    assert report.level == "none"


def test_a_row_or_two_break_nothing(reference: Reference) -> None:
    day = trips(np.random.default_rng(6), range(30, 31), 10)
    fares = np.where(np.arange(10) == 0, -1e9, day["fare"].to_numpy())
    assert drift_of(reference, day.set_column(1, "fare", pa.array(fares)), BANDS).breaks == ()


def test_a_constant_that_becomes_another_one_breaks_its_range() -> None:
    days = [f"2024-01-{1 + i // 70:02d}" for i in range(2000)]
    training = pa.table({"day": days, "fee": np.full(2000, 3.0)})
    reference = build_reference(training, (FeatureColumn("fee", "number"),), np.full(2000, 0.5), {"fee": 1})
    same = drift_of(reference, pa.table({"fee": np.full(50, 3.0)}), BANDS)
    other = drift_of(reference, pa.table({"fee": np.full(50, 3.5)}), BANDS)
    assert (same.level, same.overall, same.breaks) == ("none", 0.0, ())
    assert (other.level, other.breaks[0].kind) == ("alarm", "range")


def test_a_feature_that_never_had_a_value_says_nothing_until_it_has_one() -> None:
    days = [f"2024-01-{1 + i // 70:02d}" for i in range(2000)]
    training = pa.table({"day": days, "tip": pa.nulls(2000, pa.float64())})
    reference = build_reference(training, (FeatureColumn("tip", "number"),), np.full(2000, 0.5), {"tip": 1})
    still = drift_of(reference, pa.table({"tip": pa.nulls(50, pa.float64())}), BANDS)
    assert (still.level, still.features[0].effect, still.features[0].p_adjusted) == ("none", None, None)
    assert drift_of(reference, pa.table({"tip": np.full(50, 1.0)}), BANDS).level == "alarm"


def test_columns_that_the_model_does_not_see_change_nothing(reference: Reference) -> None:
    day = trips(np.random.default_rng(6), range(30, 31), 300)
    more = day.append_column("new", pa.array(np.arange(300)))
    assert drift_of(reference, more, BANDS) == drift_of(reference, day, BANDS)


def test_tests_agree_with_those_of_scipy_on_the_bins(reference: Reference) -> None:
    from scipy.stats import chi2_contingency, false_discovery_control, ks_2samp

    day = trips(np.random.default_rng(3), range(30, 31), 400, shift=0.1)
    found = {one.name: one for one in drift_of(reference, day, BANDS).features}
    known = {one.name: one for one in reference.features}
    binned = [
        np.repeat(np.arange(len(counts) - 1), counts[:-1])
        for counts in (known["fare"].counts, known["fare"].bins.histogram(day["fare"]))
    ]
    ks = ks_2samp(*binned, method="asymp")
    assert (found["fare"].test, found["fare"].effect) == ("ks", pytest.approx(ks.statistic))
    assert found["fare"].p == pytest.approx(ks.pvalue, rel=0.2)
    zones = np.array([known["zone"].counts, known["zone"].bins.histogram(day["zone"])])
    chi2 = chi2_contingency(zones[:, zones.sum(axis=0) > 0])
    assert (found["zone"].test, found["zone"].p) == ("chi2", pytest.approx(chi2.pvalue))
    assert found["zone"].effect == pytest.approx((chi2.statistic / zones.sum()) ** 0.5)
    in_order = [found[feature.name] for feature in reference.features]
    corrected = false_discovery_control([one.p for one in in_order if one.p is not None])
    assert [one.p_adjusted for one in in_order] == pytest.approx(corrected.tolist())


def test_with_rows_enough_a_difference_is_significant_and_no_drift(reference: Reference) -> None:
    day = trips(np.random.default_rng(3), range(30, 31), 50_000, shift=0.05)
    report = drift_of(reference, day, BANDS)
    fare = next(one for one in report.features if one.name == "fare")
    assert (fare.p_adjusted or 1) < 1e-6
    assert (fare.effect or 1) < 0.05
    assert report.level == "none"


def test_a_feature_without_importance_never_alarms() -> None:
    table = trips(np.random.default_rng(1), range(60), 100)
    scores = np.full(table.num_rows, 0.5)
    reference = build_reference(table, FEATURES, scores, {"fare": 0.0, "zone": 1.0, "season": 1.0})
    moved = trips(np.random.default_rng(3), range(30, 31), 300, shift=5.0)
    assert drift_of(reference, moved, BANDS).level == "none"


def test_many_features_do_not_alarm_more_often_than_one() -> None:
    rng = np.random.default_rng(8)
    names = [f"f{i}" for i in range(200)]
    columns = tuple(FeatureColumn(name, "number") for name in names)
    days = [f"2024-01-{1 + i // 100:02d}" for i in range(2000)]
    training = pa.table({"day": days, **{name: rng.normal(size=2000) for name in names}})
    reference = build_reference(training, columns, rng.random(2000), dict.fromkeys(names, 1.0))
    for _ in range(5):
        day = pa.table({name: rng.normal(size=100) for name in names})
        assert drift_of(reference, day, BANDS).overall == 0


def test_no_rows_are_no_drift_and_say_so(reference: Reference) -> None:
    report = drift_of(reference, trips(np.random.default_rng(7), range(0), 0), BANDS)
    assert (report.rows, report.overall, report.level) == (0, None, "none")
    assert report.sentence == "no rows, nothing to compare"


def test_a_table_without_a_feature_is_refused_with_its_name(reference: Reference) -> None:
    with pytest.raises(TerminalError, match="no column zone"):
        drift_of(reference, trips(np.random.default_rng(7), range(1), 5).drop_columns(["zone"]), BANDS)


def test_scores_are_compared_too_and_weigh_nothing(reference: Reference) -> None:
    day = trips(np.random.default_rng(9), range(30, 31), 300)
    report = drift_of(reference, day, BANDS, np.full(300, 0.99))
    assert report.score is not None
    assert report.score.excess > 1
    assert report.overall == drift_of(reference, day, BANDS).overall
    assert drift_of(reference, day, BANDS, np.array([])).score is None


@given(st.floats(0, 5))
def test_level_follows_the_bands(overall: float) -> None:
    level = level_of(overall, BANDS)
    assert level == ("alarm" if overall >= 0.25 else "watch" if overall >= 0.10 else "none")


@given(
    st.lists(st.sampled_from(["none", "watch", "alarm"]), max_size=8), st.integers(1, 4), st.integers(0, 3)
)
def test_drift_persists_when_m_of_the_last_n_days_alarm(levels: list[Level], m: int, more: int) -> None:
    n = m + more
    last = levels[max(0, len(levels) - n) :]
    assert persistent(levels, (m, n)) == (last.count("alarm") >= m)


def test_exact_first_days_of_watch_alarm_and_persistence_on_a_seeded_stream(reference: Reference) -> None:
    rng = np.random.default_rng(10)
    shifts = [0.0] * 10 + [0.12 * step for step in range(1, 21)]
    stream = [trips(rng, range(day, day + 1), 400, shift=shift) for day, shift in enumerate(shifts, 30)]
    levels = [drift_of(reference, day, BANDS).level for day in stream]
    persists = [persistent(levels[: day + 1], (2, 3)) for day in range(len(levels))]
    assert (levels.index("watch"), levels.index("alarm"), persists.index(True)) == (12, 13, 14)
