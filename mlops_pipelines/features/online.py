"""What the online store holds: a view's values as of a moment, of every key they may have changed for.

And how they are read: from the store, or, if told so, from the tiles while the store is away.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from mlops_pipelines.errors import TransientError
from mlops_pipelines.features.facts import key_columns, known_facts, static_facts
from mlops_pipelines.features.point_in_time import Probes, view_values
from mlops_pipelines.features.tiles import read_tiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

    from mlops_pipelines.features.store import FeatureStore, Held, Snapshot
    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.lake import Lake

_MICROSECOND = timedelta(microseconds=1)


def bring_to(made_of: Snapshot, view: CompiledView, lake: Lake, store: FeatureStore) -> int:
    """The store's values of the view are those of `made_of` then; returns how many keys have some.

    Raises what `FeatureStore.write_online` raises.
    """
    over = store.held(view)
    rows = online_rows(view, lake, made_of, over)
    return store.write_online(view, rows, made_of, over, changed(rows, view, lake, made_of, over))


def online_rows(view: CompiledView, lake: Lake, made_of: Snapshot, over: Held) -> pa.Table:
    """The view's keys, sorted, with their values as of `made_of`: what an event decided then would see.

    over: what the values there already are made of. Left out are keys without a fact in any window of
    either: nothing is there, and nothing is to be. A key whose windows have emptied, or whose facts were
    taken back, is a row with nothing in it. A static reference gives all keys, or none if it is there.
    """
    import pyarrow as pa

    seen = [part for one in (made_of, *over.all) for part in _keys(view, lake, one)]
    keys = pa.concat_tables(seen).group_by(list(view.keys)).aggregate([])
    keys = keys.drop_null().sort_by([(key, "ascending") for key in view.keys])
    version = made_of.versions[view.source]
    if view.static and over.written and all(one.versions[view.source] == version for one in over.all):
        keys = keys.slice(0, 0)
    return _values(view, keys, Tiles(lake, made_of.versions, made_of.as_of))


def changed(
    rows: pa.Table, view: CompiledView, lake: Lake, made_of: Snapshot, over: Held
) -> pa.BooleanArray | None:
    """Which of the rows have values that were not written by the last write; None for all of them.

    All where a write may have been cut short, and once a day, so that a server that lost some has them again.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    before = over.written
    if over.begun or before is None or before.as_of.date() != made_of.as_of.date():
        return None
    written = _values(view, rows, Tiles(lake, before.versions, before.as_of))
    differs = pa.repeat(False, rows.num_rows)
    for name in (column.name for column in view.columns):
        old, new = written[name].combine_chunks(), rows[name].combine_chunks()
        other = pc.fill_null(pc.not_equal(old, new), False)
        differs = pc.or_(differs, pc.or_(other, pc.xor(old.is_null(), new.is_null())))
    return differs


def _keys(view: CompiledView, lake: Lake, seen: Snapshot) -> Iterator[pa.Table]:
    """Keys with a fact that a window, or a last value, sees at a moment in tables of these versions."""
    names = list(view.keys)
    if view.windowed:
        first = seen.as_of.replace(minute=0, second=0, microsecond=0) - view.longest_window
        yield read_tiles(view, lake, seen.versions, first, seen.as_of).select(names)
    if view.last:
        if view.within is None:
            facts = static_facts(view, lake, seen.versions, ())
        else:
            since, until = seen.as_of - view.within, seen.as_of + _MICROSECOND
            facts = known_facts(view, lake, seen.versions, columns=(), since=since, until=until)
        yield facts.select(key_columns(view)).rename_columns(names)


@dataclass(frozen=True)
class Read:
    """Values of keys: the key columns, then the features, in the order asked for.

    as_of: the moment, UTC, they are as of. source: the online store, or the tiles in its place.
    """

    values: pa.Table
    as_of: datetime
    source: Literal["online", "tiles"]


@dataclass(frozen=True)
class Tiles:
    """Where values come from: a lake, the versions to read, the moment asked for, UTC."""

    lake: Lake
    versions: Mapping[str, int | None]
    as_of: datetime


def read_features(
    view: CompiledView, keys: pa.Table, store: FeatureStore, otherwise: Tiles | None = None
) -> Read:
    """The view's current values for `keys`, a table with its key columns.

    otherwise: told so, the values are computed from tiles if the store cannot be reached or has none of the
    view, which is logged as a warning and said by `source`. They are those that the store would hold as of
    that moment, if all tiles of the view are there.
    Raises what `FeatureStore.read_online` raises: without `otherwise`, TransientError for a store that is
    away, and TerminalError for one without values of the view.
    """
    from mlops_pipelines.features.store import NoValuesError

    try:
        while True:
            written = store.written_as_of(view)
            values = store.read_online(view, keys)
            if written is not None and store.written_as_of(view) == written:
                return Read(values, written, "online")
    except (TransientError, NoValuesError) as error:
        if otherwise is None:
            raise
        as_of = f"{otherwise.as_of:%Y-%m-%d %H:%M:%S} UTC"
        logging.getLogger(__name__).warning(
            "Values of %s are computed from tiles as of %s: %s", view.id, as_of, error.message
        )
    return Read(_values(view, keys, otherwise), otherwise.as_of, "tiles")


def _values(view: CompiledView, keys: pa.Table, tiles: Tiles) -> pa.Table:
    """The key columns, and the view's features of each key as of the moment asked for."""
    import numpy as np
    import pyarrow as pa

    moment = (tiles.as_of - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND
    at = np.full(keys.num_rows, moment, dtype=np.int64)
    own = [keys[key] for key in view.keys]
    found = view_values(view, tiles.lake, Probes(own, at, None), tiles.versions)
    return pa.table({**dict(zip(view.keys, own, strict=True)), **found})
