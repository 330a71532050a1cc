"""The audit: what was decided on a pipeline's models, as a chain of signed records.

Each record names the hash of the one before it and is signed with a key that the database does not hold.
What was written down of it elsewhere (its *heads*) shows when the end of the chain was cut off, or all of it
was written anew by somebody who holds the key. Pure, but for the keys it is given.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlops_pipelines.errors import TerminalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlops_pipelines.ledger import Promotion
    from mlops_pipelines.signing import Keys

Kind = Literal[
    "promotion", "rejection", "wait", "approval", "expiry", "rollback", "adoption", "freeze", "unfreeze",
    "pause", "resume",
]  # fmt: skip
# What the first record of a pipeline follows on.
NOTHING = "0" * 64
# Kinds that make a champion.
CROWNING = ("promotion", "rollback", "adoption")
# What each record says, whatever it is about.
_EACH = ("pipeline", "previous", "kind", "at", "by", "why")
# Who decides where nobody has to be asked.
GATES = "its gates"
# By whom a candidate expires.
NOBODY = "nobody"


@dataclass(frozen=True)
class Record:
    """One record. number: from 1, without gaps; 0 where somebody set none. body: canonical JSON, what `hash`
    (SHA-256) and signature are of; bytes that are no UTF-8 as surrogates. key: fingerprint of the public
    key; signature: base64."""

    pipeline: str
    number: int
    body: str
    hash: str
    key: str
    signature: str

    @property
    def content(self) -> dict[str, Any]:
        """pipeline, number, previous (hash), kind, at (ISO 8601, UTC), by, why, and what was decided on."""
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass(frozen=True)
class Head:
    """A record as something outside the ledger remembers it. place: what does, for people."""

    place: str
    number: int
    hash: str


@dataclass(frozen=True)
class Fault:
    """What is wrong with the chain. number: of the first record that it concerns."""

    number: int
    what: str


def record(  # noqa: PLR0917 - a record's place in its chain, and what it says
    pipeline: str, number: int, previous: str, kind: Kind, facts: Mapping[str, Any], keys: Keys
) -> Record:
    """The next record of a pipeline, signed. previous: hash of the one before it. facts: JSON-able; with
    `frozen`: who froze the champion, and why, or None."""
    content = {**facts, "pipeline": pipeline, "number": number, "previous": previous, "kind": kind}
    body = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    signature = keys.sign(body.encode())
    return Record(pipeline, number, body, hash_of(body), signature.key, signature.value)


def faults(
    records: Sequence[Record], promotions: Sequence[Promotion], keys: Keys, heads: Iterable[Head] = ()
) -> list[Fault]:
    """What is wrong with a pipeline's chain, by number; none if it is as it was written.

    records: by number. promotions: in order; each must stand in the chain, and no other. heads: what is
    remembered of the chain elsewhere.
    """
    contents = {one.number: parsed(one) for one in records}
    found = [
        *links(records, contents, keys),
        *_champions(len(records), contents, promotions),
        *_other_verdicts(contents),
        *_remembered(records, heads),
    ]
    return sorted(found, key=lambda fault: fault.number)


def failed_gates(content: Mapping[str, Any]) -> list[str]:
    """Gates that the model a record is about has failed."""
    return [one["gate"] for one in content.get("verdicts", ()) if one["outcome"] == "fail"]


def judged_in(content: Mapping[str, Any]) -> str | None:
    """The retrain whose gates have decided by this record, the only one that they decide by; None if it is of
    another kind."""
    by_gates = content.get("by") == GATES and content.get("kind") in ("promotion", "rejection", "wait")
    return str(content.get("retrain_id")) if by_gates else None


def parsed(one: Record) -> Mapping[str, Any]:
    """What a record says; nothing if it cannot be read, which is told as a fault of it."""
    try:
        content: Any = one.content
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def as_written(one: Record, keys: Keys | None = None) -> Mapping[str, Any] | None:
    """What a record says; None if it is not what its hash says, or lacks what each record has.

    keys: with them also None if it does not bear its signature.
    """
    content = parsed(one)
    if hash_of(one.body) != one.hash or not all(isinstance(content.get(name), str) for name in _EACH):
        return None
    return None if keys and signature_fault(one, keys) else content


def links(
    records: Sequence[Record], contents: Mapping[int, Mapping[str, Any]], keys: Keys
) -> Iterator[Fault]:
    """Where the chain is first not whole, if anywhere. records: by number. contents: what they say."""
    previous = NOTHING
    for position, one in enumerate(records, start=1):
        if one.number != position:
            yield Fault(position, f"record {position} is missing")
            return
        fault = _content_fault(one, contents[one.number], previous) or signature_fault(one, keys)
        if fault:
            yield Fault(position, f"record {position} {fault}")
            return
        previous = one.hash


def _content_fault(one: Record, content: Mapping[str, Any], previous: str) -> str | None:
    if hash_of(one.body) != one.hash or not content:
        return "is not what its hash says"
    if misplaced := _misplaced(one, content):
        return misplaced
    if content.get("previous") != previous:
        return "does not follow on the one before it"
    return None


def _misplaced(one: Record, content: Mapping[str, Any]) -> str | None:
    if (content.get("pipeline"), content.get("number")) != (one.pipeline, one.number):
        return f"was written as record {content.get('number')} of {content.get('pipeline')}"
    return None


def signature_fault(one: Record, keys: Keys) -> str | None:
    """What is wrong with a record's signature, or with its place; None if it was signed for just that."""
    try:
        keys.verify("it", _bytes(one.body), {"key": one.key, "value": one.signature})
    except TerminalError as error:
        return f"does not bear its signature: {error.message}"
    return _misplaced(one, parsed(one))


def _champions(
    last: int, contents: Mapping[int, Mapping[str, Any]], promotions: Sequence[Promotion]
) -> Iterator[Fault]:
    """The ledger's own list of champions must be what the chain says."""
    crowned = {
        str(content.get("sequence")): (number, content)
        for number, content in contents.items()
        if content.get("kind") in CROWNING
    }
    for promotion in promotions:
        number, content = crowned.pop(str(promotion.sequence), (last + 1, None))
        if content is None:
            yield Fault(number, f"champion number {promotion.sequence} has no record")
        elif not says(content, promotion):
            yield Fault(number, f"champion number {promotion.sequence} is not the one of record {number}")
    for sequence, (number, _) in crowned.items():
        yield Fault(number, f"champion number {sequence} of record {number} is not in the ledger")


def _other_verdicts(contents: Mapping[int, Mapping[str, Any]]) -> Iterator[Fault]:
    """A model is judged once: who becomes champion does so on the verdicts that were recorded before."""
    judged: dict[tuple[str, ...], tuple[int, Any]] = {}
    for number, content in sorted(contents.items()):
        if "model_hash" not in content:
            continue
        of, verdicts = content["model_hash"], content.get("verdicts")
        # Of one retrain, or of one version: each names the candidate.
        for name in ("retrain_id", "mlflow_version"):
            candidate = (str(of), name, str(content.get(name)))
            first, before = judged.setdefault(candidate, (number, verdicts))
            if content.get("kind") in CROWNING and verdicts != before:
                yield Fault(number, f"record {number} has other verdicts on model {of} than record {first}")
                break


def says(content: Mapping[str, Any], promotion: Promotion) -> bool:
    """Whether a record is that of a promotion."""
    said = {
        "sequence": promotion.sequence,
        "mlflow_version": promotion.mlflow_version,
        "model_hash": promotion.model_hash,
        "retrain_id": promotion.retrain_id,
        "at": promotion.at.isoformat(),
        "replaced": promotion.previous,
        "authority": promotion.kind,
        "by": promotion.by,
        "why": promotion.reason,
    }
    return all(content.get(name) == value for name, value in said.items())


def _remembered(records: Sequence[Record], heads: Iterable[Head]) -> Iterator[Fault]:
    by_number = {one.number: one.hash for one in records}
    for head in sorted(heads, key=lambda head: (head.number, head.place)):
        if head.number not in by_number:
            yield Fault(head.number, f"record {head.number} is missing: {head.place} remembers it")
        elif by_number[head.number] != head.hash:
            yield Fault(head.number, f"record {head.number} is not the one that {head.place} remembers")


def hash_of(body: str) -> str:
    """SHA-256 of a record's body, in hex digits."""
    return hashlib.sha256(_bytes(body)).hexdigest()


def _bytes(body: str) -> bytes:
    """A body as the database has it."""
    return body.encode(errors="surrogateescape")
