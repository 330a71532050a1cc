"""What the online store holds: a view's values as of a full hour, of every key they may have changed for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.facts import key_columns, known_facts, static_facts
from mlops_pipelines.features.point_in_time import Probes, view_values
from mlops_pipelines.features.tiles import read_tiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.lake import Lake

_MICROSECOND = timedelta(microseconds=1)


def online_rows(
    view: CompiledView,
    lake: Lake,
    as_of: datetime,
    since: datetime | None,
    versions: Mapping[str, int | None],
) -> pa.Table:
    """The view's keys, sorted, with their values as of `as_of`: what an event decided then would see.

    as_of: a full hour, UTC. since: the hour of the values that are there already, None for none. Left out
    are keys whose values cannot have changed in between: those without a fact in any window of either
    hour. A key whose windows have emptied is a row with nothing in it. A static reference gives all keys.
    Raises TerminalError for an `as_of` that is no full hour.
    """
    import numpy as np
    import pyarrow as pa

    if as_of != as_of.replace(minute=0, second=0, microsecond=0):
        raise TerminalError(f"Online values as of {as_of} were asked for.", expected="a full hour")
    parts = list(_keys(view, lake, versions, as_of, as_of if since is None else min(since, as_of)))
    keys = pa.concat_tables(parts).group_by(list(view.keys)).aggregate([])
    keys = keys.drop_null().sort_by([(key, "ascending") for key in view.keys])
    moment = (as_of - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND
    at = np.full(keys.num_rows, moment, dtype=np.int64)
    probes = Probes([keys[key] for key in view.keys], at, None)
    return pa.table({**{k: keys[k] for k in view.keys}, **view_values(view, lake, probes, versions)})


def _keys(
    view: CompiledView,
    lake: Lake,
    versions: Mapping[str, int | None],
    as_of: datetime,
    since: datetime,
) -> Iterator[pa.Table]:
    """Keys with a fact that a window, or a last value, saw at `since` or sees at `as_of`."""
    names = list(view.keys)
    if view.windowed:
        yield read_tiles(view, lake, versions, since - view.longest_window, as_of).select(names)
    if view.last:
        if view.within is None:
            facts = static_facts(view, lake, versions, ())
        else:
            until = as_of + _MICROSECOND
            facts = known_facts(view, lake, versions, columns=(), since=since - view.within, until=until)
        yield facts.select(key_columns(view)).rename_columns(names)
