"""A copy of a whole home as of one moment, and a home made of it.

    BACKUP/home/...       the files, as they lie in a home
    BACKUP/backup.json    each of them with its SHA-256; written last: without it, it is no backup

A plain folder, so that whatever copies folders (rsync, a bucket's client) keeps it elsewhere. Files are
copied and never linked: a backup shares no byte with what it may have to replace.

The moment is one at which no process writes to the ledger. Whatever a run does is recorded there before it
begins or after it has ended, so the copy is what a power cut at that moment would have left, and the loop
goes on from that. While the ledger stands still, the version of each table is noted, derived ones first: each
names versions of what it was made of, and those are noted after it. Tables only grow by versions, so they are
copied afterwards, up to the noted ones; what is committed meanwhile is not in the backup. Models' files and
training sets are copied last: there each thing is made before the ledger, or a table, names it. The values of
the online store are copied first: they name versions of tables. They may lag behind by a moment, and the next
run that makes tiles brings them up to date.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import uuid
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_pipelines.clock import WallClock
from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.home import LEDGER, Home
from mlops_pipelines.lake import Lake
from mlops_pipelines.model_versions import relocate
from mlops_pipelines.promoting import heal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MANIFEST = "backup.json"
FORMAT = 1
_HOME = "home"
_CHUNK = 1 << 20
# Derived tables first, what they are made of after them; an outcome before the event it is of.
_ORDER = ("predictions", "examples/", "feature_tiles/", "labels_unmatched", "labels")
_LAST = "events"
_MOST_TOLD = 10


@dataclass(frozen=True)
class Copied:
    """modified: nanoseconds since 1970: a landed file is known by it. mode: a private key is its owner's."""

    sha256: str
    bytes: int
    modified: int
    mode: int


@dataclass(frozen=True)
class Backup:
    """A finished backup. made_at: the machine's clock; clock: the home's; both ISO 8601, UTC. home: where it
    was. tables: the version that was copied, by PIPELINE:TABLE. files: by path below `home`."""

    path: Path
    made_at: str
    clock: str
    home: str
    tables: Mapping[str, int]
    files: Mapping[str, Copied]

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.files.values())


def back_up(home: Home, to: Path) -> Backup:
    """Copies a home into a folder that is missing or empty; runs may go on meanwhile.

    Raises UserError for another folder, while `mlops gc` works on the home, and where the ledger is on a
    server; TerminalError where the disk refuses: the folder is emptied again then.
    """
    to = to.expanduser().absolute()
    _require_empty(to, "to back up into")
    if to.is_relative_to(home.path):
        raise UserError(f"The folder {to} lies in the home that it would be a copy of.")
    if not (home.path / LEDGER).is_file():
        raise UserError(
            f"The ledger of {home.path} is on a server, which a backup of the home does not hold.",
            expected=f"a home whose ledger is its own file {LEDGER}",
            remedy="pg_dump of that database and a copy of the folder, while no run goes on",
        )
    with home.keeping("mlops backup"), _removed_on_error(to, f"The backup {to}"):
        copy = _Copy(home.path, to / _HOME)
        for name in ("registry.db", "online.db"):
            copy.database(f"feast/{name}")
        with home.ledger.standing_still():
            copy.database(LEDGER)
            pinned = dict(_pinned(home.path))
            sets = {*home.datasets.tags()}
            # What MLflow and Dagster remember of the ledger's records is of the same moment as they are.
            for database in (
                "mlflow/mlflow.db",
                "dagster/history/runs.db",
                "dagster/history/runs/index.db",
                "dagster/schedules/schedules.db",
            ):
                copy.database(database)
            clock = home.clock.now().isoformat()
        for (pipeline, table), version in pinned.items():
            copy.table(Lake(home.path / "pipelines" / pipeline / "lake"), table, version)
        copy.folder("mlflow/artifacts")
        with home.datasets.at_rest():
            copy.folder("datasets", leave_out=lambda parts: _workspace(parts) or _later_set(parts, sets))
        copy.folder("keys")
        copy.folder("pipelines", leave_out=lambda parts: len(parts) > 2 and parts[2] == "lake")
        copy.folder("dagster")
        made = Backup(
            to,
            WallClock().now().isoformat(),
            clock,
            str(home.path),
            {f"{pipeline}:{table}": version for (pipeline, table), version in pinned.items()},
            dict(sorted(copy.files.items())),
        )
        _write_manifest(made)
    return made


def restore(source: Path, to: Path) -> Backup:
    """Makes a home of a backup, in a folder that is missing or empty: whole, or not at all.

    Raises UserError for another folder, and for what is no finished backup; TerminalError that names the
    files that are missing or not what was backed up, and where the disk refuses.
    """
    backup = _read_manifest(source.expanduser().absolute())
    to = to.expanduser().absolute()
    _require_empty(to, "to restore into")
    to.parent.mkdir(parents=True, exist_ok=True)
    half = to.with_name(f".{to.name}.{uuid.uuid4().hex[:8]}")
    with _removed_on_error(half, f"The home {to}"):
        problems = [text for name, one in backup.files.items() if (text := _put(backup, name, one, half))]
        if problems:
            more = [f"and {len(problems) - _MOST_TOLD} more"] if problems[_MOST_TOLD:] else []
            raise TerminalError(
                f"The backup {backup.path} is not what was backed up:\n  "
                + "\n  ".join([*problems[:_MOST_TOLD], *more]),
                expected=f"every file of {MANIFEST}, with the SHA-256 that stands there",
                remedy="mlops restore, from another copy of it",
            )
        if (half / "mlflow" / "mlflow.db").is_file():
            relocate(half / "mlflow" / "mlflow.db", to / "mlflow" / "artifacts")
        if (half / "datasets" / ".git").is_dir():
            # Without this folder, which may be empty, git sees no repository.
            (half / "datasets" / ".git" / "refs").mkdir(exist_ok=True)
        if to.exists():
            to.rmdir()
        half.rename(to)
    home = Home.create(to)
    for pipeline in home.ledger.decided():
        # A decision may stand in the ledger, and not in the registry yet.
        heal(home, pipeline)
    return backup


class _Copy:
    """Copies files of a home, and notes what each of them is."""

    def __init__(self, home: Path, to: Path) -> None:
        self._home = home
        self._to = to
        self.files: dict[str, Copied] = {}

    def file(self, name: str) -> None:
        """A file; one that a producer took away meanwhile is left out."""
        source, target = self._home / name, self._to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.files[name] = _copied(source, target)
        except FileNotFoundError:
            if source.exists():
                raise

    def folder(self, name: str, leave_out: Any = lambda parts: False) -> None:
        """All files of a folder, but for those copied already, links, locks, and those of databases."""
        for path in sorted((self._home / name).rglob("*")):
            relative = path.relative_to(self._home)
            if leave_out(relative.parts) or relative.as_posix() in self.files:
                continue
            if path.suffix == ".db":
                self.database(relative.as_posix())
            elif path.is_file() and not path.is_symlink() and not _passing(path):
                self.file(relative.as_posix())

    def database(self, name: str) -> None:
        """An SQLite database as of one moment, whoever writes to it (https://sqlite.org/backup.html)."""
        source, target = self._home / name, self._to / name
        if not source.is_file():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        address = f"{source.as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        self.files[name] = _facts(target, hashlib.sha256(target.read_bytes()).hexdigest())

    def table(self, lake: Lake, table: str, version: int) -> None:
        """A table up to a version, with all older ones that are kept."""
        for path in (*lake.log_files(table, version), *lake.data_files(table, version)):
            self.file(path.relative_to(self._home).as_posix())


def _pinned(home: Path) -> Iterator[tuple[tuple[str, str], int]]:
    """The version of every table, in the order in which none names a later one of those that follow."""
    lakes = {lake.parent.name: Lake(lake) for lake in sorted((home / "pipelines").glob("*/lake"))}
    tables = [(pipeline, table) for pipeline, lake in lakes.items() for table in lake.tables()]

    def rank(one: tuple[str, str]) -> int:
        if one[1] == _LAST:
            return len(_ORDER) + 1
        return next((at for at, name in enumerate(_ORDER) if one[1].startswith(name)), len(_ORDER))

    for pipeline, table in sorted(tables, key=rank):
        version = lakes[pipeline].version(table)
        if version is not None:
            yield (pipeline, table), version


def _workspace(parts: tuple[str, ...]) -> bool:
    """What the repository of training sets makes again: parts that are in the cache, and what passes."""
    return parts[-1] == ".lock" or parts[1:3] == (".dvc", "tmp") or (len(parts) > 3 and parts[2] == "parts")


def _later_set(parts: tuple[str, ...], known: set[str]) -> bool:
    """The tag of a training set that was committed after the moment of the backup."""
    return parts[1:4] == (".git", "refs", "tags") and len(parts) > 5 and "/".join(parts[4:]) not in known


def _passing(path: Path) -> bool:
    return path.suffix == ".lock" or path.name.endswith((".db-wal", ".db-shm", ".db-journal"))


def _copied(source: Path, target: Path) -> Copied:
    digest = hashlib.sha256()
    with source.open("rb") as old, target.open("wb") as new:
        while chunk := old.read(_CHUNK):
            digest.update(chunk)
            new.write(chunk)
        facts = os.fstat(old.fileno())
    os.utime(target, ns=(facts.st_mtime_ns, facts.st_mtime_ns))
    target.chmod(facts.st_mode & 0o777)
    return _facts(target, digest.hexdigest())


def _facts(path: Path, digest: str) -> Copied:
    facts = path.stat()
    return Copied(digest, facts.st_size, facts.st_mtime_ns, facts.st_mode & 0o777)


def _put(backup: Backup, name: str, one: Copied, to: Path) -> str | None:
    """Puts a file of a backup into a home; what is wrong with it, or None."""
    source, target = backup.path / _HOME / name, to / name
    if not source.is_file():
        return f"{name} is missing"
    target.parent.mkdir(parents=True, exist_ok=True)
    if _copied(source, target).sha256 != one.sha256:
        return f"{name} was changed"
    os.utime(target, ns=(one.modified, one.modified))
    target.chmod(one.mode)
    return None


def _write_manifest(made: Backup) -> None:
    told = {"format": FORMAT, **asdict(made)}
    del told["path"]
    half = made.path / f".{MANIFEST}"
    with half.open("w", encoding="utf-8") as file:
        json.dump(told, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    half.rename(made.path / MANIFEST)


def _read_manifest(path: Path) -> Backup:
    try:
        told = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        made_by = told.pop("format")
        if made_by != FORMAT:
            raise UserError(
                f"The backup {path} is of format {made_by}.",
                expected=f"format {FORMAT}",
                remedy="restore it with the version of mlops_pipelines that made it",
            )
        files = {name: Copied(**one) for name, one in told.pop("files").items()}
        if outside := [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]:
            raise UserError(f"The backup {path} has a file that lies outside of a home: {outside[0]}.")
        return Backup(path=path, files=files, **told)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"There is no finished backup in {path}.",
            expected=f"a folder with {MANIFEST}, which `mlops backup` writes last",
            remedy=f"mlops backup {path}, from the home, into an empty folder",
        ) from error


def _require_empty(folder: Path, what: str) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is no empty folder.", expected=f"a folder {what} that is missing or empty")


@contextmanager
def _removed_on_error(folder: Path, what: str) -> Iterator[None]:
    """A folder that is whole or not there; what the disk refuses is said."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        unread = getattr(error, "filename", None)
        if unread is not None and not Path(str(unread)).is_relative_to(folder):
            raise TerminalError(
                f"{unread} cannot be read: {getattr(error, 'strerror', None) or error}.",
                expected="a file that this user may read",
                remedy="run the same as the user whose home it is",
            ) from error
        if isinstance(error, OSError | sqlite3.Error):
            raise TerminalError(
                f"{what} cannot be written: {getattr(error, 'strerror', None) or error}.",
                expected="a disk with room for it, and a folder that this user may write",
                remedy="make room, or mend the permissions, and run the same again: nothing is left of it",
            ) from error
        raise
