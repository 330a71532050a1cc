"""Training sets as versions of a git and DVC repository: daily parts under a manifest.

    <pipeline>/parts/<day>.parquet    tracked by DVC, one file a day, only what a model can see
    <pipeline>/parts.dvc              DVC's hash of them, in git
    <pipeline>/manifest.json          the parts' hashes and where they come from, in git

A version is a git tag `<pipeline>/<version>`. The tag is set last: what an interrupted commit left behind
belongs to no version, and the next commit starts from what git holds. Bytes of a part are a function of its
content, so the same content has the same DVC hash, whenever and from whatever tables it was made.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import TerminalError, TransientError, UserError
from mlops_pipelines.lake import canonical, content_hash, valid_days
from mlops_pipelines.provenance import code_commit, lock_hash
from mlops_pipelines.settings import environment_without_git

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import date, datetime
    from pathlib import Path

    import pyarrow as pa

PARTS = "parts"
MANIFEST = "manifest.json"
_ORDER = ("decision_time", "event_id")
_PIPELINE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_IDENTITY = "mlops_pipelines"  # author of the commits
_LOCK = ".lock"
_LOCK_TIMEOUT = 120.0  # seconds; a commit of a year of days takes three
# What `dvc init` writes, with DVC's own reporting off.
_DVC_FILES = {
    ".dvc/config": "[core]\n    analytics = false\n    check_update = false\n",
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
    matured_through: last day of which all labels are known or overdue.
    """

    tables: Mapping[str, int]
    view_versions: Mapping[str, str]
    window: tuple[datetime, datetime]
    matured_through: date


@dataclass(frozen=True)
class DatasetVersion:
    """One version.

    version: 12 hex digits of the hash over what a model can see. path: of the parts; the workspace may have
    moved on to another version since. days: YYYY-MM-DD, ascending.
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
    """

    def __init__(self, root: Path):
        self.root = root

    def commit(
        self, pipeline: str, parts: Mapping[str, pa.Table], facts: ManifestFacts, created_at: datetime
    ) -> DatasetVersion:
        """The version that holds these parts, one table a day; the same content is the same version.

        Content is the rows, whatever their order, and the versions of the views. A version that exists is
        returned as it is, with the manifest it was first given. created_at: UTC.
        Raises TerminalError for a part without rows or a name that is no day, TransientError if another
        process holds the repository for two minutes.
        """
        _require_names(pipeline, parts)
        entries = [
            {"day": day, "rows": parts[day].num_rows, "hash": content_hash(parts[day], sort_by=_ORDER)}
            for day in sorted(parts)
        ]
        seen = {"parts": entries, "views": dict(sorted(facts.view_versions.items()))}
        version = hashlib.sha256(_canonical_json(seen).encode()).hexdigest()[:12]
        with self._exclusive():
            self._prepare()
            if not self._tagged(pipeline, version):
                manifest = {
                    "format": 1,
                    "version": version,
                    "pipeline": pipeline,
                    **seen,
                    "tables": dict(facts.tables),
                    "window": [moment.isoformat() for moment in facts.window],
                    "matured_through": facts.matured_through.isoformat(),
                    "created_at": created_at.isoformat(),
                    "commit": asdict(code_commit()),
                    "lock": lock_hash(),
                }
                self._write(pipeline, parts, manifest, created_at)
        return self.version(pipeline, version)

    def version(self, pipeline: str, version: str) -> DatasetVersion:
        """A version by its name. Raises TerminalError if there is none."""
        if not self._tagged(pipeline, version):
            raise TerminalError(
                f"There is no training set {version} of {pipeline}.",
                remedy=f"git -C {self.root} tag --list '{pipeline}/*'",
            )
        manifest = self._manifest(pipeline, _tag(pipeline, version))
        days = tuple(entry["day"] for entry in manifest["parts"])
        rows = sum(entry["rows"] for entry in manifest["parts"])
        return DatasetVersion(version, self.root / pipeline / PARTS, manifest, rows, days)

    def latest(self, pipeline: str) -> str | None:
        """Name of the version committed last; None if there is none."""
        if not self._ready() or not self._git("tag", "--list", _tag(pipeline, "*")):
            return None
        tag = self._git("describe", "--tags", "--abbrev=0", f"--match={_tag(pipeline, '*')}", "HEAD")
        return tag.partition("/")[2]

    def read(self, pipeline: str, version: str) -> pa.Table:
        """The rows of a version, by day, decision time and event, each part checked against its hash.

        Columns are in alphabetical order. A part comes from the workspace if it is still that of this
        version, else from DVC's cache.
        Raises TerminalError that names the part of which neither has the bytes.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = self.version(pipeline, version)
        files = found.manifest["files"]
        paths = {day: found.path / f"{day}.parquet" for day in found.days}
        contents = {day: path.read_bytes() if path.is_file() else b"" for day, path in paths.items()}
        moved = [day for day in found.days if _digest(contents[day]) != files[day]]
        if moved:
            contents |= self._from_cache(pipeline, version, moved)
        for day in moved:
            if _digest(contents[day]) != files[day]:
                raise TerminalError(
                    f"The part {day} of training set {version} of {pipeline} was changed or removed.",
                    expected=f"a file with SHA-256 {files[day]} in the workspace or DVC's cache",
                    remedy=f"restore {self.root} from a copy, or retrain in a new home",
                )
        tables = [pq.ParquetFile(pa.BufferReader(contents[day])).read() for day in found.days]
        return pa.concat_tables(tables, promote_options="default")

    def _write(
        self, pipeline: str, parts: Mapping[str, pa.Table], manifest: dict[str, Any], created_at: datetime
    ) -> None:
        self._forget_interrupted()
        files = self._write_parts(pipeline, parts, manifest["parts"])
        self._add_to_dvc(self.root / pipeline / PARTS)
        text = json.dumps({**manifest, "files": files}, indent=1) + "\n"
        (self.root / pipeline / MANIFEST).write_text(text, encoding="utf-8")
        (self.root / pipeline / ".gitignore").write_text(f"/{PARTS}\n", encoding="utf-8")
        self._git("add", "--force", "--", *(f"{pipeline}/{n}" for n in (".gitignore", "parts.dvc", MANIFEST)))
        # Nothing is staged if the process was killed between this commit and its tag.
        if self._git("diff", "--cached", "--name-only"):
            self._git("commit", "--quiet", "-m", f"{pipeline} {manifest['version']}", at=created_at)
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
        self, pipeline: str, parts: Mapping[str, pa.Table], entries: list[dict[str, Any]]
    ) -> dict[str, str]:
        """Makes the folder of parts hold these and no others; SHA-256 of the file by day.

        A file is kept if the last commit wrote it for the same content and its bytes are still the same.
        """
        folder = self.root / pipeline / PARTS
        folder.mkdir(parents=True, exist_ok=True)
        known = self._known_files(pipeline)
        files: dict[str, str] = {}
        for entry in entries:
            day = entry["day"]
            path = folder / f"{day}.parquet"
            digest = known.get((day, entry["hash"]))
            if digest is None or not path.is_file() or _digest(path.read_bytes()) != digest:
                digest = _write_part(path, parts[day])
            files[day] = digest
        for path in folder.iterdir():
            if path.suffix != ".parquet" or path.stem not in files:
                path.unlink()
        return files

    def _known_files(self, pipeline: str) -> dict[tuple[str, str], str]:
        """SHA-256 of the file by day and content hash, of the parts of the last commit."""
        if not self._git("ls-tree", "--name-only", "HEAD", f"{pipeline}/{MANIFEST}"):
            return {}
        manifest = self._manifest(pipeline, "HEAD")
        return {(e["day"], e["hash"]): manifest["files"][e["day"]] for e in manifest["parts"]}

    def _manifest(self, pipeline: str, revision: str) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(self._git("show", f"{revision}:{pipeline}/{MANIFEST}"))
        return manifest

    def _add_to_dvc(self, folder: Path) -> None:
        with _silent_dvc():
            from dvc.repo import Repo

            with Repo(str(self.root), config=self._dvc_settings) as repo:
                repo.add(str(folder))

    def _from_cache(self, pipeline: str, version: str, days: list[str]) -> dict[str, bytes]:
        """The files of these days as DVC's cache has them for a version, b"" for one that it has not."""
        found: dict[str, bytes] = {}
        with _silent_dvc():
            from dvc.api import DVCFileSystem
            from dvc.repo import Repo

            tag = _tag(pipeline, version)
            with Repo(str(self.root), rev=tag, config=self._dvc_settings) as repo:
                files = DVCFileSystem(repo)
                for day in days:
                    try:
                        found[day] = files.cat_file(f"{pipeline}/{PARTS}/{day}.parquet")
                    except FileNotFoundError:
                        found[day] = b""
        return found

    @property
    def _dvc_settings(self) -> dict[str, dict[str, str | bool]]:
        """What stands above the settings of the user and the machine: all files stay in the home.

        site_cache_dir: DVC's index of file hashes, by default in a folder of the machine. no_scm: git is
        ours to call, and DVC would refuse files that the user's own ignore lists name.
        """
        folder = self.root.absolute() / ".dvc"
        return {
            "core": {"site_cache_dir": str(folder / "tmp" / "site"), "no_scm": True},
            "cache": {"dir": str(folder / "cache")},
        }

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
        if self._ready():
            return
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
            raise TerminalError(f"git {arguments[0]} failed in {self.root}: {done.stderr.strip()}")
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


def datasheet(manifest: Mapping[str, Any]) -> str:
    """What the training set holds and what it was made of, as Markdown."""
    parts = manifest["parts"]
    rows = sum(part["rows"] for part in parts)
    lines = [
        f"Training set `{manifest['version']}` of {manifest['pipeline']}: {rows:,} labelled examples of "
        f"{len(parts)} days, {parts[0]['day']} to {parts[-1]['day']}.",
        "",
        "| | |",
        "|---|---|",
        f"| window | {manifest['window'][0]} to {manifest['window'][1]} |",
        f"| matured through | {manifest['matured_through']} |",
        f"| as of | {manifest['created_at']} |",
        f"| code | {manifest['commit']['sha'][:12]}{' (changed)' if manifest['commit']['dirty'] else ''} |",
        f"| dependencies | {manifest['lock'][:12] if manifest['lock'] else 'not locked'} |",
        *(f"| table {name} | version {version} |" for name, version in manifest["tables"].items()),
        *(f"| view {name} | {version} |" for name, version in manifest["views"].items()),
    ]
    return "\n".join(lines)


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


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _canonical_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
