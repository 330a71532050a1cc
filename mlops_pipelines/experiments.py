"""Training sets and models side by side, outside of any retrain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import TerminalError, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.training import TrainedModel


@dataclass(frozen=True)
class Verified:
    """Whether a training set is what was signed. problem: what is not, for people; None if it is."""

    version: str
    problem: str | None


def dataset_version(place: PipelineHome, given: str | None) -> str:
    """The version that a text begins, by default the newest. Raises UserError for none, or several."""
    versions = place.home.datasets.versions(place.name)
    found = [one for one in versions if one.startswith(given)] if given else versions[-1:]
    if len(found) == 1:
        return found[0]
    if not versions:
        raise UserError(
            f"{place.name} has no training set yet.",
            expected="one that a retrain has made",
            remedy=f"mlops status {place.name}",
        )
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
            place.home.datasets.read(place.name, version)
        except TerminalError as error:
            found.append(Verified(version, error.message))
        else:
            found.append(Verified(version, None))
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
