"""The watch over a new champion: is it worse than the one before it, on the same rows, once labels are known?

While it is watched, the predecessor scores the same events in the shadow; nothing acts on those scores. Found
to be surely worse, the champion is rolled back, once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from mlops_pipelines import promoting
from mlops_pipelines.features.in_use import set_of
from mlops_pipelines.gates import LossDifference, loss_difference
from mlops_pipelines.outcomes import IN_UNITS, LOGGED_IN, from_log, logged, spelled
from mlops_pipelines.provenance import code_commit
from mlops_pipelines.retraining import matured_through, model_of
from mlops_pipelines.scoring import rows_not_in, with_new_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from mlops_pipelines.evaluation_report import DayLoss
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ledger import Promotion
    from mlops_pipelines.spec import Watch

TABLE = "shadow_predictions"
_ORDER = ["day", "event_id"]
BY = "the watch over new champions"


@dataclass(frozen=True)
class Watched:
    """What the watch found. rolled_back: the promotion that the finding led to, None if it led to none."""

    champion: str
    predecessor: str
    rows: int
    days: int
    worse: bool
    sentence: str
    rolled_back: Promotion | None = None


def judge(days: Sequence[DayLoss], watch: Watch, *, champion: str, predecessor: str, seed: int) -> Watched:
    """Whether the champion is surely worse than its predecessor by more than is borne. Pure.

    days: losses of both on the same matured rows, the champion's as `candidate`. Surely: the lower bound,
    one-sided at `watch.confidence`, of a bootstrap of whole days.
    """
    from mlops_pipelines.evaluation_report import Comparison

    rows = sum(day.rows for day in days)
    about = f"{watch.metric} of champion v{champion} minus that of v{predecessor}, which it replaced,"
    if len(days) < watch.min_days:
        sentence = f"{about} is watched: {len(days)} of {watch.min_days} matured days so far."
        return Watched(champion, predecessor, rows, len(days), False, sentence)
    found: LossDifference = loss_difference(
        Comparison(predecessor, "refit", "", rows, tuple(days), {}),
        watch.metric,
        confidence=watch.confidence,
        seed=seed,
    )
    told = partial(spelled, in_units=watch.metric in IN_UNITS, sign="+")
    lower = found.bounds[0] if found.bounds else float("-inf")
    sentence = (
        f"{about} is {told(found.figure)} on {rows:,} rows of {len(days)} matured days, with "
        f"{watch.confidence:.0%} confidence at least {told(lower)}; {watch.worse_by:+g} is borne."
    )
    return Watched(champion, predecessor, rows, len(days), lower > watch.worse_by, sentence)


def watched(place: PipelineHome) -> tuple[Promotion, Promotion] | None:
    """The champion that is watched, and the promotion of its predecessor; None if none is.

    A champion that came back by a rollback is not watched: it has been watched before. The watch ends with
    the day on which the last of its days matures, so that this one is looked at too.
    """
    watch, champion = place.spec.promotion.watch, place.ledger.champion(place.name)
    if watch is None or champion is None or champion.previous is None or champion.kind == "rollback":
        return None
    if matured_through(place, place.clock.now()) > (champion.at + watch.over).date():
        return None
    before = place.ledger.promotion_of(place.name, version=champion.previous)
    return (champion, before) if before else None


def shadow(place: PipelineHome) -> int:
    """Let the predecessor of a watched champion score what it has not yet; how many events that were.

    All days of the watch are looked at, so that what a run that died has left out is made up for.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    found = watched(place)
    watch = place.spec.promotion.watch
    if found is None or watch is None:
        return 0
    champion, predecessor = found
    table = set_of(place, predecessor).examples
    if not place.lake.exists(table):
        return 0
    first, last = (moment.date().isoformat() for moment in (champion.at, champion.at + watch.over))
    days = [day for day in place.lake.days(table) if first <= day <= last]
    rows = rows_not_in(place, table, TABLE, days)
    if rows is None:
        return 0
    moments = pa.timestamp("us", tz="UTC")
    decided = rows["decision_time"]
    rows = rows.filter(
        pc.and_(
            pc.greater(decided, pa.scalar(champion.at, moments)),
            pc.less_equal(decided, pa.scalar(champion.at + watch.over, moments)),
        )
    )
    if rows.num_rows == 0:
        return 0
    model = model_of(place, predecessor).refit
    made = pa.table(
        {
            "day": rows["day"],
            "event_id": rows["event_id"],
            "decided_at": rows["decision_time"],
            "model_version": pa.array([predecessor.mlflow_version] * rows.num_rows, pa.string()),
            "model_hash": pa.array([predecessor.model_hash] * rows.num_rows, pa.string()),
            **logged(model.outcome, model.predict(rows)),
        }
    )
    place.lake.update(
        TABLE,
        sorted(made["day"].unique().to_pylist()),
        with_new_rows(made),
        sort_by=_ORDER,
        provenance={"code": asdict(code_commit())},
    )
    return int(rows.num_rows)


def watch_over(place: PipelineHome) -> Watched | None:
    """Look at the watched champion; roll it back if it is surely worse. None if none is watched.

    Two that look at once roll back once: the second finds another champion. Raises what the ledger and the
    registry raise.
    """
    from mlops_pipelines.ledger import PromotionConflictError

    found, watch = watched(place), place.spec.promotion.watch
    if found is None or watch is None:
        return None
    champion, predecessor = found
    made = judge(
        _losses(place, champion, predecessor),
        watch,
        champion=champion.mlflow_version,
        predecessor=predecessor.mlflow_version,
        seed=place.spec.training.seed,
    )
    if not made.worse:
        return made
    try:
        promotion = promoting.roll_back(
            place,
            predecessor.mlflow_version,
            expected_sequence=champion.sequence,
            by=BY,
            reason=made.sentence,
        )
    except PromotionConflictError:
        # Whoever was faster has decided; there is another champion to look at next time.
        return made
    return replace(made, rolled_back=promotion)


def _losses(place: PipelineHome, champion: Promotion, predecessor: Promotion) -> list[DayLoss]:
    """Losses of both by matured day, on the rows that both have scored and whose label is known."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from mlops_pipelines.evaluation import day_losses
    from mlops_pipelines.monitoring.performance import scored_labels
    from mlops_pipelines.scored import Scored

    lake = place.lake
    if not (lake.exists(TABLE) and lake.exists("labels") and lake.exists("predictions")):
        return []
    now = place.clock.now()
    first, last = champion.at.date().isoformat(), matured_through(place, now).isoformat()
    days = [day for day in lake.days("predictions") if first <= day <= last]
    kind = place.spec.labels.kind
    column = LOGGED_IN[kind]

    def scores(table: str, of: Promotion, name: str) -> pa.Table:
        rows = lake.read(table, columns=["day", "event_id", "decided_at", "model_hash", column], days=days)
        rows = rows.filter(
            pc.and_(
                pc.equal(rows["model_hash"], of.model_hash),
                pc.greater(rows["decided_at"], pa.scalar(champion.at, pa.timestamp("us", tz="UTC"))),
            )
        )
        return rows.drop_columns(["model_hash", "decided_at"]).rename_columns(["day", "event_id", name])

    ours = scores("predictions", champion, column)
    theirs = scores(TABLE, predecessor, "shadow").drop_columns(["day"])
    both = ours.join(theirs, "event_id", join_type="inner").sort_by(
        [("day", "ascending"), ("event_id", "ascending")]
    )
    labels = lake.read("labels", columns=["event_id", "label", "label_time", "known_at"], days=days)
    scored = scored_labels(both, labels, now)
    if scored.num_rows == 0:
        return []
    champions, predecessors = (from_log(kind, scored[name]) for name in (column, "shadow"))
    return list(
        day_losses(
            Scored.of(scored, champions[1], champions[0]), Scored.of(scored, predecessors[1], predecessors[0])
        )
    )
