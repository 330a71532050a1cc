"""What a candidate must prove: each declared gate looks at the evaluation and gives a verdict. Pure.

A gate that should have a figure and has none fails; one that has nothing to say is not applicable, and says
why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlops_pipelines.metrics import interval, resampled_days

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlops_pipelines.evaluation import Comparison, EvaluationReport
    from mlops_pipelines.spec import CalibrationGate, ChampionGate, Gates, LatencyGate, SkillGate, SlicesGate

Outcome = Literal["pass", "fail", "not_applicable"]
# The comparison decides, so its bound is drawn more finely than the intervals of the report.
COMPARISON_REPLICATES = 4_000


@dataclass(frozen=True)
class Verdict:
    """The outcome of one gate. figure: what was looked at; bound: what it was held against."""

    gate: str
    outcome: Outcome
    figure: float | None
    bound: float | None
    interval: tuple[float, float] | None
    sentence: str


def judge(report: EvaluationReport, gates: Gates) -> list[Verdict]:
    """One verdict a declared gate, in the order of the specification."""
    verdicts = []
    if gates.skill:
        verdicts.append(_skill(report, gates.skill))
    if gates.champion:
        verdicts.append(_champion(report, gates.champion))
    if gates.calibration:
        verdicts.append(_calibration(report, gates.calibration))
    if gates.slices:
        verdicts.append(_slices(report, gates.slices))
    if gates.latency:
        verdicts.append(_latency(report, gates.latency))
    return verdicts


def passed(verdicts: Iterable[Verdict]) -> bool:
    """Whether nothing stands against a promotion: no verdict is a fail."""
    return all(verdict.outcome != "fail" for verdict in verdicts)


def loss_difference(
    comparison: Comparison, metric: str, *, confidence: float, seed: int
) -> tuple[float, tuple[float, float] | None]:
    """Mean loss of the candidate minus the incumbent's, and its bounds, each one-sided at `confidence`.

    Whole days are resampled and both losses summed over the same draw, so that a hard day weighs on both
    models alike. None for the bounds of a single day.
    """
    import numpy as np

    rows = np.array([day.rows for day in comparison.days], dtype=np.float64)
    sums = np.array([day.candidate[metric] - day.incumbent[metric] for day in comparison.days])
    draws = resampled_days(rows.size, replicates=COMPARISON_REPLICATES, seed=seed)
    return float(sums.sum() / rows.sum()), interval(
        (draws @ sums) / (draws @ rows), rows.size, confidence=confidence
    )


def _skill(report: EvaluationReport, gate: SkillGate) -> Verdict:
    figure = report.metrics.get(gate.metric)
    if figure is None:
        return _uncomputable("skill", gate.at_least, f"{gate.metric} is undefined on the holdout")
    sentence = f"{gate.metric} on the holdout is {figure.value:.4f}; at least {gate.at_least:g} is asked for."
    return Verdict(
        "skill",
        _outcome(figure.value >= gate.at_least),
        figure.value,
        gate.at_least,
        _bounds(figure.lower, figure.upper),
        sentence,
    )


def _champion(report: EvaluationReport, gate: ChampionGate) -> Verdict:
    comparison = report.comparison
    if comparison is None:
        sentence = "There is no champion to compare with; the candidate stands against the base rate alone."
        return Verdict("champion", "not_applicable", None, gate.not_worse_by, None, sentence)
    if not comparison.days:
        return _uncomputable("champion", gate.not_worse_by, f"no row can be compared, {comparison.reason}")
    figure, bounds = loss_difference(comparison, gate.metric, confidence=gate.confidence, seed=report.seed)
    if bounds is None:
        return _uncomputable("champion", gate.not_worse_by, "one day alone gives no interval")
    stands = "" if comparison.against == "refit" else " (its unrefitted twin)"
    sentence = (
        f"{gate.metric} minus that of champion v{comparison.version}{stands} is {figure:+.4f} on "
        f"{comparison.rows:,} rows of {len(comparison.days)} days; with {gate.confidence:.0%} confidence it "
        f"is at most {bounds[1]:+.4f}, and {gate.not_worse_by:+g} is allowed."
    )
    return Verdict(
        "champion", _outcome(bounds[1] <= gate.not_worse_by), figure, gate.not_worse_by, bounds, sentence
    )


def _calibration(report: EvaluationReport, gate: CalibrationGate) -> Verdict:
    figure = report.metrics.get(gate.metric)
    if figure is None:
        return _uncomputable("calibration", gate.at_most, f"{gate.metric} is undefined on the holdout")
    sentence = f"{gate.metric} on the holdout is {figure.value:.4f}; at most {gate.at_most:g} is allowed."
    return Verdict(
        "calibration",
        _outcome(figure.value <= gate.at_most),
        figure.value,
        gate.at_most,
        _bounds(figure.lower, figure.upper),
        sentence,
    )


def _slices(report: EvaluationReport, gate: SlicesGate) -> Verdict:
    """The worst group decides; groups too small, or of one outcome, have nothing to say."""
    if report.slices is None or report.slices.metric != gate.metric:
        return _uncomputable("slices", gate.at_least, f"the report holds no slices by {gate.metric}")
    groups = report.slices.groups
    left_out = len([group for group in groups if group.note])
    if any(group.figure is None and not group.note for group in groups):
        return _uncomputable(
            "slices", gate.at_least, f"{gate.metric} is undefined for a slice that has enough rows"
        )
    judged = {f"{g.column} = {g.value}": g.figure for g in groups if g.figure}
    if not judged:
        sentence = f"None of {left_out} slices has {gate.min_rows} rows and both outcomes."
        return Verdict("slices", "not_applicable", None, gate.at_least, None, sentence)
    worst, figure = min(judged.items(), key=lambda item: (item[1].value, item[0]))
    below = sorted(name for name, each in judged.items() if each.value < gate.at_least)
    named = f" Below it: {', '.join(below[:5])}{' …' if len(below) > 5 else ''}." if below else ""
    sentence = (
        f"{gate.metric} of the worst of {len(judged)} slices, {worst}, is {figure.value:.4f}; at least "
        f"{gate.at_least:g} is asked for.{named} Not judged, too few rows or one outcome: {left_out}."
    )
    return Verdict(
        "slices",
        _outcome(not below),
        figure.value,
        gate.at_least,
        _bounds(figure.lower, figure.upper),
        sentence,
    )


def _latency(report: EvaluationReport, gate: LatencyGate) -> Verdict:
    figure = report.latency.p99_ms
    sentence = f"Scoring one row takes {figure:.2f} ms (p99); at most {gate.p99_ms:g} ms is allowed."
    return Verdict("latency", _outcome(figure <= gate.p99_ms), figure, gate.p99_ms, None, sentence)


def _uncomputable(gate: str, bound: float, why: str) -> Verdict:
    return Verdict(gate, "fail", None, bound, None, f"The gate could not be computed: {why}.")


def _outcome(holds: bool) -> Outcome:
    return "pass" if holds else "fail"


def _bounds(lower: float | None, upper: float | None) -> tuple[float, float] | None:
    return None if lower is None or upper is None else (lower, upper)
