"""Two registered versions side by side: what they were made of, how good they are, where they differ."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.features.in_use import known_set
from mlops_pipelines.features.sets import set_version
from mlops_pipelines.gates import judge
from mlops_pipelines.retraining import EXPERIMENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from mlops_pipelines.evaluation_report import Comparison, EvaluationReport
    from mlops_pipelines.gates import GivenVerdict
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.registry import LoadedModel

ALIASES = ("champion", "previous", "candidate")
# Versions that are named to a user who asks for one that is not there.
_NAMED = 10
# Settings that stand with the parameters as well.
_AMONG_PARAMS = ("params", "seed", "threads")


@dataclass(frozen=True)
class Side:
    """One of the two versions. report: None where it was never evaluated.

    given: whether the verdicts were given in a retrain; else they are what today's gates would say.
    """

    version: str
    model: LoadedModel
    report: EvaluationReport | None
    verdicts: Sequence[GivenVerdict]
    given: bool


@dataclass(frozen=True)
class SideBySide:
    """Two versions. paired: the first minus the second on the same rows; None where `lacking` says why."""

    first: Side
    second: Side
    paired: Comparison | None
    lacking: str = ""

    @property
    def params(self) -> dict[str, tuple[Any, Any]]:
        """Parameters that differ, seed and threads included; None where one has none."""
        return _differing(self.first.model.refit.params, self.second.model.refit.params)

    @property
    def training(self) -> dict[str, tuple[Any, Any]]:
        """Other settings of `training` that differ."""
        found = _differing(*(side.model.facts.get("training", {}) for side in (self.first, self.second)))
        return {name: values for name, values in found.items() if name not in _AMONG_PARAMS}

    @property
    def features(self) -> tuple[list[str], list[str]]:
        """Features that only the first has, and only the second."""
        first, second = (
            [feature.name for feature in side.model.refit.features] for side in (self.first, self.second)
        )
        return [n for n in first if n not in second], [n for n in second if n not in first]

    @property
    def views(self) -> dict[str, tuple[Any, Any]]:
        """Versions of feature views that differ."""
        return _differing(*(json.loads(one.model.refit.view_versions) for one in (self.first, self.second)))

    @property
    def platform(self) -> dict[str, tuple[Any, Any]]:
        """What differs between the platforms they were trained on."""
        return _differing(*(side.model.facts.get("platform", {}) for side in (self.first, self.second)))

    def as_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        only_first, only_second = self.features
        return {
            "first": _side_json(self.first),
            "second": _side_json(self.second),
            "differ": {
                "params": self.params,
                "training": self.training,
                "features": {"only_first": only_first, "only_second": only_second},
                "views": self.views,
                "platform": self.platform,
            },
            "paired": self.paired and asdict(self.paired),
            "lacking": self.lacking,
        }


def side_by_side(place: PipelineHome, first: str, second: str) -> SideBySide:
    """Two versions of a pipeline's models, each by its number or as `champion`, `previous`, `candidate`.

    Raises UserError for one that is not there.
    """
    one, other = (_side(place, version_of(place, given)) for given in (first, second))
    try:
        return SideBySide(one, other, _paired(place, one, other))
    except TerminalError as error:
        # What cannot be had of one any more keeps nothing else back.
        return SideBySide(one, other, None, error.message)


def version_of(place: PipelineHome, given: str) -> str:
    """The version that is called so.

    Raises UserError, with the versions there are, if there is none; TerminalError if it was freed.
    """
    known = place.home.registry.versions(place.name)
    if given in ALIASES:
        champion = place.ledger.champion(place.name)
        named = {
            "champion": champion and champion.mlflow_version,
            "previous": champion and champion.previous,
        }
        version = named.get(given) or place.home.registry.alias(place.name, given)
        if version is not None and version in known:
            return version
    if given in known:
        return given
    if gone := place.ledger.freed(place.name, "model", given):
        raise gone.error(place.name)
    numbers = ", ".join(known[-_NAMED:]) or "none yet"
    more = " or an earlier one" if len(known) > _NAMED else ""
    wanted = f"{given} model" if given in ALIASES else f"version {given!r}"
    raise UserError(
        f"{place.name} has no {wanted}.",
        expected=f"a registered version ({numbers}{more}), or one of {', '.join(ALIASES)}",
        remedy=f"mlops status {place.name}",
    )


def _side(place: PipelineHome, version: str) -> Side:
    registry = place.home.registry
    made = registry.registered(place.name, version)
    model = registry.load(place.name, version, model_hash=made.model_hash)
    report = registry.evaluation(made.run_id)
    retrain_id = model.facts["retrain"]
    if retrain_id != EXPERIMENT and place.ledger.retrain(retrain_id).mlflow_version == version:
        return Side(version, model, report, place.ledger.verdicts(retrain_id), given=True)
    return Side(version, model, report, judge(report, place.spec.gates) if report else (), given=False)


def _paired(place: PipelineHome, first: Side, second: Side) -> Comparison:
    """Both on the rows of the training set that reaches further, as far as neither twin has seen them."""
    from mlops_pipelines import evaluation

    later = max(second, first, key=lambda side: side.model.refit.last_day)
    rows = place.home.datasets.read(place.name, later.model.facts["dataset_version"])
    one, other = (
        replace(side.model.incumbent, vectors=_vectors(place, side, rows)) for side in (first, second)
    )
    return evaluation.side_by_side(one, other, rows, seed=place.spec.training.seed)


def _vectors(place: PipelineHome, side: Side, rows: pa.Table) -> pa.Table | None:
    """The rows' events as the model is fed them; None where the rows are."""
    model = side.model.twin
    if model.is_fed_by(rows):
        return None
    features = known_set(place, set_version(json.loads(model.view_versions)))
    days = [day for day in place.lake.days(features.examples) if day >= model.last_day]
    return place.lake.read(features.examples, days=days)


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (first.get(name), second.get(name))
        for name in {**first, **second}
        if first.get(name) != second.get(name)
    }


def _side_json(side: Side) -> dict[str, Any]:
    model, report = side.model.refit, side.report
    return {
        "version": side.version,
        "made_by": side.model.facts["retrain"],
        "model_hash": model.hash,
        "dataset_version": side.model.facts["dataset_version"],
        "training_rows": model.rows,
        "first_day": model.first_day,
        "last_day": model.last_day,
        "cutoff": model.cutoff.isoformat(),
        "params": dict(model.params),
        "features": len(model.features),
        "platform": side.model.facts.get("platform"),
        "commit": side.model.facts.get("commit"),
        "holdout": report
        and {"rows": report.rows, "first_day": report.first_day, "last_day": report.last_day},
        "metrics": report and {name: one and asdict(one) for name, one in report.metrics.items()},
        "importance": report and dict(report.importance),
        "verdicts": [
            {"gate": one.gate, "outcome": one.outcome, "sentence": one.sentence} for one in side.verdicts
        ],
        "verdicts_given": side.given,
    }
