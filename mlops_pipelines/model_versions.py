"""Registered versions as MLflow keeps them: what they take on the disk, and how they are freed for good."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from mlops_pipelines.errors import TerminalError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mlflow import MlflowClient

_PAGE = 200
_UNUSED = "0"  # MLflow's experiment `Default`
# Where its tables say where files lie, as absolute URLs.
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


@dataclass(frozen=True)
class StoredVersion:
    """A version with its run, the runs below that one, and what MLflow keeps of their models.

    at: when it was registered, the machine's clock, UTC. folders: that are its own.
    """

    version: str
    at: datetime
    tags: Mapping[str, str]
    runs: tuple[str, ...]
    models: tuple[str, ...]
    folders: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        files = (file for folder in self.folders for file in folder.rglob("*"))
        return sum(file.stat().st_size for file in files if file.is_file())


class StoredVersions:
    """The versions of an MLflow store whose files lie on this machine. folder: of the home, `mlflow`."""

    def __init__(self, uri: str, folder: Path) -> None:
        self._uri = uri
        self._folder = folder

    def of(self, pipeline: str) -> list[StoredVersion]:
        """All versions of a pipeline, oldest first; [] without a store."""
        if not self._database.is_file():
            return []
        experiment = self._client.get_experiment_by_name(pipeline)
        if experiment is None:
            return []
        found = _all(self._client.search_model_versions, filter_string=f"name = '{pipeline}'")
        return [
            self._stored(pipeline, experiment.experiment_id, one)
            for one in sorted(found, key=lambda one: int(one.version))
        ]

    def free(self, pipeline: str, versions: Iterable[StoredVersion]) -> None:
        """Delete these versions with their runs, models and files.

        The version first, so that nothing finds it any more; what an interrupted call left behind is
        deleted by the next one, which also purges runs that were put away as abandoned. Raises UserError
        for a store that was copied from elsewhere: its files lie where they were.
        """
        from mlflow.exceptions import MlflowException

        if not self._database.is_file():
            return
        require_own(self._database)
        for one in versions:
            self._client.delete_model_version(pipeline, one.version)
            for model in one.models:
                self._client.delete_logged_model(model)
            for run in one.runs:
                try:
                    self._client.delete_run(run)
                except MlflowException as error:
                    if error.error_code != "INVALID_PARAMETER_VALUE":  # it is deleted already
                        raise
            for folder in (self._folder / "cache" / pipeline).glob(f"{one.version}-*"):
                shutil.rmtree(folder)
        if any(self._put_away()):
            self._purge()

    def _put_away(self) -> Iterator[str]:
        """Runs that are deleted, and not gone."""
        from mlflow.entities import ViewType

        for experiment in self._client.search_experiments():
            for run in self._client.search_runs(
                [experiment.experiment_id], run_view_type=ViewType.DELETED_ONLY
            ):
                yield run.info.run_id

    def _purge(self) -> None:
        """What is deleted is gone for good, with its files. In a process of its own: it sets MLflow's
        process-wide address."""
        command = [sys.executable, "-m", "mlflow", "gc"]
        command += ["--backend-store-uri", self._uri, "--tracking-uri", self._uri]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - no shell
        if done.returncode:
            raise TerminalError(f"MLflow cannot delete what was freed: {done.stderr.strip()[-500:]}")

    def _stored(self, pipeline: str, experiment: str, one: Any) -> StoredVersion:
        run = str(one.run_id)
        below = self._client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run}'")
        runs = (run, *(child.info.run_id for child in below))
        models = [
            model
            for each in runs
            for model in self._client.search_logged_models(
                [experiment], filter_string=f"source_run_id = '{each}'"
            )
        ]
        folders = [_path(self._client.get_run(run).info.artifact_uri).parent]
        folders += [_path(child.info.artifact_uri).parent for child in below]
        folders += [_path(model.artifact_location).parent for model in models]
        folders += [*(self._folder / "cache" / pipeline).glob(f"{one.version}-*")]
        return StoredVersion(
            str(one.version),
            datetime.fromtimestamp(one.creation_timestamp / 1000, UTC),
            dict(one.tags),
            runs,
            tuple(model.model_id for model in models),
            tuple(folder for folder in folders if folder.is_dir()),
        )

    @property
    def _database(self) -> Path:
        return Path(unquote(urlparse(self._uri).path)[1:])

    @cached_property
    def _client(self) -> MlflowClient:
        from mlops_pipelines.registry import Registry

        # Opened as the registry opens it, which makes the schema once, whoever comes first.
        return Registry(self._uri, self._folder / "artifacts")._client


def require_own(database: Path) -> None:
    """Raises UserError for an MLflow store that was copied with its home by hand: its models lie where they
    were, and what is written or freed would be the other home's. A file that is not there is nobody's."""
    if not database.is_file():
        return
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        query = "SELECT name, artifact_location FROM experiments WHERE experiment_id != ?"
        found = connection.execute(query, (_UNUSED,)).fetchall()
    for name, uri in found:
        location = _path(uri)
        if not location.is_relative_to(database.parent):
            raise UserError(
                f"The models of {name} lie in {location}: {database.parent.parent} is a copy of that home, "
                "and would write and free the files of the other.",
                expected="a home that was not copied by hand",
                remedy="mlops backup of that home, and mlops restore, which make a home of its own",
            )


def relocate(database: Path, folder: Path) -> None:
    """Let an MLflow store that was copied with its files name them where they are.

    database: of the copy. folder: where its artifacts are, or will be; absolute. Wherever they were before:
    that a home was copied by hand once does not matter.
    """
    connection = sqlite3.connect(database)
    with closing(connection), connection:
        query = "SELECT artifact_location FROM experiments WHERE experiment_id != ?"
        for (location,) in connection.execute(query, (_UNUSED,)).fetchall():
            places = {"old": location, "new": f"{folder.as_uri()}/{location.rpartition('/')[2]}"}
            for table, column in _LOCATIONS:
                connection.execute(
                    f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "  # noqa: S608
                    f"WHERE {column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/'",
                    places,
                )


def _path(uri: str) -> Path:
    return Path(unquote(urlparse(uri).path))


def _all(search: Any, **asked: Any) -> list[Any]:
    """Every page of a search."""
    found: list[Any] = []
    token = None
    while True:
        page = search(max_results=_PAGE, page_token=token, **asked)
        found += page
        token = page.token
        if not token:
            return found
