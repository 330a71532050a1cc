"""Training sets as versions of a git and DVC repository: daily parts under a signed manifest.

    <pipeline>/parts/<day>.parquet    tracked by DVC, one file a day, only what a model can see
    <pipeline>/parts.dvc              DVC's hash of them, in git
    <pipeline>/manifest.json          the parts' hashes and where they come from, signed, in git
    <pipeline>/datasheet.md           what the manifest says, for people, in git

A version is a git tag `<pipeline>/<version>`. The tag is set last, once the remote has the parts: what an
interrupted commit left behind belongs to no version, and the next commit starts from what git holds. Bytes
of a part are a function of its content, so the same content has the same DVC hash, whenever and from
whatever tables it was made. A part is on the disk once: in the workspace stand links into DVC's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
import uuid
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mlops_pipelines.datasheet import datasheet
from mlops_pipelines.errors import MlopsError, TerminalError, TransientError, UserError
from mlops_pipelines.lake import canonical, content_hash, valid_days
from mlops_pipelines.provenance import code_commit, lock_hash
from mlops_pipelines.settings import environment_without_git
from mlops_pipelines.signing import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import date, datetime
    from pathlib import Path

    import pyarrow as pa

    from mlops_pipelines.ledger import Freed

PARTS = "parts"
MANIFEST = "manifest.json"
DATASHEET = "datasheet.md"
FORMAT = 2
_ORDER = ("decision_time", "event_id")
_PIPELINE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_IDENTITY = "mlops_pipelines"  # author of the commits
_LOCK = ".lock"
_LOCK_TIMEOUT = 120.0  # seconds; a commit of a year of days takes three
# The workspace holds links into DVC's cache where the disk has them: a part takes its room once.
_LINKS = "hardlink,copy"
_REMOTE = "home"  # DVC's name of the remote
_REMOTE_SCHEMES = ("s3", "gs")
# What `dvc init` writes, with DVC's own reporting off.
_DVC_FILES = {
    ".dvc/config": f"[core]\n    analytics = false\n    check_update = false\n[cache]\n    type = {_LINKS}\n",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    ".dvcignore": "",
    ".gitignore": f"/{_LOCK}\n",
}
# A process that was killed inside git leaves locks that nobody holds.
_GIT_LOCKS = ("*.lock", "refs/**/*.lock")


@dataclass(frozen=True)
class ManifestFacts:
    """What a training set was made of.

    tables: lake version by table. view_versions: hash by feature view. window: UTC, the end excluded.
    matured_through: last day of which all labels are known or overdue. contracts: by table the versions of
    the rules that its rows passed. about: further figures for the datasheet, JSON.
    """

    tables: Mapping[str, int]
    view_versions: Mapping[str, str]
    window: tuple[datetime, datetime]
    matured_through: date
    contracts: Mapping[str, Iterable[str]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetVersion:
    """One version.

    version: 12 hex digits of the hash over what a model can see. path: of the parts; the workspace may have
    moved on to another version since. manifest: its signature was verified. days: YYYY-MM-DD, ascending.
    """

    version: str
    path: Path
    manifest: Mapping[str, Any]
    rows: int
    days: tuple[str, ...]


class DatasetRegistry:
    """The repository of a home's training sets, made on first use.

    It is a git repository of its own, also inside another one, and touches no other: neither the user's git
    settings nor an outer work tree count. Methods raise UserError where there is no git.

    keys: what manifests are signed with, by default those of the folder `keys` beside the root. remote:
    where the parts go as well: a folder, or a URL that DVC has a driver for (s3://, gs://). freed: what is
    known of a version that was freed.
    """

    def __init__(
        self,
        root: Path,
        keys: Keys | None = None,
        remote: str | None = None,
        freed: Callable[[str, str], Freed | None] = lambda pipeline, version: None,
    ):
        self.root = root
        self._freed = freed
        self.keys = keys or Keys(root.parent / "keys")
        self._remote = _checked_remote(remote)

    def commit(
        self, pipeline: str, parts: Mapping[str, pa.Table], facts: ManifestFacts, created_at: datetime
    ) -> DatasetVersion:
        """The version that holds these parts, one table a day; the same content is the same version.

        Content is the rows, whatever their order, and the versions of the views. A version that exists is
        returned as it is, with the manifest it was first given. created_at: UTC.
        Processes write parts side by side, and commit one after the other.
        Raises TerminalError for a part without rows, a name that is no day and a disk that refuses to be
        written, TransientError if another process holds the repository for two minutes or the remote is
        away, UserError for a signing key that is missing or none.
        """
        _require_names(pipeline, parts)
        seen = {
            "parts": [
                {"day": day, "rows": parts[day].num_rows, "hash": content_hash(parts[day], sort_by=_ORDER)}
                for day in sorted(parts)
            ],
            "views": dict(sorted(facts.view_versions.items())),
        }
        version = _version_of(seen)
        if not self._tagged(pipeline, version):
            manifest = {
                "format": FORMAT,
                "version": version,
                "pipeline": pipeline,
                **seen,
                "tables": dict(facts.tables),
                "contracts": {table: sorted(versions) for table, versions in facts.contracts.items()},
                "window": [moment.isoformat() for moment in facts.window],
                "matured_through": facts.matured_through.isoformat(),
                "created_at": created_at.isoformat(),
                "commit": asdict(code_commit()),
                "lock": lock_hash(),
                "about": dict(facts.about),
            }
            with (
                self._refusals_said(pipeline, version),
                self._staged(pipeline, parts, manifest) as staged,
                self._exclusive(),
            ):
                self._prepare()
                if not self._tagged(pipeline, version):
                    self._write(pipeline, parts, staged, manifest, created_at)
        return self.version(pipeline, version)

    def version(self, pipeline: str, version: str) -> DatasetVersion:
        """A version by its name. Raises TerminalError if there is none, or its manifest was changed."""
        if not self._tagged(pipeline, version):
            if freed := self._freed(pipeline, version):
                raise freed.error(pipeline)
            raise TerminalError(
                f"There is no training set {version} of {pipeline}.",
                remedy=f"mlops datasets list {pipeline}",
            )
        manifest = self._manifest(pipeline, _tag(pipeline, version))
        self._verify(pipeline, version, manifest)
        days = tuple(entry["day"] for entry in manifest["parts"])
        rows = sum(entry["rows"] for entry in manifest["parts"])
        return DatasetVersion(version, self.root / pipeline / PARTS, manifest, rows, days)

    def latest(self, pipeline: str) -> str | None:
        """Name of the version committed last; None if there is none."""
        if not self._ready() or not self._git("tag", "--list", _tag(pipeline, "*")):
            return None
        tag = self._git("describe", "--tags", "--abbrev=0", f"--match={_tag(pipeline, '*')}", "HEAD")
        return tag.partition("/")[2]

    def tags(self) -> list[str]:
        """All versions, as `PIPELINE/VERSION`."""
        return self._git("tag", "--list").splitlines() if self._ready() else []

    def versions(self, pipeline: str) -> list[str]:
        """Names of all versions, in the order in which they were committed."""
        if not self._ready():
            return []
        tags = self._git("tag", "--list", _tag(pipeline, "*")).splitlines()
        order = self._git("log", "--format=%D", "--reverse", "--decorate-refs=refs/tags/*", "HEAD")
        committed = re.findall(r"tag: ([^,\n]+)", order)
        return [tag.partition("/")[2] for tag in committed if tag in tags]

    def read(self, pipeline: str, version: str) -> pa.Table:
        """The rows of a version, by day, decision time and event, each part checked against its hash.

        Columns are in alphabetical order. A part comes from the workspace if it is still that of this
        version, else from DVC's cache, else from the remote.
        Raises TerminalError that names the part of which none has the bytes, or for a manifest that was
        changed since it was signed; TransientError if the remote is away.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = self.version(pipeline, version)
        files = {entry["day"]: entry["file"] for entry in found.manifest["parts"]}
        paths = {day: found.path / f"{day}.parquet" for day in found.days}
        contents = {day: path.read_bytes() if path.is_file() else b"" for day, path in paths.items()}
        moved = [day for day in found.days if _digest(contents[day]) != files[day]]
        if moved:
            contents |= self._from_dvc(pipeline, version, {day: files[day] for day in moved})
        for day in moved:
            if _digest(contents[day]) != files[day]:
                raise TerminalError(
                    f"The part {day} of training set {version} of {pipeline} was changed or removed.",
                    expected=f"a file with SHA-256 {files[day]} in the workspace, DVC's cache or the remote",
                    remedy="mlops restore, from a backup that has it; or retrain",
                )
        # In this thread alone: one of Arrow's that lets go of Python's bytes while Python ends aborts it.
        tables = [
            pq.ParquetFile(pa.BufferReader(contents[day])).read(use_threads=False) for day in found.days
        ]
        return pa.concat_tables(tables, promote_options="default")

    def altered(self, pipeline: str, version: str) -> str | None:
        """What of a version's parts has other bytes than were signed, for people; None if nothing has.

        Looked at are DVC's cache, or the remote for what it lacks, and the workspace if it is at this
        version: `read` makes do with whichever is whole. Raises as `version` does.
        """
        found = self.version(pipeline, version)
        files = {entry["day"]: entry["file"] for entry in found.manifest["parts"]}
        told = _parsed(self._beside(pipeline))
        if told is not None and told.get("version") == version:
            for day, digest in files.items():
                path = found.path / f"{day}.parquet"
                if path.is_file() and (now := _digest(path.read_bytes())) != digest:
                    return f"the part {day} in the workspace has SHA-256 {now[:12]}, signed was {digest[:12]}"
        name = self._folder(pipeline, _tag(pipeline, version))
        listed = self._cached(name)
        if not listed.is_file() and self._remote is None:
            return "the list of its parts in DVC's cache is gone"
        if listed.is_file() and f"{_md5(listed.read_bytes())}.dir" != name:
            return "the list of its parts in DVC's cache was changed"
        for day, content in self._from_dvc(pipeline, version, files).items():
            if (now := _digest(content)) != files[day]:
                what = f"has SHA-256 {now[:12]}, not {files[day][:12]}" if content else "is gone"
                return f"the part {day} in DVC's cache {what}"
        return None

    def push(self, pipeline: str) -> int:
        """Brings all versions of a pipeline to the remote; how many there are.

        For those that were committed before there was a remote, or another one. Raises UserError without a
        remote, and as `commit` does.
        """
        if self._remote is None:
            raise UserError(
                "There is no remote to push training sets to.",
                expected="a folder or URL in the setting MLOPS_DATASETS_REMOTE",
                remedy="MLOPS_DATASETS_REMOTE=s3://bucket/path mlops datasets push PIPELINE",
            )
        versions = self.versions(pipeline)
        with self._exclusive():
            self._prepare()
            for version in versions:
                self._push(pipeline, _tag(pipeline, version))
        return len(versions)

    def free(self, pipeline: str, versions: Iterable[str]) -> None:
        """Forget these versions, and the parts that no other version of any pipeline has.

        First the names, then the bytes: interrupted, the same call does the rest. Manifests stay in git's
        history; what the remote has stays there, since other homes may share it. Raises as `commit` does.
        """
        if not self._ready():
            return
        with self._exclusive():
            self._prepare()
            self._forget_interrupted()
            for version in versions:
                if self._tagged(pipeline, version):
                    self._git("tag", "--delete", _tag(pipeline, version))
            self._dvc_gc()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """No version is committed or freed until this ends. Raises TransientError as `commit` does."""
        if not self.root.is_dir():
            yield
            return
        with self._exclusive():
            yield

    def _dvc_gc(self) -> None:
        """Removes from DVC's cache what neither the workspace nor a tag uses."""
        with _silent_dvc():
            from dvc.repo import Repo

            # With git, whose tags say what is used. Nothing is added, so no ignore list is asked.
            settings = self._dvc_settings
            settings["core"]["no_scm"] = False
            with Repo(str(self.root), config=settings) as repo:
                repo.gc(workspace=True, all_tags=True, force=True)

    def _verify(self, pipeline: str, version: str, manifest: Mapping[str, Any]) -> None:
        """Whether the manifest is the one that was signed, and that of this version."""
        what = f"the manifest of training set {version} of {pipeline}"
        if manifest.get("format") != FORMAT:
            raise TerminalError(
                f"{what.capitalize()} is of format {manifest.get('format')!r}.",
                expected=f"format {FORMAT}",
                remedy="run the version of mlops_pipelines that wrote it, or retrain in a new home",
            )
        self.keys.verify(what, _signed(manifest), manifest.get("signature"))
        named = (manifest["pipeline"], manifest["version"])
        if named != (pipeline, version):
            raise TerminalError(f"{what[:1].upper()}{what[1:]} is that of {' '.join(named)}.")
        self._verify_workspace(pipeline, version, manifest)

    def _verify_workspace(self, pipeline: str, version: str, manifest: Mapping[str, Any]) -> None:
        """git holds the truth; but whoever changed the file in the workspace should not believe it counts."""
        text = self._beside(pipeline)
        told = _parsed(text) or {}
        if not text or told == manifest or self._manifest(pipeline, "HEAD")["version"] != version:
            return
        try:
            # What a commit that was interrupted has left is whole, and signed.
            self.keys.verify("it", _signed(told), told.get("signature"))
        except TerminalError as error:
            raise TerminalError(
                f"{self.root / pipeline / MANIFEST} is another than the one that was committed as "
                f"{_tag(pipeline, version)}.",
                expected="the file as git has it",
                remedy=f"git -C {self.root} checkout -- {pipeline}/{MANIFEST}",
            ) from error

    def _beside(self, pipeline: str) -> str:
        """The manifest in the workspace, whatever it holds; "" if there is none."""
        path = self.root / pipeline / MANIFEST
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    @contextmanager
    def _refusals_said(self, pipeline: str, version: str) -> Iterator[None]:
        """What the disk refuses is said; DVC keeps an index in SQLite."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise TerminalError(
                f"The training set {version} of {pipeline} cannot be written: "
                f"{getattr(error, 'strerror', None) or error}.",
                expected=f"a disk with room for it at {self.root}, which this user may write",
                remedy="make room, or mend the permissions, and run the same again: nothing is left of it",
            ) from error

    @contextmanager
    def _staged(
        self, pipeline: str, parts: Mapping[str, pa.Table], manifest: Mapping[str, Any]
    ) -> Iterator[Path]:
        """A folder with the parts that are new, written before the repository is held."""
        folder = self.root / ".dvc" / "tmp" / "parts" / str(uuid.uuid4())
        folder.mkdir(parents=True)
        try:
            known = self._known_files(pipeline) if self._ready() else {}
            for entry in manifest["parts"]:
                if (entry["day"], entry["hash"]) not in known:
                    _write_part(folder / f"{entry['day']}.parquet", parts[entry["day"]])
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write(
        self,
        pipeline: str,
        parts: Mapping[str, pa.Table],
        staged: Path,
        manifest: Mapping[str, Any],
        created_at: datetime,
    ) -> None:
        self._forget_interrupted()
        entries = self._write_parts(pipeline, parts, staged, manifest["parts"])
        self._add_to_dvc(self.root / pipeline / PARTS)
        unsigned = {**manifest, "parts": entries}
        whole = {**unsigned, "signature": asdict(self.keys.sign(_signed(unsigned)))}
        files = {
            MANIFEST: json.dumps(whole, indent=1) + "\n",
            DATASHEET: datasheet(whole),
            ".gitignore": f"/{PARTS}\n",
        }
        for name, text in files.items():
            # Whole or not at all: half a manifest would look like one that somebody changed.
            (staged / "text").write_text(text, encoding="utf-8")
            (staged / "text").replace(self.root / pipeline / name)
        self._git("add", "--force", "--", *(f"{pipeline}/{name}" for name in (*files, "parts.dvc")))
        # Nothing is staged if the process was killed between this commit and its tag.
        if self._git("diff", "--cached", "--name-only"):
            self._git("commit", "--quiet", "-m", f"{pipeline} {manifest['version']}", at=created_at)
        if self._remote:
            self._push(pipeline, "HEAD")
        self._git("tag", "--force", _tag(pipeline, manifest["version"]))

    def _forget_interrupted(self) -> None:
        """Brings the files that git tracks back to the last commit, so that half-written ones are gone.

        DVC reads the `parts.dvc` of every pipeline, and fails on one that was cut short.
        """
        self._git("reset", "--hard", "--quiet")
        tracked = self._git("ls-files", "--", "*/parts.dvc").splitlines()
        for path in self.root.glob("*/parts.dvc"):
            if f"{path.parent.name}/parts.dvc" not in tracked:
                path.unlink()
        (self.root / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)

    def _write_parts(
        self, pipeline: str, parts: Mapping[str, pa.Table], staged: Path, entries: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Makes the folder of parts hold these and no others; the entries with the file's SHA-256 and bytes.

        A file is kept if the last commit wrote it for the same content and its bytes are still the same.
        staged: has the others, but for those that were kept when they were staged and are not any more.
        """
        folder = self.root / pipeline / PARTS
        folder.mkdir(parents=True, exist_ok=True)
        known = self._known_files(pipeline)
        written: list[dict[str, Any]] = []
        for entry in entries:
            name = f"{entry['day']}.parquet"
            path, fresh = folder / name, staged / name
            content = path.read_bytes() if path.is_file() else b""
            digest = _digest(content)
            if digest != known.get((entry["day"], entry["hash"])):
                if not fresh.is_file():
                    _write_part(fresh, parts[entry["day"]])
                content = fresh.read_bytes()
                digest = _digest(content)
                # DVC takes it that what its cache has by this name was never changed.
                cached = self._cached(_md5(content))
                if cached.is_file() and cached.read_bytes() != content:
                    cached.unlink()
                fresh.replace(path)
            written.append({**entry, "file": digest, "bytes": len(content)})
        names = {f"{entry['day']}.parquet" for entry in entries}
        for path in folder.iterdir():
            if path.name not in names:
                path.unlink()
        return written

    def _known_files(self, pipeline: str) -> dict[tuple[str, str], str]:
        """SHA-256 of the file by day and content hash, of the parts of the last commit."""
        if not self._git("ls-tree", "--name-only", "HEAD", f"{pipeline}/{MANIFEST}"):
            return {}
        manifest = self._manifest(pipeline, "HEAD")
        return {(entry["day"], entry["hash"]): entry.get("file") for entry in manifest["parts"]}

    def _manifest(self, pipeline: str, revision: str) -> dict[str, Any]:
        manifest = _parsed(self._git("show", f"{revision}:{pipeline}/{MANIFEST}"))
        if manifest is None:
            raise TerminalError(f"The manifest of {pipeline} at {revision} in {self.root} is no JSON.")
        return manifest

    def _folder(self, pipeline: str, revision: str) -> str:
        """How DVC names the folder of parts of a revision: the MD5 of the list of its files, and `.dir`."""
        import yaml

        of_dvc = yaml.safe_load(self._git("show", f"{revision}:{pipeline}/{PARTS}.dvc"))
        return str(of_dvc["outs"][0]["md5"])

    def _add_to_dvc(self, folder: Path) -> None:
        with _silent_dvc():
            from dvc.repo import Repo

            with Repo(str(self.root), config=self._dvc_settings) as repo:
                repo.add(str(folder))

    def _push(self, pipeline: str, revision: str) -> None:
        """Brings the parts of a revision to the remote; what is there already is not sent again."""
        with _silent_dvc(), self._reached():
            from dvc.repo import Repo

            with Repo(str(self.root), rev=revision, config=self._dvc_settings) as repo:
                repo.push([f"{pipeline}/{PARTS}.dvc"], remote=_REMOTE)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Errors of the remote as ours: away, or a driver that is missing."""
        from dvc_data.index.index import DataIndexDirError

        try:
            yield
        except DataIndexDirError as error:
            raise TerminalError(
                f"DVC cannot read the list of a training set's parts: {error.__cause__ or error}",
                expected=f"the list as it was written, in {self.root / '.dvc' / 'cache'} or the remote",
                remedy="mlops restore, from a backup that has it",
            ) from error
        except ImportError as error:
            if self._remote is None:
                raise
            scheme = urlsplit(self._remote or "").scheme
            raise UserError(
                f"DVC has no driver for the remote {self._remote}.",
                expected=f"the package dvc-{scheme} beside dvc",
                remedy=f"uv pip install dvc-{scheme}",
            ) from error
        except MlopsError:
            raise
        # A bucket's driver has errors of its own, which have no class in common with those of another.
        except Exception as error:
            fault_of_ours = type(error).__module__ == "builtins" and not isinstance(error, OSError)
            here = isinstance(error, sqlite3.Error | NotADirectoryError | PermissionError)
            if here and (self._remote is None or isinstance(error, sqlite3.Error)):
                raise UserError(
                    f"DVC's index of {self.root} cannot be opened or written: {error}.",
                    expected="a home that this user may write: DVC keeps an index beside what it reads",
                    remedy="mend the permissions, or copy the home with mlops backup and mlops restore",
                ) from error
            if self._remote is None or fault_of_ours:
                raise
            raise TransientError(
                f"The remote {self._remote} of the training sets cannot be reached: {error}",
                expected="a folder or bucket that this user may read and write",
                remedy="run the same again once it is back: nothing is lost",
            ) from error

    def _from_dvc(self, pipeline: str, version: str, wanted: Mapping[str, str]) -> dict[str, bytes]:
        """The files of some days as DVC has them for a version, in its cache or at the remote.

        wanted: SHA-256 by day. Of a day b"", or other bytes, where neither has the right ones.
        """
        found: dict[str, bytes] = {}
        with _silent_dvc(), self._reached(), self._to_read() as settings:
            from dvc.api import DVCFileSystem
            from dvc.repo import Repo

            tag = _tag(pipeline, version)
            with Repo(str(self.root), rev=tag, config=settings) as repo:
                files = DVCFileSystem(repo)
                for day, digest in wanted.items():
                    path = f"{pipeline}/{PARTS}/{day}.parquet"
                    found[day] = _content(files, path)
                    if self._remote and _digest(found[day]) != digest:
                        # The remote is asked for what the cache does not have.
                        self._cached(files.info(path)["dvc_info"]["md5"]).unlink(missing_ok=True)
                        found[day] = _content(files, path)
        return found

    def _cached(self, md5: str) -> Path:
        """Where DVC's cache has the file of this hash (https://dvc.org/doc/user-guide/project-structure)."""
        return self.root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]

    @property
    def _dvc_settings(self) -> dict[str, dict[str, Any]]:
        """What stands above the settings of the user and the machine: all files stay in the home.

        site_cache_dir: DVC's index of file hashes, by default in a folder of the machine. no_scm: git is
        ours to call, and DVC would refuse files that the user's own ignore lists name.
        """
        folder = self.root.absolute() / ".dvc"
        settings: dict[str, dict[str, Any]] = {
            "core": {"site_cache_dir": str(folder / "tmp" / "site"), "no_scm": True},
            "cache": {"dir": str(folder / "cache"), "type": _LINKS},
        }
        if self._remote:
            settings["core"]["remote"] = _REMOTE
            settings["remote"] = {_REMOTE: {"url": self._remote}}
        return settings

    @contextmanager
    def _to_read(self) -> Iterator[dict[str, dict[str, Any]]]:
        """DVC's settings; where the home cannot be written, with an index that is gone afterwards."""
        settings = self._dvc_settings
        if os.access(self.root / ".dvc", os.W_OK):
            yield settings
            return
        with tempfile.TemporaryDirectory(prefix="mlops-dvc-") as folder:
            settings["core"]["site_cache_dir"] = folder
            yield settings

    def _tagged(self, pipeline: str, version: str) -> bool:
        return self._ready() and bool(self._git("tag", "--list", _tag(pipeline, version)))

    def _ready(self) -> bool:
        """Whether the repository has its first commit."""
        return (self.root / ".git").is_dir() and self._run_git(
            "rev-parse", "--verify", "HEAD"
        ).returncode == 0

    def _prepare(self) -> None:
        """Makes the repository, or what an interrupted making of it left out."""
        for pattern in _GIT_LOCKS:
            for lock in (self.root / ".git").glob(pattern):
                lock.unlink()
        if not self._ready():
            self._make()
        if self._remote:
            # For whoever uses DVC here by hand. Not committed: another machine reaches it another way.
            local = f"[core]\n    remote = {_REMOTE}\n['remote \"{_REMOTE}\"']\n    url = {self._remote}\n"
            (self.root / ".dvc" / "config.local").write_text(local, encoding="utf-8")

    def _make(self) -> None:
        self._git("init", "--quiet", "--initial-branch=main")
        for name, text in _DVC_FILES.items():
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).write_text(text, encoding="utf-8")
        # For whoever uses git here by hand; our own commits name it themselves.
        self._git("config", "user.name", _IDENTITY)
        self._git("config", "user.email", f"{_IDENTITY}@localhost")
        self._git("add", "--force", "--", *_DVC_FILES)
        self._git("commit", "--quiet", "-m", "Repository of training sets")

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the repository alone: git and DVC refuse each other instead of waiting.

        The lock is the operating system's: it is gone with the process, however that ends.
        """
        from filelock import FileLock, Timeout

        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.root / _LOCK, timeout=_LOCK_TIMEOUT):
                yield
        except Timeout as error:
            raise TransientError(
                f"Another process has been committing to {self.root} for {_LOCK_TIMEOUT:.0f} seconds.",
                remedy="run the same again once it has ended",
            ) from error

    def _git(self, *arguments: str, at: datetime | None = None) -> str:
        done = self._run_git(*arguments, at=at)
        if done.returncode:
            said = done.stderr.strip() or f"exit code {done.returncode}"
            raise TerminalError(f"git {arguments[0]} failed in {self.root}: {said}")
        return done.stdout.strip()

    def _run_git(self, *arguments: str, at: datetime | None = None) -> subprocess.CompletedProcess[str]:
        # The repository is named, not searched for: a half-made one must not lead to the one around it.
        command = [
            "git",
            f"--git-dir={self.root.absolute() / '.git'}",
            f"--work-tree={self.root.absolute()}",
            *("-c", "gc.auto=0"),
            *arguments,
        ]
        # The user's hooks, ignore lists and signing keys would change what a commit holds.
        environment = environment_without_git()
        environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
        for role in ("AUTHOR", "COMMITTER"):
            environment[f"GIT_{role}_NAME"] = _IDENTITY
            environment[f"GIT_{role}_EMAIL"] = f"{_IDENTITY}@localhost"
            if at is not None:
                environment[f"GIT_{role}_DATE"] = at.isoformat()
        try:
            return subprocess.run(  # noqa: S603 - fixed arguments and checked names, no shell
                command, cwd=self.root, env=environment, check=False, capture_output=True, text=True
            )
        except FileNotFoundError as error:
            raise UserError(
                "Training sets are kept in git, and there is no git on this machine.",
                remedy="install git, then run the same again",
            ) from error


def _checked_remote(remote: str | None) -> str | None:
    """A folder as an absolute path, or a URL without a password in it."""
    if not remote:
        return None
    if "://" not in remote:
        folder = os.path.expanduser(remote)
        if not os.path.isabs(folder):
            # From where would it count? Runs and commands are not started in one folder.
            raise UserError(
                f"The remote of the training sets (MLOPS_DATASETS_REMOTE) is {remote}.",
                expected="an absolute folder, or a URL such as s3://bucket/path",
                remedy=f"MLOPS_DATASETS_REMOTE={os.path.abspath(folder)}",
            )
        return folder
    parts = urlsplit(remote)
    if parts.scheme not in _REMOTE_SCHEMES or not parts.netloc:
        raise UserError(
            f"The remote of the training sets (MLOPS_DATASETS_REMOTE) is a URL of {parts.scheme}://.",
            expected="a folder, s3://bucket/path or gs://bucket/path",
        )
    if parts.username or parts.password or any(letter.isspace() for letter in remote):
        raise UserError(
            "The remote of the training sets (MLOPS_DATASETS_REMOTE) has a user, password or space in it.",
            expected="a folder or a URL such as s3://bucket/path",
            remedy="give the secret as the driver's own settings do, such as AWS_PROFILE",
        )
    return remote


def _version_of(seen: Mapping[str, Any]) -> str:
    """Name of a version by what a model can see: days, rows and content hash of the parts, and the views."""
    return hashlib.sha256(_canonical_json(seen).encode()).hexdigest()[:12]


def _signed(manifest: Mapping[str, Any]) -> bytes:
    """What a manifest's signature is of: all of it but the signature, whatever the spaces."""
    return _canonical_json({name: value for name, value in manifest.items() if name != "signature"}).encode()


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        manifest = json.loads(text)
    except ValueError:
        return None
    return manifest if isinstance(manifest, dict) else None


def _content(files: Any, path: str) -> bytes:
    """A file of a DVC file system; b"" if it is not there."""
    try:
        content: bytes = files.cat_file(path)
    except FileNotFoundError:
        return b""
    return content


def _require_names(pipeline: str, parts: Mapping[str, pa.Table]) -> None:
    """They become names of files and tags."""
    if not _PIPELINE.fullmatch(pipeline):
        raise TerminalError(f"{pipeline!r} is no name of a pipeline.")
    valid_days(list(parts))
    empty = [day for day, table in parts.items() if table.num_rows == 0]
    if empty or not parts:
        raise TerminalError(f"A training set of {pipeline} without rows{f' on {empty[0]}' if empty else ''}.")


def _write_part(path: Path, table: pa.Table) -> str:
    """Writes the rows in an order that only their content decides; SHA-256 of the file."""
    import pyarrow.parquet as pq

    rows = canonical(table, sort_by=_ORDER)
    temporary = path.with_suffix(".tmp")
    pq.write_table(rows.select(sorted(rows.column_names)), temporary, compression="zstd")
    temporary.replace(path)
    return _digest(path.read_bytes())


@contextmanager
def _silent_dvc() -> Iterator[None]:
    """DVC draws progress and says how to go on by hand; nobody is there to read it."""
    import logging
    import warnings

    from dvc.ui import ui  # the first import of dvc sets the level and handlers, so it comes before ours

    logger = logging.getLogger("dvc")
    level, quiet = logger.level, ui.error_console.quiet
    logger.setLevel(logging.CRITICAL)
    ui.error_console.quiet = True
    try:
        with warnings.catch_warnings():
            # dvc 3.67 uses what pygtrie 2.6 deprecates, whatever it is asked to do.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"dvc")
            yield
    finally:
        logger.setLevel(level)
        ui.error_console.quiet = quiet


def _tag(pipeline: str, version: str) -> str:
    return f"{pipeline}/{version}"


def _md5(content: bytes) -> str:
    """What DVC names a file by."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _canonical_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
