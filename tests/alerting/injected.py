"""The flights with faults in them: what a producer, a source or the world may do to a pipeline."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING, ClassVar

import dagster as dg

from mlops_pipelines.component import build_definitions
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.spec import ConceptDriftTrigger, DriftTrigger, LabelsTrigger, Replay
from mlops_pipelines.spec_loading import LoadedSpec
from tests.small_flights import loaded as small

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pyarrow as pa

NAME = "injected"
DAY = timedelta(days=1)


def days(first: str, last: str) -> frozenset[date]:
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    return frozenset(start + n * DAY for n in range((end - start).days + 1))


def renamed(rows: pa.Table) -> pa.Table:
    """The producer calls a column something else."""
    return rows.rename_columns(["airline" if name == "carrier" else name for name in rows.column_names])


def emptied(rows: pa.Table) -> pa.Table:
    """A join failed: the aircraft is not known of any flight."""
    import pyarrow as pa

    place = rows.schema.get_field_index("tailnum")
    return rows.set_column(place, "tailnum", pa.nulls(rows.num_rows, pa.string()))


def flipped(rows: pa.Table) -> pa.Table:
    """What was late is in time, and the other way round, for three flights in ten."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def chosen(event: str) -> bool:
        return blake2b(event.encode(), digest_size=1).digest()[0] < 77

    flip = pa.array([chosen(event) for event in rows["event_id"].to_pylist()])
    place = rows.schema.get_field_index("late")
    return rows.set_column(place, "late", pc.xor(rows["late"].combine_chunks(), flip))


class Faulty(Flights):
    """Flights, with `ALTERED` rows on some days, and days `WITHHELD` until another one."""

    ALTERED: ClassVar[Mapping[tuple[str, frozenset[date]], Callable[[pa.Table], pa.Table]]] = {}
    # Altered days that are sent again as they should have been, and when.
    MENDED: ClassVar[Mapping[tuple[str, frozenset[date]], date]] = {}
    WITHHELD: ClassVar[Mapping[tuple[str, frozenset[date]], date]] = {}

    def write(self, landing: Path, since: datetime, until: datetime) -> dict[str, int]:
        from mlops_pipelines.pipelines.flight_delays import source

        written = dict[str, int]()
        at = since
        while at < until:
            for stream, rows in super().write(landing, at, at + DAY).items():
                written[stream] = written.get(stream, 0) + rows
            today = at.date()
            for (stream, on), altered in self.ALTERED.items():
                if today in on:
                    source._deliver(altered(_rows(stream, today)), _path(landing, stream, today))
            for (stream, on), _ in self.WITHHELD.items():
                if today in on:
                    _path(landing, stream, today).unlink()
            for (stream, on), when in (*self.MENDED.items(), *self.WITHHELD.items()):
                if today == when:
                    for day in sorted(on):
                        source._deliver(_rows(stream, day), _path(landing, stream, day))
            at += DAY
        return written


def _rows(stream: str, day: date) -> pa.Table:
    from mlops_pipelines.pipelines.flight_delays import source

    return source._year().day(stream, day)


def _path(landing: Path, stream: str, day: date) -> Path:
    return landing / stream / str(day) / f"{stream}-{day}.parquet"


SCHEMA, NULLS = days("2013-03-05", "2013-03-06"), days("2013-03-11", "2013-03-12")
WEATHER, LABELS = days("2013-03-16", "2013-03-17"), days("2013-03-22", "2013-03-24")
STOPPED, FLIPPED = days("2013-03-28", "2013-03-31"), days("2013-04-05", "2013-04-11")


class Year(Faulty):
    """Each fault once, some days apart."""

    ALTERED: ClassVar = {
        ("events", SCHEMA): renamed,
        ("events", NULLS): emptied,
        ("labels", FLIPPED): flipped,
    }
    MENDED: ClassVar = {("events", SCHEMA): date(2013, 3, 8)}
    WITHHELD: ClassVar = {("weather", WEATHER): date(2013, 3, 19), ("labels", LABELS): date(2013, 3, 25)}


@cache
def loaded() -> LoadedSpec:
    """The small pipeline with more to learn from, seldom retrained, that watches what events mean."""
    of = small(NAME)
    changes = {
        "replay": Replay(source="tests.alerting.injected:Year"),
        "triggers": of.spec.triggers.model_copy(
            update={
                "labels": LabelsTrigger(at_least=15_000),
                "drift": DriftTrigger(),
                "concept_drift": ConceptDriftTrigger(),
            }
        ),
        "policy": of.spec.policy.model_copy(update={"cooldown": 3 * DAY}),
        # Twenty trees are sure of nothing, and nothing surprises them.
        "training": of.spec.training.model_copy(
            update={"params": {**of.spec.training.params, "n_estimators": 150}}
        ),
    }
    return LoadedSpec(of.spec.model_copy(update=changes), of.contract, of.path)


@dg.definitions
@cache
def defs() -> dg.Definitions:
    return build_definitions(loaded())
