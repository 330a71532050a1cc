"""Judging evidence: what a candidate scored on days it never saw, beside the champion on the same rows.

The holdout is scored by the candidate's twin, which was trained on the days before it. Everything random is
seeded; only the latency depends on the moment, which is why a report is made once and then read back.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from mlops_pipelines.decisions import decided, thresholds
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.evaluation_report import (
    Agreement,
    CalibrationBin,
    Comparison,
    DayLoss,
    EvaluationReport,
    Latency,
    OfClass,
    Paired,
    Slice,
    Slices,
    Spread,
)
from mlops_pipelines.explanation import by_group, ranked, stability
from mlops_pipelines.fairness import fairness
from mlops_pipelines.metrics import REPLICATES, calibration_bins, estimate, measure, resampled_days
from mlops_pipelines.outcomes import METRICS, aligned
from mlops_pipelines.robustness import robustness
from mlops_pipelines.scored import Scored, days_of
from mlops_pipelines.spec import Decision
from mlops_pipelines.training import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.evaluation_report import TrainedOn
    from mlops_pipelines.explanation import Explained, Stability
    from mlops_pipelines.fairness import Fairness
    from mlops_pipelines.outcomes import Outcome
    from mlops_pipelines.spec import Gates, SlicesGate
    from mlops_pipelines.training import Candidate, Incumbent, TrainedModel

    Floats = NDArray[np.float64]
    Draw = Callable[[int], Floats]

# TreeSHAP takes up to 1 ms a row; the mean over this many is within a few per cent of that over all.
IMPORTANCE_ROWS = 1_000
# Groups of fewer of these are not explained by themselves.
EXPLAINED_ROWS = 30
LATENCY_ROWS = 200
LATENCY_ROUNDS = 5


def evaluate(
    candidate: Candidate,
    incumbent: Incumbent | None,
    *,
    gates: Gates,
    slicing: pa.Table | None = None,
    decision: Decision | None = None,
    sensitive: Sequence[str] = (),
    data: TrainedOn | None = None,
    seed: int = 17,
    replicates: int = REPLICATES,
) -> EvaluationReport:
    """The candidate's figures on its holdout, with 95 % intervals from a bootstrap of whole days.

    incumbent: the champion, or None where there is none yet. gates: which slices, and how many days the
    incumbent must have left unseen. slicing: event_id and the columns of `sliced_by`, for at least the
    holdout's events; by default those columns are looked for in the holdout. sensitive: columns that
    `gates.fairness` looks at where it names none. data: what the candidate was trained on.
    Raises TerminalError if a column to slice by is missing.
    """
    holdout, refit, twin = candidate.holdout, candidate.refit, candidate.twin
    scored = Scored.of(holdout, twin.predict(holdout), twin.outcome)
    binary = twin.outcome.kind == "binary"
    draw = partial(resampled_days, replicates=replicates, seed=seed)
    draws = draw(len(scored.days))
    recall, precision = _curve(scored)
    decision = decision or Decision()
    names = [feature.name for feature in refit.features]
    explained_rows = spread(holdout, IMPORTANCE_ROWS)
    contributions = refit.contributions(explained_rows)
    weights = ranked(contributions, names)
    return EvaluationReport(
        model_hash=refit.hash,
        twin_hash=twin.hash,
        cutoff=refit.cutoff,
        twin_cutoff=twin.cutoff,
        training_rows=refit.rows,
        twin_rows=twin.rows,
        model_bytes=refit.size_bytes,
        rows=holdout.num_rows,
        days=len(scored.days),
        first_day=scored.days[0],
        last_day=scored.days[-1],
        prevalence=float(scored.labels.mean()) if binary else None,
        seed=seed,
        replicates=replicates,
        metrics=scored.estimates(draws),
        calibration=_calibration(scored),
        thresholds=thresholds(scored) if binary else (),
        slices=_slices(gates.slices, holdout, slicing, scored, draws) if gates.slices else None,
        comparison=_comparison(incumbent, holdout, scored, gates, draw) if incumbent else None,
        agreement=_agreement(refit, twin, holdout),
        importance=weights,
        latency=latency(refit, holdout),
        recall=recall,
        precision=precision,
        decided=decided(scored, decision, draws) if binary else None,
        fairness=_fairness(
            gates, sensitive, draws, holdout=holdout, slicing=slicing, scored=scored, decision=decision
        )
        if binary
        else None,
        explained=_explained(gates, explained_rows, slicing, contributions, names),
        stability=_stability(incumbent, holdout, weights),
        robustness=robustness(twin, holdout, seed=seed),
        data=data,
        importance_unit=refit.importance_unit,
        kind=twin.outcome.kind,
        classes=_classes(scored, twin.outcome),
        spread=_errors(scored) if twin.outcome.kind == "number" else None,
    )


def importance(model: TrainedModel, table: pa.Table, *, rows: int = IMPORTANCE_ROWS) -> dict[str, float]:
    """Mean absolute contribution of each feature, falling; over `rows` rows spread over the table.

    In what the model's `importance_unit` says.
    """
    return ranked(model.contributions(spread(table, rows)), [feature.name for feature in model.features])


def sliced_by(gates: Gates, sensitive: Sequence[str]) -> tuple[str, ...]:
    """Event columns whose groups an evaluation looks at."""
    slices = gates.slices.by if gates.slices else ()
    return tuple(dict.fromkeys((*slices, *_fairness_by(gates, sensitive))))


def _fairness_by(gates: Gates, sensitive: Sequence[str]) -> tuple[str, ...]:
    if gates.fairness is None:
        return ()
    return tuple(sensitive) if gates.fairness.by is None else gates.fairness.by


def latency(model: TrainedModel, table: pa.Table) -> Latency:
    """Median and 99th percentile of scoring one row, the median by the clock too: the best of some rounds."""
    import numpy as np

    picked = np.linspace(0, table.num_rows - 1, LATENCY_ROWS).astype(np.int64)
    rows = table.select([feature.name for feature in model.features]).take(picked).to_pylist()
    model.predict_one(rows[0])
    percentiles = []
    for _ in range(LATENCY_ROUNDS):
        taken, by_clock = [], []
        for row in rows:
            began, started = time.perf_counter(), time.thread_time()
            model.predict_one(row)
            taken.append(time.thread_time() - started)
            by_clock.append(time.perf_counter() - began)
        percentiles.append([*np.percentile(taken, [50, 99]) * 1000, np.median(by_clock) * 1000])
    p50, p99, clock = (float(best) for best in np.min(percentiles, axis=0))
    return Latency(p50, p99, clock, LATENCY_ROWS, LATENCY_ROUNDS, _load_ms(model, rows[0]))


def _load_ms(model: TrainedModel, row: Mapping[str, Any]) -> float:
    """From the texts of its files to the first score, milliseconds on the processor: the best of some."""
    files, taken = model.to_files(), []
    for _ in range(LATENCY_ROUNDS):
        started = time.thread_time()
        type(model).from_files(files).predict_one(row)
        taken.append(time.thread_time() - started)
    return min(taken) * 1000


def _comparison(
    incumbent: Incumbent, holdout: pa.Table, scored: Scored, gates: Gates, draw: Draw
) -> Comparison:
    """The incumbent on the rows it has not seen, beside what the candidate's twin scored there."""
    import numpy as np

    _check_same_kind(incumbent, scored.outcome)
    against, reason = _who_stands(incumbent, holdout, gates.champion.min_days if gates.champion else 1)
    model = incumbent.refit if against == "refit" else incumbent.twin
    unseen = _decided_after(holdout, model.cutoff)
    rows = holdout.filter(unseen)
    if rows.num_rows == 0:
        return _nothing_compared(incumbent, against, reason, scored.outcome)
    theirs = _as_scored(rows, model, _as_fed(incumbent, rows), scored.outcome)
    # Days that the incumbent saw are none of the comparison.
    ours = scored.where(np.flatnonzero(unseen.to_numpy()))
    ours = replace(ours, days=theirs.days, day_of_row=theirs.day_of_row)
    return _compared(ours, theirs, incumbent.version, against, reason, draw=draw)


def side_by_side(first: Incumbent, second: Incumbent, rows: pa.Table, *, seed: int = 17) -> Comparison:
    """The twins of two models on those of the rows that neither was trained on; the first minus the second.

    rows: labelled examples of a training set. A model of other vectors than theirs brings its own.
    Raises TerminalError if it has none of an event.
    """
    unseen = rows.filter(_decided_after(rows, max(first.twin.cutoff, second.twin.cutoff)))
    draw = partial(resampled_days, replicates=REPLICATES, seed=seed)
    outcome = first.twin.outcome
    _check_same_kind(second, outcome)
    if unseen.num_rows == 0:
        reason = "no row of the later training set was decided after what both twins learned from"
        return _nothing_compared(second, "twin", reason, outcome)
    ours, theirs = (_as_scored(unseen, one.twin, _as_fed(one, unseen), outcome) for one in (first, second))
    reason = f"the twins of both have left {len(ours.days)} days unseen"
    return _compared(ours, theirs, second.version, "twin", reason, draw=draw)


def _as_scored(rows: pa.Table, model: TrainedModel, fed: pa.Table, outcome: Outcome) -> Scored:
    """The rows as the model scores them. Of numbers the skill of both is against one mean."""
    return Scored.of(rows, model.predict(fed), replace(model.outcome, mean=outcome.mean))


def _check_same_kind(incumbent: Incumbent, outcome: Outcome) -> None:
    theirs = incumbent.refit.outcome.kind
    if theirs != outcome.kind:
        raise TerminalError(
            f"Version {incumbent.version} scores a label of kind {theirs}, the candidate one of kind "
            f"{outcome.kind}: they cannot be compared.",
            expected="one kind of label for as long as a pipeline has its name",
            remedy="give the pipeline another name, and its history anew",
        )


def _nothing_compared(
    incumbent: Incumbent, against: Literal["refit", "twin"], reason: str, outcome: Outcome
) -> Comparison:
    return Comparison(incumbent.version, against, reason, 0, (), dict.fromkeys(METRICS[outcome.kind]))


def _compared(
    ours: Scored,
    theirs: Scored,
    version: str,
    against: Literal["refit", "twin"],
    reason: str,
    *,
    draw: Draw,
) -> Comparison:
    """Both on the same rows."""
    import numpy as np

    weights = np.vstack([np.ones(len(ours.days)), draw(len(ours.days))])
    recall, precision = _curve(theirs)
    return Comparison(
        version=version,
        against=against,
        reason=reason,
        rows=ours.labels.size,
        days=day_losses(ours, theirs),
        metrics=_paired(ours.measure(weights), theirs.measure(weights), len(ours.days)),
        recall=recall,
        precision=precision,
    )


def _as_fed(incumbent: Incumbent, rows: pa.Table) -> pa.Table:
    """The rows' events, in their order, as the incumbent is fed them."""
    import pyarrow.compute as pc

    if incumbent.vectors is None:
        return rows
    known = incumbent.vectors["event_id"].combine_chunks()
    places = pc.index_in(rows["event_id"].cast(known.type), value_set=known)
    if places.null_count:
        raise TerminalError(
            f"{places.null_count} events of the holdout have no vector by the features of version "
            f"{incumbent.version}.",
            expected="one of every event, by each feature set in use",
            remedy="materialize feature_tiles and examples of the holdout's days, then retrain",
        )
    return incumbent.vectors.take(places)


def _who_stands(
    incumbent: Incumbent, holdout: pa.Table, min_days: int
) -> tuple[Literal["refit", "twin"], str]:
    """Which of the incumbent's models is compared, and why."""

    def days_unseen(model: TrainedModel) -> int:
        return len(days_of(holdout.filter(_decided_after(holdout, model.cutoff)))[0])

    by_refit, by_twin = days_unseen(incumbent.refit), days_unseen(incumbent.twin)
    if by_refit >= min_days:
        return "refit", f"the champion has left {by_refit} days of the holdout unseen"
    if by_refit >= by_twin:
        return "refit", (
            f"the champion has left {by_refit} days of the holdout unseen (at least {min_days} are asked "
            "for), and its unrefitted twin no more"
        )
    return "twin", (
        f"the champion has left only {by_refit} days of the holdout unseen (at least {min_days} are asked "
        f"for), so its unrefitted twin stands for it, which has left {by_twin}"
    )


def _paired(ours: Mapping[str, Floats], theirs: Mapping[str, Floats], days: int) -> dict[str, Paired | None]:
    paired: dict[str, Paired | None] = {}
    for name in ours:
        difference = estimate(ours[name] - theirs[name], days)
        if difference is None:
            paired[name] = None
        else:
            paired[name] = Paired(float(ours[name][0]), float(theirs[name][0]), difference)
    return paired


def day_losses(ours: Scored, theirs: Scored) -> tuple[DayLoss, ...]:
    """Losses by day of two models' scores of the same rows, the first's as the candidate's."""
    import numpy as np

    columns = zip(ours.days, np.bincount(ours.day_of_row), ours.loss_sums(), theirs.loss_sums(), strict=True)
    return tuple(DayLoss(day, int(rows), candidate, incumbent) for day, rows, candidate, incumbent in columns)


def _slices(
    gate: SlicesGate, holdout: pa.Table, slicing: pa.Table | None, scored: Scored, draws: Floats
) -> Slices:
    import numpy as np

    groups = []
    for column in gate.by:
        names, group_of_row = np.unique(_slice_values(holdout, slicing, column), return_inverse=True)
        for group, name in enumerate(names):
            rows = scored.where(np.flatnonzero(group_of_row == group))
            groups.append(_slice(gate, column, str(name), rows, draws))
    return Slices(gate.metric, gate.min_rows, tuple(groups))


def _slice(gate: SlicesGate, column: str, value: str, scored: Scored, draws: Floats) -> Slice:
    rows = int(scored.labels.size)
    positives = int(scored.labels.sum()) if scored.outcome.kind == "binary" else None
    if rows < gate.min_rows:
        return Slice(column, value, rows, positives, None, f"fewer than {gate.min_rows} rows")
    figure = scored.estimates(draws, (gate.metric,))[gate.metric]
    note = "one outcome only" if figure is None and scored.one_outcome else ""
    return Slice(column, value, rows, positives, figure, note)


def _slice_values(holdout: pa.Table, slicing: pa.Table | None, column: str) -> NDArray[np.str_]:
    """The column's value for each row of the holdout, as text; `missing` where it is null."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    table = holdout if slicing is None else slicing
    if column not in table.column_names:
        raise TerminalError(
            f"Slices are asked for by {column}, which is not among {table.column_names}.",
            expected="the columns of gates.slices.by beside the holdout",
        )
    values = table[column].cast(pa.string()).fill_null("missing")
    if slicing is not None:
        at = pc.index_in(
            holdout["event_id"].cast(pa.string()), value_set=slicing["event_id"].cast(pa.string())
        )
        if at.null_count:
            raise TerminalError(f"{at.null_count} rows of the holdout have no value of {column} to slice by.")
        values = values.take(at)
    return np.array(values.to_pylist(), dtype=np.str_)


def _fairness(
    gates: Gates,
    sensitive: Sequence[str],
    draws: Floats,
    *,
    holdout: pa.Table,
    slicing: pa.Table | None,
    scored: Scored,
    decision: Decision,
) -> tuple[Fairness, ...] | None:
    if gates.fairness is None:
        return None
    alike = partial(
        fairness,
        labels=scored.labels,
        decided=scored.scores >= decision.at_least,
        min_rows=gates.fairness.min_rows,
        day_of_row=scored.day_of_row,
        draws=draws,
    )
    return tuple(
        alike(column, _slice_values(holdout, slicing, column)) for column in _fairness_by(gates, sensitive)
    )


def _explained(
    gates: Gates, rows: pa.Table, slicing: pa.Table | None, contributions: Floats, names: Sequence[str]
) -> tuple[Explained, ...]:
    """Of the groups of the slices that have rows enough among those that were explained."""
    by = gates.slices.by if gates.slices else ()
    return tuple(
        one
        for column in by
        for one in by_group(
            contributions, names, column, _slice_values(rows, slicing, column), EXPLAINED_ROWS
        )
    )


def _stability(
    incumbent: Incumbent | None, holdout: pa.Table, weights: Mapping[str, float]
) -> Stability | None:
    if incumbent is None:
        return None
    theirs = importance(incumbent.refit, _as_fed(incumbent, holdout))
    return stability(weights, theirs, incumbent.version)


def _calibration(scored: Scored) -> tuple[CalibrationBin, ...]:
    import numpy as np

    labels, scores = scored.as_binary
    bins = calibration_bins(scores)
    return tuple(
        CalibrationBin(float(scores[inside].mean()), float(labels[inside].mean()), int(inside.sum()))
        for inside in (bins == number for number in np.unique(bins))
    )


def _agreement(refit: TrainedModel, twin: TrainedModel, holdout: pa.Table) -> Agreement:
    ours, theirs = refit.predict(holdout), twin.predict(holdout)
    if refit.outcome.shape:
        classes = sorted({*refit.outcome.classes, *twin.outcome.classes})
        ours = aligned(ours, refit.outcome.classes, classes)
        theirs = aligned(theirs, twin.outcome.classes, classes)
        # That classes are of different frequency is nothing that models agree on.
        common = (ours.mean(axis=0) + theirs.mean(axis=0)) / 2
        ours, theirs = (ours - common).ravel(), (theirs - common).ravel()
    return agreement(ours, theirs)


def agreement(ours: Floats, theirs: Floats) -> Agreement:
    """How alike the scores of two models are, shape (rows,)."""
    import numpy as np

    correlation = float(np.corrcoef(ours, theirs)[0, 1]) if min(np.ptp(ours), np.ptp(theirs)) > 0 else None
    spread = ours.var() + theirs.var() + (ours.mean() - theirs.mean()) ** 2
    together = 2 * np.mean((ours - ours.mean()) * (theirs - theirs.mean()))
    concordance = float(together / spread) if spread > 0 else None
    return Agreement(float(np.abs(ours - theirs).mean()), correlation, concordance)


def _classes(scored: Scored, learned: Outcome) -> tuple[OfClass, ...]:
    """Of a category, each class by itself: those that were learned, and others that there are."""
    import numpy as np

    if not learned.shape:
        return ()
    chosen, ones = scored.scores.argmax(axis=1), np.ones((1, len(scored.days)))
    found = []
    for code, value in enumerate(scored.outcome.classes):
        there, told = scored.labels == code, chosen == code
        rows, named, hits = int(there.sum()), int(told.sum()), int((there & told).sum())
        area = measure(there.astype(np.int8), scored.scores[:, code], scored.day_of_row, ones, ("roc_auc",))[
            "roc_auc"
        ][0]
        found.append(
            OfClass(
                value,
                rows,
                named,
                hits / named if named else None,
                hits / rows if rows else None,
                2 * hits / (rows + named) if rows + named else None,
                float(area) if np.isfinite(area) else None,
                value in learned.classes,
            )
        )
    return tuple(found)


def _errors(scored: Scored) -> Spread:
    import numpy as np

    labels, errors = scored.labels, scored.scores - scored.labels
    low, high = np.quantile(errors, [0.05, 0.95])
    return Spread(
        float(labels.mean()), float(labels.std()), float(labels.min()), float(labels.max()),
        scored.outcome.mean, float(errors.mean()), float(low), float(high),
    )  # fmt: skip


def _curve(scored: Scored) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from mlops_pipelines.figures import precision_recall_points

    if scored.outcome.kind != "binary" or not scored.labels.any():
        return (), ()
    recall, precision = precision_recall_points(scored.labels, scored.scores)
    return tuple(recall), tuple(precision)


def _decided_after(table: pa.Table, cutoff: datetime) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.greater(table["decision_time"], pa.scalar(cutoff, pa.timestamp("us", tz="UTC")))
