"""What people decide on models, and what is remembered of each decision beside the ledger.

The ledger decides and records in one transaction; the registry is then made to say the same, and can be
made to at any later moment.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from mlops_pipelines.audit import CROWNING, Head, as_written, faults, says
from mlops_pipelines.errors import TerminalError, TransientError, UserError
from mlops_pipelines.identity import said
from mlops_pipelines.policy import format_moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mlops_pipelines.audit import Fault, Record
    from mlops_pipelines.evaluation_report import EvaluationReport
    from mlops_pipelines.home import Home, PipelineHome
    from mlops_pipelines.ledger import Promotion, Wait

_Made = TypeVar("_Made")

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
    model_hash = _checked(place, version)
    return _decided(place, place.ledger.approve, version, model_hash=model_hash, by=by, reason=reason)


def reject(place: PipelineHome, version: str, *, by: str, reason: str) -> None:
    """One person's refusal of a candidate that waits. Raises what the ledger raises."""
    _decided(place, place.ledger.reject, version, by=by, reason=reason)


def roll_back(
    place: PipelineHome, to: str | None, *, by: str, reason: str, expected_sequence: int | None = None
) -> Promotion:
    """An earlier champion serves again, from now on. Raises what the ledger raises.

    to: its version; by default the one whose place the champion took. expected_sequence: of the champion that
    is to go, by default the one of now.
    """
    expected = _sequence(place) if expected_sequence is None else expected_sequence
    back_to = place.ledger.back_to(place.name, to, expected_sequence=expected, at=place.clock.now())
    model_hash = _checked(place, back_to.mlflow_version)
    if model_hash != back_to.model_hash:
        raise TerminalError(
            f"Version {back_to.mlflow_version} of {place.name} hashes to {model_hash[:12]}: it is not the "
            "champion of then.",
            expected=f"{back_to.model_hash[:12]}, which was champion number {back_to.sequence}",
            remedy="mlops restore, from a backup that has it",
        )
    return _decided(
        place,
        place.ledger.roll_back,
        expected_sequence=expected,
        to=back_to.mlflow_version,
        by=by,
        reason=reason,
    )


def adopt(place: PipelineHome, version: str, *, by: str, reason: str) -> Promotion:
    """A version whose gates passed becomes champion because a person says so.

    Raises what the ledger raises; UserError where two people have to agree.
    """
    if place.spec.promotion.four_eyes:
        raise UserError(
            f"One person alone decides on no model of {place.name} (promotion.four_eyes).",
            expected="a candidate that two people approve",
            remedy=f"mlops status {place.name}",
        )
    expected, model_hash = _sequence(place), _checked(place, version)
    return _decided(
        place,
        place.ledger.adopt,
        expected_sequence=expected,
        version=version,
        model_hash=model_hash,
        by=by,
        reason=reason,
    )


def freeze(place: PipelineHome, on: bool, *, by: str, reason: str) -> bool:
    """Let no candidate become champion, or let them again; whether that changed anything."""
    return _decided(place, place.ledger.freeze, on, by=by, reason=reason)


def pause(place: PipelineHome, on: bool, *, by: str, reason: str) -> bool:
    """Hold all retrains back, or let them go on; whether that changed anything."""
    return _decided(place, place.ledger.pause, on, by=by, reason=reason)


def expire_waits(place: PipelineHome) -> list[str]:
    """End what waited too long for people; the versions. Costs one look where nothing did.

    What the registry remembers of it is the caller's.
    """
    now = place.clock.now()
    if all(now < one.expires_at for one in place.ledger.waiting(place.name)):
        return []
    return place.ledger.expire_waits(place.name, now)


def sentence_of(wait: Wait) -> str:
    """Until when a candidate waits, for whom, and what helps."""
    return (
        f"Version {wait.mlflow_version} waits until {format_moment(wait.expires_at)}, approved by "
        f"{len(wait.given)} of {wait.approvals}: `mlops approve {wait.pipeline} {wait.mlflow_version} "
        "--reason WHY` lets it serve, `mlops reject` does not."
    )


def _decided(
    place: PipelineHome, decide: Callable[..., _Made], *given: object, reason: str, **facts: object
) -> _Made:
    """What the ledger decides and records; the registry then says the same.

    Raises what the ledger raises; what `heal` raises, for a decision that stands.
    """
    made = decide(place.name, *given, reason=said(reason), at=place.clock.now(), **facts)
    try:
        heal(place.home, place.name)
    except (TransientError, TerminalError) as error:
        raise type(error)(
            f"It is decided and recorded, but the registry does not say so yet. {error.message}",
            expected=error.expected or "a registry that can be read and written",
            remedy=f"mlops registry heal {place.name}, once it can",
        ) from error
    return made


def _sequence(place: PipelineHome) -> int:
    champion = place.ledger.champion(place.name)
    return champion.sequence if champion else 0


def heal(home: Home, pipeline: str) -> None:
    """Make the registry say what the ledger says: its aliases, and the hashes of the records.

    Raises TerminalError if the champion's version is not in the registry.
    """
    said = None
    # Whoever was slower may have overwritten what is newer: until nothing was decided meanwhile.
    while (versions := _serving(home, pipeline)) != said:
        for alias, version in versions.items():
            if version is None:
                home.registry.remove_alias(pipeline, alias)
            else:
                home.registry.set_alias(pipeline, alias, version)
        said = versions
    remember(home, pipeline)


def try_to_heal(home: Home, pipeline: str) -> str | None:
    """`heal`, and what hinders it; None if nothing does."""
    try:
        heal(home, pipeline)
    except (TransientError, TerminalError) as error:
        return f"The registry does not say what was decided. {error}"
    return None


def _serving(home: Home, pipeline: str) -> dict[str, str | None]:
    """Versions by alias, as the ledger says; None for one that was freed, or whose number names another model
    since the registry was put back. Raises TerminalError if that is the champion.
    """
    ledger, registry = home.ledger, home.registry
    champion, candidate = _recorded_champion(home, pipeline), ledger.last_candidate(pipeline)
    before = champion and champion.previous and ledger.promotion_of(pipeline, version=champion.previous)
    said = {
        alias: one.mlflow_version
        if one and registry.hash_of(pipeline, str(one.mlflow_version)) == one.model_hash
        else None
        for alias, one in (("champion", champion), ("previous", before), ("candidate", candidate))
    }
    if champion and said["champion"] is None:
        raise TerminalError(
            f"The registry does not have the model of version {champion.mlflow_version} of {pipeline}, which "
            f"is champion number {champion.sequence}.",
            expected="the versions that the ledger knows",
            remedy=f"mlops restore, from a backup that has it, or mlops rollback {pipeline} --reason WHY",
        )
    return said


def _recorded_champion(home: Home, pipeline: str) -> Promotion | None:
    """The champion; None if there is none. Raises TerminalError unless the newest record of one says so."""
    champion = home.ledger.champion(pipeline)
    if champion is None:
        return None
    contents = (as_written(one, home.keys) for one in home.ledger.records_backwards(pipeline))
    newest = next((one for one in contents if one is not None and one["kind"] in CROWNING), None)
    if newest is not None and says(newest, champion):
        return champion
    if home.ledger.champion(pipeline) != champion:  # decided between the two looks
        return _recorded_champion(home, pipeline)
    raise TerminalError(
        f"Version {champion.mlflow_version}, the champion of {pipeline} in the ledger, is not that of the "
        "records.",
        expected="a ledger that nobody has altered",
        remedy=f"mlops promotions {pipeline} --verify",
    )


def remember(home: Home, pipeline: str) -> None:
    """Write the hash of each record to a tag of the version that it is about, where that is missing, and what
    was decided on that version to its model card.

    Of the registered model, for a record that is about no version, or one that is gone. What was written
    stays, and what is not as it was written is left out: a record that was altered since is not to look as
    if it had always been so.
    """
    missing: list[tuple[str | None, Record]] = []
    for one in home.ledger.records_backwards(pipeline):
        if (content := as_written(one, home.keys)) is None:
            continue
        place = version = content.get("mlflow_version")
        tags = home.registry.tags_of(pipeline, version) if version else None
        if tags is None:
            place, tags = None, home.registry.tags_of(pipeline, None)
        if tags is None:
            # Nothing was ever registered: there is no place for it, nor for those before it.
            break
        if _tag(one) in tags:
            # Written oldest first: those before it are there.
            break
        missing.append((place, one))
    for version in {place for place, _ in missing if place is not None}:
        _note_on_card(home, pipeline, version)
    for place, one in reversed(missing):
        home.registry.tag(pipeline, place, {_tag(one): one.hash})


def _note_on_card(home: Home, pipeline: str, version: str) -> None:
    """Say on the model card of a version what was decided on it."""
    from mlops_pipelines.model_card import with_decisions

    if (card := home.registry.card(pipeline, version)) is None:
        return
    model = home.registry.hash_of(pipeline, version)
    every = (as_written(one) for one in home.ledger.records(pipeline))
    about_it = [one for one in every if one and one.get("model_hash") == model]
    home.registry.log_card(pipeline, version, with_decisions(card, about_it))


def keep_heads(home: Home, pipeline: str, going: Iterable[Mapping[str, str]]) -> None:
    """Let the registered model remember what versions do that are to be freed. going: their tags."""
    known = home.registry.tags_of(pipeline, None) or {}
    heads = {name: value for tags in going for name, value in tags.items() if name.startswith(_HEAD)}
    home.registry.tag(pipeline, None, {name: heads[name] for name in heads.keys() - known.keys()})


def _tag(one: Record) -> str:
    return f"{_HEAD}{one.number}"


def heads_in_mlflow(home: Home, pipeline: str) -> list[Head]:
    """What the registry remembers of the records."""
    places = {f"version {version}": tags for version, tags in home.registry.tags(pipeline).items()}
    places["the model"] = home.registry.tags_of(pipeline, None) or {}
    return [
        Head(f"{IN_MLFLOW} ({place})", int(name.removeprefix(_HEAD)), value)
        for place, tags in places.items()
        for name, value in tags.items()
        if name.startswith(_HEAD) and name.removeprefix(_HEAD).isdecimal()
    ]


def verify(home: Home, pipeline: str, heads: Iterable[Head] = ()) -> list[Fault]:
    """What is wrong with the records of a pipeline; none if they are as they were written.

    heads: what is remembered of them elsewhere than in MLflow, read before.
    """
    return verified(home, pipeline, heads)[1]


def verified(home: Home, pipeline: str, heads: Iterable[Head] = ()) -> tuple[list[Record], list[Fault]]:
    """The records of a pipeline, and what is wrong with them, as `verify` finds it."""
    # Before the ledger: what is decided meanwhile is remembered only once it is there.
    remembered = [*heads, *heads_in_mlflow(home, pipeline)]
    records, promotions, unlike = home.ledger.history(pipeline)
    found = [*faults(records, promotions, home.keys, remembered), *unlike]
    return records, sorted(found, key=lambda fault: fault.number)


def _checked(place: PipelineHome, version: str) -> str:
    """Hash of the model of a version, whose files are those that were registered."""
    registry = place.home.registry
    if not registry.has(place.name, version):
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
