"""What people decide on models, and what is remembered of each decision beside the ledger.

The ledger decides and records in one transaction; the registry is then made to say the same, and can be
made to at any later moment.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlops_pipelines.audit import Head, faults
from mlops_pipelines.errors import TerminalError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlops_pipelines.audit import Fault, Record
    from mlops_pipelines.evaluation_report import EvaluationReport
    from mlops_pipelines.home import Home, PipelineHome
    from mlops_pipelines.ledger import Promotion, Wait

_HEAD = "record."
IN_MLFLOW = "MLflow"


def about(place: PipelineHome, version: str, report: EvaluationReport | None) -> dict[str, Any]:
    """What a record says of a candidate besides what the ledger knows: its code, and how good it was."""
    facts = place.home.registry.load(place.name, version).facts
    told: dict[str, Any] = {"commit": facts.get("commit")}
    if report is not None:
        told["report"] = report.content_hash
        told["metrics"] = {name: one and asdict(one) for name, one in report.metrics.items()}
    return told


def approve(place: PipelineHome, version: str, *, by: str, reason: str) -> Promotion | Wait:
    """One person's approval of a candidate; the promotion, or what still waits for another person.

    Raises what the ledger raises; UserError for a version the registry does not have; TerminalError for one
    whose files are not those that were registered.
    """
    made = place.ledger.approve(
        place.name,
        version,
        model_hash=_checked(place, version),
        by=by,
        reason=_said(reason),
        at=place.clock.now(),
    )
    heal(place.home, place.name)
    return made


def reject(place: PipelineHome, version: str, *, by: str, reason: str) -> None:
    """One person's refusal of a candidate that waits. Raises what the ledger raises."""
    place.ledger.reject(place.name, version, by=by, reason=_said(reason), at=place.clock.now())
    heal(place.home, place.name)


def roll_back(
    place: PipelineHome, to: str | None, *, by: str, reason: str, expected_sequence: int | None = None
) -> Promotion:
    """An earlier champion serves again, from now on. Raises what the ledger raises.

    to: its version; by default the one whose place the champion took. expected_sequence: of the champion that
    is to go, by default the one of now.
    """
    champion = place.ledger.champion(place.name)
    if expected_sequence is None:
        expected_sequence = champion.sequence if champion else 0
    target = place.ledger.predecessor(place.name) if to is None else to
    if target is not None and any(
        one.mlflow_version == target for one in place.ledger.promotions(place.name)
    ):
        _checked(place, target)
    promotion = place.ledger.roll_back(
        place.name,
        expected_sequence=expected_sequence,
        to=to,
        by=by,
        reason=_said(reason),
        at=place.clock.now(),
    )
    heal(place.home, place.name)
    return promotion


def adopt(place: PipelineHome, version: str, *, by: str, reason: str) -> Promotion:
    """A version whose gates passed becomes champion because a person says so.

    Raises what the ledger raises; UserError where two people have to agree.
    """
    if place.spec.promotion.four_eyes:
        raise UserError(
            f"One person alone decides on no model of {place.name} (promotion.four_eyes).",
            expected="a candidate that two people approve",
            remedy=f"mlops retrain {place.name} --reason WHY",
        )
    champion = place.ledger.champion(place.name)
    model_hash = _checked(place, version)
    promotion = place.ledger.adopt(
        place.name,
        expected_sequence=champion.sequence if champion else 0,
        version=version,
        model_hash=model_hash,
        by=by,
        reason=_said(reason),
        at=place.clock.now(),
    )
    heal(place.home, place.name)
    return promotion


def freeze(place: PipelineHome, on: bool, *, by: str, reason: str) -> bool:
    """Let no candidate become champion, or let them again; whether that changed anything."""
    changed = place.ledger.freeze(place.name, on, by=by, reason=_said(reason), at=place.clock.now())
    heal(place.home, place.name)
    return changed


def heal(home: Home, pipeline: str) -> None:
    """Make the registry say what the ledger says: its aliases, and the hashes of the records.

    Raises TerminalError if the champion's version is not in the registry.
    """
    champion, candidate = home.ledger.champion(pipeline), home.ledger.last_candidate(pipeline)
    versions = {
        "champion": champion.mlflow_version if champion else None,
        "previous": champion.previous if champion else None,
        "candidate": candidate.mlflow_version if candidate else None,
    }
    known = home.registry.versions(pipeline)
    for alias, version in versions.items():
        if version is None or (alias == "previous" and version not in known):
            # A version that was freed for its age has no alias.
            home.registry.remove_alias(pipeline, alias)
        else:
            home.registry.set_alias(pipeline, alias, version)
    remember(home, pipeline)


def remember(home: Home, pipeline: str) -> None:
    """Write the hash of each record to a tag of the version that it is about, where that is missing.

    What was written stays: a record that was altered since is not to look as if it had always been so.
    """
    registry = home.registry
    for one in reversed(home.ledger.records(pipeline)):
        version = _version_of(home, one)
        if version is None:
            continue
        if not registry.tag_once(pipeline, version, f"{_HEAD}{one.number}", one.hash):
            # Those before it were written before it.
            return


def _version_of(home: Home, one: Record) -> str | None:
    """The version whose tag remembers a record; the champion's for what is about none."""
    if version := one.content.get("mlflow_version"):
        return str(version)
    champion = home.ledger.champion(one.pipeline)
    return champion.mlflow_version if champion else None


def heads_in_mlflow(home: Home, pipeline: str) -> list[Head]:
    """What the registry remembers of the records."""
    return [
        Head(f"{IN_MLFLOW} (version {version})", int(name.removeprefix(_HEAD)), value)
        for version, tags in home.registry.tags(pipeline).items()
        for name, value in tags.items()
        if name.startswith(_HEAD) and name.removeprefix(_HEAD).isdecimal()
    ]


def verify(home: Home, pipeline: str, heads: Iterable[Head] = ()) -> list[Fault]:
    """What is wrong with the records of a pipeline; none if they are as they were written.

    heads: what is remembered of them elsewhere than in MLflow.
    """
    return faults(
        home.ledger.records(pipeline),
        home.ledger.promotions(pipeline),
        home.keys,
        [*heads_in_mlflow(home, pipeline), *heads],
    )


def _checked(place: PipelineHome, version: str) -> str:
    """Hash of the model of a version, whose files are those that were registered."""
    registry = place.home.registry
    if version not in registry.versions(place.name):
        if gone := place.ledger.freed(place.name, "model", version):
            raise gone.error(place.name)
        raise UserError(
            f"The registry has no version {version} of {place.name}.", remedy=f"mlops promotions {place.name}"
        )
    if wrong := registry.check_stored(place.name, version):
        raise TerminalError(
            f"Version {version} of {place.name} was altered since it was registered: {wrong}.",
            expected="the files that passed the gates",
            remedy="mlops restore, from a backup that has them",
        )
    return registry.load(place.name, version).model_hash


def _said(reason: str) -> str:
    """A reason that says something. Raises UserError for an empty one."""
    told = " ".join(reason.split())
    if not told:
        raise UserError("The reason is empty.", expected="a sentence that will be read in half a year")
    return told
