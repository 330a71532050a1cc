"""A model that shapes its own labels: the audit says so before the recall that nobody can see has fallen.

Some shops turn bad for a while and good again. A team looks into the fifth of the events that scores highest,
and every week a model is trained anew from what has a label. As long as all events get one, recall stays.
From some day on only what the team looked into does: whatever turns bad from then on is never learned. By
the labels all that is bad was found; the simulation knows the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pytest

from mlops_pipelines.features.views import FeatureColumn
from mlops_pipelines.monitoring.feedback import SOUND, Counted, Verdict, count, is_explored, newest_audit
from mlops_pipelines.monitoring.feedback_report import OVER
from mlops_pipelines.monitoring.reference import Reference, build_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import lightgbm as lgb
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

# All labelled but for some at random; flagged events alone; flagged events and those that are explored.
Arm = Literal["all", "flagged", "explored"]

ROWS_A_DAY = 2500
SHOPS = 60
# A shop turns bad every so many days, and is good again after so many; half of that long it is quite bad.
TURNS_EVERY, BAD_FOR = 10, 150
# Share of the events that the team can look into.
FLAGGED = 0.2
EXPLORED = 0.02
MATURES_AFTER, WINDOW, RETRAINED_EVERY = 2, 28, 7
# Days: the first model; labels may be selected from here on, or a few days later in the week; the end.
FIRST = WINDOW + MATURES_AFTER
EARLIEST = FIRST + 14
END = EARLIEST + 77
FALLEN = 0.9

NAMES = ("amount", "age", "shop")
FEATURES = tuple(FeatureColumn(name, "category" if name == "shop" else "number") for name in NAMES)
PARAMS = {
    "objective": "binary", "num_leaves": 15, "learning_rate": 0.15, "min_data_in_leaf": 20, "cat_smooth": 5,
    "min_data_per_group": 10, "max_bin": 63, "verbose": -1, "num_threads": 1, "seed": 1,
    "deterministic": True,
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """What serves for a week. flagged_from: the score from which events are looked into. finds: of events
    like any others, whether it flags them."""

    booster: lgb.Booster
    reference: Reference
    flagged_from: float
    finds: Flags


@dataclass(frozen=True)
class Course:
    """What became of an arm, by day. selected: the day from which labels are, or would be.

    recall: the true one of the model in service. verdicts: of the audit at the end of the day.
    """

    selected: int
    recall: dict[int, float]
    verdicts: dict[int, Verdict]

    @property
    def before(self) -> float:
        """Recall before labels were selected."""
        return float(np.mean([self.recall[day] for day in range(FIRST, self.selected)]))

    @property
    def fallen(self) -> int | None:
        """Days of selection after which recall has fallen by a tenth; None if it never did."""
        return next(
            (day - self.selected for day, one in self.recall.items() if one < FALLEN * self.before), None
        )

    @property
    def found(self) -> int | None:
        """Days of selection after which the audit says that something is wrong; None if it never does."""
        return next((day - self.selected for day, one in self.verdicts.items() if one not in SOUND), None)

    @property
    def worst_week(self) -> float:
        """Mean recall of the worst seven days since labels are selected, as a share of that before."""
        since = [self.recall[day] for day in range(self.selected, END)]
        return min(float(np.mean(since[n : n + 7])) for n in range(len(since) - 6)) / self.before


def events(rng: np.random.Generator, rows: int) -> Floats:
    """Amount, age and shop, shape (rows, 3)."""
    return np.column_stack([rng.normal(size=(rows, 2)), rng.integers(0, SHOPS, rows)])


def chances(rows: Floats, order: NDArray[np.int64], day: int) -> Floats:
    """How likely each event is a bad one. order: in which shops turn bad."""
    bad = np.zeros(SHOPS)
    for turn in range(-BAD_FOR // TURNS_EVERY, END // TURNS_EVERY + 1):
        since = day - turn * TURNS_EVERY
        if 0 <= since < BAD_FOR:
            bad[order[turn % SHOPS]] = np.sin(np.pi * since / BAD_FOR) ** 2
    return 0.004 + 0.6 * bad[rows[:, 2].astype(int)] / (1 + np.exp(-1.5 * rows[:, 0]))


def table_of(rows: Floats) -> pa.Table:
    shops = [f"s{int(shop)}" for shop in rows[:, 2]]
    return pa.table({"amount": rows[:, 0], "age": rows[:, 1], "shop": shops})


def trained(days: Sequence[Floats], bad: Sequence[Flags], recent: Floats, anybody: Floats) -> Model:
    """A model of the labelled rows of some days. recent: all rows of the last week, labelled or not. anybody:
    events like any others."""
    import lightgbm as lgb

    rows = np.concatenate(days)
    booster = lgb.train(
        dict(PARAMS), lgb.Dataset(rows, np.concatenate(bad), categorical_feature=[2]), num_boost_round=30
    )
    table = table_of(rows).append_column(
        "day", pa.array([f"{day:04d}" for day, one in enumerate(days) for _ in range(len(one))])
    )
    gains = dict(zip(NAMES, booster.feature_importance("gain").tolist(), strict=True))
    reference = build_reference(table, FEATURES, booster.predict(rows), gains)
    flagged_from = float(np.quantile(booster.predict(recent), 1 - FLAGGED))
    return Model(booster, reference, flagged_from, booster.predict(anybody) >= flagged_from)


@cache
def lived(seed: int, arm: Arm) -> Course:
    """Score each day, label what the arm labels, train every week, audit every day."""
    rng = np.random.default_rng(seed)
    order, anybody = rng.permutation(SHOPS), events(np.random.default_rng(0), 10_000)
    rows = [events(rng, ROWS_A_DAY) for _ in range(END)]
    bad = [rng.random(ROWS_A_DAY) < chances(one, order, day) for day, one in enumerate(rows)]
    # Each day loses labels of its own at random.
    known = [rng.random(ROWS_A_DAY) >= lost for lost in rng.uniform(0, 0.3, END)]
    models: list[Model] = []
    counted: list[tuple[int, list[Counted]]] = []
    course = Course(EARLIEST + seed % RETRAINED_EVERY, {}, {})
    for day in range(FIRST, END):
        if (day - FIRST) % RETRAINED_EVERY == 0:
            learned = range(day - MATURES_AFTER - WINDOW, day - MATURES_AFTER)
            models.append(
                trained(
                    [rows[one][known[one]] for one in learned],
                    [bad[one][known[one]] for one in learned],
                    np.concatenate(rows[day - RETRAINED_EVERY : day]),
                    anybody,
                )
            )
        model = models[-1]
        scores = model.booster.predict(rows[day])
        explored = np.array(is_explored((f"{day}-{n}" for n in range(ROWS_A_DAY)), EXPLORED, "p"))
        if day >= course.selected and arm != "all":
            known[day] = scores >= model.flagged_from
        if arm == "explored":
            known[day] |= explored
        counted.append(
            (
                len(models) - 1,
                count(
                    table_of(rows[day]).append_column("score", pa.array(scores)),
                    known[day],
                    model.reference,
                    scores="score",
                    slices=["shop"],
                    features=NAMES,
                    explored=explored if arm == "explored" else None,
                ),
            )
        )
        truth = chances(anybody, order, day)
        course.recall[day] = float(truth[model.finds].sum() / truth.sum())
        course.verdicts[day] = verdict(models, counted[: len(counted) - MATURES_AFTER])
    return course


def verdict(models: Sequence[Model], matured: Sequence[tuple[int, list[Counted]]]) -> Verdict:
    """What the audit says of the last matured days, each with the number of its model."""
    newest_first = range(len(models) - 1, -1, -1)
    last = matured[-OVER.days :]
    found = newest_audit(
        [[one for by, counted in last if by == number for one in counted] for number in newest_first],
        lambda place: models[newest_first[place]].reference,
    )
    return found[1].verdict if found else "too few"


def seeds(full: bool) -> range:
    return range(30 if full else 1)


@pytest.mark.proof
def test_labels_of_flagged_events_alone_are_found_before_recall_has_fallen_by_a_tenth(
    full: bool, sample_size: Callable[[str, int], None]
) -> None:
    courses = [lived(seed, "flagged") for seed in seeds(full)]
    found = [one.found for one in courses if one.found is not None]
    fallen = [one.fallen for one in courses if one.fallen is not None]
    sample_size("seeds", len(courses))
    sample_size("days until the audit found it, at most", max(found))
    sample_size(
        "recall by then, per cent of before, at least", round(100 * min(map(recall_when_found, courses)))
    )
    sample_size("seeds in which recall fell by a tenth", len(fallen))
    sample_size("days until it had, at least", min(fallen))
    assert len(found) == len(courses)
    for one in courses:
        assert one.found is not None
        assert 0 <= one.found < (END if one.fallen is None else one.fallen)
    assert len(fallen) >= 0.9 * len(courses), "labels that nobody selects would do as well"


def recall_when_found(course: Course) -> float:
    """True recall on the day of the first verdict, as a share of that before."""
    assert course.found is not None
    return course.recall[course.selected + course.found] / course.before


@pytest.mark.proof
def test_labels_that_only_chance_takes_away_are_never_found_fault_with(
    full: bool, sample_size: Callable[[str, int], None]
) -> None:
    courses = [lived(seed, "all") for seed in seeds(full)]
    verdicts = [verdict for one in courses for verdict in one.verdicts.values()]
    sample_size("seeds", len(courses))
    sample_size("days audited", len(verdicts))
    sample_size("of these with a verdict", len([one for one in verdicts if one != "too few"]))
    sample_size("of these not open", len([one for one in verdicts if one not in ("open", "too few")]))
    assert {*verdicts} == {"open", "too few"}
    assert [one.fallen for one in courses] == [None] * len(courses)


@pytest.mark.proof
def test_two_in_a_hundred_labelled_at_random_make_up_for_selected_labels(
    full: bool, sample_size: Callable[[str, int], None]
) -> None:
    courses = [lived(seed, "explored") for seed in seeds(full)]
    without = [lived(seed, "flagged") for seed in seeds(full)]
    sample_size("seeds", len(courses))
    kept, kept_without = (float(np.mean([one.worst_week for one in arm])) for arm in (courses, without))
    sample_size("recall kept in the worst week, per cent", round(100 * kept))
    sample_size("recall kept without them, per cent", round(100 * kept_without))
    assert [one.found for one in courses] == [None] * len(courses)
    for one in courses:
        assert {one.verdicts[day] for day in range(FIRST, one.selected)} <= {"open", "too few"}
        assert {one.verdicts[day] for day in range(one.selected + 14, END)} == {"explored"}
    assert 1 - kept < 0.6 * (1 - kept_without)
