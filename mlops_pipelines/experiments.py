"""Training sets and models side by side, outside of any retrain."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from mlops_pipelines import lightgbm_params, retraining
from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.home import PipelineHome
from mlops_pipelines.spec import Training
from mlops_pipelines.spec_checks import check_training
from mlops_pipelines.spec_wording import alternatives, in_plain_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlops_pipelines.evaluation_report import EvaluationReport
    from mlops_pipelines.gates import Verdict
    from mlops_pipelines.training import TrainedModel

# Fields of `training` that an experiment does not change: the set is made, and the rest has its own form.
_NOT_SET = ("window", "params", "tune")


@dataclass(frozen=True)
class Verified:
    """Whether a training set is what was signed. problem: what is not, for people; None if it is."""

    version: str
    problem: str | None


def dataset_version(place: PipelineHome, given: str | None) -> str:
    """The version that a text begins, by default the newest.

    Raises UserError for none, or several; TerminalError for one that was freed.
    """
    versions = place.home.datasets.versions(place.name)
    found = versions[-1:] if given is None else [one for one in versions if given and one.startswith(given)]
    if len(found) == 1:
        return found[0]
    if not versions:
        raise UserError(
            f"{place.name} has no training set yet.",
            expected="one that a retrain has made",
            remedy=f"mlops status {place.name}",
        )
    if given and not found and (gone := place.ledger.all_freed(place.name, "dataset", given)):
        raise gone[0].error(place.name)
    raise UserError(
        f"{len(found) or 'No'} training sets of {place.name} begin with {given!r}.",
        expected=f"one of {', '.join(versions[-5:])}{' or an earlier one' if versions[5:] else ''}",
        remedy=f"mlops datasets list {place.name}",
    )


def dataset_rows(place: PipelineHome) -> list[dict[str, Any]]:
    """Each version with what it holds: rows, days, bytes that it added, and the retrains that it served."""
    served: dict[str | None, list[str]] = {}
    for retrain in reversed(place.ledger.retrains(place.name)):
        served.setdefault(retrain.dataset_version, []).append(retrain.id)
    known: set[str] = set()
    rows = []
    for version in place.home.datasets.versions(place.name):
        manifest = place.home.datasets.version(place.name, version).manifest
        parts = manifest["parts"]
        rows.append(
            {
                "version": version,
                "rows": sum(part["rows"] for part in parts),
                "days": len(parts),
                "first_day": parts[0]["day"],
                "last_day": parts[-1]["day"],
                "bytes": sum(part["bytes"] for part in parts),
                "new_bytes": sum(part["bytes"] for part in parts if part["file"] not in known),
                "created_at": manifest["created_at"],
                "signed_by": manifest["signature"]["key"],
                "retrains": served.get(version, []),
            }
        )
        known |= {part["file"] for part in parts}
    return rows


def verified(place: PipelineHome, versions: Sequence[str] | None = None) -> list[Verified]:
    """Whether signature and bytes of these versions, by default all, are what was signed."""
    found = []
    for version in place.home.datasets.versions(place.name) if versions is None else versions:
        try:
            found.append(Verified(version, place.home.datasets.altered(place.name, version)))
        except TerminalError as error:
            found.append(Verified(version, error.message))
    return found


def refit_from(place: PipelineHome, dataset_version: str, recorded: TrainedModel) -> TrainedModel:
    """A model trained again from a version of the training set, as `recorded` was trained.

    recorded: the refit or the twin of a registered version, whose parameters, seed, threads, features and
    days count, whatever the YAML says today. On the platform that made it the hash is the same.
    Raises TerminalError for a set that is not there, or not what was signed.
    """
    from mlops_pipelines.training import train_again

    return train_again(place.home.datasets.read(place.name, dataset_version), recorded)


def platform_difference(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between two platforms, as sentences without a full stop; what only one knows is left out.

    recorded: as `facts.json` of a model has it. here: `provenance.platform()`.

    >>> platform_difference({"machine": "x86_64", "numpy": "2.3.0"}, {"machine": "x86_64", "numpy": "2.4.6"})
    ['numpy was 2.3.0, and is 2.4.6 here']
    """
    return [
        f"{name} was {value}, and is {here[name]} here"
        for name, value in recorded.items()
        if name in here and here[name] != value
    ]


@dataclass(frozen=True)
class Experiment:
    """A version that was trained outside of any retrain, and how it was judged.

    link: of its run, below the address of MLflow's pages. verdicts: as they would have been in a retrain.
    tuning: how a search went; empty without one. reproducible: whether its trainer gave one model twice.
    """

    version: str
    link: str
    model_hash: str
    dataset_version: str
    training: Training
    report: EvaluationReport
    verdicts: Sequence[Verdict]
    tuning: str
    reproducible: bool


def settings_changed(place: PipelineHome, changes: Sequence[str]) -> PipelineHome:
    """The same pipeline, whose `training` has other settings.

    changes: NAME=VALUE, of a field of `training` or one of `training.params`; VALUE is read as YAML.
    Raises UserError for a name that is not known, or a value that is not allowed.
    """
    written = place.spec.training.model_dump(mode="json")
    fields = [name for name in written if name not in _NOT_SET]
    params: dict[str, Any] = {}
    for change in changes:
        name, sign, value = change.partition("=")
        if not sign:
            raise UserError(
                f"--set {change} gives no value.", expected="NAME=VALUE, such as num_leaves=63 or seed=5"
            )
        (written if name in fields else params)[name] = _yaml_value(value)
    # What the parameters of another trainer are, it alone knows.
    known = lightgbm_params.is_known if written["trainer"] is None else lambda name: True
    for name in params:
        if name in _NOT_SET or not known(name):
            allowed = [*fields, *lightgbm_params.ALLOWED]
            raise UserError(f"--set {name}: {name} is not a setting{alternatives(name, allowed)}")
    written["params"] |= params
    return _with_training(place, _validated(place, written))


def _validated(place: PipelineHome, written: Mapping[str, Any]) -> Training:
    try:
        training = Training.model_validate(written)
    except ValidationError as error:
        wrong = in_plain_words(error, Training, written)[0]
        raise UserError(f"--set {wrong['loc'][-1]}: {wrong['ctx']['error']}") from None
    for found in check_training(place.spec.model_copy(update={"training": training})):
        raise UserError(f"--set {found.place[-1]}: {found.text}")
    return training


def _yaml_value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _with_training(place: PipelineHome, training: Training) -> PipelineHome:
    spec = place.spec.model_copy(update={"training": training})
    return PipelineHome(place.home, replace(place.loaded, spec=spec))


def train_from(
    place: PipelineHome,
    version: str,
    changes: Sequence[str] = (),
    *,
    tune: bool = False,
    told: Callable[[str], None] = lambda what: None,
) -> Experiment:
    """A model trained from a version of the training set, registered as an experiment and judged.

    changes: as in `settings_changed`. tune: whether to search for parameters, as `training.tune` says.
    told: is called with what begins. Candidate, champion and ledger stay as they are.
    """
    from mlops_pipelines.gates import judge

    varied = settings_changed(place, changes)
    if not tune:
        varied = _with_training(varied, varied.spec.training.model_copy(update={"tune": None}))
    elif varied.spec.training.tune is None:
        raise UserError(
            f"{place.name} does not say what to search.",
            expected="training.tune in its YAML, such as tune: {space: {num_leaves: {low: 15, high: 127}}}",
        )
    run_id = uuid.uuid4().hex[:12]
    told(f"training from {version}")
    made = retraining.fit(varied, run_id=run_id, dataset_version=version, told=told)
    told(f"evaluating version {made.version}")
    retraining.evaluate(varied, run_id=run_id)
    report = place.home.registry.evaluation(made.run_id)
    if report is None:
        raise TerminalError(f"Version {made.version} of {place.name} was evaluated and has no report.")
    return Experiment(
        made.version,
        made.link,
        made.model_hash,
        version,
        varied.spec.training,
        report,
        judge(report, place.spec.gates),
        made.tuning,
        made.reproducible,
    )
