"""Rows cut into files, repeated, contradicted and taken in in any order: the tables are the same."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlops_pipelines.features.facts import newest_versions
from mlops_pipelines.features.tiles import compute_tiles, tile_schema
from mlops_pipelines.features.views import compile_views, tile_table
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import rejects, taking
from mlops_pipelines.ingest.contract import Contract
from mlops_pipelines.lake import content_hash
from mlops_pipelines.spec import PipelineSpec
from mlops_pipelines.spec_loading import LoadedSpec
from tests.loop import make_tiles

if TYPE_CHECKING:
    from pathlib import Path

    from hypothesis.strategies import SearchStrategy

T0 = datetime(2013, 1, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TIME, INT, TEXT = {"type": "timestamp"}, {"type": "int"}, {"type": "string"}
MOMENT = pa.timestamp("us", tz="UTC")
CONTRACT = Contract.model_validate(
    {
        "events": {
            "columns": {
                "event_id": TEXT, "at": TIME, "size": INT | {"min": 0}, "made_at": TIME, "arrived_at": TIME
            }
        },
        "labels": {
            "columns": {"event_id": TEXT, "ended_at": TIME, "late": {"type": "bool"}, "arrived_at": TIME}
        },
        "references": {
            "weather": {"columns": {"size": INT, "seen_at": TIME, "wind": INT, "arrived_at": TIME}}
        },
        "reject_share_halts": 1.0,
    }
)  # fmt: skip
SCHEMAS = {
    "events": pa.schema(
        {"event_id": pa.string(), "at": MOMENT, "size": pa.int64(), "made_at": MOMENT, "arrived_at": MOMENT}
    ),
    "labels": pa.schema(
        {"event_id": pa.string(), "ended_at": MOMENT, "late": pa.bool_(), "arrived_at": MOMENT}
    ),
    "weather": pa.schema({"size": pa.int64(), "seen_at": MOMENT, "wind": pa.int64(), "arrived_at": MOMENT}),
}
VIEWS = [
    {"name": f"by_{of}", "key": "size", "of": of, "aggregate": {column: ["sum", "count"]}, "windows": ["1d"]}
    for of, column in (("labels", "late"), ("events", "size"), ("weather", "wind"))
]


def pipeline(*, produced: bool) -> LoadedSpec:
    events = {"landing": "landing/events", "time": "at", "arrived": "arrived_at"}
    spec = PipelineSpec.model_validate(
        {
            "name": "small",
            "partitions": {"start": "2012-12-31", "end": "2013-01-20"},
            "events": events | ({"produced": "made_at"} if produced else {}),
            "labels": {
                "landing": "landing/labels", "value": "late", "time": "ended_at", "arrived": "arrived_at",
                "matures_after": "1d",
            },
            "references": {
                "weather": {
                    "landing": "landing/weather", "keys": ["size"], "time": "seen_at",
                    "arrived": "arrived_at", "publish_lag": "1h",
                }
            },
            "lateness": "5d",
            "features": {"views": VIEWS},
        }
    )  # fmt: skip
    return LoadedSpec(spec, CONTRACT, None)  # type: ignore[arg-type]


PIPELINES = {True: pipeline(produced=True), False: pipeline(produced=False)}
Row = dict[str, Any]
# A landed file: its stream and its rows; a wave: the files that a run finds.
Landed = tuple[str, list[Row]]
Wave = list[Landed]


NUMBERS = count()


def taken_in(empty: Path, loaded: LoadedSpec, waves: list[Wave]) -> dict[str, Any]:
    """What the tables say once every wave has landed and been taken in."""
    path = empty.parent / str(next(NUMBERS))
    shutil.copytree(empty, path)
    place = Home.open(path).pipeline(loaded)
    place.prepare()
    for number, wave in enumerate(waves):
        for position, (stream, rows) in enumerate(wave):
            folder = place.landing(stream) / "2013-01-03"
            folder.mkdir(exist_ok=True)
            table = pa.Table.from_pylist(rows, schema=SCHEMAS[stream])
            pq.write_table(table, folder / f"{number}-{position}.parquet")
        taking.register_landed(place)
        take = (taking.take_events, taking.take_labels, partial(taking.take_reference, name="weather"))
        for taken in (one(place, days=[]) for one in take):
            assert taken.adds_up, taken.sum_sentence
            assert not taken.refused
        make_tiles(place)
    found = said(place)
    labels_are_known_once_their_events_are(place)
    assert found["tiles"] == tiles_of_all_days(place)
    shutil.rmtree(path)
    return found


def tiles_of_all_days(place: PipelineHome) -> dict[str, str]:
    """Hashes of the tiles of each view as the tables that stand give them."""
    versions = newest_versions(place.lake, place.features.views)
    days = [f"{T0 + day * DAY:%Y-%m-%d}" for day in range(-31, 31)]
    return {
        view.name: content_hash(compute_tiles(view, place.lake, days, versions), sort_by=["day"])
        for view in compile_views(place.spec, place.contract)
    }


def labels_are_known_once_their_events_are(place: PipelineHome) -> None:
    """Nobody could have told what a label is of before its event was there."""
    if not place.lake.exists("labels"):
        return
    events = place.lake.read("events", columns=["day", "event_id", "known_at"]).to_pylist()
    known = {(event["day"], event["event_id"]): event["known_at"] for event in events}
    for label in place.lake.read("labels").to_pylist():
        own = max(label["ended_at"], label["arrived_at"])
        assert label["known_at"] == max(own, known[label["day"], label["event_id"]])


def said(place: PipelineHome) -> dict[str, Any]:
    """Hashes of the tables by day, and of the tiles, and what is in the quarantine."""
    orders = {"events": ["event_id"], "labels": ["event_id", "known_at", "label_time", "label"],
              "labels_unmatched": ["event_id", "known_at"], "weather": ["size", "ref_time"]}  # fmt: skip
    hashes = {
        name: place.lake.hashes(name, sort_by=order, unhashed=taking.PROVENANCE)
        for name, order in orders.items()
        if place.lake.exists(name) and place.lake.days(name)
    }
    quarantined = defaultdict(set)
    for row in rejects.waiting_rows(place).to_pylist():
        values = json.loads(row["row"])
        # When it was said is no part of what a row says.
        kept = {name: value for name, value in values.items() if name not in ("arrived_at", "made_at")}
        codes = ",".join(reason["code"] for reason in json.loads(row["reasons"]))
        quarantined[row["stream"], codes].add(json.dumps(kept, sort_keys=True))
    tiles = {
        view.name: content_hash(
            place.lake.read(table) if place.lake.exists(table) else tile_schema(view).empty_table(),
            sort_by=["day"],
        )
        for view in compile_views(place.spec, place.contract)
        for table in [tile_table(view)]
    }
    return {**hashes, "quarantine": dict(quarantined), "tiles": tiles}


EVENT = st.fixed_dictionaries(
    {
        "event_id": st.sampled_from(["a", "b"]),
        "at": st.sampled_from([T0, T0 + HOUR, *(T0 + days * DAY for days in (1, 4, 8, 12, -30))]),
        "size": st.sampled_from([1, 2, -1]),
        "made_at": st.sampled_from([T0, T0 + HOUR, T0 + 2 * HOUR]),
        "arrived_at": st.sampled_from([T0 + 3 * DAY, T0 + 3 * DAY + HOUR, T0 + 4 * DAY, T0 + 9 * DAY]),
    }
)
LABEL = st.fixed_dictionaries(
    {
        "event_id": st.sampled_from(["a", "b", "c"]),
        "ended_at": st.sampled_from([T0 + HOUR, T0 + DAY, T0 + 8 * DAY + HOUR, T0 + 12 * DAY]),
        "late": st.booleans(),
        "arrived_at": st.sampled_from([T0 + 2 * DAY, T0 + 3 * DAY, T0 + 4 * DAY, T0 + 9 * DAY]),
    }
)
WEATHER = st.fixed_dictionaries(
    {
        "size": st.sampled_from([1, 2]),
        "seen_at": st.sampled_from([T0, T0 + HOUR]),
        "wind": st.sampled_from([3, 4]),
        "arrived_at": st.sampled_from([T0, T0 + DAY, T0 + 2 * DAY, T0 + 9 * DAY]),
    }
)
FILE: SearchStrategy[Landed] = st.one_of(
    st.tuples(st.just("events"), st.lists(EVENT, min_size=1, max_size=4)),
    st.tuples(st.just("labels"), st.lists(LABEL, min_size=1, max_size=3)),
    st.tuples(st.just("weather"), st.lists(WEATHER, min_size=1, max_size=3)),
)


def event(at: datetime, size: int, made: int = 0, arrived: int = 0) -> Row:
    """The event `a`; hours after T0, and after three days."""
    return {"event_id": "a", "at": at, "size": size, "made_at": T0 + made * HOUR,
            "arrived_at": T0 + 3 * DAY + arrived * HOUR}  # fmt: skip


def label(late: bool, arrived: float) -> Row:
    """Of the event `a`; days after T0."""
    return {"event_id": "a", "ended_at": T0 + HOUR, "late": late, "arrived_at": T0 + arrived * DAY}


def weather(wind: int, arrived: float) -> Row:
    return {"size": 1, "seen_at": T0, "wind": wind, "arrived_at": T0 + arrived * DAY}


LABELLED: Landed = ("labels", [label(True, 3)])


@pytest.mark.proof
@settings(max_examples=max(5, settings().max_examples // 5), deadline=None)
@given(st.lists(FILE, min_size=1, max_size=5), st.booleans(), st.randoms(use_true_random=False))
# An id that moves to another day, with its label.
@example([("events", [event(T0 + DAY, 1, made=1)]), LABELLED, ("events", [event(T0, 1)])], True, None)
# What lost against a row says what wins against that row.
@example(
    [("events", [event(T0, 1, arrived=n) for n in (0, 2)]), ("events", [event(T0, 2, arrived=1)])],
    False,
    None,
)
# An id that comes again on a later day, once labels are no more of the first.
@example(
    [
        ("labels", [{"event_id": "a", "ended_at": T0 + 8 * DAY, "late": True, "arrived_at": T0 + 8 * DAY}]),
        ("events", [event(T0, 1)]),
        ("events", [event(T0 + 8 * DAY, 1)]),
    ],
    False,
    None,
)
# An id that comes again on a later day, each with a label of its own.
@example(
    [
        ("events", [event(T0, 1), event(T0 + 8 * DAY, 2)]),
        ("labels", [label(False, 3), label(False, 3) | {"ended_at": T0 + 8 * DAY + HOUR}]),
    ],
    False,
    None,
)
# Three of one id, the second of which contradicts both others.
@example(
    [("events", [event(T0 + days * DAY, 1, made=made) for days, made in ((0, 0), (4, 1), (8, 2))])],
    True,
    None,
)
# One that stood again for a while, since what it contradicted was gone, and contradicts another now.
@example(
    [
        ("events", [event(T0 + days * DAY, 1, made=made, arrived=arrived)])
        for days, made, arrived in ((8, 0, 144), (4, 0, 24), (0, 0, 0), (8, 1, 0))
    ],
    False,
    None,
)
# A label, and its correction, that came before their event.
@example([("labels", [label(True, 1), label(False, 2)]), ("events", [event(T0, 1, arrived=2)])], False, None)
# An event of the same day in whose place one stands that was produced first, and came a day later; and one
# whose label came to be known long after both.
@example([("events", [event(T0, 1, made=1)]), LABELLED, ("events", [event(T0, 2, arrived=24)])], True, None)
@example(
    [("events", [event(T0, 1, made=1)]), ("labels", [label(True, 5)]), ("events", [event(T0, 2)])], True, None
)
# One that says the same, and was produced first, or came first.
@example(
    [
        ("events", [event(T0, 1, made=1)]),
        ("labels", [label(True, 3.6)]),
        ("events", [event(T0, 1, arrived=42)]),
    ],
    True,
    None,
)
@example([("events", [event(T0, 1, arrived=24)]), LABELLED, ("events", [event(T0, 1)])], False, None)
# What is corrected lands after its correction; what came first after what came again.
@example([("events", [event(T0, 1)])] + [("labels", [label(n > 4, n)]) for n in (6, 5, 4)], False, None)
@example([("weather", [weather(3 + (n > 1), n)]) for n in (3, 2, 1)], False, None)
def test_rows_are_the_same_however_they_are_cut_and_whenever_they_come(
    empty: Path, files: list[Landed], produced: bool, random: Any
) -> None:
    loaded = PIPELINES[produced]
    together = taken_in(empty, loaded, [files])
    one_by_one = [[(stream, [row])] for stream, rows in files for row in rows]
    assert taken_in(empty, loaded, one_by_one) == together
    assert taken_in(empty, loaded, one_by_one[::-1]) == together
    if random is not None:
        waves = [[file] for file in random.sample([*files, *files], 2 * len(files))]
        assert taken_in(empty, loaded, waves) == together
