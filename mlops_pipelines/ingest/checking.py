"""What would become of files that have not landed: as taking them in would have it, without the lake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ingest.intake import (
    FileOrigin,
    canonical_events,
    canonical_labels,
    canonical_reference,
    conflict_with,
    merge_events,
    merge_labels,
    merge_reference,
    split_by_lateness,
    split_by_partitions,
)
from mlops_pipelines.ingest.quarantine import Reason, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import pyarrow as pa

    from mlops_pipelines.ingest.intake import Merged
    from mlops_pipelines.ingest.judging import Judged
    from mlops_pipelines.spec import PipelineSpec


Rejected = tuple[int, tuple[Reason, ...]]


@dataclass(frozen=True)
class Checked:
    """What would become of the rows of a file that keeps the contract.

    accepted: so many would stand. rejected: place in the file and reasons of each row that would not.
    duplicates: so many say what others say.
    """

    accepted: int
    rejected: tuple[Rejected, ...]
    duplicates: int = 0


def as_judged(judged: Judged) -> Checked:
    """What the contract alone says of a file."""
    rejected = tuple((row.file_row, row.reasons) for row in judged.rejected)
    return Checked(judged.accepted.num_rows, rejected)


def check(
    files: Sequence[Judged], spec: PipelineSpec, stream: str, now: datetime
) -> list[Checked | TerminalError]:
    """What a pipeline would make of files that keep its contract, in the order given. Pure.

    Judged are its partitions, its lateness bound, and ids that repeat within all of these files; what
    landed before is not known. now: when rows arrive that do not say it, UTC. A TerminalError stands for a
    file that cannot be taken in.
    """
    import pyarrow as pa

    found: list[Checked | TerminalError] = []
    canonical: list[pa.Table] = []
    for place, judged in enumerate(files):
        try:
            # The file's place for its digest: copies of a file are told apart.
            canonical.append(_canonical(judged.accepted, FileOrigin(str(place), now), spec, stream))
            found.append(as_judged(judged))
        except TerminalError as error:
            found.append(error)
    if not canonical:
        return found
    rejected: list[list[Rejected]] = [[] for _ in files]
    merged = _merged(pa.concat_tables(canonical, promote_options="default"), spec, stream, rejected)
    return [
        one
        if isinstance(one, TerminalError)
        else Checked(
            merged.accepted_of[str(place)],
            tuple(sorted((*one.rejected, *rejected[place]), key=lambda row: row[0])),
            merged.duplicates_of[str(place)],
        )
        for place, one in enumerate(found)
    ]


def _canonical(accepted: pa.Table, origin: FileOrigin, spec: PipelineSpec, stream: str) -> pa.Table:
    if stream == "events":
        return canonical_events(accepted, origin, spec)
    if stream == "labels":
        return canonical_labels(accepted, origin, spec)
    return canonical_reference(accepted, origin, spec.references[stream])


def _merged(rows: pa.Table, spec: PipelineSpec, stream: str, rejected: list[list[Rejected]]) -> Merged:
    """The rows as they would stand beside each other; those that would not are added to the rejected."""
    reference = spec.references.get(stream)
    if stream == "events":
        rows, outside, beyond = split_by_partitions(rows, spec.partitions)
        _reject(outside, beyond, rejected, spec.events.time)
    own_time = {"events": "event_time", "labels": "label_time"}.get(stream, "ref_time")
    landed = spec.stream(stream).time
    if landed is not None:
        rows, late, after = split_by_lateness(rows, own_time, spec.lateness)
        _reject(late, after, rejected, landed)
    if reference:
        merged, key = merge_reference(None, rows, reference), ", ".join(reference.keys)
    elif stream == "events":
        merged, key = merge_events(None, rows, spec), spec.events.id
    else:
        return merge_labels(None, rows, spec)
    _reject(merged.conflicts, conflict_with(key), rejected)
    return merged


def _reject(
    rows: pa.Table, reason: Reason, rejected: list[list[Rejected]], landed: str | None = None
) -> None:
    """landed: the column of the reason, as it lands, if its value is to be told."""
    for row in rows.to_pylist():
        why = reason
        if landed is not None and reason.column is not None:
            why = Reason(reason.code, reason.rule, landed, shown(row[reason.column]))
        rejected[int(row["file_digest"])].append((row["file_row"], (why,)))
