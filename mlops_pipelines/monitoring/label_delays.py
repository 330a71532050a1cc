"""When labels come: how long after their events, and how many are there by which age.

A delay is counted from the event's time to the moment at which its first label was known. What never comes
has none: the curve of those that are there by an age ends below one by as many.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_pipelines.features.coding import HOUR_US, microseconds
from mlops_pipelines.monitoring.performance import scored_labels
from mlops_pipelines.scored import days_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from typing import Any

    import pyarrow as pa

# Ages of events, hours, at which labels are counted.
AGES = (1, 2, 3, 4, 6, 9, 12, 18, 24, 36, 48, 72, 168, 336, 720)


@dataclass(frozen=True)
class DayDelays:
    """Delays of one day's labels.

    median, p90, p99: hours, of the events that have a label; None without any. known_by: events with a label
    by each of `AGES`.
    """

    day: str
    median: float | None
    p90: float | None
    p99: float | None
    known_by: tuple[int, ...]

    @property
    def row(self) -> dict[str, Any]:
        """As the performance report keeps it."""
        return {
            "delay_median": self.median,
            "delay_p90": self.p90,
            "delay_p99": self.p99,
            "known_by": json.dumps(self.known_by),
        }


def delays_by_day(events: pa.Table, labels: pa.Table, now: datetime) -> list[DayDelays]:
    """Delays of the labels that are known at `now` (UTC), by day of the event, in order.

    events: day, event_id, event_time. labels: as of `scored_labels`; of several versions the first counts. A
    label that was known before its event came after no time.
    """
    import numpy as np

    if not events.num_rows:
        return []
    labelled = scored_labels(events, labels, now)
    waited = microseconds(labelled["label_known_at"]) - microseconds(labelled["event_time"])
    hours = np.maximum(waited, 0) / HOUR_US
    its_day = np.asarray(labelled["day"].to_pylist())
    made = []
    for day in days_of(events)[0]:
        mine = hours[its_day == day]
        counts = tuple(int(count) for count in np.searchsorted(np.sort(mine), AGES, side="right"))
        if not len(mine):
            made.append(DayDelays(day, None, None, None, counts))
            continue
        median, p90, p99 = (float(one) for one in np.quantile(mine, [0.5, 0.9, 0.99]))
        made.append(DayDelays(day, median, p90, p99, counts))
    return made


def curve(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Share of the events that have a label by each age, over days; for a picture. Ages after which nothing
    more comes are left out.

    rows: of the performance report, one a day: rows and known_by.
    """
    counted = [row for row in rows if row.get("known_by")]
    total = sum(row["rows"] for row in counted)
    if not total:
        return {}
    sums = [sum(column) for column in zip(*(json.loads(row["known_by"]) for row in counted), strict=True)]
    last = next(place for place, count in enumerate(sums) if count == sums[-1])
    return {f"{age} h": count / total for age, count in zip(AGES[: last + 1], sums, strict=False)}
