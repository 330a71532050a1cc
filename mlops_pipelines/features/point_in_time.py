"""Each event's features as of its own decision: nothing that became known later, whenever it is computed.

An event decided at d sees, over a window w, the tiles of [floor_hour(d) - w, floor_hour(d)), whole tiles
only; as last values, single rows known at d; and the rows of static references. So an event's vector does
not depend on which other events are computed with it.

Missing is null, never zero. In a window without a value `count` is 0 (that is what is known) and `sum`,
`mean`, `min` and `max` are null. An event whose key is null has only nulls from that view.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlops_pipelines.features.coding import microseconds
from mlops_pipelines.features.expressions import evaluate_expressions
from mlops_pipelines.features.facts import versions_at
from mlops_pipelines.features.functions import evaluate_functions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.features.sets import FeatureSet
    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.lake import Lake


@dataclass(frozen=True)
class Probes:
    """What is looked up in a view: keys, each as of a moment.

    keys: one array a key column of the view. at: microseconds since 1970 UTC. event_ids: the events that
    ask, or None where no event does: an event is not its own last event.
    """

    keys: Sequence[pa.ChunkedArray]
    at: NDArray[np.int64]
    event_ids: pa.ChunkedArray | None


def compute_examples(
    features: FeatureSet,
    lake: Lake,
    events: pa.Table,
    versions: Mapping[str, int | None],
    *,
    sensitive: bool = False,
) -> pa.Table:
    """One example for each of `events` (rows of the table events), in their order.

    versions: version of each table the views read (sources and tile tables), None where there is no such
    table yet. Returns day, event_id, event_time, decision_time, the columns of the set in their order
    (numbers float64, categories string), view_versions and made_of (JSON of `versions`). sensitive: whether
    the events have values that are shown nowhere, also in no error.
    Raises TerminalError for a table without a pinned version and for an expression or a function that fails.
    """
    import pyarrow as pa

    moments = pa.timestamp("us", tz="UTC")
    columns = {
        "day": events["day"].cast(pa.string()),
        "event_id": events["event_id"].cast(pa.string()),
        "event_time": events["event_time"].cast(moments),
        "decision_time": events["decision_time"].cast(moments),
        **evaluate_expressions(features.from_event, events, sensitive=sensitive),
        **evaluate_functions(features.from_python, events, hidden=sensitive),
    }
    at = microseconds(events["decision_time"])
    for view in features.views:
        probes = Probes([events[key] for key in view.keys], at, events["event_id"])
        columns.update(view_values(view, lake, probes, versions))
    constants = {"view_versions": features.view_versions, "made_of": dict(versions)}
    for name, value in constants.items():
        columns[name] = pa.repeat(pa.scalar(json.dumps(value, sort_keys=True)), events.num_rows)
    return pa.table(columns)


def has_facts(view: CompiledView, values: pa.Table) -> NDArray[np.bool_]:
    """Whether each row of a view's values has anything of it: a value, or a count that is not zero."""
    import numpy as np
    import pyarrow.compute as pc

    found = np.zeros(values.num_rows, dtype=bool)
    for column in view.columns:
        one = values[column.name]
        there = pc.greater(one, 0.0).fill_null(False) if column.name in view.counts else one.is_valid()
        found |= there.to_numpy()
    return found


def view_values(
    view: CompiledView, lake: Lake, probes: Probes, versions: Mapping[str, int | None]
) -> dict[str, pa.Array]:
    """The view's features for each probe, in the order of `view.columns`.

    lake, versions: of the pipeline that uses the view; those of its owner are found by them.
    """
    import pyarrow as pa

    from mlops_pipelines.features.last_values import last_values
    from mlops_pipelines.features.windows import window_values

    if not len(probes.at):
        types = {"number": pa.float64(), "category": pa.string()}
        return {column.name: pa.array([], types[column.kind]) for column in view.columns}
    if view.pipeline:
        lake, versions = lake.of(view.pipeline), versions_at(view.pipeline, versions)
        probes = replace(probes, event_ids=None)  # those of its events are of others
    return {
        **(window_values(view, lake, probes, versions) if view.windowed else {}),
        **(last_values(view, lake, probes, versions) if view.last else {}),
    }
