from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from mlops_pipelines.evaluation import evaluate
from mlops_pipelines.evaluation_report import Comparison, DayLoss, EvaluationReport, Slice, Slices
from mlops_pipelines.gates import Verdict, judge, loss_difference, passed
from mlops_pipelines.metrics import Estimate
from mlops_pipelines.spec import Gates
from mlops_pipelines.training import fit_candidate
from tests.synthetic_examples import FEATURES, examples, training

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    candidate = fit_candidate(examples(days=16, rows_per_day=60), FEATURES, training())
    gates = Gates.model_validate({"slices": {"by": ["carrier"], "min_rows": 10}})
    return evaluate(candidate, None, gates=gates)


def verdict(report: EvaluationReport, **gates: Any) -> Verdict:
    [found] = judge(report, Gates.model_validate(gates))
    return found


def with_metric(report: EvaluationReport, name: str, value: float | None) -> EvaluationReport:
    figure = None if value is None else Estimate(value, value - 0.01, value + 0.01)
    return replace(report, metrics={**report.metrics, name: figure})


def compared(report: EvaluationReport, differences: Sequence[float], rows: int = 100) -> EvaluationReport:
    """A report whose candidate's mean log loss differs from the champion's by so much on each day."""
    days = tuple(
        DayLoss(f"2024-01-{n + 1:02d}", rows, {"log_loss": rows * (0.5 + d)}, {"log_loss": rows * 0.5})
        for n, d in enumerate(differences)
    )
    return replace(report, comparison=Comparison("3", "refit", "", rows * len(days), days, {}))


def with_slices(
    report: EvaluationReport, figures: dict[str, float | None], note: str = ""
) -> EvaluationReport:
    groups = tuple(
        Slice("carrier", name, 900, 90, None if value is None else Estimate(value, None, None), note)
        for name, value in figures.items()
    )
    return replace(report, slices=Slices("roc_auc", 500, groups))


def test_each_declared_gate_gives_one_verdict_in_order(report: EvaluationReport) -> None:
    names = ["skill", "champion", "calibration", "slices", "latency"]
    gates: dict[str, Any] = {name: {} for name in names} | {"slices": {"by": ["carrier"]}}
    assert [v.gate for v in judge(report, Gates.model_validate(gates))] == names
    assert judge(report, Gates()) == []
    assert judge(report, Gates.model_validate(gates)) == judge(report, Gates.model_validate(gates))


def test_first_model_is_held_against_the_base_rate_alone(report: EvaluationReport) -> None:
    found = verdict(report, champion={})
    skill = report.metrics["log_loss_skill"]
    assert skill
    assert (found.outcome, found.figure, found.bound) == ("not_applicable", skill.value, 0.0)
    assert "no champion to compare with: judged against the base rate" in found.sentence
    assert passed([found])


@pytest.mark.parametrize("skill", [Estimate(0.0, -0.1, 0.1), Estimate(-0.2, -0.3, -0.1), None])
def test_first_model_that_shows_no_skill_fails(report: EvaluationReport, skill: Estimate | None) -> None:
    useless = replace(report, metrics={**report.metrics, "log_loss_skill": skill})
    assert not passed([verdict(useless, champion={})])
    # Where the pipeline asks for skill, its own bound decides.
    lax = judge(useless, Gates.model_validate({"champion": {}, "skill": {"at_least": -1}}))
    assert [one.outcome for one in lax if one.gate == "champion"] == ["not_applicable"]


@pytest.mark.parametrize(
    ("gate", "metric", "bound"),
    [
        ("skill", "log_loss_skill", "at_least"),
        ("skill", "brier_skill", "at_least"),
        ("calibration", "expected_calibration_error", "at_most"),
    ],
)
def test_bounds_themselves_pass_and_what_is_beyond_fails(
    report: EvaluationReport, gate: str, metric: str, bound: str
) -> None:
    beyond = -1e-9 if bound == "at_least" else 1e-9
    for value, outcome in ((0.04, "pass"), (0.04 + beyond, "fail"), (0.04 - beyond, "pass")):
        found = verdict(with_metric(report, metric, value), **{gate: {"metric": metric, bound: 0.04}})
        assert (found.outcome, found.figure, found.bound) == (outcome, value, 0.04)
        assert found.interval == (value - 0.01, value + 0.01)


@pytest.mark.parametrize(
    "gates",
    [{"skill": {}}, {"calibration": {}}, {"slices": {"by": ["carrier"], "metric": "average_precision"}}],
)
def test_a_gate_without_the_figure_it_needs_fails(report: EvaluationReport, gates: dict[str, Any]) -> None:
    bare = replace(report, metrics=dict.fromkeys(report.metrics), slices=None)
    found = verdict(bare, **gates)
    assert (found.outcome, found.figure) == ("fail", None)
    assert "could not be computed" in found.sentence
    assert not passed([found])


def test_latency_is_bound(report: EvaluationReport) -> None:
    slow = replace(report, latency=replace(report.latency, p99_ms=5.01))
    assert verdict(slow, latency={"p99_ms": 5}).outcome == "fail"
    assert verdict(slow, latency={"p99_ms": 6}).outcome == "pass"


def test_what_a_model_waits_for_counts_as_well(report: EvaluationReport) -> None:
    waiting = replace(report, latency=replace(report.latency, p99_ms=0.1, clock_ms=20.0))
    found = verdict(waiting, latency={"p99_ms": 5})
    assert (found.outcome, found.figure) == ("fail", 20.0)


# Slices


def test_the_worst_slice_decides(report: EvaluationReport) -> None:
    gate = {"by": ["carrier"], "at_least": 0.6}
    good = verdict(with_slices(report, {"AA": 0.8, "UA": 0.6}), slices=gate)
    assert (good.outcome, good.figure) == ("pass", 0.6)
    bad = verdict(with_slices(report, {"AA": 0.8, "UA": 0.59, "DL": 0.55}), slices=gate)
    assert (bad.outcome, bad.figure) == ("fail", 0.55)
    assert "carrier = DL" in bad.sentence
    assert "carrier = UA" in bad.sentence


def test_slices_too_small_have_nothing_to_say(report: EvaluationReport) -> None:
    found = verdict(with_slices(report, {"AA": None}, "fewer than 500 rows"), slices={"by": ["carrier"]})
    assert found.outcome == "not_applicable"
    assert "None of 1 slices has 500 rows" in found.sentence


def test_a_large_slice_without_a_figure_fails(report: EvaluationReport) -> None:
    found = verdict(with_slices(report, {"AA": 0.9, "UA": None}), slices={"by": ["carrier"]})
    assert found.outcome == "fail"
    assert "undefined for a slice" in found.sentence


def test_only_so_many_rows_may_lie_in_slices_that_are_too_small(report: EvaluationReport) -> None:
    groups = (
        Slice("carrier", "AA", 900, 100, Estimate(0.8, None, None)),
        Slice("carrier", "UA", 100, 10, None, "few"),
    )
    sliced = replace(report, slices=Slices("roc_auc", 500, groups))
    gate: dict[str, Any] = {"by": ["carrier"], "min_rows": 500}
    assert verdict(sliced, slices={**gate, "too_small": 0.1}).outcome == "pass"
    found = verdict(sliced, slices={**gate, "too_small": 0.09})
    assert (found.outcome, found.figure) == ("fail", 0.1)
    assert "10% of the rows lie in groups by carrier of fewer than 500 rows" in found.sentence


# The champion


def test_candidate_passes_when_it_is_surely_not_much_worse(report: EvaluationReport) -> None:
    found = verdict(compared(report, [0.001, -0.001, 0.0] * 9), champion={"not_worse_by": 0.003})
    assert found.outcome == "pass"
    assert found.figure == pytest.approx(0.0, abs=1e-12)
    assert found.interval is not None
    assert found.interval[0] < 0 < found.interval[1] < 0.003


def test_candidate_that_might_be_much_worse_fails(report: EvaluationReport) -> None:
    """The mean is within the margin; days differ so much that it proves little."""
    found = verdict(compared(report, [0.04, -0.04, 0.002] * 4), champion={"not_worse_by": 0.003})
    assert found.figure == pytest.approx(0.002 / 3)
    assert found.outcome == "fail"


@pytest.mark.parametrize("underpowered", ["fail", "warn"])
def test_days_that_can_tell_nothing_give_the_declared_verdict(
    report: EvaluationReport, underpowered: str
) -> None:
    gate = {"not_worse_by": 0.003, "underpowered": underpowered}
    for differences in ([0.04, -0.04, 0.002] * 4, [0.02, -0.06, -0.02] * 4):
        found = verdict(compared(report, differences), champion=gate)
        assert found.outcome == underpowered
        assert "too little to judge by" in found.sentence


def test_a_candidate_that_is_surely_worse_fails_however_little_the_days_can_tell(
    report: EvaluationReport,
) -> None:
    found = verdict(
        compared(report, [0.02, 0.1, 0.06] * 4), champion={"not_worse_by": 0.003, "underpowered": "warn"}
    )
    assert found.outcome == "fail"
    assert "worse even so" in found.sentence


def test_same_losses_differ_by_nothing(report: EvaluationReport) -> None:
    found = verdict(compared(report, [0.0] * 5), champion={"not_worse_by": 0})
    assert "the same on every day" in found.sentence
    assert (found.outcome, found.figure, found.interval) == ("pass", 0.0, (0.0, 0.0))


def test_days_count_by_their_rows(report: EvaluationReport) -> None:
    heavy = DayLoss("2024-01-01", 900, {"log_loss": 450.0}, {"log_loss": 441.0})
    light = DayLoss("2024-01-02", 100, {"log_loss": 50.0}, {"log_loss": 60.0})
    comparison = Comparison("3", "refit", "", 1000, (heavy, light), {})
    found = loss_difference(comparison, "log_loss", confidence=0.9, seed=1)
    assert found.figure == pytest.approx((9 - 10) / 1000)
    assert found.bounds is not None


@pytest.mark.parametrize("differences", [[], [0.0]])
def test_too_few_days_to_compare_on_fail(report: EvaluationReport, differences: list[float]) -> None:
    found = verdict(compared(report, differences), champion={})
    assert (found.outcome, found.figure) == ("fail", None)


@given(differences=st.lists(st.floats(-0.05, 0.05), min_size=2, max_size=30))
def test_bounds_lie_no_closer_than_students(report: EvaluationReport, differences: list[float]) -> None:
    comparison = compared(report, differences).comparison
    assert comparison
    found = loss_difference(comparison, "log_loss", confidence=0.9, seed=1)
    assert found.bounds
    days = len(differences)
    error = np.std(differences, ddof=1) / days**0.5
    assert found.spread == pytest.approx(error, rel=0.1, abs=1e-12)
    out = float(stdtrit(days - 1, 0.9)) * found.spread
    assert found.bounds[0] <= found.figure - out
    assert found.bounds[1] >= found.figure + out


@given(
    differences=st.lists(st.floats(-0.05, 0.05), min_size=2, max_size=30),
    worse=st.floats(0, 0.1),
    margin=st.floats(0, 0.05),
)
def test_a_worse_candidate_never_passes_where_a_better_one_fails(
    report: EvaluationReport, differences: list[float], worse: float, margin: float
) -> None:
    gate = {"not_worse_by": margin}
    better = verdict(compared(report, differences), champion=gate)
    shifted = verdict(compared(report, [d + worse + 1e-9 for d in differences]), champion=gate)
    assert (better.outcome, shifted.outcome) != ("fail", "pass")


@pytest.mark.proof
@pytest.mark.parametrize("days", [7, 28])
def test_a_candidate_worse_by_the_margin_passes_as_rarely_as_the_confidence_says(
    report: EvaluationReport, days: int, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    trials = 2000 if full else 200
    rng = np.random.default_rng(days)
    outcomes = [
        verdict(
            compared(replace(report, seed=trial), list(rng.normal(0.003, 0.004, days))),
            champion={"not_worse_by": 0.003, "confidence": 0.9},
        ).outcome
        for trial in range(trials)
    ]
    sample_size("candidates at the margin", trials)
    assert outcomes.count("pass") / trials == pytest.approx(0.1, abs=0.01 + 4 * (0.09 / trials) ** 0.5)
