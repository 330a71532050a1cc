"""The home: one folder that holds everything made at run time, and each pipeline's place in it."""

from __future__ import annotations

import fcntl
import os
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_pipelines.clock import Clock, FixedClock, WallClock
from mlops_pipelines.errors import UserError
from mlops_pipelines.ingest.remote import RemotePath
from mlops_pipelines.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_pipelines.datasets import DatasetRegistry
    from mlops_pipelines.features.sets import FeatureSet
    from mlops_pipelines.features.store import FeatureStore
    from mlops_pipelines.ingest.contract import Contract
    from mlops_pipelines.lake import Lake
    from mlops_pipelines.ledger import Ledger
    from mlops_pipelines.registry import Registry
    from mlops_pipelines.signing import Keys
    from mlops_pipelines.spec import PipelineSpec
    from mlops_pipelines.spec_loading import LoadedSpec

LEDGER = "ledger.db"
# Where the ledger is on a server: what that knows the home by.
LEDGER_ID = "ledger.id"
# The instance settings live beside the code; the home links to them, so that both always agree.
PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Home:
    """A home on this machine.

    path: absolute folder.
    """

    path: Path

    @staticmethod
    def is_at(path: Path) -> bool:
        """Whether there is a home."""
        return (path / LEDGER).is_file() or (path / LEDGER_ID).is_file()

    @classmethod
    def open(cls, path: Path) -> Home:
        """The home at `path`. Raises UserError if there is none."""
        path = path.expanduser().absolute()
        if not cls.is_at(path):
            raise UserError(
                f"There is no home at {path}.",
                expected="a folder that a replay, or `mlops dev --new`, has made",
                remedy=f"mlops replay flight_delays --until 2013-03-31 --home {path}",
            )
        return cls(path)

    @classmethod
    def create(cls, path: Path) -> Home:
        """The home at `path`, made if it is missing. Raises UserError if it cannot be written."""
        path = path.expanduser().absolute()
        try:
            for folder in ("dagster", "mlflow"):
                (path / folder).mkdir(parents=True, exist_ok=True)
            cls(path).link_settings()
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied", str(path))
        except OSError as error:
            raise UserError(
                f"The home {path} cannot be written: {error.strerror}.",
                expected="a folder this user may write",
                remedy="choose another with --home DIR, or mend the permissions",
            ) from error
        home = cls(path)
        if settings().ledger_url and not cls.is_at(path):
            (path / LEDGER_ID).write_text(uuid.uuid4().hex, encoding="ascii")
        home.ledger.prepare()
        return home

    def link_settings(self) -> None:
        """Link Dagster's settings to those of the project, unless the home has some."""
        link = self.dagster / "dagster.yaml"
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(PROJECT / "dagster.yaml")

    @property
    def dagster(self) -> Path:
        return self.path / "dagster"

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.path / 'mlflow' / 'mlflow.db'}"

    @cached_property
    def ledger(self) -> Ledger:
        from sqlalchemy import URL

        from mlops_pipelines.ledger import Ledger

        server, known_by = settings().ledger_url, self.path / LEDGER_ID
        if not known_by.is_file():
            if server and self.is_at(self.path):
                raise UserError(
                    f"The ledger of {self.path} is its own file {LEDGER}; MLOPS_LEDGER_URL names another.",
                    expected="a home that was begun with this setting",
                    remedy="unset MLOPS_LEDGER_URL, or begin a new home with --home DIR",
                )
            return Ledger(URL.create("sqlite", database=str(self.path / LEDGER)), keys=self.keys)
        if server is None:
            raise UserError(
                f"The ledger of {self.path} is on a server, and nothing says on which.",
                expected="MLOPS_LEDGER_URL, as it was when the home was begun",
                remedy="export MLOPS_LEDGER_URL=postgresql+psycopg://USER@HOST/NAME",
            )
        return Ledger(server.get_secret_value(), keys=self.keys, home_id=known_by.read_text(encoding="ascii"))

    @property
    def clock(self) -> Clock:
        """The watermark on a replayed home, the wall clock elsewhere."""
        watermark = self.ledger.watermark()
        return WallClock() if watermark is None else FixedClock(watermark)

    @cached_property
    def registry(self) -> Registry:
        from mlops_pipelines.registry import Registry

        return Registry(
            self.mlflow_uri,
            self.path / "mlflow" / "artifacts",
            freed=lambda pipeline, version: self.ledger.freed(pipeline, "model", version),
        )

    @cached_property
    def datasets(self) -> DatasetRegistry:
        from mlops_pipelines.datasets import DatasetRegistry

        return DatasetRegistry(
            self.path / "datasets",
            self.keys,
            settings().datasets_remote,
            freed=lambda pipeline, version: self.ledger.freed(pipeline, "dataset", version),
        )

    @property
    def keys(self) -> Keys:
        """What the home signs with, and whose signatures it takes."""
        from mlops_pipelines.signing import Keys

        return Keys(self.path / "keys", settings().signing_key)

    @cached_property
    def _pipelines(self) -> dict[str, PipelineHome]:
        return {}

    def pipeline(self, loaded: LoadedSpec) -> PipelineHome:
        """This pipeline's place, the same object for the same definition: its stores stay open."""
        known = self._pipelines.get(loaded.spec.name)
        if known is None or known.loaded is not loaded:
            known = self._pipelines[loaded.spec.name] = PipelineHome(self, loaded)
        return known

    def lock(self, holder: str) -> int:
        """Hold the home alone until the descriptor that is returned is closed, or its last process ends.

        holder: what to call it when another is refused, such as `mlops dev`. The lock is the operating
        system's: it is gone with the process, however that ends, and goes with the descriptor to a program
        that takes the process's place. Raises UserError if the home is held, cannot be written, or was copied
        from another one by hand.
        """
        from mlops_pipelines.model_versions import require_own

        require_own(self.path / "mlflow" / "mlflow.db")
        return self._lock(
            "lock", holder, "one `mlops replay`, `mlops dev` or `mlops gc --apply` at a time on a home"
        )

    @contextmanager
    def keeping(self, holder: str, *, alone: bool = False) -> Iterator[None]:
        """Let nothing be freed by another process meanwhile; runs go on.

        alone: for who frees something: nobody else counts on it. Raises UserError as `lock` does.
        """
        with _closing(
            self._lock(
                "keeping.lock",
                holder,
                "no `mlops gc --apply` beside another one, `mlops backup` or `mlops train` on a home",
                fcntl.LOCK_EX if alone else fcntl.LOCK_SH,
            )
        ):
            yield

    def _lock(self, name: str, holder: str, expected: str, how: int = fcntl.LOCK_EX) -> int:
        path = self.path / name
        try:
            # Not truncated: it says who holds it.
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"The home's lock {path} cannot be written: {error.strerror}.",
                expected="a file this user may write",
                remedy="move away what stands in its place, or mend the permissions",
            ) from error
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            other = os.pread(lock, 100, 0).decode() or "another process"
            os.close(lock)
            raise UserError(
                f"The home {self.path} is held by {other}.",
                expected=expected,
                remedy="end it, or wait for it, or work on another --home DIR",
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"`{holder}` (process {os.getpid()})".encode(), 0)
        return lock

    @contextmanager
    def exclusive(self, holder: str) -> Iterator[None]:
        """Hold the home alone, as `lock` does."""
        with _closing(self.lock(holder)):
            yield


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


@cache
def open_home(path: Path) -> Home:
    """The home at `path`, opened once a process: its stores are costly to open."""
    return Home.open(path)


@dataclass(frozen=True)
class PipelineHome:
    """One pipeline's place in a home: its tables, its landing zone, its view of the shared stores."""

    home: Home
    loaded: LoadedSpec

    @property
    def name(self) -> str:
        return self.loaded.spec.name

    @property
    def spec(self) -> PipelineSpec:
        return self.loaded.spec

    @property
    def contract(self) -> Contract:
        return self.loaded.contract

    @property
    def path(self) -> Path:
        return self.home.path / "pipelines" / self.name

    @property
    def ledger(self) -> Ledger:
        return self.home.ledger

    @property
    def clock(self) -> Clock:
        return self.home.clock

    @cached_property
    def lake(self) -> Lake:
        from mlops_pipelines.lake import Lake

        return Lake(self.path / "lake")

    @cached_property
    def features(self) -> FeatureSet:
        """The features as the YAML declares them."""
        from mlops_pipelines.features.sets import features_of

        return features_of(self.loaded)

    @cached_property
    def store(self) -> FeatureStore:
        from mlops_pipelines.features.store import FeatureStore

        online = settings().online_store
        return FeatureStore(
            self.home.path / "feast",
            self.name,
            online.get_secret_value() if online else None,
            lake=self.path / "lake",
        )

    @property
    def landing_root(self) -> Path:
        """Where the source of a replay lands: below it each stream has a folder of its name."""
        return self.path / "landing"

    def landing(self, stream: str) -> Path | RemotePath:
        """Landing folder of a stream: `events`, `labels` or a reference's name."""
        folder = self.spec.stream(stream).landing
        return RemotePath(folder) if "://" in folder else self.path / folder

    @property
    def streams(self) -> tuple[str, ...]:
        return ("events", "labels", *self.spec.references)

    def partition_of(self, day: str) -> str:
        """The pipeline's partition nearest to a day (YYYY-MM-DD)."""
        span = self.spec.partitions
        last = (span.end - timedelta(days=1)).isoformat() if span.end else day
        return min(max(day, span.start.isoformat()), last)

    def prepare(self) -> None:
        """Make the landing folders. Raises UserError if one cannot be made, or reached for want of a driver.

        Those that are URLs are their owner's to make.
        """
        for stream in self.streams:
            folder = self.landing(stream)
            if isinstance(folder, RemotePath):
                folder.check_driver()
                continue
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"The landing folder {folder} cannot be made: {error.strerror}.",
                    expected="a folder that this user may write",
                    remedy="move away what stands in its place, or choose another with --home DIR",
                ) from error
