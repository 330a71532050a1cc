"""An evaluation for people: Markdown, pictures, and one page that needs no network."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mlops_pipelines import markdown
from mlops_pipelines.outcomes import BASELINE, IN_UNITS, spelled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_pipelines.evaluation_report import (
        Comparison,
        Decided,
        EvaluationReport,
        OfClass,
        Paired,
        Slices,
        Spread,
        Threshold,
    )
    from mlops_pipelines.explanation import Explained, Stability
    from mlops_pipelines.fairness import Fairness
    from mlops_pipelines.metrics import Estimate

# Rows of a Markdown table; the JSON holds them all.
SHOWN_ROWS = 12
# Who signs has to see the groups that were judged.
SHOWN_GROUPS = 60


def pictures(report: EvaluationReport) -> dict[str, bytes]:
    """PNG by name: `precision_recall` (where a row is positive), `calibration`, `classes`, `importance`.

    Drawn from the report alone; what a kind of label does not have is left out.
    """
    from mlops_pipelines import figures

    curves = {"candidate": (report.recall, report.precision)}
    if report.comparison and report.comparison.recall:
        name = f"champion v{report.comparison.version}, {report.comparison.rows:,} rows"
        curves[name] = (report.comparison.recall, report.comparison.precision)
    bins = report.calibration
    points = ([b.predicted for b in bins], [b.observed for b in bins], [b.rows for b in bins])
    drawn: dict[str, bytes] = {}
    if report.recall and report.prevalence is not None:
        drawn["precision_recall"] = figures.precision_recall(curves, prevalence=report.prevalence)
    if report.kind == "number":
        drawn["calibration"] = figures.predicted_and_observed(*points)
    else:
        drawn["calibration"] = figures.calibration(*points)
    if report.classes:
        f1 = {one.value: one.f1 for one in report.classes if one.f1 is not None}
        drawn["classes"] = figures.bars(f1, title="F1 by class", unit="F1")
    return {
        **drawn,
        "importance": figures.bars(report.importance, title="Importance", unit=report.importance_unit),
    }


def as_markdown(report: EvaluationReport) -> str:
    """The report as Markdown, under headings: figures, slices, thresholds, features, robustness."""
    agreement = report.agreement
    concordance = "" if agreement.concordance is None else f" (concordance {agreement.concordance:.2f})"
    parts = [
        "## Figures",
        f"{report.rows:,} rows of {report.days} days, {report.first_day} to {report.last_day}; "
        f"{outcomes_sentence(report)}. Trained on {report.twin_rows:,} rows before them; "
        f"the refit on {report.training_rows:,} rows differs from it by "
        f"{_of_scores(agreement.mean_absolute_difference, report)} a score on average{concordance}. "
        "Intervals: 95 %, whole days resampled.",
        "Judged is the *twin*, which has not seen the holdout; the *refit*, with the same settings on all "
        f"rows, is what would serve. A skill is 1 - loss / loss of {BASELINE[report.kind]}: 0 says no more "
        "than that does, 1 is never wrong. Concordance is 1 where twin and refit score alike.",
        metric_table(report),
        comparison_sentence(report.comparison) if report.comparison else "",
        decided_sentence(report.decided) if report.decided else "",
        _errors_sentence(report.spread) if report.spread else "",
        class_table(report.classes) if report.classes else "",
        f"## Slices\n\n{slice_table(report.slices)}" if report.slices else "",
        f"## Groups that must be treated alike\n\n{fairness_table(report.fairness)}"
        if report.fairness
        else "",
        f"## Thresholds\n\n{_threshold_table(report.thresholds)}" if report.thresholds else "",
        "## What the scores go by",
        _importance_table(report),
        stability_sentence(report.stability) if report.stability else "",
        _explained_table(report.explained) if report.explained else "",
        "## When the inputs are worse, and speed",
        _robustness_table(report),
        f"One row is scored in {report.latency.p50_ms:.2f} ms (median), {report.latency.p99_ms:.2f} (p99) of "
        f"processor time, {report.latency.clock_ms:.2f} by the clock (median); "
        f"the model is {report.model_bytes / 1000:,.0f} kB of text, read in {report.latency.load_ms:.0f} ms.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def said(figure: Estimate | None, metric: str = "") -> str:
    """A figure with its interval, as text. metric: what it is of, or a difference of."""
    if figure is None:
        return "undefined"
    told = partial(spelled, in_units=metric in IN_UNITS)
    if figure.lower is None or figure.upper is None:
        return told(figure.value)
    return f"{told(figure.value)} ({told(figure.lower)} to {told(figure.upper)})"


def _of_scores(value: float, report: EvaluationReport) -> str:
    """What is in the unit of the scores."""
    return spelled(value, in_units=report.kind == "number")


def metric_rows(report: EvaluationReport, name: str) -> list[list[str]]:
    """Head and rows of a table of the metrics, beside the champion's where there is one.

    name: what to call the model.
    """
    comparison = report.comparison
    head = ["metric", name]
    rows = [[metric, said(figure, metric)] for metric, figure in report.metrics.items()]
    if comparison is not None:
        head += ["same rows", f"champion v{comparison.version}", "difference"]
        rows = [[*row, *_beside(comparison.metrics.get(row[0]), row[0])] for row in rows]
    return [head, *rows]


def metric_table(report: EvaluationReport) -> str:
    """Markdown of `metric_rows`."""
    head, *rows = metric_rows(report, "candidate")
    return markdown.table(head, rows)


def comparison_sentence(comparison: Comparison) -> str:
    """On which rows candidate and champion were compared, and why on those."""
    return (
        f"Compared on {comparison.rows:,} rows of {len(comparison.days)} days: {comparison.reason}."
        if comparison.days
        else f"No row could be compared: {comparison.reason}."
    )


def slice_table(slices: Slices) -> str:
    """Markdown table of the judged slices, the worst first, and the names of the others."""
    judged = sorted(
        ((g, g.figure) for g in slices.groups if g.figure), key=lambda each: (each[1].value, each[0].column)
    )
    rows = [
        [
            f"{g.column} = {g.value}",
            f"{g.rows:,}",
            *([] if g.positives is None else [f"{g.positives / g.rows:.1%}"]),
            said(figure),
        ]
        for g, figure in judged[:SHOWN_GROUPS]
    ]
    positive = ["positive"] if any(g.positives is not None for g in slices.groups) else []
    head = ["slice, worst first", "rows", *positive, slices.metric]
    table = markdown.table(head, rows) if rows else ""
    rest = judged[SHOWN_GROUPS:]
    better = f"{len(rest)} more, none of them below {rest[0][1].value:.4f}." if rest else ""
    unjudged = [g for g in slices.groups if not g.figure]
    names = ", ".join(f"{g.column} = {g.value} ({g.rows}, {g.note})" for g in unjudged[:SHOWN_ROWS])
    more = f" and {len(unjudged) - SHOWN_ROWS} more" if len(unjudged) > SHOWN_ROWS else ""
    return "\n\n".join(
        part for part in (table, better, f"Not judged: {names}{more}." if unjudged else "") if part
    )


def _beside(paired: Paired | None, metric: str) -> list[str]:
    if paired is None:
        return ["undefined"] * 3
    told = partial(spelled, in_units=metric in IN_UNITS)
    return [told(paired.candidate), told(paired.incumbent), said(paired.difference, metric)]


def _threshold_table(thresholds: Sequence[Threshold]) -> str:
    rows = [
        [
            f"{t.score:.1f}",
            f"{t.flagged:.1%}",
            *(
                "" if share is None else f"{share:.3f}"
                for share in (t.precision, t.recall, t.false_positive_rate)
            ),
        ]
        for t in thresholds
    ]
    return markdown.table(["score from", "flagged", "precision", "recall", "false positive rate"], rows)


def decided_sentence(decided: Decided) -> str:
    """What is decided at the pipeline's threshold, and how rightly."""
    cost = f" A decision costs {said(decided.cost)} on average." if decided.cost else ""
    return (
        f"At the pipeline's threshold, {decided.score:g}, {said(decided.flagged)} of the rows are decided as "
        f"positive: precision {said(decided.precision)}, recall {said(decided.recall)}, false positive rate "
        f"{said(decided.false_positive_rate)}.{cost}"
    )


def fairness_table(every: Sequence[Fairness]) -> str:
    """Markdown table of the differences between groups, and of the groups."""

    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    differences = markdown.table(
        ["groups by", "judged", "demographic parity difference", "equalized odds difference"],
        [
            [
                one.column,
                f"{sum(not group.note for group in one.groups)} of {len(one.groups)}",
                *(
                    said(found) if found else "not judged"
                    for found in (one.demographic_parity, one.equalized_odds)
                ),
            ]
            for one in every
        ],
    )
    every_group = [(one.column, group) for one in every for group in one.groups]
    ordered = sorted(every_group, key=lambda each: (bool(each[1].note), each[0], -each[1].rows))
    groups = [
        [
            f"{column} = {group.value}", f"{group.rows:,}", share(group.decided), share(group.found),
            share(group.accused), group.note,
        ]
        for column, group in ordered[:SHOWN_GROUPS]
    ]  # fmt: skip
    head = ["group", "rows", "decided as positive", "true positive rate", "false positive rate", "note"]
    more = f"\n\n{len(ordered) - SHOWN_GROUPS} more groups." if len(ordered) > SHOWN_GROUPS else ""
    return f"{differences}\n\n{markdown.table(head, groups)}{more}"


def outcomes_sentence(report: EvaluationReport) -> str:
    """What the labels of the holdout are, in a few words."""
    if report.prevalence is not None:
        return f"{report.prevalence:.1%} are positive"
    if report.spread is not None:
        return f"labels of {report.spread.mean:.6g} on average, standard deviation {report.spread.std:.4g}"
    there = sorted((one for one in report.classes if one.rows), key=lambda one: (-one.rows, one.value))
    most = f", most often {there[0].value} ({there[0].rows / report.rows:.1%})" if there else ""
    return f"{len(there)} classes{most}"


def class_table(classes: Sequence[OfClass]) -> str:
    """Markdown table of the classes, the most frequent first, and what is odd about some."""

    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    ordered = sorted(classes, key=lambda one: (-one.rows, one.value))
    rows = [
        [
            one.value, f"{one.rows:,}", f"{one.predicted:,}", share(one.precision), share(one.recall),
            share(one.f1), share(one.roc_auc), "" if one.learned else "never seen in training",
        ]
        for one in ordered[:SHOWN_ROWS]
    ]  # fmt: skip
    head = ["class", "rows", "predicted", "precision", "recall", "F1", "roc_auc", "note"]
    missing = [one.value for one in ordered if not one.rows]
    more = [f"{len(ordered) - SHOWN_ROWS} more classes."] if len(ordered) > SHOWN_ROWS else []
    absent = [f"In no row of the holdout: {', '.join(missing[:SHOWN_ROWS])}."] if missing else []
    return "\n\n".join([markdown.table(head, rows), *more, *absent])


def _errors_sentence(spread: Spread) -> str:
    return (
        f"Labels lie between {spread.low:.6g} and {spread.high:.6g}; skill is measured against "
        f"{spread.learned_mean:.6g}, the mean of those that were learned from. Predictions are off by "
        f"{spread.error:+.4g} on average, nine in ten by {spread.error_p05:+.4g} to {spread.error_p95:+.4g}."
    )


def stability_sentence(stability: Stability) -> str:
    """How far the ranking of the features is the champion's."""
    if stability.correlation is None:
        return f"Fewer than three features are shared with champion v{stability.version}."
    moved = "; ".join(f"{name} from {before} to {now}" for name, before, now in stability.moved)
    return (
        f"Ranked beside champion v{stability.version}, over {stability.features} features: correlation "
        f"{stability.correlation:.2f} (Spearman). Moved furthest: {moved or 'none'}."
    )


def _explained_table(every: Sequence[Explained]) -> str:
    rows = [
        [
            f"{one.column} = {one.value}",
            f"{one.rows:,}",
            ", ".join(f"{name} {value:.3f}" for name, value in list(one.importance.items())[:3]),
        ]
        for one in every[:SHOWN_GROUPS]
    ]
    return markdown.table(["group", "rows explained", "what weighs most"], rows)


def _robustness_table(report: EvaluationReport) -> str:
    robust = report.robustness

    def figure(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.4f}"

    rows = [
        ["as they are", "", "", figure(robust.figure)],
        *(
            [
                one.name,
                _of_scores(one.mean_change, report),
                _of_scores(one.p95_change, report),
                figure(one.figure),
            ]
            for one in robust.disturbed
        ),
    ]
    return markdown.table(
        [f"inputs of {robust.rows:,} rows", "mean change of a score", "p95", robust.metric], rows
    )


def _importance_table(report: EvaluationReport) -> str:
    rows = [[name, _of_scores(value, report)] for name, value in list(report.importance.items())[:SHOWN_ROWS]]
    return markdown.table(["feature", report.importance_unit], rows)
