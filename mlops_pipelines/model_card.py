"""The model card of a registered version, as Markdown.

Its sections are those of Mitchell et al. 2019, "Model Cards for Model Reporting"; what stands in them is
taken from the specification, the evaluation and the verdicts, never written by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_pipelines import markdown
from mlops_pipelines.evaluation_page import (
    class_table,
    comparison_sentence,
    decided_sentence,
    fairness_table,
    metric_table,
    outcomes_sentence,
    slice_table,
)
from mlops_pipelines.spec import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_pipelines.evaluation_report import EvaluationReport
    from mlops_pipelines.gates import GivenVerdict
    from mlops_pipelines.spec import FairnessGate, Kind, PipelineSpec

_FEATURES_NAMED = 5
_DECISIONS = "## Decisions"
_KINDS: Mapping[Kind, str] = {
    "binary": "binary classification; the score is a probability",
    "number": "regression; the score is a number in the unit of the label",
    "category": "multiclass classification; the score is a probability for each class",
}


def model_card(
    spec: PipelineSpec,
    report: EvaluationReport,
    verdicts: Sequence[GivenVerdict],
    *,
    version: str,
    dataset_version: str,
    facts: Mapping[str, str] | None = None,
    sensitive: Sequence[str] = (),
    params: Mapping[str, object] | None = None,
    trainer: str | None = None,
    reproducible: bool = True,
) -> str:
    """Markdown of the card.

    version: the registry's. facts: further lines of the details, such as the retrain and its reason, or the
    commit. sensitive: columns that the contract marks as such. params: the model's own, by default those of
    the specification. trainer: where it is not LightGBM. reproducible: whether it gave the same model twice.
    """
    set_ = spec.training.params if params is None else params
    made = {
        "Kind": f"{trainer or 'LightGBM'}, {_KINDS[report.kind]}",
        "Parameters": ", ".join(f"{k} {v}" for k, v in sorted(set_.items())) or "defaults",
        "Reproducible": "yes, on the platform that trained it"
        if reproducible
        else "**no**: trained twice on the same rows, its trainer gave two models",
    }
    sections = {
        "Model details": _details(spec, report, version, made, facts or {}),
        "Intended use": _intended_use(spec),
        "Factors": _factors(spec, sensitive),
        "Metrics": _metrics(spec),
        "Evaluation data": _evaluation_data(report),
        "Training data": _training_data(spec, report, dataset_version),
        "Quantitative analyses": _analyses(report, verdicts),
        "Ethical considerations": _ethics(spec, sensitive),
        "Caveats and recommendations": _caveats(report),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"# {spec.name}, version {version}\n\n{body}\n"


def with_decisions(card: str, records: Sequence[Mapping[str, Any]]) -> str:
    """The card with what was decided on its version, right below its title; in the place of what stood there.

    records: contents of the records that are about it, in order.
    """
    title, _, rest = card.partition("\n\n")
    if rest.startswith(_DECISIONS):
        rest = rest[rest.index("\n## ") + 1 :]
    rows = [
        [
            str(one["at"])[:16].replace("T", " "),
            f"{one['kind']}, champion number {one['sequence']}" if one.get("sequence") else str(one["kind"]),
            str(one["by"]),
            str(one["why"]),
        ]
        for one in records
    ]
    table = markdown.table(["UTC", "decision", "by", "why"], rows)
    return f"{title}\n\n{_DECISIONS}\n\n{table}\n\n{rest}"


def _details(
    spec: PipelineSpec,
    report: EvaluationReport,
    version: str,
    made: Mapping[str, str],
    facts: Mapping[str, str],
) -> str:
    rows = {
        "Question": spec.description or "not described",
        "Owners": ", ".join(spec.owners) or "none named",
        "Version": f"{version} in the registry",
        **made,
        "Hash": f"`{report.model_hash}`",
        "Size": f"{report.model_bytes / 1000:,.0f} kB of text",
        **facts,
    }
    return "\n".join(f"- {name}: {value}" for name, value in rows.items())


def _intended_use(spec: PipelineSpec) -> str:
    return (
        f"To score events of `{spec.name}` at the moment they are decided, with features as they were known "
        "then. Not for events from elsewhere, and not for a moment at which the outcome is known."
    )


def _factors(spec: PipelineSpec, sensitive: Sequence[str]) -> str:
    by = spec.gates.slices.by if spec.gates.slices else ()
    marked = ", ".join(sensitive) or "none"
    return (
        f"Groups that are looked at: {', '.join(by) or 'none'}. "
        f"Columns the contract marks as sensitive: {marked}."
    )


def _metrics(spec: PipelineSpec) -> str:
    gates = spec.gates
    asked = [
        gates.skill and f"`{gates.skill.metric}` of at least {gates.skill.at_least:g}",
        gates.champion
        and f"`{gates.champion.metric}` worse than the champion's by at most {gates.champion.not_worse_by:g} "
        f"({gates.champion.confidence:.0%} confidence)",
        gates.calibration and f"`{gates.calibration.metric}` of at most {gates.calibration.at_most:g}",
        gates.slices and f"`{gates.slices.metric}` of every slice of at least {gates.slices.at_least:g}",
        gates.fairness and _fairness_asked(gates.fairness),
        gates.leak and f"no feature with more than {gates.leak.at_most:.0%} of the importance",
        gates.robustness
        and f"at most {gates.robustness.drop:g} lost with a tenth of the values missing, or with small noise",
        gates.agreement
        and f"a concordance of at least {gates.agreement.at_least:g} with the twin that was judged",
        gates.latency and f"one row in at most {gates.latency.p99_ms:g} ms (p99)",
        gates.size and f"at most {gates.size.at_most / 1000:,.0f} kB of text",
        gates.data
        and f"a training set that is as it was signed, at least {gates.data.labelled:.0%} of its events "
        "labelled",
    ]
    bounds = "; ".join(text for text in asked if text)
    against = (
        "Skill is against predicting the mean of the training set. "
        if spec.labels.kind == "number"
        else "Skill scores are against the base rate of the same rows, so that they do not move with it. "
    )
    return f"{against}Promotion asks for: {bounds or 'nothing'}."


def _fairness_asked(gate: FairnessGate) -> str:
    asked = {
        "demographic parity": gate.demographic_parity,
        "equalized odds": gate.equalized_odds,
    }
    bounds = " and ".join(
        f"{name} of at most {bound:g}" for name, bound in asked.items() if bound is not None
    )
    return f"differences between groups: {bounds or 'without a bound'}"


def _evaluation_data(report: EvaluationReport) -> str:
    return (
        f"{report.rows:,} events of {report.days} days, {report.first_day} to {report.last_day}, the latest "
        f"with known outcomes; {outcomes_sentence(report)}. They were scored by a twin of the model, "
        f"trained on the {report.twin_rows:,} events before them."
    )


def _training_data(spec: PipelineSpec, report: EvaluationReport, dataset_version: str) -> str:
    return (
        f"{report.training_rows:,} events, decided until {report.cutoff:%Y-%m-%d %H:%M} UTC, of a window of "
        f"{format_duration(spec.training.window)}: version `{dataset_version}` of the training set. Outcomes "
        "count only as far as they were known then."
    )


def _analyses(report: EvaluationReport, verdicts: Sequence[GivenVerdict]) -> str:
    given = "\n".join(f"- {v.gate}: **{v.outcome.replace('_', ' ')}**. {v.sentence}" for v in verdicts)
    most = ", ".join(
        f"{name} {value:.2f}" for name, value in list(report.importance.items())[:_FEATURES_NAMED]
    )
    parts = [
        metric_table(report),
        comparison_sentence(report.comparison) if report.comparison else "",
        decided_sentence(report.decided) if report.decided else "",
        f"Gates:\n\n{given}" if given else "No gate is declared.",
        class_table(report.classes) if report.classes else "",
        slice_table(report.slices) if report.slices else "",
        fairness_table(report.fairness) if report.fairness else "",
        f"What weighs most ({report.importance_unit}): {most}.",
    ]
    return "\n\n".join(part for part in parts if part)


def _ethics(spec: PipelineSpec, sensitive: Sequence[str]) -> str:
    by = set(spec.gates.slices.by if spec.gates.slices else ())
    gate = spec.gates.fairness
    compared = () if gate is None else gate.by or tuple(sensitive)
    unseen = [column for column in sensitive if column not in by | set(compared)]
    looked = f"Quality is not broken down by {', '.join(unseen)}, marked as sensitive. " if unseen else ""
    bound = (
        f"Groups by {', '.join(compared)} are held to these {_fairness_asked(gate)}."
        if gate and compared
        else "No bound on the difference between groups is enforced."
    )
    return f"{looked}{bound} Whoever acts on a score answers for what the action does."


def _caveats(report: EvaluationReport) -> str:
    agreement = report.agreement
    caveats = [
        f"The figures are the twin's. Its scores differ from this model's by "
        f"{agreement.mean_absolute_difference:.4f} on average.",
        "They hold for days like the evaluated ones; drift and matured outcomes are watched from then on.",
        f"The latency ({report.latency.p99_ms:.2f} ms, p99) is that of the machine that evaluated.",
    ]
    unseen = [one.value for one in report.classes if not one.learned]
    if unseen:
        caveats.append(f"Classes of the holdout that the evaluated twin had never seen: {', '.join(unseen)}.")
    left_out = [group for group in report.slices.groups if group.note] if report.slices else []
    if left_out:
        caveats.append(f"Slices too small, or of one outcome only, to be judged: {len(left_out)}.")
    return "\n".join(f"- {caveat}" for caveat in caveats)
