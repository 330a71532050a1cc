"""A landing folder that fsspec reaches: object storage, or the file system of another machine.

Where there are no folders, a folder that is not there is one in which nothing has landed yet. An object is
seen when it is whole, so that one put is to it what writing elsewhere and renaming is to a file.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from mlops_pipelines.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# So many days are asked for one by one. Where nothing has landed for longer, it is first asked which of
# their folders there are.
MOST_DAYS_ASKED = 31
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What listings call the time of modification: seconds since 1970, or a moment.
_MODIFIED = ("mtime", "LastModified", "last_modified", "modified", "updated")


@dataclass(frozen=True)
class RemoteFile:
    """What a file system says of a file.

    path: relative to the landing folder. size: bytes. modified_at: UTC. is_file: not a link, pipe or folder.
    """

    path: str
    size: int
    modified_at: datetime
    is_file: bool


@dataclass(frozen=True)
class RemotePath:
    """A landing folder, by its URL such as `s3://bucket/flights/events`, or what lies at a path in it.

    Options and credentials come from the environment or from the configuration files of fsspec and of its
    drivers, never from here. Every method raises UserError if the driver is not installed.
    """

    folder: str
    path: str = ""

    def __str__(self) -> str:
        return f"{self.folder}/{self.path}" if self.path else self.folder

    def __truediv__(self, path: str) -> RemotePath:
        return RemotePath(self.folder, f"{self.path}/{path}" if self.path else path)

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    def check_driver(self) -> None:
        """Raises UserError if the driver is not installed. Asks nothing of the other side."""
        from fsspec import get_filesystem_class

        protocol = self.folder.partition("://")[0]
        try:
            get_filesystem_class(protocol)
        except ImportError as error:
            raise UserError(
                f"{self.folder} cannot be reached: the driver for {protocol}:// is not installed.",
                expected=f"what fsspec asks for: {error}",
                remedy=f"pip install {_package(protocol) or 'what it names'}",
            ) from error

    def files(self, since: date | None, last: date) -> list[RemoteFile]:
        """The finished files below the folder; with `since`, those in the folders of `since` to `last`.

        One call for each of these days, whether it has a folder or not; without `since`, one for all. A
        file system that cannot list all below a folder at once is asked once for each folder in it.
        Names that start with `.` or `_` are left out.
        Raises UserError if the folder is not there or may not be listed.
        """
        fs, base = self._opened()
        found = _below(fs, base) if since is None else _recent(fs, base, since, last)
        files: list[RemoteFile] = []
        with self._refusals():
            for entry in found:
                path = _stripped(fs, entry["name"]).removeprefix(f"{base}/")
                # Some consoles put an object of no bytes, and a slash, in the place of a folder.
                is_folder = entry["type"] == "directory" or entry["name"].endswith("/") or path == base
                if not is_folder and not any(part.startswith((".", "_")) for part in path.split("/")):
                    # What has gone since is not there.
                    with suppress(FileNotFoundError):
                        files.append(self._said(fs, path, entry))
        return files

    def look(self) -> RemoteFile:
        """What there is to say of the file now. Raises as `open`."""
        fs, name = self._opened()
        with self._own_refusal(fs, name):
            return self._said(fs, self.path, fs.info(name))

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """The file, to be read.

        Raises FileNotFoundError if it is gone; PermissionError if this file may not be read; UserError if
        nothing in its folder may.
        """
        fs, name = self._opened()
        with self._own_refusal(fs, name):
            opened: BinaryIO = fs.open(name, mode)
            return opened

    def _opened(self) -> tuple[Any, str]:
        """The file system, which remembers nothing of before, and this path's name there."""
        from fsspec.core import url_to_fs

        self.check_driver()
        fs, base = url_to_fs(self.folder)
        fs.invalidate_cache()  # it would go on saying what it once listed
        return fs, f"{base}/{self.path}" if self.path else base

    def _said(self, fs: Any, path: str, entry: Mapping[str, Any]) -> RemoteFile:
        modified = _modified(fs, entry)
        if modified is None or entry.get("size") is None:
            raise UserError(
                f"{self.folder} does not say how large {path} is, or when, UTC, it was modified.",
                expected="a file system that says so: a file that was written to is told by them",
                remedy="land on object storage, or in a folder",
            )
        is_file = entry["type"] == "file" and not entry.get("islink")
        return RemoteFile(path, int(entry["size"]), modified, is_file)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise UserError(
                f"There is no landing folder {self.folder}",
                expected="a bucket, or a folder, that is there",
                remedy="make it, or mend `landing` in the pipeline's defs.yaml",
            ) from error
        except PermissionError as error:
            raise UserError(
                f"The landing folder {self.folder} may not be listed: {error}",
                expected="credentials, in the environment or in fsspec's configuration, that may list and "
                "read it",
                remedy="docs/landing.md says where they are looked for",
            ) from error

    @contextmanager
    def _own_refusal(self, fs: Any, name: str) -> Iterator[None]:
        """Let a PermissionError pass that is of this file alone: credentials that ran out are of no file."""
        try:
            yield
        except PermissionError:
            with self._refusals():
                _listed(fs, name.rpartition("/")[0])
            raise


def _recent(fs: Any, base: str, since: date, last: date) -> Iterator[Mapping[str, Any]]:
    """What lies below the folders of some days."""
    if (last - since).days < MOST_DAYS_ASKED:
        folders = [f"{base}/{since + timedelta(days=n)}" for n in range((last - since).days + 1)]
    else:
        there = [_stripped(fs, entry["name"]) for entry in _listed(fs, base)]
        folders = [name for name in there if f"{base}/{since}" <= name <= f"{base}/{last}"]
    for folder in folders:
        with suppress(FileNotFoundError):
            yield from _below(fs, folder)


def _below(fs: Any, folder: str) -> Iterator[Mapping[str, Any]]:
    """What lies at or below a path, in one call where the file system can.

    Raises FileNotFoundError for a folder, or a bucket, that should be there and is not.
    """
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    kind = type(fs)
    inherited = getattr(kind, "_find", AsyncFileSystem._find) is AsyncFileSystem._find
    if kind.find is AbstractFileSystem.find and inherited:
        # It would leave out, in silence, folders that may not be read.
        yield from _walked(fs, folder)
        return
    found = fs.find(folder, detail=True)
    # Of what is no folder, some give the name alone.
    yield from found.values() if isinstance(found, dict) else [fs.info(folder)]


def _walked(fs: Any, folder: str) -> Iterator[Mapping[str, Any]]:
    for entry in fs.ls(folder, detail=True):
        yield entry
        inner = _stripped(fs, entry["name"])
        if entry["type"] == "directory" and inner != folder:
            with suppress(FileNotFoundError):
                yield from _walked(fs, inner)


def _listed(fs: Any, folder: str) -> Iterable[Mapping[str, Any]]:
    """What lies in a folder; nothing if it is not there."""
    try:
        entries: list[Mapping[str, Any]] = fs.ls(folder, detail=True)
    except FileNotFoundError:
        return []
    return entries


def _stripped(fs: Any, name: str) -> str:
    """A name as a file system lists it, as it gives that of the folder itself."""
    stripped: str = fs._strip_protocol(name)
    return stripped


def _modified(fs: Any, entry: Mapping[str, Any]) -> datetime | None:
    """When a file was modified, UTC, to the microsecond; None if its file system does not say.

    Most listings say it. Where they do not, the file system is asked.
    """
    said = next((entry[key] for key in _MODIFIED if entry.get(key) is not None), None)
    if said is None:
        try:
            said = fs.modified(entry["name"])
        except NotImplementedError:
            return None
    if isinstance(said, int | float):
        return _EPOCH + timedelta(microseconds=round(said * 1_000_000))
    if isinstance(said, str):
        try:
            said = datetime.fromisoformat(said)
        except ValueError:
            return None
    # Of a time without a zone nobody knows when it was.
    return said.astimezone(UTC) if isinstance(said, datetime) and said.tzinfo else None


def _package(protocol: str) -> str:
    """The package that has the driver of a protocol, where that is a package of its own."""
    from fsspec.registry import known_implementations

    package: str = known_implementations[protocol]["class"].partition(".")[0]
    return "" if package == "fsspec" else package
