"""Last known values: of the rows current at a moment, the one with the latest time of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from mlops_pipelines.features.coding import count_up_to, microseconds, moment, places_of, shared_codes
from mlops_pipelines.features.facts import (
    KNOWN_AT,
    NEVER,
    OWN_TIME,
    key_columns,
    known_facts,
    order_by_key,
    static_facts,
    superseded_at,
    value_column,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.features.point_in_time import Probes
    from mlops_pipelines.features.views import CompiledView, Kind
    from mlops_pipelines.lake import Lake

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class _Versions:
    """Facts as arrays. A fact is current in [known, until); of those current the greatest rank is the last.

    codes: key. known, until: microseconds since 1970 UTC. ranks: position by key, own time, then what breaks
    ties.
    """

    codes: NDArray[np.int64]
    known: NDArray[np.int64]
    until: NDArray[np.int64]
    ranks: NDArray[np.int64]

    def where(self, chosen: NDArray[np.bool_]) -> _Versions:
        return _Versions(self.codes[chosen], self.known[chosen], self.until[chosen], self.ranks[chosen])


@dataclass(frozen=True)
class _Asked:
    """Probes as arrays: the key's code, and the moment in microseconds since 1970 UTC."""

    codes: NDArray[np.int64]
    at: NDArray[np.int64]


def last_values(
    view: CompiledView, lake: Lake, probes: Probes, versions: Mapping[str, int | None]
) -> dict[str, pa.Array]:
    """The view's last known values for each probe: all of them from one row of the source.

    At least one probe. That row is the one with the latest own time among those known at the probe's
    moment, not older (by own time) than the view's `within`; of equal own times the one known last, then
    the greatest event id, then the greatest values. What the row lacks is null, as is everything where
    there is no row. An event that asks is not its own last event.
    """
    import numpy as np
    import pyarrow as pa

    columns = list(dict.fromkeys(feature.column for feature in view.last))
    if view.within is None:
        facts = static_facts(view, lake, versions, columns)
        oldest = np.full(len(probes.at), -NEVER, dtype=np.int64)
    else:
        # What became known before `since` has an own time before it: no probe may see it any more.
        since = moment(int(probes.at.min())) - view.within
        until = moment(int(probes.at.max())) + _MICROSECOND
        facts = known_facts(view, lake, versions, columns=columns, since=since, until=until)
        oldest = probes.at - view.within // _MICROSECOND
    rows = _latest_rows(view, facts, probes)
    found = rows >= 0
    if facts.num_rows:
        found &= microseconds(facts[OWN_TIME])[rows] >= oldest
    positions = pa.array(np.where(found, rows, 0), mask=~found)
    return {
        feature.name: _as_feature(facts[value_column(feature.column)].take(positions), feature.kind)
        for feature in view.last
    }


def _latest_rows(view: CompiledView, facts: pa.Table, probes: Probes) -> NDArray[np.int64]:
    """Row of the last fact for each probe, -1 where there is none."""
    import numpy as np

    if not facts.num_rows:
        return np.full(len(probes.at), -1, dtype=np.int64)
    fact_codes, codes = shared_codes([facts[key] for key in key_columns(view)], probes.keys)
    known = microseconds(facts[KNOWN_AT])
    by_rank = order_by_key(facts, fact_codes)
    ranks = np.empty_like(by_rank)
    ranks[by_rank] = np.arange(len(by_rank))
    until = superseded_at(facts, known) if view.source == "labels" else np.full(len(known), NEVER)
    versions, asked = _Versions(fact_codes, known, until, ranks), _Asked(codes, probes.at)
    best, second = _greatest_so_far(versions.where(until == NEVER), asked)
    if view.source == "events" and probes.event_ids is not None:
        best = np.where(_is_own(facts, by_rank, best, probes.event_ids), second(), best)
    best = _with_superseded(best, versions.where(until < NEVER), asked)
    rows = by_rank[best]
    # Where its key has none that was known, the greatest is that of another key, or -1.
    return np.where((best >= 0) & (codes >= 0) & (fact_codes[rows] == codes), rows, -1)


def _greatest_so_far(
    versions: _Versions, asked: _Asked
) -> tuple[NDArray[np.int64], Callable[[], NDArray[np.int64]]]:
    """Greatest rank, and the second greatest when it is called for, of the versions known at each moment.

    A running maximum along key and knowledge time, for versions that stay current: one pass serves all keys,
    since every key's ranks are above those of the key before. Where a key has no such version, it is that of
    an earlier key, or -1.
    """
    import numpy as np

    if not len(versions.known):
        nothing = np.full(len(asked.at), -1, dtype=np.int64)
        return nothing, lambda: nothing
    places, ends = places_of((versions.codes, asked.codes), (versions.known, asked.at))
    order = np.argsort(places)
    positions = count_up_to(places[order], ends)
    ranks = versions.ranks[order]
    # The first element is for those before whose moment there is nothing at all.
    greatest = np.maximum.accumulate(np.concatenate([[-1], ranks]))

    def second() -> NDArray[np.int64]:
        below = np.minimum(greatest[:-1], ranks)
        return np.maximum.accumulate(np.concatenate([[-1], below]))[positions]

    return greatest[positions], second


def _with_superseded(best: NDArray[np.int64], versions: _Versions, asked: _Asked) -> NDArray[np.int64]:
    """`best`, raised where a version that was current for a while only was so at the moment asked.

    In the order of what is asked, each version was current over a run of neighbours, which two runs of a
    power of two cover. From the longest on, such a run hands what it found on to its two halves.
    """
    import numpy as np

    if not len(versions.known):
        return best
    places, known, until = places_of(
        (asked.codes, versions.codes, versions.codes), (asked.at, versions.known, versions.until)
    )
    order = np.argsort(places)
    first, end = (np.searchsorted(places[order], ends) for ends in (known, until))
    # The greatest power of two within each run; -1 where nothing was asked in its while.
    powers = np.frexp(end - first)[1] - 1
    # Greatest rank of the runs of the present power that begin here.
    greatest = np.full(len(order), -1, dtype=np.int64)
    for power in range(int(powers.max()), -1, -1):
        mine = powers == power
        for starts in (first[mine], end[mine] - 2**power):
            np.maximum.at(greatest, starts, versions.ranks[mine])
        if half := 2**power // 2:
            greatest[half:] = np.maximum(greatest[half:], greatest[:-half])
    raised = best.copy()
    raised[order] = np.maximum(best[order], greatest)
    return raised


def _is_own(
    facts: pa.Table, by_rank: NDArray[np.int64], ranks: NDArray[np.int64], event_ids: pa.ChunkedArray
) -> NDArray[np.bool_]:
    """Whether the fact found is the very event that asks."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = pa.array(by_rank[np.maximum(ranks, 0)], mask=ranks < 0)
    same = pc.equal(facts["event_id"].take(rows).cast(pa.string()), event_ids.cast(pa.string()))
    own: NDArray[np.bool_] = pc.fill_null(same, False).to_numpy()
    return own


def _as_feature(values: pa.ChunkedArray, kind: Kind) -> pa.ChunkedArray:
    """Strings as they are, numbers as float64; what is no finite number is null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind == "category":
        return values.cast(pa.string())
    whole = values.cast(pa.int8()) if pa.types.is_boolean(values.type) else values
    numbers = whole.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))
