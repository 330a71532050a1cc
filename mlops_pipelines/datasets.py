"""Training sets as versions of a git and DVC repository: immutable daily parts under a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.lake import content_hash
from mlops_pipelines.provenance import code_commit, lock_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import date, datetime
    from pathlib import Path

    import pyarrow as pa

PARTS = "parts"
MANIFEST = "manifest.json"
_ORDER = ("decision_time", "event_id")


@dataclass(frozen=True)
class ManifestFacts:
    """What a training set was made of. window: UTC. matured_through: its last day."""

    tables: Mapping[str, int]
    view_versions: Mapping[str, str]
    window: tuple[datetime, datetime]
    matured_through: date


@dataclass(frozen=True)
class DatasetVersion:
    """One version. version: 12 hex digits of what a model can see. days: YYYY-MM-DD, ascending."""

    version: str
    path: Path
    manifest: Mapping[str, Any]
    rows: int
    days: tuple[str, ...]


class DatasetRegistry:
    """The repository of a home's training sets, made on first use; it is a git repository of its own."""

    def __init__(self, root: Path):
        self.root = root

    def commit(
        self, pipeline: str, parts: Mapping[str, pa.Table], facts: ManifestFacts, created_at: datetime
    ) -> DatasetVersion:
        """The version that holds these parts, one table a day; the same content is the same version.

        Interrupted anywhere, the next call writes what is missing: the tag comes last.
        """
        self._prepare()
        entries = [
            {"day": day, "rows": table.num_rows, "hash": content_hash(table, sort_by=_ORDER)}
            for day, table in sorted(parts.items())
        ]
        seen = {"parts": entries, "views": dict(sorted(facts.view_versions.items()))}
        version = hashlib.sha256(_canonical(seen).encode()).hexdigest()[:12]
        if not self._tagged(pipeline, version):
            manifest = {
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
            self._write(pipeline, parts, entries, manifest)
        return self.version(pipeline, version)

    def version(self, pipeline: str, version: str) -> DatasetVersion:
        """A version by its name. Raises TerminalError if there is none."""
        if not self._tagged(pipeline, version):
            raise TerminalError(
                f"There is no training set {version} of {pipeline}.",
                remedy=f"git -C {self.root} tag --list '{pipeline}/*'",
            )
        manifest = json.loads(self._git("show", f"{_tag(pipeline, version)}:{pipeline}/{MANIFEST}"))
        days = tuple(entry["day"] for entry in manifest["parts"])
        rows = sum(entry["rows"] for entry in manifest["parts"])
        return DatasetVersion(version, self.root / pipeline / PARTS, manifest, rows, days)

    def latest(self, pipeline: str) -> str | None:
        """Name of the version committed last; None if there is none."""
        if not (self.root / ".git").is_dir():
            return None
        tags = self._git("tag", "--list", f"{pipeline}/*", "--sort=-creatordate").split()
        return tags[0].partition("/")[2] if tags else None

    def read(self, pipeline: str, version: str) -> pa.Table:
        """The rows of a version, by day and decision time, each part checked against its hash.

        Raises TerminalError that names the part that does not match.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = self.version(pipeline, version)
        tables = []
        for entry in found.manifest["parts"]:
            path = found.path / f"{entry['day']}.parquet"
            table = pq.read_table(path, partitioning=None) if path.is_file() else None
            if table is None or content_hash(table, sort_by=_ORDER) != entry["hash"]:
                table = self._from_cache(pipeline, version, entry)
            tables.append(table)
        return pa.concat_tables(tables)

    def _from_cache(self, pipeline: str, version: str, entry: Mapping[str, Any]) -> pa.Table:
        """A part that the workspace no longer holds as this version had it."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        from dvc.api import DVCFileSystem

        system = DVCFileSystem(str(self.root), rev=_tag(pipeline, version))
        path = f"{pipeline}/{PARTS}/{entry['day']}.parquet"
        with system.open(path, "rb") as file:
            table = pq.read_table(pa.BufferReader(file.read()))
        if content_hash(table, sort_by=_ORDER) != entry["hash"]:
            raise TerminalError(
                f"The part {entry['day']} of training set {version} of {pipeline} was changed.",
                expected=f"content {entry['hash'][:12]}",
                remedy=f"restore {self.root} from a copy, or retrain",
            )
        return table

    def _write(
        self,
        pipeline: str,
        parts: Mapping[str, pa.Table],
        entries: list[dict[str, Any]],
        manifest: Mapping[str, Any],
    ) -> None:
        import pyarrow.parquet as pq

        folder = self.root / pipeline
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
        known = self._known_parts(pipeline)
        for entry in entries:
            path = folder / PARTS / f"{entry['day']}.parquet"
            if known.get(entry["day"]) == entry["hash"] and path.is_file():
                continue
            temporary = path.with_suffix(".tmp")
            table = parts[entry["day"]].sort_by([(name, "ascending") for name in _ORDER])
            pq.write_table(table.replace_schema_metadata(None), temporary)
            temporary.replace(path)
        for path in (folder / PARTS).iterdir():
            if path.stem not in parts or path.suffix != ".parquet":
                path.unlink()
        with _quiet():
            self._dvc.add(str(folder / PARTS))
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        self._git("add", "--", pipeline)
        if self._git("status", "--porcelain", "--", pipeline):
            self._git("commit", "--quiet", "-m", f"{pipeline} {manifest['version']}", "--", pipeline)
        self._git("tag", "--force", _tag(pipeline, manifest["version"]))

    def _known_parts(self, pipeline: str) -> dict[str, str]:
        """Content hash by day of the parts in the workspace, as the last committed manifest has them."""
        latest = self.latest(pipeline)
        if latest is None:
            return {}
        return {entry["day"]: entry["hash"] for entry in self.version(pipeline, latest).manifest["parts"]}

    def _tagged(self, pipeline: str, version: str) -> bool:
        return bool((self.root / ".git").is_dir() and self._git("tag", "--list", _tag(pipeline, version)))

    def _prepare(self) -> None:
        if (self.root / ".dvc" / "config").is_file() and (self.root / ".git" / "ready").is_file():
            return
        from dvc.repo import Repo

        self.root.mkdir(parents=True, exist_ok=True)
        self._git("init", "--quiet")
        self._git("config", "user.name", "mlops_pipelines")
        self._git("config", "user.email", "mlops_pipelines@localhost")
        with _quiet():
            Repo.init(str(self.root), force=True).close()
        (self.root / ".dvc" / "config").write_text(
            "[core]\n    analytics = false\n    check_update = false\n", encoding="utf-8"
        )
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "-m", "Repository of training sets")
        (self.root / ".git" / "ready").touch()

    @property
    def _dvc(self) -> Any:
        from dvc.repo import Repo

        return Repo(str(self.root))

    def _git(self, *arguments: str) -> str:
        # A hook or a signing key of the user's would change what a version is.
        command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "commit.gpgsign=false", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(  # noqa: S603 - fixed arguments and checked names, no shell
            command, cwd=self.root, env=environment, check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise TerminalError(f"git {arguments[0]} failed in {self.root}: {done.stderr.strip()}")
        return done.stdout.strip()


def datasheet(manifest: Mapping[str, Any]) -> str:
    """What the training set holds, as Markdown."""
    parts = manifest["parts"]
    rows = sum(part["rows"] for part in parts)
    lines = [
        f"Training set `{manifest['version']}` of {manifest['pipeline']}: {rows:,} labelled examples of "
        f"{len(parts)} days, {parts[0]['day']} to {parts[-1]['day']}.",
        "",
        "| | |",
        "|---|---|",
        f"| matured through | {manifest['matured_through']} |",
        f"| as of | {manifest['created_at']} |",
        f"| code | {manifest['commit']['sha'][:12]}{' (changed)' if manifest['commit']['dirty'] else ''} |",
        *(f"| table {name} | version {version} |" for name, version in manifest["tables"].items()),
        *(f"| view {name} | {version} |" for name, version in manifest["views"].items()),
    ]
    return "\n".join(lines)


@contextmanager
def _quiet() -> Iterator[None]:
    """DVC says how to go on by hand; nobody is there to read it."""
    import logging

    logger = logging.getLogger("dvc")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _tag(pipeline: str, version: str) -> str:
    return f"{pipeline}/{version}"


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
