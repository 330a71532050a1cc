"""Feast: the registry of the views, and their current values by key."""

from __future__ import annotations

import json
import re
import uuid
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

from mlops_pipelines.errors import TerminalError, TransientError, UserError
from mlops_pipelines.features.views import tile_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import feast
    import pandas as pd
    import pyarrow as pa
    import redis
    from feast.infra.registry.sql import SqlRegistry

    from mlops_pipelines.features.views import CompiledView, Kind

_LOCK_SECONDS = 60.0
# SQLite takes a limited number of parameters in one statement.
_KEYS_A_READ = 2000
_APPLIED = "applied_views"
_HOME = "home"
# Where Feast's values lie, by type of a key and kind of a feature.
_FIELDS = {"string": "string_val", "int": "int64_val", "number": "double_val", "category": "string_val"}


@dataclass(frozen=True)
class Snapshot:
    """What values are made of. as_of: the moment, UTC, that they are as of. versions: of the tables read."""

    as_of: datetime
    versions: Mapping[str, int | None]

    def is_after(self, other: Snapshot) -> bool:
        """Whether it is of a later moment than the other, or of the same one and newer tables."""
        if self.as_of != other.as_of:
            return self.as_of > other.as_of

        def number(versions: Mapping[str, int | None], table: str) -> int:
            version = versions.get(table)
            return -1 if version is None else version

        return any(number(self.versions, table) > number(other.versions, table) for table in self.versions)


@dataclass(frozen=True)
class Held:
    """What the values of a view in the store may be made of.

    written: of the last write that ended; None if none did. begun: of others that may have left values.
    """

    written: Snapshot | None = None
    begun: tuple[Snapshot, ...] = ()

    @property
    def all(self) -> tuple[Snapshot, ...]:
        return (*([self.written] if self.written else ()), *self.begun)


class NoValuesError(TerminalError):
    """The store has no values of a view: they were never written, or were lost."""


class FeatureStore:
    """One pipeline's views in Feast. Pipelines of a home share the files, each in a project of its own.

    folder: holds `registry.db` and, without `online`, `online.db`, made on first use. online: URL of a Redis
    server for the values, such as redis://host:6379/0. lake: folder of the tables, to read vectors as of any
    moment through Feast. Feast is loaded on first use too (seconds), and one
    Feast store is kept open; for Feast's own command line there is a folder PROJECT with the registry's
    address. Values are written as of a moment, and none overwrites those of a later one;
    the same moment is written again. Feast's stores differ in that (SQLite overwrites always, Redis skips
    equal times), so the moment is kept beside the values and the stores are told to overwrite: in the
    registry, and on Redis with the values, so that it is lost with them.
    """

    def __init__(
        self, folder: Path, project: str, online: str | None = None, lake: Path | None = None
    ) -> None:
        self.folder = folder
        self.project = project
        self._lake = lake
        self._online = online
        self._redis = _Redis(online, project) if online else None
        self._written: set[str] = set()
        self._known: dict[str, feast.FeatureView] = {}
        self._layouts: dict[str, _Layout] = {}
        self._owners: dict[str, FeatureStore] = {}

    def apply(self, views: Sequence[CompiledView]) -> bool:
        """Registers the views and makes their online tables; False if they are registered already.

        A changed view is another one (its name has its version), so what is there is never altered. One that
        Feast's own `feast apply` deleted is registered again, and has no values until it is written.
        """
        wanted = {view.id for view in views}
        self._write_repo()
        if wanted <= self._applied():
            return False
        with self._locked(), self._reached():
            noted, applied = set(self._metadata(_APPLIED, [])), self._applied()
            new = [view for view in views if view.id not in applied]
            for view in new:
                if view.id in noted:
                    # Whether its values went with it is not known: the next write goes over all of them.
                    self._note(view.id, Held(begun=self.held(view).all))
                    self._written.discard(view.id)
            self._feast.apply([part for view in new for part in _definitions(view)])
            self._set_metadata(_APPLIED, sorted(noted | wanted))
        return True

    def _applied(self) -> set[str]:
        """Ids of the views that were registered with all that belongs to them, and still are.

        Asked of the registry's table: Feast's own list takes some milliseconds for each view in it.
        """
        import sqlalchemy as sa
        from feast.infra.registry.sql import feature_views

        names = sa.select(feature_views.c.feature_view_name).where(feature_views.c.project_id == self.project)
        with self._registry.read_engine.begin() as connection:
            registered = set(connection.execute(names).scalars())
        return registered & set(self._metadata(_APPLIED, []))

    def written_as_of(self, view: CompiledView) -> datetime | None:
        """The moment (UTC) the view's values were last written for, completely; None if they never were."""
        if view.pipeline:
            return self._of(view.pipeline).written_as_of(view.at_owner)
        written = self.held(view).written
        return written.as_of if written else None

    def held(self, view: CompiledView) -> Held:
        """What the values there were made of: what a writer has to know, to bring all of them up to date.

        Raises TerminalError for a Redis database with the values of another home.
        """
        if self._redis is None:
            noted = self._metadata(_held_key(view.id), None)
        else:
            with self._reached():
                noted = self._redis.get(_held_key(view.id))
            if noted and noted["home"] != self._home:
                raise TerminalError(
                    f"The Redis database at {self._redis.address} has values of {self.project} that another "
                    "home wrote.",
                    expected="a database of its own for each home",
                    remedy="another number at the end of MLOPS_ONLINE_STORE, such as /1; or, if the other "
                    "home is gone, redis-cli -n NUMBER FLUSHDB, which empties it",
                )
        return _held_of(noted) if noted else Held()

    def write_online(
        self,
        view: CompiledView,
        rows: pa.Table,
        made_of: Snapshot,
        over: Held,
        changed: pa.BooleanArray | None = None,
    ) -> int:
        """Writes values as `online_rows` gives them, in one transaction; returns how many keys.

        made_of: what the values are made of. over: what `held` said when they were made. changed: which rows
        differ from what was written last, the others being there already; all are written where somebody
        else has written since.
        Returns 0, and writes nothing, if a later moment was written or begun, or the same one of newer
        tables. Raises TerminalError for a view that is not applied, TransientError if another process holds
        the store for a minute, or if the Redis server cannot be reached.
        """
        registered = self._require_applied(view)
        with self._locked(), self._reached():
            held = self.held(view)
            if self._overtaken(made_of, held):
                return 0
            # Noted before the rows, so that a writer killed here still keeps earlier ones out.
            self._note(
                view.id, replace(held, begun=(*(one for one in held.begun if one != made_of), made_of))
            )
            store = self._feast
            wanted = rows if changed is None or held != over else rows.filter(changed)
            if wanted.num_rows:
                batch = _protos(view, wanted, made_of.as_of)
                store.provider.online_write_batch(store.config, registered, batch, None)
            # What came in between, or was left by a writer that died, is for the next one to go over.
            unseen = tuple(one for one in held.all if one not in (*over.all, made_of))
            self._note(view.id, Held(made_of, unseen))
        return int(rows.num_rows)

    def forget(self, ids: Iterable[str]) -> None:
        """Takes away the values of views, and their registration; applied again, they have no values.

        ids: of this pipeline's own views. What was forgotten may be again. Raises as `write_online` does.
        """
        registered = {view.name: view for view in self._registry.list_feature_views(self.project)}
        for view_id in ids:
            with self._locked(), self._reached():
                # First: what is left of the values by a process that dies here counts as none.
                self._note(view_id, Held())
                if view := registered.get(view_id):
                    self._feast.provider.update_infra(self.project, [view], [], [], [], partial=True)
                    self._registry.delete_feature_view(view_id, self.project)
            self._known.pop(view_id, None)
            self._layouts.pop(view_id, None)
            self._written.discard(view_id)

    def read_online(self, view: CompiledView, keys: pa.Table) -> pa.Table:
        """The view's current values for `keys`, in their order: the key columns, then the features.

        keys: a table with the view's key columns. The values are those an event decided at
        `written_as_of` would get: float64 and string, null where missing; a key without facts counts 0.
        Those of a view of another pipeline are read in that one's project, where they were written.
        Raises TerminalError for a view that was never written, TransientError if the Redis server cannot be
        reached.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if view.pipeline:
            return self._of(view.pipeline).read_online(view.at_owner, keys)
        registered = self._know(view.id)
        self._require_written(view)
        layout = self._layouts.get(view.id) or self._layouts.setdefault(view.id, _Layout.of(view))
        keys = keys.select(list(view.keys))
        with self._reached():
            parts = [
                self._read(registered, layout, keys.slice(at, _KEYS_A_READ))
                for at in range(0, keys.num_rows, _KEYS_A_READ)
            ]
        features = parts[0] if len(parts) == 1 else layout.joined(parts)
        if any(column.null_count for column in keys.columns):
            keyless = _any_null(keys)
            features = [pc.if_else(keyless, pa.scalar(None, one.type), one) for one in features]
        return pa.table([*keys.columns, *features], layout.names)

    def historical(
        self, features: Sequence[str], rows: pa.Table | pd.DataFrame, *, full_names: bool = False
    ) -> pa.Table:
        """Features `VIEW_ID:FEATURE` of rows as of their event_timestamp, by Feast's get_historical_features.

        rows: as `LakeOfflineStore.get_historical_features` takes them, and in their order.
        """
        for ref in features:
            self._know(ref.partition(":")[0])
        job = self._feast.get_historical_features(
            entity_df=cast("Any", rows), features=list(features), full_feature_names=full_names
        )
        return job.to_arrow()

    def _of(self, pipeline: str) -> FeatureStore:
        """The store of another pipeline of the home."""
        if pipeline not in self._owners:
            self._owners[pipeline] = FeatureStore(self.folder, pipeline, self._online)
        return self._owners[pipeline]

    def _require_written(self, view: CompiledView) -> None:
        """Asks a Redis server every time: it may lose its values. A file keeps what was written once."""
        if view.id in self._written:
            return
        if self.written_as_of(view) is None:
            raise self._nothing_of(view.id)
        if self._redis is None:
            self._written.add(view.id)

    def _nothing_of(self, view_id: str) -> NoValuesError:
        return NoValuesError(
            f"The online store of {self.project} has no values of the view {view_id}.",
            remedy=f"materialize {self.project}/feature_tiles first, of any day: dagster asset materialize "
            f"-m mlops_pipelines.definitions --select {self.project}/feature_tiles --partition DAY",
        )

    def _know(self, view_id: str) -> feast.FeatureView:
        """The view as it is registered; looks into the registry again if another process did it since.

        Once a view is known nothing is looked up: it never changes, and Feast takes a millisecond for it.
        Raises TerminalError if it is not registered, or not any more.
        """
        from feast.errors import FeatureViewNotFoundException

        if view_id not in self._known:
            try:
                found = self._registry.get_feature_view(view_id, self.project, allow_cache=True)
            except FeatureViewNotFoundException:
                self._registry.refresh(self.project)
                try:
                    found = self._registry.get_feature_view(view_id, self.project, allow_cache=True)
                except FeatureViewNotFoundException:
                    raise self._nothing_of(view_id) from None
            self._known[view_id] = found
        return self._known[view_id]

    def _read(self, registered: feast.FeatureView, layout: _Layout, keys: pa.Table) -> list[pa.Array]:
        """The features of each key; those of a null key are of a placeholder, and blanked by the caller.

        By Feast's online store, and not by `get_online_features` above it: that gives the same values, and
        takes as long again for an answer in which each has a status and a time of its own.
        """
        store = self._feast
        # A list of its own: Feast's Redis store adds to it.
        names = list(layout.kinds)
        found = store.provider.online_read(store.config, registered, layout.entities(keys), names)
        return layout.columns([values for _, values in found])

    @cached_property
    def _feast(self) -> feast.FeatureStore:
        from feast import FeatureStore as Feast
        from feast import RepoConfig

        store = Feast(config=RepoConfig(**self._settings))
        # Made on first use, which two processes must not do at once. A lock of its own: who only reads does
        # not wait for a write under way.
        with self._locked("registry"):
            _ = store.registry
            if not self._redis:
                _let_read_while_written(self.folder / "online.db")
        return store

    @cached_property
    def _home(self) -> str:
        """Tells this home from others that write to the same server; made on first use."""
        with self._locked("home"):
            known: str | None = self._metadata(_HOME, None)
            if known is None:
                known = uuid.uuid4().hex
                self._set_metadata(_HOME, known)
        return known

    @property
    def _registry(self) -> SqlRegistry:
        return cast("SqlRegistry", self._feast.registry)

    @contextmanager
    def _locked(self, what: Literal["online", "registry", "home"] = "online") -> Iterator[None]:
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{what}.lock"
        try:
            with FileLock(path, timeout=_LOCK_SECONDS):
                yield
        except Timeout as error:
            raise TransientError(
                f"Another process has held the lock {path} for {_LOCK_SECONDS:.0f} s."
            ) from error

    def _write_repo(self) -> None:
        """A folder for Feast's own command line, UI and API; without a Redis server, whose address may hold a
        password."""
        import yaml

        repo = self.folder / self.project
        repo.mkdir(parents=True, exist_ok=True)
        settings = {
            key: value for key, value in self._settings.items() if key != "online_store" or not self._redis
        }
        text = yaml.safe_dump(settings, sort_keys=False)
        path = repo / "feature_store.yaml"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")

    @property
    def _settings(self) -> dict[str, Any]:
        """Of Feast's store, with absolute paths."""
        from mlops_pipelines.features.offline import NAME

        folder = self.folder.absolute()
        lake = {"type": NAME, "lake": str(self._lake.absolute())} if self._lake else {"type": "dask"}
        online = {"type": "sqlite", "path": str(folder / "online.db")}
        return {
            "project": self.project,
            "provider": "local",
            # For ever: a registered view never changes, and `_know` looks again for a new one.
            "registry": {
                "registry_type": "sql", "path": f"sqlite:///{folder / 'registry.db'}", "cache_ttl_seconds": 0
            },
            "online_store": self._redis.config if self._redis else online,
            "offline_store": lake,
            "entity_key_serialization_version": 3,
        }  # fmt: skip

    def _require_applied(self, view: CompiledView) -> feast.FeatureView:
        if view.id not in self._applied():
            raise TerminalError(
                f"The view {view.id} is not registered in the project {self.project}.",
                expected="apply, with the view, before anything is written",
            )
        return self._know(view.id)

    def _overtaken(self, made_of: Snapshot, held: Held) -> bool:
        return any(one.is_after(made_of) for one in held.all)

    def _note(self, view_id: str, held: Held) -> None:
        if self._redis:
            self._redis.set(_held_key(view_id), {**asdict(held), "home": self._home})
        else:
            self._set_metadata(_held_key(view_id), asdict(held))

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Raises TransientError where a Redis server is asked that cannot be reached.

        And UserError where it has no database of that number.
        """
        if self._redis is None:
            yield
            return
        from redis.exceptions import ConnectionError as Away
        from redis.exceptions import ResponseError
        from redis.exceptions import TimeoutError as TooSlow

        try:
            yield
        except (Away, TooSlow) as error:
            cause = error.__context__
            why = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error).rstrip(".")
            if isinstance(error, TooSlow):
                why = "it did not answer in time"
            raise TransientError(
                f"The Redis server of the online store, {self._redis.address}, cannot be reached: {why}.",
                expected="a Redis server that answers (MLOPS_ONLINE_STORE)",
            ) from error
        except ResponseError as error:
            if "DB index" not in str(error):
                raise
            raise UserError(
                f"The Redis server at {self._redis.address} has no database {self._redis.database}.",
                expected="a number that it has at the end of MLOPS_ONLINE_STORE: of 16 databases, 0 to 15",
            ) from error

    def _metadata(self, key: str, default: Any) -> Any:
        text = self._registry.get_project_metadata(self.project, key)
        return default if text is None else json.loads(text)

    def _set_metadata(self, key: str, value: Any) -> None:
        text = json.dumps(value, default=datetime.isoformat)
        self._registry.set_project_metadata(self.project, key, text)


@dataclass(frozen=True)
class _Layout:
    """What a read of a view asks Feast for, and what the answer becomes; made once, so that a read is quick.

    keys: of each key column, where Feast has its value, and what is asked for where it is null. kinds: by
    feature. absent: by feature, its value for a key that was never written: a count is 0. places: of each
    feature, its kind and its number among those of the kind.
    """

    keys: dict[str, tuple[str, str | int]]
    kinds: dict[str, Kind]
    absent: dict[str, float | None]
    places: list[tuple[Kind, int]]
    names: list[str]

    @classmethod
    def of(cls, view: CompiledView) -> _Layout:
        placeholders: dict[str, str | int] = {"string": "", "int": 0}
        kinds = {column.name: column.kind for column in view.columns}
        order = list(kinds.values())
        return cls(
            keys={
                key: (_FIELDS[type_], placeholders[type_])
                for key, type_ in zip(view.keys, view.key_types, strict=True)
            },
            kinds=kinds,
            # There are no facts, and that is known.
            absent={name: 0.0 if name in view.counts else None for name in kinds},
            places=[(kind, order[:position].count(kind)) for position, kind in enumerate(order)],
            names=[*view.keys, *kinds],
        )

    def entities(self, keys: pa.Table) -> list[Any]:
        """The keys as Feast's online stores take them."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        columns = [
            [Value(**{field: value}) for value in keys[name].fill_null(placeholder).to_pylist()]
            for name, (field, placeholder) in self.keys.items()
        ]
        names = list(self.keys)
        return [EntityKey(join_keys=names, entity_values=key) for key in zip(*columns, strict=True)]

    def columns(self, found: Sequence[Mapping[str, Any] | None]) -> list[pa.Array]:
        """What Feast found of each key as arrays: slices of one for each kind, as many take their time."""
        import pyarrow as pa

        flat: dict[Kind, list[Any]] = {"number": [], "category": []}
        for name, kind in self.kinds.items():
            field, absent, values = _FIELDS[kind], self.absent[name], flat[kind]
            for one in found:
                value = one[name] if one else None
                there = value is not None and value.HasField(field)
                values.append(getattr(value, field) if there else absent)
        whole = {kind: pa.array(values, _arrow_type(kind)) for kind, values in flat.items()}
        return [whole[kind].slice(place * len(found), len(found)) for kind, place in self.places]

    def joined(self, parts: Sequence[list[pa.Array]]) -> list[pa.Array]:
        """Columns of several reads, or of none."""
        import pyarrow as pa

        empty = [pa.array([], _arrow_type(kind)) for kind in self.kinds.values()]
        return [pa.concat_arrays(column) for column in zip(empty, *parts, strict=True)]


class _Redis:
    """A Redis server by its URL. address: host and port, which may be told; the URL may hold a password."""

    def __init__(self, url: str, project: str) -> None:
        from redis.connection import parse_url

        try:
            # Feast is told what stands before a `?` only; the client takes any other path for database 0.
            if not re.fullmatch(r"rediss?://[^/?#]+(/\d*)?", url):
                raise ValueError(url)
            given: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
            host = given["host"]
        except (ValueError, KeyError):
            # Without the cause, which may say the password.
            raise UserError(
                "MLOPS_ONLINE_STORE is no URL of a Redis server.",
                expected="redis://host:6379/0, or rediss:// for TLS; user and password before an @; at the "
                "end the number of the database, and no options",
            ) from None
        self.address = f"{host}:{given.get('port', 6379)}"
        self.database: int = given.get("db", 0)
        self._url = url
        self._prefix = f"mlops_pipelines:{project}"
        options = {
            "db": self.database,
            "username": given.get("username"),
            "password": given.get("password"),
            "ssl": url.startswith("rediss:") or None,
        }
        if any("," in str(value) for value in options.values()):
            raise UserError(
                "Feast takes no user or password with a comma in it.", remedy="give it another one"
            )
        said = [f"{name}={json.dumps(value)}" for name, value in options.items() if value is not None]
        # skip_dedup: whether values may be overwritten is decided here, by their moment.
        self.config = {
            "type": "redis",
            "connection_string": ",".join([self.address, *said]),
            "skip_dedup": True,
        }

    @cached_property
    def _client(self) -> redis.Redis:
        import redis

        return redis.Redis.from_url(self._url)

    def get(self, key: str) -> Any:
        text = self._client.get(f"{self._prefix}:{key}")
        return None if text is None else json.loads(cast("bytes", text))

    def set(self, key: str, value: Any) -> None:
        self._client.set(f"{self._prefix}:{key}", json.dumps(value, default=datetime.isoformat))


def _let_read_while_written(path: Path) -> None:
    """A write-ahead log for the SQLite file, once: without it, readers wait for a large write, and fail."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def _held_key(view_id: str) -> str:
    return f"held:{view_id}"


def _held_of(noted: Mapping[str, Any]) -> Held:
    def snapshot(one: Mapping[str, Any]) -> Snapshot:
        return Snapshot(datetime.fromisoformat(one["as_of"]), one["versions"])

    written, begun = noted["written"], noted["begun"]
    return Held(snapshot(written) if written else None, tuple(snapshot(one) for one in begun))


def _definitions(view: CompiledView) -> list[Any]:
    """The view as Feast knows it: an entity for each key, the tiles as its source."""
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, Int64, String

    from mlops_pipelines.features.offline import DEFINITION

    types = {"string": (ValueType.STRING, String), "int": (ValueType.INT64, Int64)}
    entities = [
        Entity(name=key, join_keys=[key], value_type=types[type_][0])
        for key, type_ in zip(view.keys, view.key_types, strict=True)
    ]
    fields = [
        *(Field(name=k, dtype=types[t][1]) for k, t in zip(view.keys, view.key_types, strict=True)),
        *(Field(name=c.name, dtype=Float64 if c.kind == "number" else String) for c in view.columns),
    ]
    source = FileSource(name=view.id, path=tile_table(view), timestamp_field="hour")
    feature_view = FeatureView(
        name=view.id,
        entities=entities,
        schema=fields,
        source=source,
        # Values are as of a moment that `written_as_of` tells; none expires by the wall clock.
        ttl=timedelta(0),
        tags={"view": view.name, "version": view.version, "of": view.source, DEFINITION: view.to_json()},
    )
    return [*entities, feature_view]


def _protos(view: CompiledView, rows: pa.Table, as_of: datetime) -> list[tuple[Any, ...]]:
    """Rows as Feast's online stores take them: entity key, values by feature, time of the values."""
    from feast.protos.feast.types.Value_pb2 import Value

    nothing = Value()
    layout = _Layout.of(view)
    features = [
        [nothing if v is None else Value(**{_FIELDS[kind]: v}) for v in rows[name].to_pylist()]
        for name, kind in layout.kinds.items()
    ]
    return [
        (key, dict(zip(layout.kinds, row, strict=True)), as_of, None)
        for key, row in zip(layout.entities(rows), zip(*features, strict=True), strict=True)
    ]


def _any_null(keys: pa.Table) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    return pa.array(np.logical_or.reduce([column.is_null().to_numpy() for column in keys.columns]))


def _arrow_type(kind: Kind) -> pa.DataType:
    import pyarrow as pa

    return pa.float64() if kind == "number" else pa.string()
