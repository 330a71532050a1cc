"""What is said of how labels come to exist: counts by score, feature and slice, and the verdict on them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.features.views import FeatureColumn
from mlops_pipelines.monitoring.feedback import (
    LEAST_ALL,
    LEAST_EXPLORED,
    Audit,
    Counted,
    audit,
    by_value,
    count,
    entropy,
    is_explored,
    newest_audit,
    reference_entropy,
    summed,
)
from mlops_pipelines.monitoring.reference import Reference, build_reference

FEATURES = (FeatureColumn("weight", "number"), FeatureColumn("carrier", "category"))
ids = st.lists(st.text(max_size=20), max_size=50)
shares = st.floats(0.0001, 0.5)
counts = st.lists(st.integers(0, 1000), max_size=12)


def rows_of(rng: np.random.Generator, rows: int, **changes: Any) -> pa.Table:
    """Rows with a score, both features and two slices; `changes` replace columns."""
    columns = {
        "score": rng.random(rows),
        "weight": rng.normal(size=rows),
        "carrier": pa.array(rng.choice(["AA", "BB", "CC"], rows).tolist(), pa.string()),
        "terminal": pa.array(rng.integers(1, 4, rows).tolist(), pa.int64()),
    }
    return pa.table({**columns, **changes})


def reference_of(rows: pa.Table) -> Reference:
    days = [f"2024-01-{1 + n % 20:02d}" for n in range(rows.num_rows)]
    scores = rows["score"].to_numpy()
    return build_reference(
        rows.append_column("day", pa.array(days)), FEATURES, scores, {"weight": 3, "carrier": 1}
    )


REFERENCE = reference_of(rows_of(np.random.default_rng(1), 2000))
NAMES: dict[str, Any] = {
    "scores": "score",
    "slices": ["carrier", "terminal"],
    "features": ["weight", "carrier"],
}


# Who is explored


@given(shares)
def test_about_the_share_that_is_asked_for_is_explored(share: float) -> None:
    rows = 20_000
    found = sum(is_explored((f"event {n}" for n in range(rows)), share, "p"))
    assert abs(found - share * rows) <= 5 * math.sqrt(rows * share * (1 - share)) + 1


def test_an_event_is_explored_wherever_and_whenever_it_is_asked_for() -> None:
    chosen = [n for n, one in enumerate(is_explored((f"e{n}" for n in range(40)), 0.2, "p")) if one]
    assert chosen == [4, 12, 14, 15, 21, 25, 26, 34, 35, 37, 38]


@given(ids, shares, st.randoms(use_true_random=False))
def test_others_and_their_order_change_nothing(events: list[str], share: float, random: Any) -> None:
    found = dict(zip(events, is_explored(events, share, "p"), strict=True))
    shuffled = random.sample(events, len(events))
    assert is_explored(shuffled, share, "p") == [found[event] for event in shuffled]
    assert [is_explored([event], share, "p") for event in events] == [[found[event]] for event in events]


@given(ids, shares, shares)
def test_who_is_explored_stays_so_when_the_share_grows(events: list[str], one: float, other: float) -> None:
    few, many = (is_explored(events, share, "p") for share in sorted((one, other)))
    assert all(later for earlier, later in zip(few, many, strict=True) if earlier)


def test_pipelines_explore_different_events() -> None:
    events = [f"e{n}" for n in range(10_000)]
    one, other = (np.array(is_explored(events, 0.5, name)) for name in ("p", "q"))
    assert np.mean(one & other) == pytest.approx(0.25, abs=0.02)


def test_an_id_of_any_characters_is_explored_or_not() -> None:
    assert len(is_explored(["", "é", "日本", "\N{BUG}" * 100], 0.5, "p")) == 4


# Counting


@given(st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_every_row_is_counted_once_in_each_part(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labelled, explored = rng.random(rows) < 0.4, rng.random(rows) < 0.3
    found = count(rows_of(rng, rows), labelled, REFERENCE, explored=explored, **NAMES)
    parts = {(one.part, one.name) for one in found}
    assert rows == 0 or parts >= {("score", ""), ("feature", "weight"), ("feature", "carrier"),
                                  ("slice", "carrier"), ("slice", "terminal")}  # fmt: skip
    for part in parts:
        mine = [one for one in found if (one.part, one.name) == part]
        of_part = explored if part[0] == "exploration" else np.ones(rows, bool)
        assert sum(one.rows for one in mine) == of_part.sum()
        assert sum(one.labelled for one in mine) == (labelled & of_part).sum()
        assert all(0 <= one.labelled <= one.rows > 0 for one in mine)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 2**32 - 1))
def test_days_add_up_to_what_they_are_together(one: int, other: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, labelled = rows_of(rng, one + other), rng.random(one + other) < 0.5
    apart = [
        *count(rows.slice(0, one), labelled[:one], REFERENCE, **NAMES),
        *count(rows.slice(one), labelled[one:], REFERENCE, **NAMES),
    ]
    assert summed(apart) == summed(count(rows, labelled, REFERENCE, **NAMES))
    assert summed(reversed(apart)) == summed(apart)


def test_no_rows_are_no_buckets() -> None:
    none = np.zeros(0, bool)
    rows = rows_of(np.random.default_rng(1), 0)
    assert count(rows, none, REFERENCE, explored=none, **NAMES) == []


def test_a_constant_column_and_one_without_values_are_a_bucket_each() -> None:
    rows = rows_of(np.random.default_rng(1), 50, weight=np.full(50, 0.1), carrier=pa.nulls(50, pa.string()))
    found = count(rows, np.ones(50, bool), REFERENCE, **NAMES)
    by_part = {(one.part, one.name): one for one in found if one.name != "terminal" and one.name}
    assert len(found) == len({(one.part, one.name, one.bucket) for one in found})
    missing = str(REFERENCE.features[0].bins.size - 1)
    carriers = {one.name: one.bins for one in REFERENCE.features}["carrier"]
    assert (by_part["feature", "weight"].rows, by_part["feature", "weight"].bucket != missing) == (50, True)
    assert by_part["feature", "carrier"] == Counted("feature", "carrier", str(carriers.size - 1), 50, 50)
    assert by_part["slice", "carrier"] == Counted("slice", "carrier", "–", 50, 50)


def test_values_that_read_alike_are_one_bucket() -> None:
    rows = rows_of(np.random.default_rng(1), 50, carrier=["–", None] * 25)
    found = count(rows, np.ones(50, bool), REFERENCE, **NAMES)
    assert [one for one in found if (one.part, one.name) == ("slice", "carrier")] == [
        Counted("slice", "carrier", "–", 50, 50)
    ]


def test_scores_that_are_all_one_are_one_bucket() -> None:
    rows = rows_of(np.random.default_rng(1), 50, score=np.full(50, 0.3))
    of_scores = [one for one in count(rows, np.ones(50, bool), REFERENCE, **NAMES) if one.part == "score"]
    assert [(one.rows, one.labelled) for one in of_scores] == [(50, 50)]


def test_a_column_that_the_model_does_not_see_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    rows, labelled = rows_of(rng, 50), rng.random(50) < 0.5
    more = rows.append_column("new", pa.array(np.arange(50)))
    assert count(more, labelled, REFERENCE, **NAMES) == count(rows, labelled, REFERENCE, **NAMES)


def test_a_category_and_a_number_that_the_reference_never_had_are_counted() -> None:
    rows = rows_of(np.random.default_rng(1), 50, weight=np.full(50, 1e9), carrier=["ZZ"] * 50)
    found = count(rows, np.ones(50, bool), REFERENCE, **NAMES)
    assert sum(one.rows for one in found if one.part == "feature") == 100


# The verdict


def scored(*rates: float, rows: int = 1000) -> list[Counted]:
    """Buckets of scores, one a rate."""
    return [Counted("score", "", str(n), rows, round(rate * rows)) for n, rate in enumerate(rates)]


def explored(labelled: int, rows: int, number: int = 0) -> Counted:
    return Counted("exploration", "", str(number), rows, labelled)


def features(covered: float) -> list[Counted]:
    """Buckets of both features whose labelled rows overlap this much with all rows: the rest is without."""
    return [
        one
        for name in ("weight", "carrier")
        for one in (
            Counted("feature", name, "0", round(1000 * covered), round(100 * covered)),
            Counted("feature", name, "1", round(1000 * (1 - covered)), 0),
        )
    ]


SELECTED = scored(*[0.0] * 9, 1.0)


def test_labels_of_all_scores_alike_are_open() -> None:
    found = audit(scored(*[0.9] * 10), REFERENCE)
    assert (found.verdict, found.rows, found.labelled) == ("open", 10_000, 9_000)
    assert found.spread == pytest.approx(1, abs=1e-3)


@given(st.floats(0.02, 1), st.lists(st.integers(1, 5000), min_size=10, max_size=10), st.integers(0, 10**6))
def test_labels_that_are_missing_at_random_are_never_selected(
    rate: float, sizes: list[int], seed: int
) -> None:
    drawn = np.random.default_rng(seed).binomial(sizes, rate).tolist()
    buckets = [Counted("score", "", str(n), rows, drawn[n]) for n, rows in enumerate(sizes)]
    found = audit(buckets, REFERENCE)
    assert found.verdict in ("open", "too few") or "scores spread" in found.sentence


@pytest.mark.parametrize(("rows", "verdict"), [(LEAST_ALL - 1, "too few"), (LEAST_ALL, "collapsing")])
def test_a_verdict_takes_rows_enough(rows: int, verdict: str) -> None:
    found = audit([Counted("score", "", "0", rows - 250, 0), Counted("score", "", "9", 250, 250)], REFERENCE)
    assert found.verdict == verdict
    if verdict == "too few":
        assert found.sentence == "499 matured rows; a verdict takes 500"


def test_nothing_at_all_is_too_few() -> None:
    found = audit([], REFERENCE)
    assert (found.verdict, found.rows, found.lowest, found.coverage) == ("too few", 0, None, None)
    assert found.sentence == "0 matured rows; a verdict takes 500"


def test_rows_of_which_none_has_a_label_are_too_few() -> None:
    found = audit(scored(*[0.0] * 10), REFERENCE)
    assert (found.verdict, found.sentence) == ("too few", "none of 10000 matured rows has a label")


@pytest.mark.parametrize(("rate", "verdict"), [(0.46, "open"), (0.34, "selective")])
def test_labels_are_selected_where_some_scores_surely_get_less_than_half(rate: float, verdict: str) -> None:
    assert audit(scored(rate, *[0.9] * 9), REFERENCE).verdict == verdict


def test_a_rate_that_chance_explains_is_not_selected() -> None:
    few = [Counted("score", "", "0", 20, 3), *scored(*[0.9] * 9)[1:]]
    many = [Counted("score", "", "0", 200, 30), *scored(*[0.9] * 9)[1:]]
    assert (audit(few, REFERENCE).verdict, audit(many, REFERENCE).verdict) == ("open", "selective")


@pytest.mark.parametrize(("covered", "verdict"), [(0.85, "selective"), (0.75, "collapsing")])
def test_selected_labels_collapse_where_they_no_longer_cover_what_is_decided_on(
    covered: float, verdict: str
) -> None:
    found = audit([*SELECTED, *features(covered)], REFERENCE)
    assert (found.verdict, found.coverage) == (verdict, pytest.approx(covered, abs=0.01))
    assert found.sentence.startswith("labelled rows cover 75% of what") == (verdict == "collapsing")
    assert found.sentence.endswith(
        f"0% of the rows with scores up to {REFERENCE.score.bins.edges[0]:.3g} got a label, "
        f"100% of the rows with scores above {REFERENCE.score.bins.edges[-1]:.3g} got a label"
    )


def test_open_labels_of_few_rows_cover_what_they_cover() -> None:
    assert audit([*scored(*[0.9] * 10), *features(0.5)], REFERENCE).verdict == "open"


def test_scores_that_fall_together_collapse_however_labels_come() -> None:
    found = audit(scored(0.9, rows=5000), REFERENCE)
    assert (found.verdict, found.spread) == ("collapsing", 0)
    assert found.sentence.startswith("scores spread 0% as widely as over the training set; 90% of the rows")


def test_a_model_that_scores_everything_alike_on_its_training_set_has_no_spread() -> None:
    rows = rows_of(np.random.default_rng(1), 500, score=np.full(500, 0.3))
    reference = reference_of(rows)
    found = audit(count(rows, np.ones(500, bool), reference, **NAMES), reference)
    assert (found.verdict, found.spread) == ("open", None)


def test_a_reference_without_features_has_no_coverage() -> None:
    bare = replace(REFERENCE, features=())
    found = audit(SELECTED, bare)
    assert (found.verdict, found.coverage) == ("selective", None)


@pytest.mark.parametrize(
    ("at_random", "verdict"),
    [
        ([explored(LEAST_EXPLORED, LEAST_EXPLORED + 5)], "explored"),
        ([explored(LEAST_EXPLORED - 1, LEAST_EXPLORED + 5)], "collapsing"),
        ([explored(LEAST_EXPLORED // 2, LEAST_EXPLORED // 2 + 9, n) for n in range(2)], "explored"),
        ([explored(LEAST_EXPLORED, 3 * LEAST_EXPLORED)], "collapsing"),
        ([explored(5000, 5000, 9)], "collapsing"),
    ],
    ids=["enough", "one too few", "over bins", "marks that are mostly left alone", "where all are labelled"],
)
def test_rows_labelled_at_random_make_up_for_selected_ones(at_random: list[Counted], verdict: str) -> None:
    found = audit([*SELECTED, *features(0.3), *at_random], REFERENCE)
    assert found.verdict == verdict
    assert found.explored == sum(one.labelled for one in at_random)
    assert (f"{LEAST_EXPLORED} rows labelled at random make up for it" in found.sentence) == (
        verdict == "explored"
    )


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        (explored(LEAST_EXPLORED, LEAST_EXPLORED + 9, 9), [], "explored"),
        (explored(LEAST_EXPLORED, LEAST_EXPLORED + 9), [explored(5, 10)], "explored"),
        (explored(LEAST_EXPLORED - 5, LEAST_EXPLORED), [explored(5, 10)], "explored"),
        (explored(LEAST_EXPLORED, LEAST_EXPLORED + 9), [explored(0, 100)], "collapsing"),
        (explored(LEAST_EXPLORED, 3 * LEAST_EXPLORED), [explored(5, 10)], "collapsing"),
    ],
    ids=["of whatever bin", "heeded since", "together", "left alone since", "left alone before"],
)
def test_rows_that_other_champions_explored_count_while_the_marks_are_heeded(
    before: Counted, now: list[Counted], verdict: str
) -> None:
    found = audit([*SELECTED, *features(0.3), *now], REFERENCE, others=[before, *SELECTED])
    assert found.verdict == verdict
    assert found.explored == sum(one.labelled for one in (before, *now))


@given(st.permutations([*SELECTED, *features(0.3), *scored(*[0.5] * 10), explored(3, 4)]))
def test_the_order_of_days_changes_nothing(buckets: list[Counted]) -> None:
    whole = [*SELECTED, *features(0.3), *scored(*[0.5] * 10), explored(3, 4)]
    assert audit(buckets, REFERENCE) == audit(whole, REFERENCE)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_a_rate_lies_between_its_bounds(rows: int, share: float) -> None:
    one = Counted("score", "", "0", rows, round(share * rows))
    assert 0 <= one.at_least <= one.rate <= one.at_most <= 1


def test_slices_are_told_by_rate_and_rare_ones_are_not() -> None:
    slices = [
        Counted("slice", "carrier", "AA", 50, 40),
        Counted("slice", "carrier", "BB", 500, 100),
        Counted("slice", "carrier", "CC", 49, 0),
    ]
    found = audit([*scored(*[0.9] * 10), *slices], REFERENCE)
    assert by_value(found) == {"carrier BB": 0.2, "carrier AA": 0.8}
    assert [*by_value(found)] == ["carrier BB", "carrier AA"]


def test_classes_are_named() -> None:
    rng = np.random.default_rng(1)
    table = rows_of(rng, 2000)
    days = pa.array([f"2024-01-{1 + n % 20:02d}" for n in range(2000)])
    classes = pa.array(rng.choice(["door", "shop"], 2000).tolist(), pa.string())
    reference = build_reference(
        table.append_column("day", days), FEATURES, classes, {"weight": 1, "carrier": 1}
    )
    rows = rows_of(rng, 1000, score=pa.array(["door"] * 500 + ["shop"] * 400 + ["moon"] * 100))
    found = audit(count(rows, np.arange(1000) < 500, reference, **NAMES), reference)
    assert "0% of the rows scored shop got a label, 100% of the rows scored door got" in found.sentence
    assert audit([Counted("score", "", "2", 500, 1)], reference).sentence.count("of other classes") == 2
    assert audit([Counted("score", "", "3", 500, 1)], reference).sentence.count("without a score") == 2


# Of several champions


def newest(*counted: list[Counted]) -> tuple[int, Audit] | None:
    return newest_audit(counted, lambda place: REFERENCE)


def test_the_newest_champion_with_rows_enough_is_judged() -> None:
    few, enough = scored(0.9, rows=10), scored(*[0.9] * 10)
    assert newest([], few, enough, SELECTED) == (2, audit(enough, REFERENCE))
    assert newest([], few) == (1, audit(few, REFERENCE))
    assert newest([], []) is None
    assert newest() is None


def test_rows_that_an_earlier_champion_explored_count_too() -> None:
    before = [*scored(*[0.9] * 10), explored(LEAST_EXPLORED, LEAST_EXPLORED)]
    found = newest(SELECTED, before)
    assert found is not None
    assert (found[0], found[1].verdict) == (0, "explored")


# How evenly things are spread


@given(counts)
def test_entropy_is_none_of_one_value_and_at_most_that_of_equal_shares(found: list[int]) -> None:
    filled = [one for one in found if one]
    assert -1e-12 <= entropy(found) <= math.log(max(len(filled), 1)) + 1e-12
    assert entropy(found) == pytest.approx(entropy([7 * one for one in reversed(found)]), abs=1e-12)
    if len(filled) <= 1:
        assert entropy(found) == 0
    assert entropy([3] * len(found)) == pytest.approx(math.log(max(len(found), 1)))


def test_a_training_set_is_spread_between_nothing_and_all() -> None:
    rng = np.random.default_rng(2)
    even = reference_of(rows_of(rng, 2000))
    one = reference_of(rows_of(rng, 500, weight=np.full(500, 1.0), carrier=["AA"] * 500))
    assert 0.9 < reference_entropy(even) <= 1
    assert reference_entropy(one) == 0
    assert reference_entropy(replace(even, features=())) == 0
