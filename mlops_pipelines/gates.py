"""What a candidate must prove: each declared gate looks at the evaluation and gives a verdict. Pure.

A gate that should have a figure and has none fails; one that has nothing to say is not applicable, and says
why.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mlops_pipelines.explanation import heaviest
from mlops_pipelines.fairness import worst
from mlops_pipelines.metrics import interval, resampled_days
from mlops_pipelines.outcomes import BASELINE, IN_UNITS, spelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mlops_pipelines.evaluation_report import Comparison, EvaluationReport, Slice
    from mlops_pipelines.fairness import Group
    from mlops_pipelines.spec import (
        AgreementGate,
        CalibrationGate,
        ChampionGate,
        DataGate,
        FairnessGate,
        Gates,
        LatencyGate,
        LeakGate,
        RobustnessGate,
        SizeGate,
        SkillGate,
        SlicesGate,
    )

Outcome = Literal["pass", "fail", "warn", "not_applicable"]
# The comparison decides, so its bound is drawn more finely than the intervals of the report.
COMPARISON_REPLICATES = 4_000
# Of a comparison that finds an equally good candidate wanting more often than not, nothing is to be learned.
LEAST_POWER = 0.5


class GivenVerdict(Protocol):
    """A verdict, fresh from the gates or read back from the ledger."""

    @property
    def gate(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def figure(self) -> float | None: ...
    @property
    def bound(self) -> float | None: ...
    @property
    def interval(self) -> tuple[float, float] | None: ...
    @property
    def sentence(self) -> str: ...


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
    declared = {name: getattr(gates, name) for name in type(gates).model_fields}
    verdicts = [_JUDGES[name](report, gate) for name, gate in declared.items() if gate is not None]
    if report.comparison is None and gates.champion and gates.skill is None:
        # Nobody else asks whether a first model is better than none.
        return [_first(report, gates.champion) if one.gate == "champion" else one for one in verdicts]
    return verdicts


def passed(verdicts: Iterable[Verdict]) -> bool:
    """Whether nothing stands against a promotion: no verdict is a fail."""
    return all(verdict.outcome != "fail" for verdict in verdicts)


@dataclass(frozen=True)
class LossDifference:
    """Mean loss of the candidate minus the incumbent's. bounds: each one-sided; None of a single day.

    spread: its standard error.
    """

    figure: float
    bounds: tuple[float, float] | None
    spread: float

    def power(self, margin: float) -> float:
        """How often a candidate that is just as good would be found to be worse by at most the margin.

        By the normal approximation: its difference would spread about zero, and its bound lie as far above it
        as this one's.
        """
        if self.bounds is None:
            return 0.0
        room = margin - (self.bounds[1] - self.figure)
        if not self.spread > 0:
            return float(room >= 0)
        return NormalDist().cdf(room / self.spread)


def loss_difference(comparison: Comparison, metric: str, *, confidence: float, seed: int) -> LossDifference:
    """Mean loss of the candidate minus the incumbent's, its bounds one-sided at `confidence`.

    Whole days are resampled and both losses summed over the same draw, so that a hard day weighs on both
    models alike. No draw of few days lies beyond the worst of them, so the bounds are Student's where those
    lie further out.
    """
    import numpy as np
    from scipy.special import stdtrit

    rows = np.array([day.rows for day in comparison.days], dtype=np.float64)
    sums = np.array([day.candidate[metric] - day.incumbent[metric] for day in comparison.days])
    draws = resampled_days(rows.size, replicates=COMPARISON_REPLICATES, seed=seed)
    replicates = (draws @ sums) / (draws @ rows)
    figure, bounds = float(sums.sum() / rows.sum()), interval(replicates, rows.size, confidence=confidence)
    if bounds is None:
        return LossDifference(figure, None, float(replicates.std()))
    # Resampling few days underestimates the spread by this much.
    spread = float(replicates.std()) * (rows.size / (rows.size - 1)) ** 0.5
    out = float(stdtrit(rows.size - 1, confidence)) * spread
    return LossDifference(figure, (min(bounds[0], figure - out), max(bounds[1], figure + out)), spread)


def _data(report: EvaluationReport, gate: DataGate) -> Verdict:
    data = report.data
    if data is None:
        return _uncomputable("data", gate.labelled, "the report does not say what was trained on")
    if data.fault:
        return Verdict("data", "fail", None, gate.labelled, None, f"The training set: {data.fault}.")
    if data.last_day > data.matured_through:
        sentence = (
            f"The training set reaches to {data.last_day}, and labels were known through "
            f"{data.matured_through} only."
        )
        return Verdict("data", "fail", None, gate.labelled, None, sentence)
    if data.labelled is None:
        return _uncomputable("data", gate.labelled, "the training set does not say how many events it is of")
    sentence = (
        f"Training set {data.version[:12]} is what was signed; {data.labelled:.1%} of its events, of days "
        f"whose labels matured through {data.matured_through}, have one; at least {gate.labelled:.0%} are "
        "asked for."
    )
    return Verdict(
        "data", _outcome(data.labelled >= gate.labelled), data.labelled, gate.labelled, None, sentence
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
        sentence = (
            f"There is no champion to compare with: judged against {BASELINE[report.kind]}, by its skill."
        )
        return Verdict("champion", "not_applicable", None, gate.not_worse_by, None, sentence)
    if not comparison.days:
        return _uncomputable("champion", gate.not_worse_by, f"no row can be compared, {comparison.reason}")
    found = loss_difference(comparison, gate.metric, confidence=gate.confidence, seed=report.seed)
    figure, bounds = found.figure, found.bounds
    if bounds is None:
        return _uncomputable("champion", gate.not_worse_by, "one day alone gives no interval")
    power = found.power(gate.not_worse_by)
    outcome, weak = _outcome(bounds[1] <= gate.not_worse_by), ""
    if power < LEAST_POWER and bounds[0] > gate.not_worse_by:
        weak = f", less than {LEAST_POWER:.0%}; this one is worse even so"
    elif power < LEAST_POWER:
        outcome, weak = gate.underpowered, f", less than {LEAST_POWER:.0%}: too little to judge by"
    told = partial(spelled, in_units=gate.metric in IN_UNITS, sign="+")
    stands = "" if comparison.against == "refit" else " (its unrefitted twin)"
    alike = " Both are the same on every day, so this tells nothing of what was learned from newer days."
    sentence = (
        f"{gate.metric} minus that of champion v{comparison.version}{stands} is {told(figure)} on "
        f"{comparison.rows:,} rows of {len(comparison.days)} days; with {gate.confidence:.0%} confidence it "
        f"is at most {told(bounds[1])}, and {gate.not_worse_by:+g} is allowed. An equally good candidate "
        f"would pass {power:.0%} of the time{weak}.{alike if figure == bounds[0] == bounds[1] == 0 else ''}"
    )
    return Verdict("champion", outcome, figure, gate.not_worse_by, bounds, sentence)


def _first(report: EvaluationReport, gate: ChampionGate) -> Verdict:
    """Without a champion nothing is compared; but a model without skill is none either."""
    metric = {"log_loss": "log_loss_skill", "brier": "brier_skill"}.get(gate.metric, "r2")
    figure = report.metrics.get(metric)
    if figure is None:
        return _uncomputable("champion", 0.0, f"{metric} is undefined on the holdout")
    sentence = (
        f"There is no champion to compare with: judged against {BASELINE[report.kind]}. {metric} on the "
        f"holdout is {figure.value:.4f}; more than 0 is asked for."
    )
    outcome: Outcome = "not_applicable" if figure.value > 0 else "fail"
    return Verdict("champion", outcome, figure.value, 0.0, _bounds(figure.lower, figure.upper), sentence)


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
    for column in dict.fromkeys(group.column for group in groups):
        if found := _unjudged("slices", column, [one for one in groups if one.column == column], gate):
            return found
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
    figure = max(report.latency.p99_ms, report.latency.clock_ms)
    sentence = (
        f"Scoring one row takes {report.latency.p99_ms:.2f} ms on the processor (p99), and "
        f"{report.latency.clock_ms:.2f} by the clock (median); at most {gate.p99_ms:g} ms is allowed."
    )
    return Verdict("latency", _outcome(figure <= gate.p99_ms), figure, gate.p99_ms, None, sentence)


def _fairness(report: EvaluationReport, gate: FairnessGate) -> Verdict:
    """The measure furthest beyond its bound decides."""
    if report.fairness is None:
        return _uncomputable("fairness", None, "the report holds no groups")
    if not report.fairness:
        sentence = "No column is marked as sensitive, and none is named."
        return Verdict("fairness", "not_applicable", None, None, None, sentence)
    for one in report.fairness:
        if unjudged := _unjudged("fairness", one.column, one.groups, gate):
            return unjudged
    found = worst(report.fairness, gate)
    columns = ", ".join(one.column for one in report.fairness)
    if not found:
        sentence = f"By {columns} there are no two groups of {gate.min_rows} rows that a bound is about."
        return Verdict("fairness", "not_applicable", None, None, None, sentence)
    column, measure, difference, bound = found[0]
    beyond = [f"{name} by {by}" for by, name, one, most in found if one.value > most]
    more = f" Beyond their bounds: {', '.join(beyond)}." if beyond[1:] else ""
    sentence = (
        f"The {measure} difference by {column} is {difference.value:.3f}; at most {bound:g} is "
        f"allowed.{more} Looked at: {columns}."
    )
    bounds = _bounds(difference.lower, difference.upper)
    return Verdict("fairness", _outcome(not beyond), difference.value, bound, bounds, sentence)


def _unjudged(
    name: str, column: str, groups: Sequence[Slice | Group], gate: SlicesGate | FairnessGate
) -> Verdict | None:
    """A fail where too many rows lie in groups of a column that are too small to be judged."""
    small = sum(group.rows for group in groups if group.rows < gate.min_rows)
    share = small / max(sum(group.rows for group in groups), 1)
    if share <= gate.too_small:
        return None
    sentence = (
        f"{share:.0%} of the rows lie in groups by {column} of fewer than {gate.min_rows} rows; at most "
        f"{gate.too_small:.0%} are allowed to go unjudged."
    )
    return Verdict(name, "fail", share, gate.too_small, None, sentence)


def _leak(report: EvaluationReport, gate: LeakGate) -> Verdict:
    found = heaviest(report.importance)
    if found is None:
        return _uncomputable("leak", gate.at_most, "no feature weighs anything")
    name, share = found
    sentence = (
        f"{name} carries {share:.0%} of the model's importance; at most {gate.at_most:.0%} is allowed, since "
        "a feature that knows it all may know what comes after the decision."
    )
    return Verdict("leak", _outcome(share <= gate.at_most), share, gate.at_most, None, sentence)


def _robustness(report: EvaluationReport, gate: RobustnessGate) -> Verdict:
    """The worst of what is common decides."""
    robust = report.robustness
    figures = {one.name: one.figure for one in robust.disturbed if one.common}
    known = {name: figure for name, figure in figures.items() if figure is not None}
    if robust.figure is None or len(known) < len(figures):
        return _uncomputable("robustness", gate.drop, f"{robust.metric} is undefined on the holdout")
    name = min(known, key=lambda each: (known[each], each))
    drop = robust.figure - known[name]
    sentence = (
        f"With {name}, {robust.metric} falls by {drop:.4f} from {robust.figure:.4f}, on {robust.rows:,} rows "
        f"of the holdout; at most {gate.drop:g} is allowed."
    )
    return Verdict("robustness", _outcome(drop <= gate.drop), drop, gate.drop, None, sentence)


def _agreement(report: EvaluationReport, gate: AgreementGate) -> Verdict:
    if report.model_hash == report.twin_hash:
        sentence = "There is no refit: what was judged is what would serve."
        return Verdict("agreement", "not_applicable", None, gate.at_least, None, sentence)
    figure = report.agreement.concordance
    if figure is None:
        return _uncomputable("agreement", gate.at_least, "refit and twin give every row the same score")
    sentence = (
        f"The scores of refit and twin agree by {figure:.3f} (concordance); at least {gate.at_least:g} is "
        "asked for, since the refit serves and the twin was judged."
    )
    return Verdict("agreement", _outcome(figure >= gate.at_least), figure, gate.at_least, None, sentence)


def _size(report: EvaluationReport, gate: SizeGate) -> Verdict:
    figure, bound = float(report.model_bytes), float(gate.at_most)
    sentence = f"The model is {figure / 1000:,.0f} kB of text; at most {bound / 1000:,.0f} kB are allowed."
    return Verdict("size", _outcome(figure <= bound), figure, bound, None, sentence)


def _uncomputable(gate: str, bound: float | None, why: str) -> Verdict:
    return Verdict(gate, "fail", None, bound, None, f"The gate could not be computed: {why}.")


def _outcome(holds: bool) -> Outcome:
    return "pass" if holds else "fail"


def _bounds(lower: float | None, upper: float | None) -> tuple[float, float] | None:
    return None if lower is None or upper is None else (lower, upper)


# By field of `Gates`: one that is declared and not here raises KeyError, and never goes unjudged.
_JUDGES: Mapping[str, Callable[[EvaluationReport, Any], Verdict]] = {
    "data": _data,
    "skill": _skill,
    "champion": _champion,
    "calibration": _calibration,
    "slices": _slices,
    "fairness": _fairness,
    "leak": _leak,
    "robustness": _robustness,
    "agreement": _agreement,
    "latency": _latency,
    "size": _size,
}
