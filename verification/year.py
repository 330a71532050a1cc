"""What the monitors say over a replayed year, held against what came true. `python -m verification.year HOME`

HOME: of `mlops replay flight_delays --until 2013-12-31`, or of any pipeline with binary labels. It is read
and not changed. Each figure is printed beside what was asked for:

- the estimate of a day's log loss before its labels were known, against the loss;
- quality triggers of the year, and of the same year with outcomes drawn from the scores themselves: there the
  base rate swings as it did, and the scores mean what they say, so any trigger is false;
- outcomes flipped one time in ten from each day on: whether the three days after it are seen to differ.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_pipelines.clock import midnight
from mlops_pipelines.home import Home
from mlops_pipelines.monitoring.concept import LEAST_DAYS, TOGETHER, judged_day, standing_out
from mlops_pipelines.monitoring.estimates import outcomes_by_day
from mlops_pipelines.monitoring.performance import (
    DayMaturity,
    DaySums,
    performance_by_day,
    quality_drop,
    scored_labels,
)
from mlops_pipelines.monitoring.reports import PERFORMANCE, main_rows
from mlops_pipelines.retraining import report_of
from mlops_pipelines.spec import PerformanceTrigger
from mlops_pipelines.spec_loading import load_pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from mlops_pipelines.home import PipelineHome

    Watched = Sequence[float]

FLIPPED = 0.1
FLIPS = 3
SEEDS = 5
# Of the interval of 95 %, as asked for.
COVERED = 0.90


@dataclass(frozen=True)
class Estimated:
    """Estimates held against the truth. outside: day and why, of days beyond their interval."""

    days: int
    error: float
    covered: float
    outside: tuple[tuple[str, str], ...]


def estimated(rows: Sequence[dict[str, Any]]) -> Estimated:
    """rows: of the performance report."""
    known = [
        row
        for row in main_rows(rows)
        if row["matured"] and row.get("estimate_low") is not None and row["log_loss"] is not None
    ]
    inside = [row["estimate_low"] <= row["log_loss"] <= row["estimate_high"] for row in known]
    return Estimated(
        len(known),
        float(np.mean([abs(row["estimate"] - row["log_loss"]) for row in known])),
        float(np.mean(inside)),
        tuple(
            (row["day"], row["estimate_note"]) for row, well in zip(known, inside, strict=True) if not well
        ),
    )


def scored_year(place: PipelineHome) -> pa.Table:
    """Every score of a champion whose label is known, in the order of decision."""
    predictions = place.lake.read(
        "predictions", columns=["day", "event_id", "decided_at", "model_hash", "score"]
    )
    labels = place.lake.read("labels", columns=["event_id", "label", "label_time", "known_at"])
    rows = scored_labels(predictions, labels, place.clock.now())
    return rows.sort_by([("decided_at", "ascending"), ("event_id", "ascending")])


def watched_days(rows: pa.Table) -> list[tuple[float, float]]:
    """What the process control watches of each day, oldest first."""
    by_day = outcomes_by_day(rows, "binary")
    return [judged_day(day, "", by_day[day]).watched for day in sorted(by_day)]


def quality_triggers(place: PipelineHome, rows: pa.Table, trigger: PerformanceTrigger) -> list[str]:
    """Days on which the quality of the champion is found to have surely fallen, the first of each reign."""
    import pyarrow.compute as pc

    found = []
    promotions = place.ledger.promotions(place.name)
    for promotion in promotions:
        mine = rows.filter(pc.equal(rows["model_hash"], promotion.model_hash))
        sums = [*_sums(mine)]
        metrics = report_of(place, place.ledger.retrain(promotion.retrain_id)).metrics
        if (on_holdout := metrics[trigger.metric]) is None:
            continue
        for n in range(len(sums)):
            if quality_drop(sums[: n + 1], on_holdout.value, trigger):
                found.append(sums[n].day)
                break
    return found


def drawn_from_scores(rows: pa.Table, seed: int) -> pa.Table:
    """The same rows with outcomes that come about as often as the scores say."""
    import pyarrow as pa

    came = np.random.default_rng(seed).random(rows.num_rows) < rows["score"].to_numpy()
    return rows.set_column(rows.column_names.index("label"), "label", pa.array(came))


def flipped(rows: pa.Table, seed: int) -> pa.Table:
    """The same rows, one outcome in ten the other one."""
    import pyarrow as pa

    flip = np.random.default_rng(seed).random(rows.num_rows) < FLIPPED
    labels = rows["label"].to_numpy(zero_copy_only=False).astype(bool) ^ flip
    return rows.set_column(rows.column_names.index("label"), "label", pa.array(labels))


def flips_seen(watched: Sequence[Watched], after: Sequence[Watched]) -> tuple[int, int]:
    """Days from which on flipped outcomes are seen within three, and days tried.

    watched, after: the days as they were, and with flipped outcomes.
    """
    starts = range(LEAST_DAYS, len(watched) - TOGETHER + 1)
    seen = sum(
        any(standing_out([*watched[:start], *after[start : start + n]]) for n in range(1, TOGETHER + 1))
        for start in starts
    )
    return seen, len(starts)


def episodes(watched: Sequence[Watched]) -> int:
    """How often the process control begins to alarm."""
    out = [bool(standing_out(watched[: n + 1])) for n in range(len(watched))]
    return sum(now and not before for before, now in zip([False, *out], out, strict=False))


def report(place: PipelineHome) -> Iterator[str]:
    """The figures, a line each."""
    rows, reported = scored_year(place), place.lake.read(PERFORMANCE).to_pylist()
    base = {}
    for month in range(1, 13):
        of_month = [row for row in reported if int(row["day"][5:7]) == month]
        known = [row for row in main_rows(of_month) if row["matured"] and row.get("prevalence") is not None]
        if known:
            base[month] = float(np.mean([row["prevalence"] for row in known]))
    yield f"base rate by month: {', '.join(f'{month}: {rate:.0%}' for month, rate in base.items())}"

    found = estimated(reported)
    yield (
        f"estimate: {found.days} days, mean absolute error of a day's log loss {found.error:.4f}; its "
        f"interval holds {found.covered:.1%} of them, {COVERED:.0%} are asked for"
    )
    for day, why in found.outside:
        yield f"  {day}: {why}"

    trigger = place.spec.triggers.performance or PerformanceTrigger(drop=0.03)
    real = quality_triggers(place, rows, trigger)
    yield f"quality triggers of the year: {len(real)} {real}"
    false = [quality_triggers(place, drawn_from_scores(rows, seed), trigger) for seed in range(SEEDS)]
    yield f"quality triggers by the season alone, {SEEDS} draws: {sum(map(len, false))}"
    fell = quality_triggers(place, flipped(rows, 0), trigger)
    reigns = len(place.ledger.promotions(place.name))
    yield f"quality triggers with flipped outcomes: {len(fell)} of {reigns} reigns"

    watched = watched_days(rows)
    alone = [episodes(watched_days(drawn_from_scores(rows, seed))) for seed in range(SEEDS)]
    yield (
        f"concept drift: {episodes(watched)} times in {len(watched)} days; by the season alone, {SEEDS} "
        f"draws: {sum(alone)}"
    )
    for seed in range(FLIPS):
        seen, tried = flips_seen(watched, watched_days(flipped(rows, seed)))
        yield (
            f"outcomes flipped one time in ten, draw {seed + 1} of {FLIPS}: seen within {TOGETHER} matured "
            f"days from {seen} of {tried} first days ({seen / tried:.1%})"
        )
    kinds: dict[str, int] = {}
    for one in place.ledger.incidents(place.name, since=midnight("2000-01-01")):
        kinds[one.kind] = kinds.get(one.kind, 0) + 1
    yield f"incidents: {sum(kinds.values())} {kinds}"


def _sums(rows: pa.Table) -> Iterator[DaySums]:
    days = sorted(set(rows["day"].to_pylist()))
    if not days:
        return
    counts = dict.fromkeys(days, 0)
    for day in rows["day"].to_pylist():
        counts[day] += 1
    matured = [DayMaturity(day, counts[day], counts[day], 0) for day in days]
    for one in performance_by_day(rows, matured):
        yield one.sums


def main() -> None:
    home, *names = sys.argv[1:]
    name = names[0] if names else "flight_delays"
    for line in report(Home.open(Path(home)).pipeline(load_pipeline(name))):
        print(line, flush=True)


if __name__ == "__main__":
    main()
