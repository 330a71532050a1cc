"""What lands, in whatever order and however its times are written, gives the vectors that it should."""

from __future__ import annotations

import random
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mlops_pipelines.features.sets import feature_set

from .landed import Landed, Orders, pipeline, rows_of, said_once
from .world import START, STARTS, World, bits, expected_vector, moved, order, random_world

LOADED = pipeline()
FEATURES = [column.name for column in feature_set(LOADED.spec, LOADED.contract).columns]
TIMES = ["placed_at", "decided_at", "delivered_at", "observed_at", "arrived_at"]
# The clocks of New York, with their two offsets; each of these for a whole year; and one with a half hour.
ZONES = ["UTC", "America/New_York", "-05:00", "-04:00", "+05:30"]


def cut(world: World, rng: random.Random) -> list[list[Landed]]:
    """The rows of the world in waves of files, in any order."""
    files: list[Landed] = []
    for stream, rows in rows_of(world).items():
        rng.shuffle(rows)
        middle = rng.randrange(len(rows) + 1)
        files += [(stream, part) for part in (rows[:middle], rows[middle:]) if part]
    rng.shuffle(files)
    middle = rng.randrange(len(files) + 1)
    return [files[:middle], files[middle:]]


@pytest.mark.proof
@settings(max_examples=max(5, settings().max_examples // 10), deadline=None, phases=[Phase.generate])
@given(
    seed=st.integers(0, 10**6),
    start=st.sampled_from(STARTS),
    zone=st.sampled_from(ZONES),
    ending=st.sampled_from(["jsonl", "parquet"]),
)
def test_what_lands_in_any_order_and_words_gives_the_vectors_that_its_facts_give(
    empty: Path, seed: int, start: datetime, zone: str, ending: str
) -> None:
    world = said_once(moved(random_world(seed, hours=30, size=50), start))
    offset = datetime.fromisoformat(f"{START:%Y-%m-%d}T00:00{zone}").tzinfo if ":" in zone else ZoneInfo(zone)

    def said(value: Any) -> Any:
        return value.astimezone(offset) if isinstance(value, datetime) else value

    types = dict.fromkeys(TIMES, pa.timestamp("us", zone)) | {"delay": pa.float64(), "wind": pa.float64()}
    with TemporaryDirectory() as folder:
        orders = Orders(empty, Path(folder) / "home", LOADED)
        for wave in cut(world, random.Random(seed)):  # noqa: S311
            orders.take_in(wave, ending, said, types)
        examples = orders.vectors()
    assert set(examples) == {o.id for o in world.orders}
    for o in world.orders:
        expected = {name: bits(value) for name, value in expected_vector(world, o).items()}
        assert {name: bits(examples[o.id][name]) for name in FEATURES} == expected, o


@pytest.mark.parametrize(
    ("text", "utc", "minutes"),
    [
        ("2013-03-10T01:59:59-05:00", "2013-03-10T06:59:59", 119),
        # No clock in New York shows this: it is half past three.
        ("2013-03-10T02:30:00-05:00", "2013-03-10T07:30:00", 210),
        ("2013-03-10T03:00:00-04:00", "2013-03-10T07:00:00", 180),
        # All clocks there show these twice.
        ("2013-11-03T01:30:00-04:00", "2013-11-03T05:30:00", 90),
        ("2013-11-03T01:30:00-05:00", "2013-11-03T06:30:00", 90),
        ("2012-02-29T23:30:00-05:00", "2012-03-01T04:30:00", 1410),
        ("2016-02-29T00:30:00+05:30", "2016-02-28T19:00:00", 840),
    ],
)
def test_a_local_time_with_its_offset_is_one_moment(
    empty: Path, tmp_path: Path, text: str, utc: str, minutes: float
) -> None:
    orders = Orders(empty, tmp_path / "home", LOADED)
    (row,) = rows_of(World([order("o", 0.0)]))["events"]
    orders.take_in([("events", [row])], said=lambda value: text if isinstance(value, datetime) else value)
    example = orders.vectors()["o"]
    assert (example["day"], example["event_time"]) == (utc[:10], datetime.fromisoformat(f"{utc}+00:00"))
    assert example["local"] == minutes
