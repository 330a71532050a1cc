"""The ledger's database: connections, transactions, schema version, errors."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from mlops_pipelines.errors import MlopsError, TerminalError, TransientError, UserError
from mlops_pipelines.ledger.tables import SCHEMA_VERSION, ledger_schema, metadata, pipelines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from sqlalchemy.engine import URL, Connection, Engine, Row
    from sqlalchemy.pool import ConnectionPoolEntry

    AnyRow: TypeAlias = Row[*tuple[Any, ...]]


# The schema from which on homes are carried over, and Alembic's own table of what was done to one.
FIRST_VERSION = 8
REVISIONS = "ledger_revision"
# SQLite's wait for its one writer is unfair: with eight busy processes the unluckiest waits seconds.
BUSY_TIMEOUT = timedelta(seconds=60)


class Store:
    """Transactions on the ledger's database. Tables are made on first use."""

    def __init__(self, url: str | URL, *, home_id: str | None = None, busy_timeout: timedelta = BUSY_TIMEOUT):
        """url: an SQLAlchemy URL, such as `sqlite:////absolute/path/ledger.db`.

        home_id: of the one home whose ledger the database is; None where it is a file of that home.
        """
        self._home_id = home_id
        try:
            self._engine = sa.create_engine(url)
        except (ArgumentError, ImportError, ValueError) as error:
            # The address itself may hold a password.
            raise UserError(
                f"The ledger's address cannot be used: {type(error).__name__}.",
                expected="an SQLAlchemy URL whose driver is installed, such as sqlite:////home/me/ledger.db",
            ) from error
        if self._engine.dialect.name == "sqlite":
            _set_up_sqlite(self._engine, busy_timeout)
        # A transaction that reads before it writes must be a writer from its start: SQLite refuses to
        # turn a reader into a writer once another has written, and no waiting cures that.
        self._writer = self._engine.execution_options(sqlite_begin="IMMEDIATE")
        self._reader = self._engine
        if self._engine.dialect.name == "postgresql":
            # As on SQLite: what is read in several statements is of one moment.
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ")
        self._prepared = False
        self._version = SCHEMA_VERSION
        self._preparing = threading.Lock()

    def prepare(self) -> None:
        """Make the tables if they are missing.

        Raises UserError if the database cannot be opened or written, or is another home's, TerminalError if
        another version of the library made it.
        """
        with self._preparing:
            if self._prepared:
                return
            try:
                self._prepare()
            except MlopsError:
                self.close()
                raise
            self._prepared = True

    def _prepare(self) -> None:
        with _errors_translated():
            with self._engine.begin() as connection:
                made = _made(connection)
            version, home_id = made or self._create()
        self._check_version(version)
        self._version = version
        if home_id != self._home_id:
            raise UserError(
                f"The ledger {self._address} is that of another home.",
                expected="a database of this home's own",
                remedy="another database in MLOPS_LEDGER_URL; an empty one begins anew",
            )

    def _check_version(self, version: int) -> None:
        """Raises TerminalError for a schema that is neither this code's nor one step away from it."""
        if abs(version - SCHEMA_VERSION) <= 1:
            return
        if version < FIRST_VERSION:
            expected = f"version {FIRST_VERSION} at least, from which on homes are carried over"
            remedy = "begin a new home, with --home DIR"
        else:
            expected = f"version {SCHEMA_VERSION}, or one more or less"
            older = version < SCHEMA_VERSION
            remedy = "mlops ledger upgrade" if older else "upgrade mlops-pipelines, or another home"
        raise TerminalError(
            f"The ledger {self._address} has schema version {version}.", expected=expected, remedy=remedy
        )

    def upgrade(self) -> tuple[int, int]:
        """Bring the tables to this code's schema, in one transaction; the versions before and after.

        Whoever works on the ledger meanwhile waits. Raises TerminalError for one that is newer, or too old.
        """
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", "mlops_pipelines.ledger:migrations")
        with _errors_translated(), self._writer.begin() as connection:
            _wait_for_others(connection)
            before = (_made(connection) or (SCHEMA_VERSION, None))[0]
            if not FIRST_VERSION <= before <= SCHEMA_VERSION:
                self._check_version(before)
                return before, before
            config.attributes["connection"] = connection
            command.stamp(config, str(before))
            command.upgrade(config, "head")
            connection.execute(ledger_schema.update().values(version=SCHEMA_VERSION))
        return before, SCHEMA_VERSION

    def close(self) -> None:
        """Close all connections. The ledger can be used again afterwards."""
        self._engine.dispose()

    def _create(self) -> tuple[int, str | None]:
        with self._writer.begin() as connection:
            _wait_for_others(connection)
            made = _made(connection)
            if made is None:
                metadata.create_all(connection)
                made = SCHEMA_VERSION, self._home_id
                connection.execute(ledger_schema.insert().values(version=made[0], home=made[1]))
            return made

    @property
    def _schema_version(self) -> int:
        """Of the tables as they were found."""
        self.prepare()
        return self._version

    @property
    def _address(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Nobody else writes until this ends (SQLite); who wants to, waits. Seconds at most."""
        with self._writing():
            yield

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database throughout."""
        self.prepare()
        with _errors_translated(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction that writes, alone on SQLite; elsewhere it locks the rows it decides on."""
        self.prepare()
        with _errors_translated(), self._writer.begin() as connection:
            yield connection


def _wait_for_others(connection: Connection) -> None:
    """Be alone in making or changing tables; on SQLite a writer is."""
    if connection.dialect.name == "postgresql":
        # CREATE TABLE IF NOT EXISTS races there; the number only has to be the ledger's own.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x6C6564676572)))


def insert_into(connection: Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An insert that can say what becomes of a row whose key is there."""
    on_postgresql = connection.dialect.name == "postgresql"
    return postgresql.insert(table) if on_postgresql else sqlite.insert(table)


def insert_new(connection: Connection, table: sa.Table, values: dict[str, Any]) -> bool:
    """Insert a row unless one with its unique key is there. Whether it was inserted."""
    # Not by the row count, which PostgreSQL does not give for a key that counts up by itself.
    new = (
        insert_into(connection, table)
        .values(**values)
        .on_conflict_do_nothing()
        .returning(*table.primary_key.columns)
    )
    return connection.execute(new).first() is not None


def lock(connection: Connection, pipeline: str) -> None:
    """Hold the pipeline's row until the transaction ends: what is decided on stays as it was read."""
    insert_new(connection, pipelines, {"name": pipeline})
    connection.execute(sa.select(pipelines.c.name).where(pipelines.c.name == pipeline).with_for_update())


def _made(connection: Connection) -> tuple[int, str | None] | None:
    """The schema's version and the home that it is of; None where there are no tables yet."""
    inspected = sa.inspect(connection)
    if not inspected.has_table(ledger_schema.name):
        return None
    version: int = connection.execute(sa.select(ledger_schema.c.version)).scalar_one()
    if version < FIRST_VERSION:
        return version, None
    home_id: str | None = connection.execute(sa.select(ledger_schema.c.home)).scalar_one()
    return version, home_id


def _set_up_sqlite(engine: Engine, busy_timeout: timedelta) -> None:
    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _: ConnectionPoolEntry) -> None:
        # The driver's own transactions leave SELECTs outside; BEGIN is issued below instead.
        connection.isolation_level = None
        # What somebody altered to be no UTF-8 is read nevertheless: it is to be named, and stops nobody.
        connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
        # First, so that the others wait as well.
        connection.execute(f"PRAGMA busy_timeout = {busy_timeout // timedelta(milliseconds=1)}")
        _switch_to_wal(connection, busy_timeout)
        # A promotion that was reported must survive a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(
            f"BEGIN {connection.get_execution_options().get('sqlite_begin', 'DEFERRED')}"
        )


def _switch_to_wal(connection: sqlite3.Connection, patience: timedelta) -> None:
    """A database is switched once, and who comes at the same moment waits.

    SQLite's own wait does not cover this: it refuses at once while another holds the write lock.
    """
    until = time.monotonic() + patience.total_seconds()
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)


@contextmanager
def _errors_translated() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        translated = _translate(error)
        if translated is None:
            raise
        raise translated from error


def _translate(error: DatabaseError) -> MlopsError | None:
    """The database's error as transient or terminal; None where it is a fault of the program."""
    text = str(error.orig)
    if "file is not a database" in text or "malformed" in text:
        return TerminalError(
            f"The ledger's file is damaged: {text}.", remedy="put back a copy of ledger.db from a backup"
        )
    if not isinstance(error, OperationalError):
        return None
    if any(word in text for word in ("unable to open", "readonly")):
        return UserError(
            f"The ledger cannot be opened or written: {text}.",
            expected="a home whose ledger.db, and the folder around it, this user may write",
            remedy="mend the permissions, or copy the home to where they are right (`cp -r`)",
        )
    if "is full" in text or "disk I/O error" in text:
        return TerminalError(
            f"The ledger cannot be written: {text}.",
            expected="a disk with room",
            remedy="make room and run the same again: what was recorded is there, and nothing is lost",
        )
    passing = any(word in text for word in ("locked", "connection", "deadlock"))
    if passing or error.connection_invalidated:
        return TransientError(f"The ledger is busy or away: {text}.", remedy="try again")
    return None
