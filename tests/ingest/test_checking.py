"""Files held against a pipeline before they land: rejected is what taking them in would reject."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ingest.checking import Checked, check
from mlops_pipelines.ingest.judging import Judged
from mlops_pipelines.spec import PipelineSpec

T0 = datetime(2013, 1, 1, 12, tzinfo=UTC)
NOW = datetime(2013, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
US = pa.timestamp("us", tz="UTC")


def spec(**parts: Any) -> PipelineSpec:
    events = {"landing": "landing/events", "id": "number", "time": "at", "arrived": "came"}
    labels = {"landing": "landing/labels", "value": "late", "time": "ended", "matures_after": "1d"}
    references = {
        "weather": {"landing": "landing/weather", "keys": ["port"], "time": "seen", "arrived": "came"},
        "planes": {"landing": "landing/planes", "keys": ["tail"], "arrived": "came"},
    }
    named = {"name": "small", "partitions": {"start": "2013-01-01", "end": "2013-02-01"}, "lateness": "5d"}
    return PipelineSpec.model_validate(
        named | {"events": events, "labels": labels, "references": references, "features": {}} | parts
    )


def file(*rows: dict[str, Any]) -> Judged:
    """Rows of a file that keep the contract."""
    names = list(rows[0])
    types = {name: US for name in ("at", "came", "ended", "seen") if name in names}
    columns = {name: pa.array([row[name] for row in rows], types.get(name)) for name in names}
    return Judged(pa.table({**columns, "file_row": pa.array(range(len(rows)), pa.int64())}), (), ())


def event(number: str, at: datetime = T0, came: datetime = T0, size: int = 1) -> dict[str, Any]:
    return {"number": number, "at": at, "came": came, "size": size}


def rejected(checked: list[Checked | TerminalError]) -> list[list[tuple[int, str, str | None]]]:
    """By file, the row, its reason's code and the column."""
    assert not [one for one in checked if isinstance(one, TerminalError)]
    return [
        [(row, why.code, why.column) for row, reasons in one.rejected for why in reasons]
        for one in checked
        if isinstance(one, Checked)
    ]


def test_events_outside_the_partitions_too_late_or_contradicted_are_rejected() -> None:
    rows = file(
        event("a"),
        event("b", at=T0 - 2 * DAY),
        event("c", came=T0 + 6 * DAY),
        event("a", came=T0 + DAY, size=2),
        event("a"),
    )
    found = check([rows], spec(), "events", NOW)
    assert rejected(found) == [[(1, "partition", "at"), (2, "late", "at"), (3, "conflict", "number")]]
    assert [(one.accepted, one.duplicates) for one in found if isinstance(one, Checked)] == [(1, 1)]


def test_rows_of_several_files_are_held_against_each_other() -> None:
    first, same, other = file(event("a")), file(event("a")), file(event("a", came=T0 + DAY, size=2))
    found = check([other, first, same], spec(), "events", NOW)
    assert rejected(found) == [[(0, "conflict", "number")], [], []]
    assert sum(one.duplicates for one in found if isinstance(one, Checked)) == 1


def test_rows_that_do_not_say_when_they_arrive_arrive_now() -> None:
    labels = file(
        {"number": "a", "ended": NOW - DAY, "late": True},
        {"number": "b", "ended": NOW - 6 * DAY, "late": True},
    )
    assert rejected(check([labels], spec(), "labels", NOW)) == [[(1, "late", "ended")]]


def test_references_with_a_time_can_be_late_and_static_ones_contradicted() -> None:
    weather = file(
        {"port": "A", "seen": T0, "came": T0 + 6 * DAY}, {"port": "A", "seen": T0, "came": T0 + DAY}
    )
    assert rejected(check([weather], spec(), "weather", NOW)) == [[(0, "late", "seen")]]
    planes = file({"tail": "N1", "came": T0, "seats": 1}, {"tail": "N1", "came": T0 + DAY, "seats": 2})
    assert rejected(check([planes], spec(), "planes", NOW)) == [[(1, "conflict", "tail")]]


def test_a_file_that_cannot_be_taken_in_is_told_and_the_others_are_judged() -> None:
    bad, good = file(event("a") | {"number": None}, event("b")), file(event("c"))
    found = check([bad, good], spec(), "events", NOW)
    assert isinstance(found[0], TerminalError)
    assert found[1] == Checked(1, ())
    assert [type(one) for one in check([bad], spec(), "events", NOW)] == [TerminalError]
    assert check([], spec(), "events", NOW) == []
