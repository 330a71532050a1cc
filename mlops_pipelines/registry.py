"""The MLflow registry of trained models: candidates, their evaluations, and the aliases of what serves.

Everything is stored as text and JSON. A version's files also lie in a local cache, checked by their hash, so
that scoring does not have to import MLflow.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlparse

from mlops_pipelines import document
from mlops_pipelines.errors import TerminalError, TransientError
from mlops_pipelines.training import LIGHTGBM_FILE, TEXT_FILE, Incumbent, TrainedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

    from mlops_pipelines.evaluation_report import EvaluationReport
    from mlops_pipelines.ledger import Freed
    from mlops_pipelines.training import Candidate
    from mlops_pipelines.tuning import Trial

_Found = TypeVar("_Found")

# Read when MLflow is imported: by default it reports usage, draws progress bars and configures logging.
for _switch, _setting in (
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
    ("MLFLOW_CONFIGURE_LOGGING", "false"),
):
    os.environ.setdefault(_switch, _setting)

# Distributions a stored model needs to be loaded and to score.
REQUIREMENTS = ("mlflow", "lightgbm", "numpy", "pandas", "scipy")
ABANDONED = "abandoned"
_SAFE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}$")
# Below the folder of an MLflow model: MLflow's own files lie at its top.
_BUNDLE = "mlops"
_REPORT = "evaluation/report.json"
PAGE = "report.html"  # of an evaluation, for a browser
_CARD = "model_card.md"
_CARD_PAGE = "model_card.html"
# Tag of a version: SHA-256 by file of its bundle, as JSON.
FILES_TAG = "files_sha256"
_DESCRIPTION_LIMIT = 5_000  # of MLflow's database
_PASSING_FAULTS = ("TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED")


@dataclass(frozen=True)
class Registered:
    """A candidate in the registry. version: MLflow's number of it, as text."""

    version: str
    run_id: str
    experiment_id: str
    model_hash: str

    @property
    def link(self) -> str:
        """Where MLflow's pages show the run, below the server's address."""
        return f"/#/experiments/{self.experiment_id}/runs/{self.run_id}"


@dataclass(frozen=True)
class LoadedModel:
    """A registered version, ready to score. files: further texts by name, such as the drift reference."""

    pipeline: str
    version: str
    refit: TrainedModel
    twin: TrainedModel
    files: Mapping[str, str]

    @property
    def model_hash(self) -> str:
        """Hash of the refit, which is what serves."""
        return self.refit.hash

    @property
    def facts(self) -> dict[str, Any]:
        """Where it comes from, as it was recorded when it was trained."""
        found: dict[str, Any] = json.loads(self.files["facts.json"])
        return found

    @property
    def incumbent(self) -> Incumbent:
        """What a candidate is compared with."""
        return Incumbent(self.refit, self.twin, self.version)


class Registry:
    """Models in one MLflow store.

    tracking_uri: of runs and registry alike; a `sqlite:///` file is made on first use. artifact_root: folder
    of the files. freed: what is known of a version that was freed. Every method raises TransientError when
    the store is busy, TerminalError when it refuses.
    """

    def __init__(
        self,
        tracking_uri: str,
        artifact_root: Path,
        freed: Callable[[str, str], Freed | None] = lambda pipeline, version: None,
    ):
        self._uri = tracking_uri
        self._freed = freed
        self._artifacts = artifact_root
        self._cache = artifact_root.parent / "cache"
        self._loaded: dict[tuple[str, str, str], LoadedModel] = {}
        # By run: a report that is kept never changes.
        self._evaluations: dict[str, EvaluationReport] = {}

    def log_candidate(
        self,
        pipeline: str,
        retrain_id: str,
        candidate: Candidate,
        dataset_version: str,
        facts: Mapping[str, object],
        *,
        files: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        trials: Sequence[Trial] = (),
    ) -> Registered:
        """The candidate's registered version: made by the first call, found by every further one.

        facts: JSON-able provenance, kept with the model. files: further texts by file name. tags: of the
        version. trials: of the search for its parameters, each a run below the candidate's. A run that an
        earlier, interrupted call left behind is marked as failed and put away.
        """
        model_hash = candidate.refit.hash
        _check_name("pipeline", pipeline)
        _check_name("retrain", retrain_id)
        with _faults():
            found = self._find(pipeline, retrain_id, model_hash)
            if found is None:
                experiment_id = self._experiment(pipeline)
                self._abandon_runs(experiment_id, retrain_id)
                bundle = _bundle(candidate, {**(files or {}), "facts.json": _json(facts)})
                identity = {
                    "retrain_id": retrain_id,
                    "model_hash": model_hash,
                    "twin_hash": candidate.twin.hash,
                    "dataset_version": dataset_version,
                }
                run, model = self._log_run(
                    pipeline, experiment_id, candidate, identity, bundle, trials=trials
                )
                digests = {FILES_TAG: _digests({candidate.refit.file: candidate.refit.text, **bundle})}
                self._register(pipeline, run, model, {**identity, **digests, **(tags or {})})
                found = self._find(pipeline, retrain_id, model_hash)
            if found is None:
                raise TransientError(f"The version of {retrain_id} was registered and is not there.")
            return self._registered(found)

    def find(self, pipeline: str, retrain_id: str) -> Registered | None:
        """The latest version that a retrain, or an experiment, registered; None if it has none."""
        _check_name("pipeline", pipeline)
        _check_name("retrain", retrain_id)
        with _faults():
            versions = self._client.search_model_versions(
                f"name = '{pipeline}' and tag.retrain_id = '{retrain_id}'"
            )
            latest = max(versions, key=lambda v: int(v.version), default=None)
            return self._registered(latest) if latest else None

    def versions(self, pipeline: str) -> list[str]:
        """All versions, in the order in which they were registered."""
        _check_name("pipeline", pipeline)
        with _faults():
            found = self._client.search_model_versions(f"name = '{pipeline}'")
            return sorted((str(one.version) for one in found), key=int)

    def registered(self, pipeline: str, version: str) -> Registered:
        """What the registry says of a version. Raises TerminalError if there is no such version."""
        with _faults():
            return self._registered(self._client.get_model_version(pipeline, version))

    def load(self, pipeline: str, version: str, *, model_hash: str | None = None) -> LoadedModel:
        """A registered version, from memory, the local cache or MLflow, in this order.

        model_hash: what the ledger says it is; without it MLflow is asked. Raises TerminalError if there is
        no such version, it was freed, its files were changed, or it hashes to something else.
        """
        with self._freed_said(pipeline, version):
            return self._load(pipeline, version, model_hash or self._hash_of(pipeline, version))

    def _load(self, pipeline: str, version: str, model_hash: str) -> LoadedModel:
        key = (pipeline, version, model_hash)
        if key not in self._loaded:
            folder = self._cached(*key)
            known = _read_cached(pipeline, version, folder) or self._fetch(pipeline, version, folder)
            if known.model_hash != model_hash:
                shutil.rmtree(folder)
                raise TerminalError(
                    f"Version {version} of {pipeline} hashes to {known.model_hash[:12]}.",
                    expected=f"{model_hash[:12]}, as it was promoted",
                )
            self._loaded[key] = known
        return self._loaded[key]

    @contextmanager
    def _freed_said(self, pipeline: str, version: str) -> Iterator[None]:
        """Of a version that is not there because it was freed, that is said."""
        try:
            yield
        except TerminalError as error:
            if freed := self._freed(pipeline, version):
                raise freed.error(pipeline) from error
            raise

    def check_stored(self, pipeline: str, version: str) -> str | None:
        """What of a version's files is not as it was registered, for people; None if all are.

        Those that MLflow has, and those in the cache, if they are there. Raises TerminalError if there is no
        such version.
        """
        with _faults():
            tags = self._client.get_model_version(pipeline, version).tags
        if FILES_TAG not in tags:
            return f"nothing says what the files of version {version} were"
        recorded = json.loads(tags[FILES_TAG])
        with tempfile.TemporaryDirectory() as folder:
            try:
                stored = _stored_digests(self._download(pipeline, version, Path(folder)))
            except (TerminalError, OSError) as error:
                return f"the files of version {version} cannot be fetched: {error}"
        if wrong := _difference(recorded, stored):
            return wrong
        cached = self._cached(pipeline, version, tags["model_hash"])
        wrong = _difference(recorded, _stored_digests(cached)) if cached.is_dir() else None
        return wrong and f"in {cached}: {wrong}"

    def log_evaluation(
        self, run_id: str, report: EvaluationReport, pictures: Mapping[str, bytes], page: str = ""
    ) -> None:
        """Keep the report with the run: JSON, Markdown, page, pictures (PNG by name) and metrics."""
        from mlops_pipelines.evaluation_page import as_markdown

        with _faults(), tempfile.TemporaryDirectory() as folder:
            for name, png in pictures.items():
                Path(folder, f"{name}.png").write_bytes(png)
            Path(folder, "report.md").write_text(as_markdown(report), encoding="utf-8")
            if page:
                Path(folder, PAGE).write_text(page, encoding="utf-8")
            self._client.log_artifacts(run_id, folder, "evaluation")
            self._log_metrics(run_id, report)
            # Last: where the report is, all of the evaluation is.
            self._client.log_text(run_id, report.to_json(), _REPORT)
        self._evaluations[run_id] = report

    def evaluation(self, run_id: str) -> EvaluationReport | None:
        """The report that was kept with the run, or None: what was measured once is not measured again."""
        from mlops_pipelines.evaluation_report import EvaluationReport

        if run_id in self._evaluations:
            return self._evaluations[run_id]
        with _faults():
            kept = {entry.path for entry in self._client.list_artifacts(run_id, "evaluation")}
            if _REPORT not in kept:
                return None
            with tempfile.TemporaryDirectory() as folder:
                path = self._client.download_artifacts(run_id, _REPORT, folder)
                report = EvaluationReport.from_json(Path(path).read_text(encoding="utf-8"))
        self._evaluations[run_id] = report
        return report

    def log_page(self, pipeline: str, version: str, page: Path, folder: str) -> str:
        """Keep an HTML page with the run of a version, under `folder`; where MLflow's pages show it."""
        with _faults():
            model = self._client.get_model_version(pipeline, version)
            self._client.log_artifact(str(model.run_id), str(page), folder)
            return f"{self._registered(model).link}/artifacts/{folder}/{page.name}"

    def log_card(self, pipeline: str, version: str, card: str) -> None:
        """Keep the model card with the run; as many of its sections as fit describe the version."""
        with _faults():
            run_id = str(self._client.get_model_version(pipeline, version).run_id)
            self._client.log_text(run_id, card, _CARD)
            self._client.log_text(run_id, document.page(f"{pipeline}, version {version}", card), _CARD_PAGE)
            sections = card[:_DESCRIPTION_LIMIT]
            described = card if sections == card else sections[: sections.rindex("\n## ")]
            self._client.update_model_version(pipeline, version, description=described)

    def card(self, pipeline: str, version: str) -> str | None:
        """The model card that was kept with the run of a version; None if none was, as of an experiment."""
        with _faults():
            run_id = self._client.get_model_version(pipeline, version).run_id
            if not run_id or _CARD not in {entry.path for entry in self._client.list_artifacts(run_id)}:
                return None
            with tempfile.TemporaryDirectory() as folder:
                path = self._client.download_artifacts(run_id, _CARD, folder)
                return Path(path).read_text(encoding="utf-8")

    def set_alias(self, pipeline: str, alias: str, version: str) -> None:
        """Let the alias name this version, and no other."""
        with _faults():
            self._client.set_registered_model_alias(pipeline, alias, version)

    def remove_alias(self, pipeline: str, alias: str) -> None:
        """Let the alias name no version."""
        if self.alias(pipeline, alias) is not None:
            with _faults():
                self._client.delete_registered_model_alias(pipeline, alias)

    def alias(self, pipeline: str, alias: str) -> str | None:
        """The version the alias names, or None."""
        found = _if_there(lambda: self._client.get_model_version_by_alias(pipeline, alias))
        return None if found is None else str(found.version)

    def tag(self, pipeline: str, version: str | None, tags: Mapping[str, str]) -> None:
        """Set tags of the version, or of the registered model."""
        with _faults():
            for name, value in tags.items():
                if version is None:
                    self._client.set_registered_model_tag(pipeline, name, value)
                else:
                    self._client.set_model_version_tag(pipeline, version, name, value)

    def tags_of(self, pipeline: str, version: str | None) -> dict[str, str] | None:
        """Tags of a version, or of the registered model; None if the registry does not have it."""
        _check_name("pipeline", pipeline)
        found = _if_there(
            lambda: (
                self._client.get_registered_model(pipeline)
                if version is None
                else self._client.get_model_version(pipeline, version)
            )
        )
        return None if found is None else dict(found.tags)

    def hash_of(self, pipeline: str, version: str) -> str | None:
        """Hash of the model that a version was registered with; None if the registry does not have it."""
        return (self.tags_of(pipeline, version) or {}).get("model_hash")

    def has(self, pipeline: str, version: str) -> bool:
        """Whether the registry has this version."""
        return self.tags_of(pipeline, version) is not None

    def tags(self, pipeline: str) -> dict[str, dict[str, str]]:
        """Tags by version, of all versions."""
        _check_name("pipeline", pipeline)
        with _faults():
            found = self._client.search_model_versions(f"name = '{pipeline}'")
            return {str(one.version): dict(one.tags) for one in found}

    def _registered(self, version: ModelVersion) -> Registered:
        run_id = str(version.run_id)
        experiment_id = self._client.get_run(run_id).info.experiment_id
        return Registered(str(version.version), run_id, experiment_id, version.tags["model_hash"])

    @cached_property
    def _client(self) -> MlflowClient:
        parsed = urlparse(self._uri)
        if parsed.scheme != "sqlite":
            return _connect(self._uri)
        from filelock import FileLock

        database = Path(unquote(parsed.path)[1:])
        if database.is_file() and not os.access(database.parent, os.W_OK):
            return _connect(self._uri)
        database.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that make the schema at once break each other's migration.
        with FileLock(database.with_suffix(".lock")):
            return _connect(self._uri)

    def _experiment(self, pipeline: str) -> str:
        from mlflow.exceptions import MlflowException

        folder = (self._artifacts / pipeline).absolute()
        if self._client.get_experiment_by_name(pipeline) is None:
            try:
                self._client.create_experiment(pipeline, artifact_location=folder.as_uri())
            except MlflowException as error:
                # Another process was faster.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        known = self._client.get_experiment_by_name(pipeline)
        if known is None:
            raise TransientError(f"The experiment {pipeline} was created and is not there.")
        return str(known.experiment_id)

    def _find(self, pipeline: str, retrain_id: str, model_hash: str) -> ModelVersion | None:
        """The earliest version of this retrain and content."""
        versions = self._client.search_model_versions(
            f"name = '{pipeline}' and tag.retrain_id = '{retrain_id}' and tag.model_hash = '{model_hash}'"
        )
        return min(versions, key=lambda v: int(v.version), default=None)

    def _abandon_runs(self, experiment_id: str, retrain_id: str) -> None:
        """Put away what a killed call left of this retrain: runs without a version, and their models."""
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        for run in self._client.search_runs([experiment_id], f"tags.retrain_id = '{retrain_id}'"):
            of = run.data.tags.get(MLFLOW_PARENT_RUN_ID, run.info.run_id)  # a trial stands and falls with it
            if self._client.search_model_versions(f"run_id = '{of}'"):
                continue
            self._client.set_tag(run.info.run_id, ABANDONED, "interrupted before its version was registered")
            self._client.set_terminated(run.info.run_id, "FAILED")
            for model in self._client.search_logged_models(
                [experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'"
            ):
                self._client.delete_logged_model(model.model_id)
            self._client.delete_run(run.info.run_id)

    def _log_run(
        self,
        pipeline: str,
        experiment_id: str,
        candidate: Candidate,
        identity: Mapping[str, str],
        bundle: Mapping[str, str],
        *,
        trials: Sequence[Trial],
    ) -> tuple[Run, LoggedModel]:
        """A finished run, and what MLflow keeps of its model: the model's files lie there."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Param

        client, model = self._client, candidate.refit
        run = client.create_run(experiment_id, tags=dict(identity), run_name=identity["retrain_id"])
        run_id = run.info.run_id
        params = {name: str(value) for name, value in model.params.items()}
        client.log_batch(run_id, params=[Param(name, value) for name, value in params.items()])
        self._log_dataset(run_id, pipeline, candidate, identity["dataset_version"])
        self._log_trials(run, trials)
        logged = client.create_logged_model(
            experiment_id, name=pipeline, source_run_id=run_id, tags=dict(identity), params=params
        )
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model")
            _save_model(model, path, run_id, logged.model_id, logged.artifact_location)
            _write_files(path, bundle)
            client.log_model_artifacts(logged.model_id, str(path))
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        client.set_terminated(run_id, "FINISHED")
        return run, logged

    def _log_trials(self, run: Run, trials: Sequence[Trial]) -> None:
        """A run below this one for each trial, with the times at which it was really made."""
        from mlflow.entities import Metric, Param
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        client, retrain_id = self._client, run.data.tags["retrain_id"]
        for trial in trials:
            start = int(trial.started.timestamp() * 1000)
            made = client.create_run(
                run.info.experiment_id,
                start_time=start,
                tags={
                    MLFLOW_PARENT_RUN_ID: run.info.run_id,
                    "retrain_id": retrain_id,
                    "pruned": str(trial.pruned).lower(),
                },
                run_name=f"trial-{trial.number}",
            )
            client.log_batch(
                made.info.run_id,
                params=[Param(name, str(value)) for name, value in trial.params.items()],
                metrics=[Metric(trial.metric, loss, start, fold) for fold, loss in enumerate(trial.losses)],
            )
            client.set_terminated(made.info.run_id, "FINISHED", start + int(trial.seconds * 1000))

    def _log_dataset(self, run_id: str, pipeline: str, candidate: Candidate, dataset_version: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        refit = candidate.refit
        profile = {"rows": refit.rows, "first_day": refit.first_day, "last_day": refit.last_day}
        dataset = Dataset(
            name=pipeline,
            digest=dataset_version[:36],
            source_type="dvc",
            source=_json({"tag": f"{pipeline}/{dataset_version}"}),
            profile=_json(profile),
        )
        used_for = InputTag("mlflow.data.context", "training")
        self._client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags=[used_for])])

    def _register(self, pipeline: str, run: Run, model: LoggedModel, tags: Mapping[str, str]) -> None:
        """The last step: a version is either complete or not there."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(pipeline)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # By its address: for `models:/ID` MLflow 3.17 asks the process-wide store, not this client's.
        self._client.create_model_version(
            pipeline, model.artifact_location, run.info.run_id, tags=dict(tags), model_id=model.model_id
        )

    def _log_metrics(self, run_id: str, report: EvaluationReport) -> None:
        from mlflow.entities import Metric

        run = self._client.get_run(run_id)
        figures = {name: figure.value for name, figure in report.metrics.items() if figure is not None}
        figures["latency_p99_ms"] = report.latency.p99_ms
        if report.prevalence is not None:
            figures["prevalence"] = report.prevalence
        # The run's own time, so that logging the same report again adds no second point.
        at = run.info.start_time
        metrics = [Metric(f"holdout_{name}", value, at, 0) for name, value in figures.items()]
        self._client.log_batch(run_id, metrics=metrics)

    def _hash_of(self, pipeline: str, version: str) -> str:
        with _faults():
            tags = self._client.get_model_version(pipeline, version).tags
        if "model_hash" not in tags:
            raise TerminalError(f"Version {version} of {pipeline} was not registered by this project.")
        return str(tags["model_hash"])

    def _fetch(self, pipeline: str, version: str, target: Path) -> LoadedModel:
        """The version's files from MLflow, laid into the cache in one move."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
            fetched = self._download(pipeline, version, Path(folder))
            model = _read_model(pipeline, version, fetched)
            try:
                fetched.rename(target)
            except OSError:
                # Another process fetched the same version meanwhile.
                if not target.is_dir():
                    raise
        return model

    def _download(self, pipeline: str, version: str, folder: Path) -> Path:
        """The version's files, fetched from MLflow into `folder`: where they lie there."""
        with _faults():
            source = self._client.get_model_version_download_uri(pipeline, version)
            return Path(
                _mlflow().artifacts.download_artifacts(
                    artifact_uri=source, dst_path=str(folder), tracking_uri=self._uri
                )
            )

    def _cached(self, pipeline: str, version: str, model_hash: str) -> Path:
        """Where the version's files are kept: named by their content, so that they never change."""
        for what, name in (("pipeline", pipeline), ("version", version), ("model", model_hash)):
            _check_name(what, name)
        return self._cache / pipeline / f"{version}-{model_hash[:16]}"


def _bundle(candidate: Candidate, files: Mapping[str, str]) -> dict[str, str]:
    """What is stored beside the refit's text, by path below the model's folder."""
    for name in files:
        _check_name("file", name)
    encoding = {
        name: text for name, text in candidate.refit.to_files().items() if name != candidate.refit.file
    }
    return {
        **{f"{_BUNDLE}/refit/{name}": text for name, text in encoding.items()},
        **{f"{_BUNDLE}/twin/{name}": text for name, text in candidate.twin.to_files().items()},
        **{f"{_BUNDLE}/files/{name}": text for name, text in files.items()},
    }


def _write_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


def _digests(files: Mapping[str, str]) -> str:
    """SHA-256 by file, as JSON."""
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(files.items())}
    return json.dumps(digests)


def _stored_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of the bundle that lies in a version's folder, by its path there."""
    paths = [folder / LIGHTGBM_FILE, folder / TEXT_FILE, *(folder / _BUNDLE).rglob("*")]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
        if path.is_file()
    }


def _difference(recorded: Mapping[str, str], stored: Mapping[str, str]) -> str | None:
    """What differs between the digests of files, for people."""
    found = {
        "changed": [name for name in recorded if name in stored and stored[name] != recorded[name]],
        "missing": [name for name in recorded if name not in stored],
        "added": [name for name in stored if name not in recorded],
    }
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in found.items() if names) or None


def _read_model(pipeline: str, version: str, folder: Path) -> LoadedModel:
    bundle = folder / _BUNDLE
    stored = [name for name in (LIGHTGBM_FILE, TEXT_FILE) if (folder / name).is_file()]
    if not bundle.is_dir() or not stored:
        raise TerminalError(
            f"Version {version} of {pipeline} lacks the files this project stores with a model.",
            expected=f"{LIGHTGBM_FILE} or {TEXT_FILE}, and {_BUNDLE}/",
        )
    texts = {name: (folder / name).read_bytes().decode() for name in stored}
    refit = {**_read_files(bundle / "refit"), **texts}
    return LoadedModel(
        pipeline=pipeline,
        version=version,
        refit=TrainedModel.from_files(refit),
        twin=TrainedModel.from_files(_read_files(bundle / "twin")),
        files=_read_files(bundle / "files"),
    )


def _read_cached(pipeline: str, version: str, folder: Path) -> LoadedModel | None:
    """The version from the cache; None if it is not there or was damaged, which fetching it again mends."""
    if not folder.is_dir():
        return None
    try:
        return _read_model(pipeline, version, folder)
    except (TerminalError, OSError, ValueError):
        shutil.rmtree(folder)
        return None


def _read_files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_bytes().decode() for path in sorted(folder.iterdir())}


def _save_model(model: TrainedModel, path: Path, run_id: str, model_id: str, location: str) -> None:
    """MLflow's own layout of a LightGBM booster; of another trainer's model the text, and what it is fed."""
    from mlflow.models import Model

    described = Model(
        artifact_path=location,
        run_id=run_id,
        model_uuid=model_id,
        model_id=model_id,
        metadata={"model_hash": model.hash, "encoding": f"{_BUNDLE}/refit/encoding.json"},
        signature=_signature(model),
    )
    if model.trainer is not None:
        path.mkdir()
        described.save(str(path / "MLmodel"))
        _write_files(path, {model.file: model.text})
        return
    with warnings.catch_warnings():
        # MLflow 3.17 warns about type hints of its own when the module below is imported.
        warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType", UserWarning)
        import mlflow.lightgbm
        import mlflow.pyfunc.model

    mlflow.lightgbm.save_model(
        model.booster,
        str(path),
        mlflow_model=described,
        # Given, because finding them out starts a Python process of its own (8 s).
        pip_requirements=[f"{name}=={installed_version(name)}" for name in REQUIREMENTS],
    )
    stored = (path / LIGHTGBM_FILE).read_bytes().decode()
    if stored != model.text:
        raise TerminalError("LightGBM wrote the booster's text another way than it was read.")


def _signature(model: TrainedModel) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = Schema([ColSpec("double", feature.name, required=False) for feature in model.features])
    outputs = Schema([ColSpec("double", name) for name in model.outcome.classes or (None,)])
    return ModelSignature(inputs=inputs, outputs=outputs)


def _check_name(what: str, name: str) -> None:
    # Names end in filters of MLflow's search and in paths.
    if not _SAFE.match(name):
        raise TerminalError(f"{name!r} cannot name a {what}.", expected=f"text that matches {_SAFE.pattern}")


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, sort_keys=True, indent=1, default=str)


def _connect(uri: str) -> MlflowClient:
    """A client whose stores are open, their schemas made."""
    from sqlalchemy.exc import SADeprecationWarning

    with warnings.catch_warnings():
        # MLflow 3.17 still uses a loader strategy that SQLAlchemy 2.1 warns about; it concerns MLflow alone.
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy", SADeprecationWarning)
        client: MlflowClient = _mlflow().MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        client.search_registered_models(max_results=1)
    return client


@contextmanager
def _faults() -> Iterator[None]:
    """MLflow's errors as ours: worth another try, or not."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        kind = TransientError if error.error_code in _PASSING_FAULTS else TerminalError
        raise kind(f"MLflow says: {error.message}") from error


def _if_there(ask: Callable[[], _Found]) -> _Found | None:
    """What MLflow answers; None of what it does not have."""
    from mlflow.exceptions import MlflowException

    with _faults():
        try:
            return ask()
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise


def _mlflow() -> Any:
    import mlflow

    return mlflow
