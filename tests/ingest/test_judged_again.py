"""Rows of the quarantine judged again, whatever they hold and in whatever format they landed."""

from __future__ import annotations

import json
import math
import shutil
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlops_pipelines.errors import UserError
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import rejects, taking
from mlops_pipelines.ingest.contract import MASKED, Contract
from mlops_pipelines.spec import PipelineSpec
from mlops_pipelines.spec_loading import LoadedSpec
from tests.ingest.files import Row, written
from tests.ingest.test_bad_input import CASES, loaded, new_home
from tests.ingest.test_bad_input import land as land_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T0 = datetime(2013, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
TIME, INT, TEXT = {"type": "timestamp"}, {"type": "int"}, {"type": "string"}
FLOAT, BOOL = {"type": "float"}, {"type": "bool"}
US = pa.timestamp("us", tz="UTC")
SHOP = {"k": INT, "v": INT | {"min": 0}, "arrived_at": TIME}


def pipeline(
    columns: Mapping[str, Any] | None = None,
    *,
    event_id: str = "event_id",
    rules: Mapping[str, Any] | None = None,
    shops: Sequence[str] = (),
    lateness: str = "5d",
) -> LoadedSpec:
    """A small pipeline, whose events have a size that is not negative. rules: others of the events."""
    names = {event_id: TEXT, "at": TIME, "size": INT | {"min": 0}, "made_at": TIME, "arrived_at": TIME}
    contract = {
        "events": {"columns": {**names, **(columns or {})}, **(rules or {})},
        "labels": {"columns": {event_id: TEXT, "ended_at": TIME, "late": BOOL}},
        "references": {name: {"columns": SHOP} for name in shops},
    }
    spec = {
        "name": "small",
        "partitions": {"start": "2012-12-31", "end": "2013-03-20"},
        "events": {
            "id": event_id, "landing": "landing/events", "time": "at", "arrived": "arrived_at",
            "produced": "made_at",
        },
        "labels": {
            "landing": "landing/labels", "value": "late", "time": "ended_at", "matures_after": "1d"
        },
        "references": {
            name: {"landing": f"landing/{name}", "keys": ["k"], "arrived": "arrived_at"} for name in shops
        },
        "lateness": lateness,
        "features": {},
    }  # fmt: skip
    return LoadedSpec(
        PipelineSpec.model_validate(spec), Contract.model_validate(contract), Path("small/defs.yaml")
    )


def event(name: str = "a", size: int = 1, at: datetime = T0, made: int = 0, **others: Any) -> Row:
    return {
        "event_id": name,
        "at": at,
        "size": size,
        "made_at": at + made * HOUR,
        "arrived_at": at + DAY + made * HOUR,
        **others,
    }


def land(
    place: PipelineHome,
    name: str,
    rows: Sequence[Row],
    types: Mapping[str, pa.DataType] | None = None,
    stream: str = "events",
) -> taking.Taken:
    """A file of that name with the rows, landed and taken in."""
    folder = place.landing(stream) / "2013-01-03"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(written(name, rows, types))
    taking.register_landed(place)
    return taking.take_events(place, []) if stream == "events" else taking.take_reference(place, stream, [])


def under(place: PipelineHome, definition: LoadedSpec) -> PipelineHome:
    return PipelineHome(place.home, definition)


def replay(place: PipelineHome) -> rejects.Replayed:
    return rejects.replay(place, rejects.waiting_rows(place))


def hashes(place: PipelineHome) -> dict[str, str]:
    return place.lake.hashes("events", sort_by=["event_id"], unhashed=taking.PROVENANCE)


# --- files as a whole ------------------------------------------------------------------------------------

X = FLOAT | {"nullable": True}


@pytest.mark.parametrize(
    ("columns", "rules"),
    [
        ({}, {"file": {"rows": {"min": 3}}}),
        ({}, {"file": {"fresh": {"column": "at", "within": "3d"}}}),
        ({"x": X | {"batch": {"missing_at_most": 0.5}}}, {}),
        ({"x": X | {"batch": {"mean": {"min": 1}}}}, {}),
        ({"kind": TEXT | {"one_of": ["a"], "batch": {"others_at_most": 0.5}}}, {}),
    ],
)
def test_what_a_file_has_to_satisfy_as_a_whole_keeps_no_row_of_it_out_later(
    tmp_path: Path, columns: dict[str, Any], rules: dict[str, Any]
) -> None:
    place = new_home(tmp_path, pipeline(columns, rules=rules))
    rows = [event(name, x=2.0, kind="a") for name in "ab"] + [event("c", -1, x=None, kind="other")]
    assert land(place, "a.parquet", rows).accepted == 2
    done = replay(under(place, pipeline({**columns, "size": INT}, rules=rules)))
    assert (done.accepted, done.rejected, dict(done.still)) == (1, 0, {})


@pytest.mark.parametrize("rule", ["of a value", "of a row"])
def test_a_row_that_would_halt_its_file_keeps_no_other_row_out(tmp_path: Path, rule: str) -> None:
    place = new_home(tmp_path, pipeline())
    land(place, "a.parquet", [event("good"), event("a", -1, x=1), event("b", -1, x=9)])
    halting = {
        "of a value": pipeline({"size": INT, "x": INT | {"max": 5, "on_fail": "halt"}}),
        "of a row": pipeline(
            {"size": INT, "x": INT}, rules={"rows": {"small": {"holds": "x < 6", "on_fail": "halt"}}}
        ),
    }[rule]
    done = replay(under(place, halting))
    assert (done.accepted, done.rejected) == (1, 1)
    assert sum(done.still.values()) == 1


def test_however_many_rows_are_still_rejected_the_others_are_taken_in(tmp_path: Path) -> None:
    place = new_home(tmp_path, pipeline())
    good = [event(f"good{n}") for n in range(300)]
    land(place, "a.parquet", good + [event(f"bad{n}", -1 - n) for n in range(30)])
    done = replay(under(place, pipeline({"size": INT | {"min": -10}})))
    assert (done.accepted, done.rejected) == (10, 20)
    assert dict(done.still) == {"size: is at least -10": 20}


def test_why_rows_cannot_be_judged_is_said(tmp_path: Path) -> None:
    place = new_home(tmp_path, pipeline())
    land(place, "a.parquet", [event("good", x=1), event("bad", -1, x=1)])
    done = replay(under(place, pipeline({"size": INT, "x": TEXT})))
    assert (done.accepted, done.rejected) == (0, 1)
    (why,) = done.still
    assert "x is int64, not string" in why


# --- what values are --------------------------------------------------------------------------------------

BAD = [(name, bad) for name, cases in CASES.items() for bad in cases
       if bad.quarantined and "50 MB" not in name]  # fmt: skip


@pytest.mark.parametrize(("name", "bad"), BAD, ids=[f"{name}, {bad.file}" for name, bad in BAD])
def test_what_was_rejected_is_rejected_again_under_the_same_contract(
    tmp_path: Path, name: str, bad: Any
) -> None:
    place = new_home(tmp_path, loaded())
    land_file(place, bad.file, bad.content("bad"))
    taking.register_landed(place)
    taken = taking.take_events(place, [])
    assert taken.quarantined == len(bad.quarantined), name
    done = replay(place)
    assert (done.accepted, done.rejected) == (0, taken.quarantined)


NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([2**53, 2**53 + 1, 2**53 + 2, 2**63 - 1, 10**15, 10**16]),
)
FLOATS = st.one_of(
    st.floats(),
    st.sampled_from([-0.0, 1.0, 2.0**53, 2.0**53 + 2, 1e16, 1e300]),
    st.integers(-(2**60), 2**60).map(float),
)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**9), max_value=10**9)
TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
JSON_VALUES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5))
JSON = st.one_of(
    JSON_VALUES,
    st.lists(JSON_VALUES, max_size=2),
    st.dictionaries(st.text(max_size=3), st.lists(JSON_VALUES, max_size=1), max_size=2),
)
WORDS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8),
    st.sampled_from(["nan", "NaN", "inf", "-Infinity", "1e5", "1.0", "true", "007", '{"x": 1}', "[]"]),
)
PARQUET = st.one_of(
    st.tuples(st.just(pa.int64()), NUMBERS),
    st.tuples(st.just(pa.uint64()), st.integers(0, 2**64 - 1)),
    st.tuples(st.just(pa.float64()), FLOATS),
    st.tuples(st.just(pa.float32()), st.floats(width=32)),
    st.tuples(st.just(pa.decimal128(30, 8)), DECIMALS),
    st.tuples(st.just(pa.decimal128(30, 8)), st.integers(-(2**60), 2**60).map(Decimal)),
    st.tuples(st.just(pa.bool_()), st.booleans()),
    st.tuples(st.just(pa.string()), WORDS),
    st.tuples(st.just(pa.binary()), st.binary(max_size=4)),
    st.tuples(st.just(pa.timestamp("us")), TIMES.map(lambda at: at.replace(tzinfo=None))),
    st.tuples(st.just(pa.timestamp("us", tz="Asia/Kolkata")), TIMES),
    st.tuples(
        st.sampled_from([pa.timestamp(unit) for unit in ("s", "ms", "ns")]), st.integers(-(10**12), 10**12)
    ),
)
LANDED = st.one_of(
    st.tuples(st.just("a.parquet"), PARQUET),
    st.tuples(st.just("a.csv"), st.tuples(st.none(), WORDS)),
    st.tuples(st.just("a.jsonl"), st.tuples(st.none(), st.one_of(JSON, FLOATS, WORDS))),
)
KIND = st.sampled_from(["string", "int", "float", "bool", "timestamp"])


@pytest.mark.proof
@settings(deadline=None)
@given(landed=LANDED, kind=KIND, nullable=st.booleans())
@example(("a.parquet", (pa.float64(), math.nan)), "float", True)
@example(("a.parquet", (pa.float64(), math.inf)), "float", True)
@example(("a.parquet", (pa.float64(), -0.0)), "float", False)
@example(("a.parquet", (pa.float64(), 2.0**53 + 2)), "int", False)
@example(("a.parquet", (pa.float64(), 1.0)), "bool", False)
@example(("a.parquet", (pa.uint64(), 2**63)), "float", False)
@example(("a.parquet", (pa.decimal128(30, 8), Decimal(0))), "int", False)
@example(("a.parquet", (pa.decimal128(30, 8), Decimal(2**53 + 1))), "int", False)
@example(("a.parquet", (pa.timestamp("ns"), -1001)), "timestamp", False)
@example(("a.jsonl", (None, {"x": 1})), "string", False)
@example(("a.csv", (None, "NaN")), "float", True)
def test_a_row_that_was_kept_is_judged_as_the_row_that_landed(
    landed: tuple[str, tuple[pa.DataType | None, Any]], kind: str, nullable: bool
) -> None:
    """Rejected for its size alone it becomes what it would have been; rejected for its value it stays so."""
    name, (type_, value) = landed
    x = {"type": kind, "nullable": nullable}
    bad = [event("good", x=value), event("bad", -1, x=value)]
    types = {"x": type_} if type_ is not None else None
    strict, loose = pipeline({"x": x}), pipeline({"x": x, "size": INT})
    folder = Path(mkdtemp())
    try:
        place = Home.create(folder / "a").pipeline(strict)
        never = Home.create(folder / "b").pipeline(loose)
        for each in (place, never):
            each.prepare()
            land(each, name, bad, types)
        assert replay(place).accepted == 0
        replay(under(place, loose))
        assert place.lake.exists("events") == never.lake.exists("events")
        if place.lake.exists("events"):
            assert hashes(place) == hashes(never)
    finally:
        shutil.rmtree(folder)


# --- who decides ------------------------------------------------------------------------------------------

MENDED = {"size": INT}


def rejected_home(tmp_path: Path, rows: int = 3) -> PipelineHome:
    """A home with rows rejected for their size, under a contract that has no bound any more."""
    place = new_home(tmp_path, pipeline())
    land(place, "a.parquet", [event("good"), *(event(f"bad{n}", -1) for n in range(rows))])
    return under(place, pipeline(MENDED))


def names(rows: pa.Table) -> list[str]:
    return [rejects.name_of(row) for row in rows.to_pylist()]


def decisions(place: PipelineHome) -> list[str]:
    found: list[str] = place.lake.read("quarantine_decisions")["decision"].to_pylist()
    return found


def test_what_was_decided_about_since_it_was_looked_at_is_not_decided_about_again(tmp_path: Path) -> None:
    place = rejected_home(tmp_path)
    seen = rejects.waiting_rows(place)
    assert rejects.discard(place, seen.slice(0, 1), "a fault") == 1
    done = rejects.replay(place, seen)
    assert (done.accepted, done.rejected) == (2, 0)
    assert done.left_out == {"were decided about already": 1}
    assert rejects.replay(place, seen).accepted == 0
    assert rejects.discard(place, seen, "a fault") == 0
    assert sorted(decisions(place)) == ["discarded", "replayed", "replayed"]
    assert place.lake.read("events").num_rows == 3


def test_of_a_replay_and_a_discard_at_once_each_row_is_decided_about_by_one(tmp_path: Path) -> None:
    place = rejected_home(tmp_path, rows=10)
    seen = rejects.waiting_rows(place)
    replayed: list[int] = []
    discarded: list[int] = []
    work = [
        threading.Thread(target=lambda: replayed.append(rejects.replay(place, seen).accepted)),
        threading.Thread(target=lambda: discarded.append(rejects.discard(place, seen.slice(4), "no"))),
        threading.Thread(target=lambda: replayed.append(rejects.replay(place, seen).accepted)),
    ]
    for one in work:
        one.start()
    for one in work:
        one.join()
    assert (len(replayed), len(discarded)) == (2, 1)
    assert sum(replayed) + sum(discarded) == 10
    assert sum(replayed) == decisions(place).count("replayed") == place.lake.read("events").num_rows - 1


def test_a_row_that_a_replay_took_in_before_it_died_cannot_be_discarded(tmp_path: Path) -> None:
    place = rejected_home(tmp_path, rows=1)
    seen = rejects.waiting_rows(place)
    taking.take_rejects(place, "events", seen)
    with pytest.raises(UserError, match=f"have been taken in are not discarded: {names(seen)[0]}"):
        rejects.discard(place, seen, "a fault")
    assert replay(place).accepted == 1
    assert decisions(place) == ["replayed"]


def test_a_row_rejected_for_something_else_has_one_entry_and_the_new_reason_is_said(tmp_path: Path) -> None:
    place = new_home(tmp_path, pipeline())
    # It arrived on another day than its file's folder is named by.
    land(place, "a.parquet", [event("a", 5), event("a", -1, made=1)])
    mended = under(place, pipeline(MENDED))
    for _ in range(2):
        done = replay(mended)
        assert (done.accepted, done.rejected) == (0, 1)
        assert list(done.still) == ["event_id: contradicts no other row with this event_id"]
        assert rejects.waiting_rows(mended)["day"].to_pylist() == ["2013-01-03"]


# --- streams ----------------------------------------------------------------------------------------------


def shop(value: int = -1) -> Row:
    return {"k": 1, "v": value, "arrived_at": T0}


def test_rows_of_one_name_are_told_apart_by_their_stream(tmp_path: Path) -> None:
    place = new_home(tmp_path, pipeline(shops=["east", "west"]))
    for stream in ("east", "west"):
        land(place, "a.parquet", [shop()], stream=stream)
    rows = rejects.waiting_rows(place)
    (name,) = set(names(rows))
    with pytest.raises(UserError, match=r"2 rows .* are called .*: the same file landed in east, west\."):
        rejects.chosen(rows, [name])
    assert rejects.chosen(rejects.waiting_rows(place, "west"), [name, name])["stream"].to_pylist() == ["west"]


def test_rows_of_a_stream_that_is_gone_are_masked_and_left_out(tmp_path: Path) -> None:
    place = new_home(tmp_path, pipeline(shops=["east"]))
    land(place, "a.parquet", [shop(-7)], stream="east")
    land(place, "b.parquet", [event("a", -1)])
    now = under(place, pipeline(MENDED))
    rows = rejects.waiting_rows(now)
    (shown,) = [rejects.as_shown(row, now.contract) for row in rows.to_pylist() if row["stream"] == "east"]
    assert set(shown["row"].values()) == {shown["reasons"][0]["value"]} == {MASKED}
    assert rejects.standing_rows(now, rows.to_pylist()) == [None, None]
    assert rejects.waiting_rows(now, "east").num_rows == 1
    with pytest.raises(UserError, match="no stream 'south'"):
        rejects.waiting_rows(now, "south")
    done = replay(now)
    assert (done.accepted, done.rejected) == (1, 0)
    assert done.left_out == {"are of east, a stream that the contract does not have": 1}
    assert rejects.waiting_rows(now)["stream"].to_pylist() == ["east"]


# --- what is shown ----------------------------------------------------------------------------------------

WHO = {"who": TEXT | {"sensitive": True}}


def shown_in(place: PipelineHome) -> str:
    """All that is shown of the quarantine, standing rows included."""
    rows = rejects.waiting_rows(place).to_pylist()
    shown = [rejects.as_shown(row, place.contract) for row in rows]
    return repr([shown, rejects.standing_rows(place, rows)])


@pytest.mark.parametrize(
    "now", [WHO, {}, {"person": WHO["who"]}, {"who": INT | {"sensitive": True}}], ids=str
)
def test_a_sensitive_value_is_shown_under_no_contract_that_does_not_say_it_may_be(
    tmp_path: Path, now: dict[str, Any]
) -> None:
    place = new_home(tmp_path, pipeline(WHO))
    misspelt = {**event("e"), "Who": "JANE"}
    land(place, "a.jsonl", [event("a", -1, who="JANE"), misspelt, event("b", 1, who=["JANE"])])
    land(place, "b.parquet", [event("c", who="JANE"), event("c", 2, made=1, who="JANE")])
    broken = b'{"event_id": "d", "who": "JANE"\n' + written("d.jsonl", [event("d", who="x")])
    land_file(place, "d.jsonl", broken)
    taking.register_landed(place)
    taking.take_events(place, [])
    assert rejects.waiting_rows(place).num_rows == 5
    text = shown_in(under(place, pipeline(now)))
    assert "JANE" not in text
    assert "'a'" in text  # its id


def test_the_row_that_stands_is_shown_with_its_sensitive_values_masked(tmp_path: Path) -> None:
    place = new_home(tmp_path, pipeline(WHO))
    land(place, "a.parquet", [event("c", who="JANE"), event("c", 2, made=1, who="JOHN")])
    (stands,) = rejects.standing_rows(place, rejects.waiting_rows(place).to_pylist())
    assert stands is not None
    assert (stands["size"], stands["who"]) == (1, MASKED)


def test_of_rows_with_one_id_the_one_that_stands_within_the_lateness_bound_is_shown(tmp_path: Path) -> None:
    place = new_home(tmp_path, pipeline())
    later = T0 + 40 * DAY
    land(place, "a.parquet", [event("a", 1), event("a", 2, later), event("b", 4)])
    land(place, "b.parquet", [event("a", 9, later, 1), event("a", 8, made=1), event("b", 3, made=1)])
    rows = rejects.waiting_rows(place).to_pylist()
    stands = rejects.standing_rows(place, rows)
    sizes = {
        json.loads(row["row"])["size"]: one["size"] for row, one in zip(rows, stands, strict=True) if one
    }
    assert sizes == {9: 2, 8: 1, 3: 4}


def test_the_row_that_stands_is_shown_where_labels_take_longer_than_events_may_be_late(
    tmp_path: Path,
) -> None:
    place = new_home(tmp_path, pipeline(lateness="30h"))
    land(place, "a.parquet", [event("a", 1), event("a", 2, T0 + 40 * HOUR)])
    (stands,) = rejects.standing_rows(place, rejects.waiting_rows(place).to_pylist())
    assert stands is not None
    assert stands["size"] == 1


def test_rows_that_stand_are_read_once_and_from_the_days_within_the_lateness_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = new_home(tmp_path, pipeline())
    land(place, "a.parquet", [event(name, 1, T0 + n * DAY) for n in range(30) for name in (f"a{n}", "b")])
    land(place, "b.parquet", [event(f"a{n}", 2, T0 + n * DAY, 1) for n in range(3)])
    rows = rejects.waiting_rows(place).to_pylist()
    conflicts = [row for row in rows if json.loads(row["row"])["event_id"] in ("a0", "a1", "a2")]
    read: list[Any] = []
    real = place.lake.read
    monkeypatch.setattr(type(place.lake), "read", lambda _, *args, **kw: read.append(kw) or real(*args, **kw))
    assert all(rejects.standing_rows(place, conflicts))
    (days,) = [asked["days"] for asked in read]
    assert max(days) == "2013-01-09"


def test_a_conflict_is_shown_after_the_id_has_another_name(tmp_path: Path) -> None:
    place = new_home(tmp_path, pipeline())
    land(place, "a.parquet", [event("a", 1), event("a", 2, made=1)])
    renamed = under(place, pipeline(event_id="ticket"))
    assert rejects.standing_rows(renamed, rejects.waiting_rows(renamed).to_pylist()) == [None]


def test_the_row_of_a_static_reference_that_stands_is_shown(tmp_path: Path) -> None:
    place = new_home(tmp_path, pipeline(shops=["east"]))
    land(place, "a.parquet", [shop(1), shop(2) | {"arrived_at": T0 + HOUR}], stream="east")
    (stands,) = rejects.standing_rows(place, rejects.waiting_rows(place).to_pylist())
    assert stands is not None
    assert (stands["k"], stands["v"]) == (1, 1)
